"""What a person sees of a training: a bar on a terminal, a line an epoch everywhere."""

import logging
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from ptb_lm.training.elapsed import clock
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import Record

logger = logging.getLogger(__name__)

Window = TypeVar("Window")

tqdm.monitor_interval = 0  # no thread beside ours


class Progress:
    """A bar over the steps of the epoch under way (on a terminal only), and lines above it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        hidden = None if run.world.is_first else True  # None: unless this is a terminal
        self.bar = tqdm(total=run.windows, unit="step", leave=False, disable=hidden)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.bar.close()

    def epoch_begins(self) -> None:
        """Set the bar to where the epoch stands."""
        state = self.run.state
        self.bar.reset()
        self.bar.set_description(f"epoch {state.epochs_done + 1}/{self.run.config.training.epochs}")
        self.bar.update(state.windows_done)

    def steps_are_done(self, count: int) -> None:
        """Move the bar on."""
        self.bar.update(count)

    def epoch_is_done(self, record: Record) -> None:
        """Write the epoch's line from its metrics."""
        state, epochs = self.run.state, self.run.config.training.epochs
        remaining = state.seconds / state.epochs_done * (epochs - state.epochs_done)
        line = (
            f"epoch {state.epochs_done:>{len(str(epochs))}}/{epochs}  "
            f"train {record['train/perplexity']:8.2f}  valid {record['valid/perplexity']:8.2f}  "
            f"lr {record['lr']:.4f}  {record['words_per_second']:8,.0f} words/s  "
            f"elapsed {clock(state.seconds)}  left {clock(remaining)}"
        )
        with self.bar.external_write_mode():
            logger.info("%s", line)


def with_bar(windows: Iterable[Window], total: int, what: str) -> Iterable[Window]:
    """Return windows as they are; while they are worked on, a bar counts them (on a terminal)."""
    return tqdm(windows, what, total, unit="window", leave=False, disable=None)
