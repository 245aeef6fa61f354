"""What a person sees of a training: a bar on a terminal, a line an epoch everywhere."""

import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from ptb_lm.training.elapsed import clock
from ptb_lm.training.metrics import Record
from ptb_lm.training.run import Run

logger = logging.getLogger(__name__)

Window = TypeVar("Window")

tqdm.monitor_interval = 0  # no thread beside ours


SECONDS_OF_SILENCE = 300.0
"""How long a log that is no terminal goes without a line."""


class Progress:
    """A bar over the steps of the epoch under way, and a line above it at the end of each.

    Where there is no terminal there is no bar, but a line from time to time.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        hidden = None if run.world.is_first else True  # None: unless this is a terminal
        # By default tqdm learns from each update how many steps to let pass before the next look
        # at the clock: on a resumed run, after the first one, the bar would stand still.
        self.bar = tqdm(total=run.windows, unit="step", leave=False, disable=hidden, miniters=1)
        self.said_at = time.monotonic()
        self.seconds_before = run.state.seconds

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()

    def start_epoch(self) -> None:
        """Set the bar to where the epoch stands."""
        self.seconds_before = self.run.state.seconds
        self.bar.reset()
        # What was done before does not count for the rate.
        self.bar.initial = self.bar.n = self.bar.last_print_n = self.run.state.windows_done
        self.bar.set_postfix_str("", refresh=False)
        self.bar.set_description(self._epoch)

    def advance(self, count: int, rate: float) -> None:
        """Move the bar on, or say where the training is if nothing was said for long.

        Args:
            count: of steps.
            rate: the learning rate.
        """
        state, now = self.run.state, time.monotonic()
        if not self.bar.disable:
            perplexity = f"train {state.train_perplexity:.2f}, lr {rate:.3g}"
            self.bar.set_postfix_str(perplexity, refresh=False)
            self.bar.update(count)
        elif self.run.world.is_first and now - self.said_at >= SECONDS_OF_SILENCE:
            self.said_at = now
            logger.info(
                "%s  step %s/%s  train %.2f  lr %.3g  %s words/s",
                self._epoch,
                *(f"{state.windows_done:,}", f"{self.run.windows:,}"),
                *(state.train_perplexity, rate),
                f"{state.words_per_second:,.0f}",
            )

    @property
    def _epoch(self) -> str:
        """Which epoch is under way, of how many."""
        epochs = self.run.config.training.epochs
        return f"epoch {self.run.state.epochs_done + 1:>{len(str(epochs))}}/{epochs}"

    def finish_epoch(self, record: Record) -> None:
        """Write the epoch's line from its metrics: no more than 80 columns."""
        state, epochs = self.run.state, self.run.config.training.epochs
        # As long as this epoch took: those before it may be of another machine, or a busier one.
        remaining = (state.seconds - self.seconds_before) * (epochs - state.epochs_done)
        line = (
            f"epoch {state.epochs_done:>{len(str(epochs))}}/{epochs}  "
            f"train {record['train/perplexity']:6.2f}  valid {record['valid/perplexity']:6.2f}  "
            f"lr {record['lr']:<7.3g}  {record['words_per_second']:6,.0f} words/s  "
            f"eta {clock(remaining)}"
        )
        self.said_at = time.monotonic()
        with self.bar.external_write_mode():
            logger.info("%s", line)


def with_bar(windows: Iterable[Window], total: int, what: str) -> Iterable[Window]:
    """Return windows as they are; while they are worked on, a bar counts them (on a terminal)."""
    return tqdm(windows, what, total, unit="window", leave=False, disable=None)
