"""Train one small model under each way of dropout: the paper's claim, measured.

The text is the head of the Penn Treebank, so that overfitting shows within minutes. Each member
is a run of scripts/reproduce.py; the tables and curves are made by ``make table``.
"""

import sys
from pathlib import Path

from members import Member, reproduce_command
from reproduction_page import STUDY, TITLES, study_block
from study import run_study

from ptb_lm.corpus.load import data_directory, load_corpus
from ptb_lm.corpus.ptb import PTB_FILES
from ptb_lm.durable import durable_file

CONFIG = Path(__file__).with_name("dropout_study.toml")
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


def study_members(seeds: range) -> list[Member]:
    """Return the runs of the study, whose text is written for them."""
    write_text()
    # A seed of every way before the next seed, so that a study broken off compares like with like.
    return [study_member(way, seed) for seed in seeds for way in WAYS]


def main() -> int:
    """Make what is missing, rewrite the tables; return the exit code."""
    return run_study(__doc__, 3, study_members, study_block)


if __name__ == "__main__":
    sys.exit(main())
