"""Train a preset on the Penn Treebank, evaluate it, keep the evidence, rewrite the table.

Started again after a stop it goes on from the last checkpoint; after the end, it evaluates anew.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import make_table

from ptb_lm.training.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]


def ptb_lm(*arguments: str) -> None:
    """Run a command of the program; where it fails, end with its exit code."""
    done = subprocess.run([sys.executable, "-m", "ptb_lm", *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


def keep_evidence(run: RunFolder, results: Path) -> None:
    """Copy a finished run without its checkpoints."""
    results.mkdir(parents=True, exist_ok=True)
    scores = [run.scores(split) for split in ("valid", "test")]
    for file in (run.config, run.environment, run.metrics, *scores):
        shutil.copyfile(file, results / file.name)


def main() -> None:
    """Reproduce one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    name = f"{options.preset}-seed{options.seed}"
    run = RunFolder(ROOT / "runs" / name)
    seed = str(options.seed)
    ptb_lm("train", "--config", options.preset, "--seed", seed, "--resume")
    for split in ("valid", "test"):  # from the saved checkpoint, as anyone else would
        ptb_lm("eval", str(run.last.relative_to(ROOT)), "--split", split)
    keep_evidence(run, ROOT / "results" / name)
    make_table.main()


if __name__ == "__main__":
    main()
