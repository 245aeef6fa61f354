"""What seeds alone make of the difference of two runs: known from other seeds of their recipes."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, sqrt

from ptb_lm.config import load_config
from ptb_lm.errors import InputError
from ptb_lm.report.evidence import Evidence, read_run, runs_in
from ptb_lm.report.groups import all_but_seed

Pair = tuple[Evidence, Evidence]

STUDENTS_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""The 0.975 quantile of Student's t distribution with 1, 2, … 30 degrees of freedom."""


@dataclass(frozen=True)
class SeedSpread:
    """What seeds alone make of the difference of two runs' perplexities.

    Attributes:
        deviation: the standard deviation of such a difference.
        degrees_of_freedom: of its estimate.
        bound: 95 % of the differences that seeds alone make are at most this (a two-sided t test;
            of two recipes, whose variances may differ, Welch's).
        seeds: from how many other seeds of the first run's recipe and of the other's it is
            estimated; one number where both are of one recipe. Of a recipe with fewer than two,
            the variance is taken to be the other's.
    """

    deviation: float
    degrees_of_freedom: int
    bound: float
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, split: str, runs: Pair, siblings: Sequence[Evidence]) -> "SeedSpread | None":
        """Estimate it from the other seeds of the two recipes; None where they are too few.

        The two runs themselves do not count. A deviation in which they did would grow with their
        difference: of three seeds of one recipe, no two could ever be far apart.

        Args:
            split: of which perplexities.
            runs: two that have scored the same text.
            siblings: see :func:`siblings_of`.
        """
        recipes = {all_but_seed(run.config): run for run in runs}
        others = [_perplexities(split, run, runs, siblings) for run in recipes.values()]
        several = [each for each in others if len(each) > 1]
        if not several:
            return None
        # In units of the greatest: the square of a diverged run's perplexity is beyond a double.
        unit = max(map(max, several))
        known = [
            (statistics.variance(value / unit for value in each), len(each) - 1) for each in several
        ]
        in_units, degrees = _of_difference(*known)
        deviation = in_units * unit
        quantile = STUDENTS_T[min(degrees, len(STUDENTS_T)) - 1]
        return cls(deviation, degrees, quantile * deviation, tuple(map(len, others)))

    def explains(self, difference: float) -> bool | None:
        """Whether a difference is one that two seeds may well have; None of one that is unknown."""
        return abs(difference) <= self.bound if isfinite(difference) else None


def _of_difference(
    first: tuple[float, int], other: tuple[float, int] | None = None
) -> tuple[float, int]:
    """Return the standard deviation of the difference of two draws, and its degrees of freedom.

    Args:
        first: the variance of the first draw as it is estimated, and the degrees of freedom.
        other: the same of the second; None, if both draws have the first variance.

    Returns:
        by Welch and Satterthwaite, where there are two variances; their degrees rounded down.
    """
    if other is None:
        variance, degrees = first
        return sqrt(2 * variance), degrees
    total = first[0] + other[0]
    squares = sum(variance**2 / degrees for variance, degrees in (first, other))
    degrees = int(total**2 / squares) if squares else min(first[1], other[1])
    return sqrt(total), degrees


def siblings_of(runs: Sequence[Evidence]) -> list[Evidence]:
    """Return the finished ones of runs, and those beside them of the same recipes, a seed once."""
    keys = {all_but_seed(run.config) for run in runs}
    found = {(all_but_seed(run.config), run.config.run.seed): run for run in runs if run.finished}
    folders = {run.folder.path.resolve().parent for run in runs}
    for path in sorted(path for folder in folders for path in runs_in(folder)):
        try:
            config = load_config(path / "config.toml")
            key = (all_but_seed(config), config.run.seed)
            if key[0] in keys and key not in found and (run := read_run(path)).finished:
                found[key] = run
        except InputError:  # it was not asked for, and only adds to what is known
            continue
    return list(found.values())


def _perplexities(
    split: str, run: Evidence, runs: Pair, siblings: Sequence[Evidence]
) -> list[float]:
    """Return those of a run's recipe by its other seeds, on the text that the run scored."""
    recipe, text = all_but_seed(run.config), run.scores[split].text
    compared = {each.config.run.seed for each in runs if all_but_seed(each.config) == recipe}
    others = [
        each.scores[split]
        for each in siblings
        if all_but_seed(each.config) == recipe
        and each.config.run.seed not in compared
        and split in each.scores
    ]
    reached = [scores.perplexity for scores in others if scores.text == text]
    return [perplexity for perplexity in reached if isfinite(perplexity)]
