"""The tables of docs/RELIABILITY.md from what ``make torture`` counted."""

import ast
from collections import Counter
from pathlib import Path
from typing import Any

from measured import read_json, where_measured

ROOT = Path(__file__).resolve().parents[1]


def reliability_blocks(results: Path) -> dict[str, str]:
    """Return the tables of docs/RELIABILITY.md by name."""
    folder = results / "reliability"
    torture = read_json(folder / "torture.json")
    cost = read_json(folder / "checkpoint_cost.json")
    return {"promises": promises_table(torture), "checkpoint cost": cost_table(cost)}


def promises_table(torture: dict[str, Any]) -> str:
    """Return what is promised, how it is tested, and what the last full run counted."""
    lines = [
        "| promise | how it is tested | the last full run |",
        "|---|---|---|",
    ]
    for name, promise in torture["promises"].items():
        said = f"**{name.capitalize()}.** {promise}"
        for (path, function), counts in _counts(torture["tests"], name).items():
            counted = ", ".join(f"{number:,} {what}" for what, number in counts.items())
            how = f"{_purpose(path, function)} ([{Path(path).stem}](../{path}))"
            lines.append(f"| {said} | {how} | {counted} |")
            said = ""
    lines += ["", f"{torture['minutes']:.0f} minutes. {where_measured(torture)}"]
    for run in torture.get("later", []):  # of single promises, whose counts have been put in
        names = " and ".join(name.capitalize() for name in run["promises"])
        lines[-1] += f" {names}: {run['minutes']:.0f} minutes. {where_measured(run)}"
    return "\n".join(lines)


def _counts(tests: list[dict[str, Any]], promise: str) -> dict[tuple[str, str], Counter[str]]:
    """Add up what the cases of each test of a promise have counted, by its file and function."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for test in tests:
        if test["promise"] == promise:
            path, _, case = test["test"].partition("::")
            counts.setdefault((path, case.partition("[")[0]), Counter()).update(test["counts"])
    return counts


def _purpose(path: str, function: str) -> str:
    """Return what a test says that it does: the first paragraph of its docstring, on one line."""
    for node in ast.parse((ROOT / path).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            paragraph = (ast.get_docstring(node) or function).partition("\n\n")[0]
            return " ".join(paragraph.split()).rstrip(".").replace("|", "\\|")
    raise KeyError(f"{path}::{function}: the evidence names a test that is not there")


def cost_table(cost: dict[str, Any]) -> str:
    """Return what checkpoints cost of the training time."""
    lines = [
        "| model | last.pt, MB | writing it, s | share of the time, every "
        f"{cost['checkpoint_minutes']:g} minutes | checks, share of a step |",
        "|---|---|---|---|---|",
    ]
    for row in cost["presets"]:
        low, high = row["save_seconds_range"]
        lines.append(
            f"| {row['preset']} | {row['megabytes']:.0f} "
            f"| {row['save_seconds']:.2f} ({low:.2f} to {high:.2f}) "
            f"| {row['share_of_time']:.2%} | {row['checks_share_of_step']:.3%} |"
        )
    return "\n".join([*lines, "", where_measured(cost)])
