"""What the benchmarks have kept, as the pages of docs/ write it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptb_lm.report.evidence import Evidence, read_evidence

COMMIT_DIGITS = 12
"""Of a commit's forty."""


def where_measured(*evidence: dict[str, Any]) -> str:
    """Say of which commit figures are, and of what machine: each such place once."""
    return " ".join({_place(each["environment"]): None for each in evidence})


def _place(environment: dict[str, Any]) -> str:
    threads = environment["threads"]
    return (
        f"{_commit(environment['commit'])}, {environment['system']}, "
        f"{_processor(environment)}, {threads} thread{'s' * (threads > 1)}, "
        f"PyTorch {environment['torch']}."
    )


def _commit(recorded: str | None) -> str:
    if recorded is None:
        return "No commit recorded"
    digits, plus, changes = recorded.partition("+")
    return f"Commit {digits[:COMMIT_DIGITS]}{plus}{changes}"


def _processor(environment: dict[str, Any]) -> str:
    device: str = environment["device"]
    return environment["processor"] if device == "cpu" else device


def runs_on_ptb(folder: Path) -> list[Evidence]:
    """Read the evidence of the runs in a folder that are of the paper's text, if there are any.

    Raises:
        InputError: a run lacks a file, or one is not what its name says.
    """
    runs = read_evidence(folder) if folder.exists() else []
    return [run for run in runs if run.config.run.data == "ptb"]


def read_json(path: Path) -> dict[str, Any]:
    """Read what a benchmark has kept."""
    evidence: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return evidence


def spread(figures: dict[str, float], digits: int = 0) -> str:
    """Write a median, and the least and greatest of the rounds."""
    low, high = (f"{figures[key]:,.{digits}f}" for key in ("least", "greatest"))
    return f"{figures['median']:,.{digits}f} ({low} to {high})"


def ratio(figures: dict[str, float]) -> str:
    """Write a ratio taken round by round."""
    return spread(figures, 2)


def turns_row(name: str, pair: dict[str, Any], ways: Sequence[str]) -> str:
    """Write a line of a table: what each of two ways reached by turns, and the ratio."""
    rates = " | ".join(spread(pair[way]) for way in ways)
    return f"| {name} | {rates} | {ratio(pair['ratio'])} |"
