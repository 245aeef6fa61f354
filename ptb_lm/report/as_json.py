"""A report as one JSON object."""

from dataclasses import asdict
from typing import Any

from ptb_lm.report.averages import DIVERGED, Reached
from ptb_lm.report.comparison import Comparison, Row
from ptb_lm.report.curves import Curve
from ptb_lm.report.groups import Group
from ptb_lm.training.run_folder import SCORED_SPLITS


def report_json(comparison: Comparison) -> dict[str, Any]:
    """Return what ``report --json`` prints: the rows of the tables, and the curves."""
    return {
        "paper": [_row(row) for row in comparison.paper],
        "others": [_row(row) for row in comparison.others],
        "elsewhere": [
            {**asdict(figure), "ours": [_row(row) for row in ours]}
            for figure, ours in comparison.elsewhere
        ],
        "curves": [_curves(group) for group in comparison.groups],
    }


def _row(row: Row) -> dict[str, Any]:
    """Return a row.

    What the paper does not give, a run has not reached, or its data has no text for is null.
    """
    reached, group = row.reached, row.group
    return {
        "model": row.title,
        "members": row.members,
        "group": group.name if group else None,
        "data": group.data if group else None,
        "precision": group.config.run.precision if group else None,
        "runs": row.runs,
        "seeds": _seeds(reached) if reached else None,
        "paper": asdict(row.paper) if row.paper else None,
        **{split: _figure(reached, split) for split in SCORED_SPLITS},
        "difference_percent": asdict(row.difference) if row.difference else None,
        "status": row.status or _status(row.reached),
    }


def _status(reached: Reached | None) -> str:
    """Say whether there is a figure of every split that was scored."""
    estimates = reached.perplexity.values() if reached else []
    return "reached" if all(each.is_number for each in estimates) else DIVERGED


def _seeds(reached: Reached) -> list[list[int]]:
    """Return the seeds of each group that was averaged; of single models there is one in each."""
    return [[run.config.run.seed for run in group] for group in reached.groups]


def _figure(reached: Reached | None, split: str) -> dict[str, Any] | None:
    if reached is None or split not in reached.scored:
        return None
    perplexity, scored = reached.perplexity[split], reached.scored[split]
    return {
        "mean": perplexity.mean,
        "deviation": perplexity.deviation,
        "protocol": scored.text.protocol,
        "streams": scored.text.streams,
        "tokens": scored.tokens,
        "vocabulary_size": scored.text.vocabulary_size,
    }


def _curves(group: Group) -> dict[str, Any]:
    return {
        "group": group.name,
        "runs": [
            {
                "run": run.name,
                "seed": run.config.run.seed,
                "finished": run.finished,
                **asdict(Curve.of(run)),
            }
            for run in group.runs
        ],
    }
