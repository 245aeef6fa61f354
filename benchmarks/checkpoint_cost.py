"""What checkpoints and the checks of each step cost of the training time.

Run from the root of the checkout, on a machine that does nothing else, with the Penn Treebank in
place; it takes some minutes. ``--write`` keeps the figures in results/reliability/.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from evidence import show

from ptb_lm.config import resolve
from ptb_lm.corpus.load import data_directory
from ptb_lm.stop import StopFlag
from ptb_lm.training import loop
from ptb_lm.training.environment import describe_environment
from ptb_lm.training.open_run import open_run
from ptb_lm.training.run import Run

STEPS = {"small": 60, "medium": 20, "large": 6}
SAVES = 9
CHECKS = 2000


def measure(preset: str, folder: Path) -> dict[str, Any]:
    """Train a few steps of a preset, and time its checkpoints and its checks."""
    config = resolve(preset, ["run.checkpoint_minutes=1e6"], {"device": "cpu"})
    with open_run(config, data_directory(None), folder / preset) as run:
        loop.train(run, StopFlag(), max_steps=STEPS[preset])
        step_seconds = run.state.epoch_seconds / run.step
        saves = [_seconds(run.save) for _ in range(SAVES)]
        checks = _seconds(lambda: _check(run)) / CHECKS
        megabytes = run.folder.last.stat().st_size / 1e6
    minutes = resolve(preset).run.checkpoint_minutes
    return {
        "preset": preset,
        "megabytes": megabytes,
        "save_seconds": statistics.median(saves),
        "save_seconds_range": [min(saves), max(saves)],
        "share_of_time": statistics.median(saves) / (60 * minutes),
        "step_seconds": step_seconds,
        "checks_share_of_step": checks / step_seconds,
    }


def _check(run: Run) -> None:
    """Make the checks that each step makes for the sake of reliability."""
    objective, gradient_norm, stop = torch.tensor(1.0), torch.tensor(1.0), StopFlag()
    for _ in range(CHECKS):
        assert torch.isfinite(objective + gradient_norm)
        assert not run.checkpoint_is_due
        stop.check()


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure each preset of the paper and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep them in results/")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".", prefix="checkpoint-cost-") as folder:
        presets = [measure(preset, Path(folder)) for preset in STEPS]
    result = {
        "environment": describe_environment(torch.device("cpu")),
        "command": "python benchmarks/checkpoint_cost.py --write",
        "checkpoint_minutes": resolve("small").run.checkpoint_minutes,
        "presets": presets,
    }
    show(result, "reliability/checkpoint_cost.json", keep=options.write)


if __name__ == "__main__":
    main()
