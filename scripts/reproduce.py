"""Train a preset, evaluate it, keep the evidence, rewrite the table.

Run from the root of the checkout. Started again after a stop it goes on from the last checkpoint;
after the end, it evaluates anew.
"""

import argparse
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import make_table

from ptb_lm.__main__ import main
from ptb_lm.config import resolve
from ptb_lm.durable import durable_file, remove_partial_files
from ptb_lm.evaluation.score_file import load_scores, rounded, save_scores
from ptb_lm.training.environment import settled
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder


def ptb_lm(*arguments: str) -> None:
    """Run a command of the program, in this process, so that it is the one that signals reach.

    Where the command fails or is stopped, so does the script, with the same exit code.
    """
    try:
        main(list(arguments))
    except SystemExit as end:
        if end.code:
            raise


def scored_splits(run: RunFolder) -> list[str]:
    """Return the splits that a finished run has scores of: data need not have a test text."""
    return [split for split in SCORED_SPLITS if run.scores(split).exists()]


def keep_evidence(run: RunFolder, results: Path) -> None:
    """Copy a finished run without its checkpoints, its config last: with it, all is there.

    Of evidence that was there before, the config goes first: what is half replaced is none.

    Scores are rounded, by less than can be seen in a figure, as they are most of the bytes.
    """
    results.mkdir(parents=True, exist_ok=True)
    remove_partial_files(results)
    kept = RunFolder(results)
    for file in (kept.config, *map(kept.scores, SCORED_SPLITS)):
        file.unlink(missing_ok=True)
    for split in scored_splits(run):
        save_scores(rounded(load_scores(run.scores(split))), kept.scores(split))
    for file in (run.metrics, run.environment, run.config):
        with file.open("rb") as source, durable_file(results / file.name) as copy:
            shutil.copyfileobj(source, copy)


def stop_when_input_closes() -> None:
    """Stop this process, as by SIGTERM, once its standard input has ended."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def reproduce() -> None:
    """Make one run, or go on with it, to the last line of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--data", help="if it is not what the config says")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--name", help="of the folders in runs/ and results/, if it is another")
    parser.add_argument("--no-table", action="store_true", help="leave the table as it is")
    parser.add_argument(
        "--while-input-is-open", action="store_true", help="stop when standard input ends"
    )
    options = parser.parse_args()
    if options.while_input_is_open:
        stop_when_input_closes()
    chosen = {"seed": int(options.seed), "precision": options.precision}
    if options.data:
        chosen["data"] = options.data
    name = options.name or settled(resolve(options.preset, options=chosen)).run_name
    run = RunFolder(Path("runs") / name)
    choice = [word for key, value in chosen.items() for word in (f"--{key}", str(value))]
    changes = [word for change in options.set for word in ("--set", change)]
    folder = ("--run-dir", str(run.path))
    ptb_lm("train", "--config", options.preset, *choice, *changes, *folder, "--resume")
    for split in scored_splits(run):  # from the saved checkpoint, as anyone else would
        ptb_lm("eval", str(run.last), "--split", split)
    keep_evidence(run, Path("results") / name)
    if not options.no_table:
        make_table.main()


if __name__ == "__main__":
    reproduce()
