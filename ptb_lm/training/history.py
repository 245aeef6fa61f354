"""The part of a run's metrics that reports and views use, kept while the file is read."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from ptb_lm.errors import InputError
from ptb_lm.training.elapsed import TrainingClock
from ptb_lm.training.metrics import KEYS, Record, ends_epoch, iterate_metrics

FIGURES = ("train/perplexity", "valid/perplexity", "lr", "words_per_second", "seconds")
"""The figures that are kept of a line."""

MOST_EPOCHS = 100_000
"""Ends of epochs that are kept; they take about 60 MB."""


@dataclass
class History:
    """The part of a run's metrics that is used, added to line by line.

    Attributes:
        path: of the metrics, for a message.
        ends: the figures of the lines that end an epoch, in order.
        last: the figures of the last line; None before the first.
        clock: how long the run has trained.
    """

    path: Path
    ends: list[Record] = field(default_factory=list)
    last: Record | None = None
    clock: TrainingClock = field(default_factory=TrainingClock)

    def add(self, record: Record) -> None:
        """Take in the next line.

        Raises:
            InputError: more epochs have ended than a run has.
        """
        self.last = {key: record[key] for key in (*KEYS, *FIGURES) if key in record}
        self.clock.add(record)
        if ends_epoch(record):
            if len(self.ends) == MOST_EPOCHS:
                raise InputError(
                    f"{self.path}: more than {MOST_EPOCHS:,} lines that end an epoch; not the "
                    "metrics of a run"
                )
            self.ends.append(self.last)

    def copy(self) -> "History":
        """Return a copy, to which what is added later is not added."""
        return replace(self, ends=list(self.ends), clock=replace(self.clock))


def read_history(path: Path) -> History:
    """Read what is used of a metrics file; see :func:`iterate_metrics`.

    Raises:
        InputError: it cannot be read, or more epochs have ended in it than a run has.
    """
    history = History(path)
    for record in iterate_metrics(path):
        history.add(record)
    return history
