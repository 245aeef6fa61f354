"""Reproduce several seeds of a preset at once, and average their probabilities."""

import argparse
import sys

import make_table
from members import Member, make_or_explain, usual_processes

from ptb_lm.errors import InputError
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.report.summary import average_summary
from ptb_lm.training.run_folder import SCORED_SPLITS


def average(members: list[Member]) -> str:
    """Return the perplexity of each member and of their average, valid and test."""
    return "\n".join(
        average_summary([load_scores(member.evidence.scores(split)) for member in members])
        for split in SCORED_SPLITS
    )


def main() -> int:
    """Make the members, rewrite the table, print the average; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--seeds", type=int, required=True, help="from 1 to this")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--processes", type=int, default=usual_processes(), help="at once")
    options = parser.parse_args()
    if min(options.seeds, options.processes) < 1:
        parser.error("--seeds and --processes: expected 1 or more")
    seeds = range(1, options.seeds + 1)
    try:
        members = [Member.of(options.preset, seed, options.precision) for seed in seeds]
    except InputError as error:
        parser.error(str(error))
    code = make_or_explain(members, options.processes)
    finished = [member for member in members if member.finished]
    if code < 2 and finished:
        make_table.main()
        sys.stdout.write(average(finished) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
