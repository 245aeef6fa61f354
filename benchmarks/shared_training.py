"""One training by one process on every core against the same shared by one process a core.

Words per second by turns, for a machine that is quiet. ``--write`` keeps the figures in
results/speed/.
"""

import argparse
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from evidence import show
from torch.distributed.elastic.utils.distributed import get_free_port

from ptb_lm.bench.timed_process import Spread, TimedProcess, timed_process
from ptb_lm.bench.worker import Subject
from ptb_lm.training.environment import describe_environment

PRESETS = ("small", "medium", "large")
WAYS = ("one process on every core", "shared by one process a core")


def measure(preset: str, rounds: int) -> dict[str, Any]:
    """Return words per second of one process, of the processes that share it, and their ratio."""
    cores = torch.get_num_threads()
    command = Subject(preset, "cpu", "fp32").command("training")
    with ExitStack() as stack, ThreadPoolExecutor(cores) as pool:
        whole = stack.enter_context(timed_process(command))
        members = [
            stack.enter_context(timed_process(command, **told))
            for told in as_torchrun_tells(cores, get_free_port())  # type: ignore[no-untyped-call]
        ]
        units = whole.units_of_a_round()

        def rate(process: TimedProcess) -> float:
            figures = process.work(units)
            return figures["words"] / figures["seconds"]

        def rate_of_shared() -> float:
            return min(pool.map(rate, members))  # each counts the words of all

        rate_of_shared()  # to warm up
        pairs = [(rate(whole), rate_of_shared()) for _ in range(rounds)]
    return {
        "preset": preset,
        WAYS[0]: asdict(Spread.of([one for one, _ in pairs])),
        WAYS[1]: asdict(Spread.of([shared for _, shared in pairs])),
        "ratio": asdict(Spread.of([shared / one for one, shared in pairs])),
    }


def as_torchrun_tells(count: int, port: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets for each of so many processes of a machine."""
    return [
        {
            "OMP_NUM_THREADS": "1",
            "WORLD_SIZE": str(count),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        for rank in range(count)
    ]


def main() -> None:
    """Measure the paper's three models and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="keep them in results/speed/")
    options = parser.parse_args()
    result = {
        "command": "python benchmarks/shared_training.py --write",
        "environment": describe_environment(torch.device("cpu")),
        "pairs": [measure(preset, options.rounds) for preset in PRESETS],
    }
    show(result, "speed/shared-training.json", keep=options.write)


if __name__ == "__main__":
    main()
