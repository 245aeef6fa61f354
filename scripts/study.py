"""What the studies have in common: so many seeds, several at once, and their table at the end."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import make_table
from members import Member, make_or_explain, usual_processes


def run_study(
    description: str | None,
    seeds: int,
    members_of: Callable[[range], list[Member]],
    table_of: Callable[[Path], str],
) -> int:
    """Make the members that are missing, rewrite the pages, and print the study's table.

    Args:
        description: of the script, for its ``--help``.
        seeds: how many of them, if ``--seeds`` does not say.
        members_of: returns the members of these seeds, in the order in which to make them.
        table_of: returns the table from the folder of evidence.

    Returns:
        the exit code.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seeds", type=int, default=seeds, help="from 1 to this")
    parser.add_argument("--processes", type=int, default=usual_processes(), help="at once")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes: expected 1 or more")
    code = make_or_explain(members_of(range(1, options.seeds + 1)), options.processes)
    if code < 2:
        make_table.main()
        sys.stdout.write(f"\n{table_of(Path('results'))}\n")
    return code
