"""Runs side by side as text: a column a run, then what each is beside the first."""

from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

from ptb_lm.compare.paired import PairedComparison
from ptb_lm.compare.side_by_side import Difference, Results, SideBySide
from ptb_lm.model.perplexity import NO_FIGURE, figure_text
from ptb_lm.report.columns import Line, in_columns
from ptb_lm.training.run_folder import SCORED_SPLITS

COMMIT_DIGITS = 10
"""Of a commit's forty."""


def side_by_side_text(compared: SideBySide, *, on_terminal: bool) -> str:
    """Return what ``compare`` prints."""
    rows: list[Line] = [("", compared.names)]
    rows += _section("config", compared.config)
    rows += _section("environment", compared.environment)
    rows += [("results", []), *_results(compared)]
    lines = in_columns(rows, on_terminal=on_terminal)
    first = compared.names[0]
    for name, differences in zip(compared.names[1:], compared.differences, strict=True):
        lines += ["", f"{name} against {first}"]
        lines += [line for each in differences for line in _difference_lines(each, first, name)]
    if any(each.paired for differences in compared.differences for each in differences):
        lines += [
            "",
            "NLL per token: over all targets, in nats; ± is its standard error with both models as "
            "they are, from blocks of neighbouring targets.",
        ]
    return "\n".join(lines)


def _section(title: str, table: dict[str, list[Any]]) -> list[Line]:
    if not table:
        return [(title, ["the same"])]
    return [
        (title, []),
        *((f"  {key}", [_value(key, value) for value in values]) for key, values in table.items()),
    ]


def _value(key: str, value: Any) -> str:
    if value is None:
        return NO_FIGURE
    if isinstance(value, list):
        return " then ".join(_value(key, each) for each in value)
    if key == "commit":
        digits, plus, changes = str(value).partition("+")
        return digits[:COMMIT_DIGITS] + plus + changes
    return str(value).lower() if isinstance(value, bool) else str(value)


def _results(compared: SideBySide) -> list[Line]:
    def row(title: str, show: Callable[[Results], str]) -> Line:
        return f"  {title}", [show(each) for each in compared.results]

    rows = [
        row("epochs", lambda each: f"{each.epochs_done} of {each.epochs}"),
        *(row(f"{split} perplexity", partial(_reached, split)) for split in SCORED_SPLITS),
    ]
    if compared.common_epoch:
        values = [figure_text(value) for value in compared.valid_at_common_epoch]
        rows.append((f"  valid after epoch {compared.common_epoch}", values))
    return [
        *rows,
        row("best epoch", _best),
        row("words per second", lambda each: _number(each.words_per_second, ",.0f")),
        row("minutes", lambda each: _number(each.minutes, ".1f")),
    ]


def _reached(split: str, results: Results) -> str:
    return figure_text(results.reached[split].perplexity)


def _best(results: Results) -> str:
    if results.best_epoch is None:
        return NO_FIGURE
    return f"{results.best_epoch} ({figure_text(results.best_valid_perplexity)})"


def _difference_lines(difference: Difference, first: str, name: str) -> list[str]:
    title = f"  {difference.split:5}  "
    if difference.obstacle:
        return [f"{title}perplexities cannot be compared: over {difference.obstacle}"]
    if not isfinite(difference.perplexity):
        return [f"{title}{NO_FIGURE}"]
    perplexity, percent = (
        figure_text(value, sign="+") for value in (difference.perplexity, difference.percent)
    )
    line = f"{title}perplexity {perplexity} ({percent} %)"
    line += f", {difference.remark}" if difference.remark else ""
    if difference.paired is None:
        return [line]
    return [
        f"{line}; {_beside_seeds(difference)}",
        f"{'':9}{_paired(difference.paired, first, name)}",
    ]


def _paired(paired: PairedComparison, first: str, name: str) -> str:
    nats = figure_text(paired.nll_difference, 4, "+")
    error = figure_text(paired.standard_error, 4)
    better = f"{first} predicts {100 * paired.first_better:.1f} % of them better"
    return (
        f"NLL per token {nats} ± {error} nats over {paired.targets:,} targets; "
        f"{better}, {name} {100 * paired.second_better:.1f} %"
    )


def _beside_seeds(difference: Difference) -> str:
    spread = difference.seed_spread
    if spread is None:
        return "the seed spread is not known: too few other seeds"
    verdict = "within" if spread.explains(difference.perplexity) else "beyond"
    seeds = " and ".join(map(str, spread.seeds))
    if_alike = ", if both vary alike" if min(spread.seeds) < 2 else ""
    return (
        f"{verdict} the seed spread: 95 % of the differences that seeds alone make are at most "
        f"{figure_text(spread.bound)} (from {seeds} other seeds{if_alike})"
    )


def _number(value: float, form: str) -> str:
    return format(value, form) if isfinite(value) else NO_FIGURE
