"""What the runs of a group reach: mean and deviation over its seeds, one by one or averaged.

An average of n models takes n seeds. Where there are more, they are cut into disjoint groups of n
in their order, so that the figures of the groups are independent of one another; what is left over
at the end counts in none.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from ptb_lm.evaluation.scores import ScoredText, average
from ptb_lm.model.perplexity import figure_text
from ptb_lm.report.evidence import Evidence

T = TypeVar("T")

DIVERGED = "diverged"
"""Shown in place of a perplexity that is not a number."""


@dataclass(frozen=True)
class Estimate:
    """A perplexity over several seeds.

    Attributes:
        mean: over the values.
        deviation: the sample's standard deviation (n - 1); None of one value, or where one is
            infinite, as of a diverged training.
    """

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate from at least one value."""
        several = len(values) > 1 and all(map(math.isfinite, values))
        return cls(statistics.fmean(values), statistics.stdev(values) if several else None)

    @property
    def spread(self) -> str:
        """The deviation as it stands beside the mean; nothing where there is none."""
        return "" if self.deviation is None else f"± {figure_text(self.deviation)}"

    @property
    def is_number(self) -> bool:
        """Whether no run of them has diverged."""
        return math.isfinite(self.mean)

    @property
    def shown(self) -> str:
        """The mean as a table has it."""
        return figure_text(self.mean) if self.is_number else DIVERGED

    def __str__(self) -> str:
        return f"{self.shown} {self.spread}".rstrip()


@dataclass(frozen=True)
class Scored:
    """What a figure was taken from: the text and its protocol, and N - 1, its targets."""

    text: ScoredText
    tokens: int

    def __str__(self) -> str:
        return f"{self.text.layout}, {self.tokens:,}"


@dataclass(frozen=True)
class Reached:
    """What single models, or averages of as many each, reach.

    Attributes:
        groups: the runs of each figure that the estimate is over: one run each, or the members of
            each average.
        perplexity: by split; of test only where the runs' data has a test text.
        scored: likewise.
    """

    groups: tuple[tuple[Evidence, ...], ...]
    perplexity: dict[str, Estimate]
    scored: dict[str, Scored]

    @property
    def members(self) -> int:
        """How many models are averaged for a figure; 1 for single models."""
        return len(self.groups[0])

    @property
    def over(self) -> str:
        """What the estimate is over, in words."""
        count = len(self.groups)
        plural = "s" * (count > 1)
        if self.members == 1:
            return f"{count} seed{plural}"
        return f"{count} group{plural} of {self.members}"


def disjoint_groups(runs: Sequence[T], members: int) -> list[tuple[T, ...]]:
    """Cut a sequence into as many whole groups of so many as there are, in order."""
    count = len(runs) // members
    return [tuple(runs[n * members : (n + 1) * members]) for n in range(count)]


def reached_by(runs: Sequence[Evidence], members: int) -> Reached:
    """Return what finished runs reach, averaged by so many; by 1 is each by itself.

    Averages are of probabilities, exact in float64.

    Args:
        runs: at least as many as ``members``, in the order of their seeds.
        members: how many to average.

    Raises:
        InputError: the members did not score the same text in the same way.
    """
    groups = disjoint_groups(runs, members)
    figures = {
        split: [average([run.scores[split] for run in group]) for group in groups]
        for split in runs[0].scores
    }
    return Reached(
        tuple(groups),
        {
            split: Estimate.of([figure.perplexity for figure in values])
            for split, values in figures.items()
        },
        {
            split: Scored(runs[0].scores[split].text, values[0].tokens)
            for split, values in figures.items()
        },
    )
