"""The rows of a report: the paper's figures with ours beside them, and the runs that are others."""

from collections.abc import Sequence
from dataclasses import dataclass

from ptb_lm.report.averages import Reached, reached_by
from ptb_lm.report.evidence import Evidence
from ptb_lm.report.groups import Group, grouped
from ptb_lm.report.published import (
    AVERAGED,
    ELSEWHERE,
    PUBLISHED,
    Elsewhere,
    Perplexities,
    Published,
    percent_above,
)

NOT_YET_RUN = "not yet run"
DEVIATION = "±: the sample standard deviation over the seeds, or over the groups of an average."
HEADING = "Perplexity"
TITLE = "Tables 1 of arXiv 1409.2329 and, variational, of arXiv 1512.05287: Penn Treebank"
ELSEWHERE_TITLE = "Published elsewhere"
NOTES = (
    "Figures are perplexities of the last epoch's weights, as the paper's are, recomputed from "
    "the log-probability of each target.",
    DEVIATION,
    "An average is of the models' probabilities; its groups are disjoint, in the order of seeds.",
)
OF_THE_PAPER = (
    "If the authors' published code made them, the papers' validation figures are 0.9 to 1.4 % too "
    "low: it divides a whole number of windows by a fractional one."
)


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Attributes:
        title: the model's name, or which average it is.
        members: how many models are averaged; 1 for single models.
        published: the paper's model, if it is one.
        group: the runs, where there are any.
        reached: what they reach; None where they reach nothing yet.
        status: why they do not; empty where they do.
    """

    title: str
    members: int
    published: Published | None
    group: Group | None
    reached: Reached | None
    status: str

    @property
    def paper(self) -> Perplexities | None:
        """The paper's figures, where it gives them."""
        return self.published.of_members(self.members) if self.published else None

    @property
    def precision(self) -> str:
        """That of the runs."""
        return self.group.config.run.precision if self.group else ""

    @property
    def runs(self) -> list[str]:
        """The names of the runs that the figures are of."""
        groups = self.reached.groups if self.reached else ()
        return [run.name for group in groups for run in group]

    @property
    def difference(self) -> Perplexities | None:
        """By how many percent our means are above the paper's figures; negative: below."""
        if self.reached is None or self.paper is None:
            return None
        ours = self.reached.perplexity
        return Perplexities(
            percent_above(ours["valid"].mean, self.paper.valid),
            percent_above(ours["test"].mean, self.paper.test),
        )


@dataclass(frozen=True)
class Comparison:
    """A whole report.

    Attributes:
        groups: the runs.
        paper: the rows of the paper's table.
        others: those of other runs.
    """

    groups: list[Group]
    paper: list[Row]
    others: list[Row]

    @property
    def has_published(self) -> bool:
        """Whether any run is of a model that a paper has."""
        return any(group.published for group in self.groups)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the tables must know."""
        return (*NOTES, OF_THE_PAPER) if self.has_published else NOTES

    def ours_beside(self, figure: Elsewhere) -> list[Row]:
        """Return the rows of the same model that reach something, a precision each."""
        published = PUBLISHED.get(figure.preset) if figure.preset else None
        return [
            row
            for row in self.paper
            if row.reached and row.members == 1 and row.published is published
        ]

    @property
    def elsewhere(self) -> list[tuple[Elsewhere, list[Row]]]:
        """What others have published, each with :meth:`ours_beside` it."""
        return [(figure, self.ours_beside(figure)) for figure in ELSEWHERE]


def beside_papers(runs: Sequence[Evidence]) -> Comparison:
    """Set runs beside the paper's.

    Raises:
        InputError: a run is there twice, or runs of a group did not score the same text.
    """
    groups = grouped(runs)
    return Comparison(groups, paper_rows(groups), other_rows(groups))


def paper_rows(groups: Sequence[Group]) -> list[Row]:
    """Return the rows of the papers' tables, ours beside each as far as there are any.

    Precisions are rows of their own. Averages that the paper has none of have a row where there
    are enough seeds, the average of all seeds among them.
    """
    rows = []
    for published in PUBLISHED.values():
        ours = [group for group in groups if group.published is published]
        single = [row for group in ours for row in single_rows(group)]
        rows += single or [Row(published.title, 1, published, None, None, NOT_YET_RUN)]
        sizes = {size for group in ours for size in averaged_sizes(group)}
        for members in sorted({*AVERAGED, *sizes}):
            rows += _average_rows(published, ours, members)
    return rows


def other_rows(groups: Sequence[Group]) -> list[Row]:
    """Return the rows of the runs that are not the paper's."""
    return [
        row
        for group in groups
        if group.published is None
        for row in (
            *single_rows(group),
            *(_average_row(group, members) for members in averaged_sizes(group)),
        )
    ]


def single_rows(group: Group) -> list[Row]:
    """Return a row of the finished runs of a group, and one of each that is unfinished."""
    title, published = group.title, group.published
    rows = []
    if group.finished:
        rows.append(Row(title, 1, published, group, reached_by(group.finished, 1), ""))
    for run in group.unfinished:
        status = f"{run.name} unfinished, {run.progress}"
        rows.append(Row(title, 1, published, group, None, status))
    return rows


def averaged_sizes(group: Group) -> list[int]:
    """Return how many of a group's models to average: as the paper, as far as they go, and all."""
    count = len(group.finished)
    return sorted({size for size in (*AVERAGED, count) if 1 < size <= count})


def _average_rows(published: Published, groups: list[Group], members: int) -> list[Row]:
    """Return a row of each precision with seeds enough, else the paper's row by itself."""
    enough = [group for group in groups if members in averaged_sizes(group)]
    if enough:
        return [_average_row(group, members) for group in enough]
    if published.of_members(members) is None:
        return []
    most = max((len(group.finished) for group in groups), default=0)
    so_far = f" ({most} of {members} seeds)" if most else ""
    title = _average_title(published.name, members)
    return [Row(title, members, published, None, None, NOT_YET_RUN + so_far)]


def _average_row(group: Group, members: int) -> Row:
    """Return the row of the average of so many of a group's seeds."""
    published = group.published
    title = _average_title(published.name if published else group.title, members)
    return Row(title, members, published, group, reached_by(group.finished, members), "")


def _average_title(model: str, members: int) -> str:
    return f"{model}, average of {members}"
