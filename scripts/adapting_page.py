"""The tables of docs/TEST_TIME.md: what adapting at test time gives, and what was tried."""

import math
from pathlib import Path
from typing import Any

from measured import read_json, where_measured

from ptb_lm.report.published import percent_above

FOLDER = "test-time"
"""Of the evidence in results/."""

WAYS = {
    "usual": "as in the paper",
    "cache": "cache",
    "sgd": "dynamic evaluation, SGD",
    "rms": "dynamic evaluation, RMS",
    "sgd_cache": "dynamic evaluation, SGD, and cache",
    "rms_cache": "dynamic evaluation, RMS, and cache",
}


def adapting_blocks(results: Path) -> dict[str, str]:
    """Return the tables of the page by name."""
    return {"test-time": adapting_block(results), "trials": trials_block(results)}


def adapting_block(results: Path) -> str:
    """Return valid and test perplexity by way, for each run that there is evidence of."""
    parts = [
        _figures(name, evidence) if _is_whole(evidence) else f"{name}: not yet finished."
        for name, evidence in _read(results).items()
    ]
    return "\n\n".join(parts) or "Not yet run."


def _is_whole(evidence: dict[str, Any]) -> bool:
    """Whether a study has come to its end, the test figure of its last way."""
    return all("test" in evidence["figures"].get(way, {}) for way in WAYS)


def _figures(name: str, evidence: dict[str, Any]) -> str:
    figures = evidence["figures"]
    lines = [
        f"| {name} | settings | valid | test | test, against the first line |",
        "|---|---|---|---|---|",
    ]
    usual = figures["usual"]["test"]["perplexity"]
    for way, title in WAYS.items():
        valid, test = (figures[way][split]["perplexity"] for split in ("valid", "test"))
        settings = ", ".join(
            f"{key.removeprefix('dynamic_').replace('_', ' ')} {value}"
            for key, value in figures[way]["settings"].items()
            if key != "dynamic"
        )
        change = f"{percent_above(test, usual):+.1f} %" if way != "usual" else ""
        lines.append(f"| {title} | {settings} | {valid:.2f} | **{test:.2f}** | {change} |")
    tokens = {split: figures["usual"][split]["tokens"] for split in ("valid", "test")}
    counted = f"One stream each: {tokens['valid']:,} and {tokens['test']:,} predicted tokens."
    where = where_measured(*({"environment": each} for each in evidence["environments"]))
    return "\n".join([*lines, "", f"{counted} {where}"])


def trials_block(results: Path) -> str:
    """Return all that was tried, best first."""
    parts = []
    for name, evidence in _read(results).items():
        parts.append(
            f"{name}, on the first {evidence['tuning_targets']:,} predicted tokens of the "
            "validation text:"
        )
        for way, trials in evidence["trials"].items():
            axes = [key for key in trials[0] if key != "perplexity"]
            lines = [f"| {' | '.join([WAYS[way], *axes])} |", f"|{'---|' * (len(axes) + 1)}"]
            for trial in sorted(trials, key=_reached):
                reached = _reached(trial)
                figure = "diverged" if math.isinf(reached) else f"{reached:.2f}"
                lines.append(f"| {' | '.join([figure, *(f'{trial[axis]:g}' for axis in axes)])} |")
            parts.append("\n".join(lines))
    return "\n\n".join(parts) or "Not yet run."


def _reached(trial: dict[str, Any]) -> float:
    return math.inf if trial["perplexity"] is None else float(trial["perplexity"])


def _read(results: Path) -> dict[str, dict[str, Any]]:
    paths = sorted((results / FOLDER).glob("*.json"))
    return {path.stem: read_json(path) for path in paths}
