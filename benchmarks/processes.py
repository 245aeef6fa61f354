"""One training on every core against one training a core: words per second in all, by turns.

For a machine that is quiet. ``--write`` keeps the figures in results/speed/.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from evidence import show

from ptb_lm.bench.timed_process import Spread, TimedProcess, timed_process
from ptb_lm.bench.worker import Subject
from ptb_lm.training.environment import describe_environment


def measure(preset: str, precision: str, rounds: int) -> dict[str, Any]:
    """Return words per second of one process, of one a core in all, and their ratio."""
    cores = torch.get_num_threads()
    command = Subject(preset, "cpu", precision).command("training")
    with ExitStack() as stack, ThreadPoolExecutor(cores) as pool:
        whole = stack.enter_context(timed_process(command))
        single = [
            stack.enter_context(timed_process(command, OMP_NUM_THREADS="1")) for _ in range(cores)
        ]
        units = whole.units_of_a_round()

        def rate(process: TimedProcess) -> float:
            figures = process.work(units)
            return figures["words"] / figures["seconds"]

        def rate_of_all() -> float:
            return sum(pool.map(rate, single))

        rate_of_all()  # to warm up
        pairs = [(rate(whole), rate_of_all()) for _ in range(rounds)]
    return {
        "preset": preset,
        "precision": precision,
        "one process on every core": asdict(Spread.of([one for one, _ in pairs])),
        "one process a core": asdict(Spread.of([all_ for _, all_ in pairs])),
        "ratio": asdict(Spread.of([all_ / one for one, all_ in pairs])),
    }


def main() -> None:
    """Measure small and medium, in both precisions, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep them in results/speed/")
    options = parser.parse_args()
    result = {
        "command": "python benchmarks/processes.py --write",
        "environment": describe_environment(torch.device("cpu")),
        "pairs": [
            measure(preset, precision, options.rounds)
            for preset in ("small", "medium")
            for precision in ("fp32", "bf16")
        ],
    }
    show(result, "speed/processes.json", keep=options.write)


if __name__ == "__main__":
    main()
