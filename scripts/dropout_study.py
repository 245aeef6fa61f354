"""Train one small model under each way of dropout: the paper's claim, measured.

The text is the head of the Penn Treebank, so that overfitting shows within minutes. Each member
is a run of scripts/reproduce.py; the tables and curves are made by ``make table``.
"""

import argparse
import sys
from pathlib import Path

import make_table
from members import Member, make_or_explain, reproduce_command, usual_processes
from reproduction_page import STUDY, TITLES, study_block

from ptb_lm.corpus.load import data_directory, load_corpus
from ptb_lm.corpus.ptb import PTB_FILES
from ptb_lm.durable import durable_file

CONFIG = Path(__file__).with_name("dropout_study.toml")
RESULTS = Path("results")
TEXT = Path("runs") / STUDY / "text"
LINES = {"train": 10_000, "valid": 1500, "test": 1500}
WAYS = tuple(TITLES)


def write_text() -> None:
    """Write the head of each file of the Penn Treebank as a text of its own."""
    data_dir = data_directory(None)
    load_corpus("ptb", data_dir)  # fetched, where it is not there
    TEXT.mkdir(parents=True, exist_ok=True)
    for file in PTB_FILES:
        with (data_dir / "ptb" / file.name).open("rb") as source:
            head = [source.readline() for _ in range(LINES[file.split])]
        with durable_file(TEXT / f"{file.split}.txt") as target:
            target.write(b"".join(head))


def study_member(way: str, seed: int) -> Member:
    """Name a run of the study, and the command that makes it."""
    name = f"{STUDY}/{way}-seed{seed}"
    change = ("--set", f"model.dropout_on={way}")
    # In float32 on any device, so that a study begun on one can go on on another.
    choice = ("--seed", str(seed), "--precision", "fp32", "--data", str(TEXT), "--name", name)
    return Member(name, reproduce_command(str(CONFIG), *change, *choice))


def main() -> int:
    """Make what is missing, rewrite the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="from 1 to this")
    parser.add_argument("--processes", type=int, default=usual_processes(), help="at once")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes: expected 1 or more")
    write_text()
    # A seed of every way before the next seed, so that a study broken off compares like with like.
    members = [study_member(way, seed) for seed in range(1, options.seeds + 1) for way in WAYS]
    code = make_or_explain(members, options.processes)
    if code < 2:
        make_table.main()
        sys.stdout.write(f"\n{study_block(RESULTS)}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
