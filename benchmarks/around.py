"""What is around the step: ``--help``, reading the corpus, the paper's test protocol.

For a machine that is quiet, with the Penn Treebank in place. ``--write`` keeps the figures in
results/speed/.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from evidence import show

from ptb_lm.bench.timed_process import Spread
from ptb_lm.config import resolve
from ptb_lm.corpus.load import data_directory, load_corpus
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.scoring import target_log_probabilities
from ptb_lm.training.environment import describe_environment


def seconds(work: Callable[[], Any], repetitions: int) -> dict[str, float]:
    """Time some work, after once to warm up."""
    work()
    taken = []
    for _ in range(repetitions):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return asdict(Spread.of(taken))


def main() -> None:
    """Time each and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep them in results/speed/")
    options = parser.parse_args()
    help_command = [sys.executable, "-m", "ptb_lm", "--help"]
    corpus = load_corpus("ptb", data_directory(None))
    configure_backends("fp32")
    network = LanguageModel(resolve("small").model, len(corpus.vocabulary))
    test = corpus.splits["test"]
    result = {
        "command": "python benchmarks/around.py --write",
        "environment": describe_environment(torch.device("cpu")),
        "help": seconds(
            lambda: subprocess.run(help_command, check=True, stdout=subprocess.DEVNULL), 11
        ),
        "reading the Penn Treebank": seconds(
            lambda: load_corpus("ptb", data_directory(None)).sha256, 7
        ),
        "small's test figure, one stream": seconds(
            lambda: target_log_probabilities(network, test, streams=1), 5
        ),
    }
    show(result, "speed/around.json", keep=options.write)


if __name__ == "__main__":
    main()
