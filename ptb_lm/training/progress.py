"""What a person sees of a training: a bar on a terminal, a line an epoch everywhere."""

import logging
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

from ptb_lm.config import Config
from ptb_lm.model.perplexity import FIGURE_WIDTH, figure_text
from ptb_lm.training.elapsed import clock
from ptb_lm.training.metrics import Record
from ptb_lm.training.run import Run

logger = logging.getLogger(__name__)

Window = TypeVar("Window")

tqdm.monitor_interval = 0  # no thread beside ours


SECONDS_OF_SILENCE = 300.0
"""How long a log that is no terminal goes without a line."""

LINE_WIDTH = 80
"""The columns of an epoch's line."""

WORSE, MUCH_WORSE = 2, 10
"""How many times the perplexity of guessing is worth a warning: at an epoch's end, and within it.

On a few hundred words of noise, an ordinary training may come to a little more than once."""

PLAUSIBLE_RATE = 5.0
"""No learning rate of plain SGD is greater, for an objective that is summed over the steps."""

MUCH_CLIP = 100.0
"""A clip_norm that no published recipe comes near: 0.25 times as many steps is 400 steps."""


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
        self.has_warned = False

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
            train = figure_text(state.train_perplexity)
            self.bar.set_postfix_str(f"train {train}, lr {rate:.3g}", refresh=False)
            self.bar.update(count)
        elif self.run.world.is_first and now - self.said_at >= SECONDS_OF_SILENCE:
            self.said_at = now
            logger.info(
                "%s  step %s/%s  train %s  lr %.3g  %s words/s",
                self._epoch,
                *(f"{state.windows_done:,}", f"{self.run.windows:,}"),
                *(figure_text(state.train_perplexity), rate),
                f"{state.words_per_second:,.0f}",
            )
        self._warn_of_guessing("training", state.train_perplexity, MUCH_WORSE)

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
        ends = f"{record['words_per_second']:6,.0f} words/s  eta {clock(remaining)}"

        def line(width: int) -> str:
            train, valid = (
                f"{figure_text(record[f'{text}/perplexity'], width=width):>6}"
                for text in ("train", "valid")
            )
            room = max(0, 19 - len(train) - len(valid))  # a long figure takes from the rate's 7
            return (
                f"epoch {state.epochs_done:>{len(str(epochs))}}/{epochs}  train {train}  "
                f"valid {valid}  lr {record['lr']:<{room}.3g}  {ends}"
            )

        lines = [line(width) for width in (FIGURE_WIDTH, 7, 6)]
        fitting = [each for each in lines if len(each) <= LINE_WIDTH]
        self.said_at = time.monotonic()
        with self.bar.external_write_mode():
            logger.info("%s", fitting[0] if fitting else " ".join(lines[-1].split()))
        # Where the validation alone is bad, the model has overfitted: another rate is no remedy.
        both = min(record["train/perplexity"], record["valid/perplexity"])
        self._warn_of_guessing("validation", both, WORSE)

    def _warn_of_guessing(self, text: str, perplexity: float, times: int) -> None:
        """Warn once if a model is ``times`` times worse than guessing among all words."""
        words = len(self.run.corpus.vocabulary)
        if self.has_warned or perplexity <= times * words:
            return
        self.has_warned = True
        if not self.run.world.is_first:
            return
        with self.bar.external_write_mode():
            logger.warning(
                "the %s perplexity is more than %s times that of guessing among the %s words of "
                "the vocabulary; %s",
                *(text, times, f"{words:,}"),
                rate_advice(self.run.config),
            )


def rate_advice(config: Config) -> str:
    """Say how to set the learning rate, also for those who bring one from other programs."""
    steps, optimizer = config.training.unrolled_steps, config.optimizer
    rate, clip_norm = optimizer.learning_rate, optimizer.clip_norm
    advice = f"lower optimizer.learning_rate, now {rate:g}"
    if clip_norm > MUCH_CLIP:
        advice += f", or optimizer.clip_norm, now {clip_norm:g}"
    if optimizer.kind != "sgd" or not PLAUSIBLE_RATE < rate <= PLAUSIBLE_RATE * steps:
        return advice
    return (
        f"{advice}: the objective here is summed over the unrolled steps, so a rate for their "
        f"mean, as in pytorch/examples and awd-lstm-lm, becomes {rate:g} / {steps} = "
        f"{rate / steps:.3g}, and their clip of 0.25 becomes optimizer.clip_norm = "
        f"0.25 * {steps} = {0.25 * steps:g}"
    )


def with_bar(windows: Iterable[Window], total: int, what: str) -> Iterable[Window]:
    """Return windows as they are; while they are worked on, a bar counts them (on a terminal)."""
    return tqdm(windows, what, total, unit="window", leave=False, disable=None)
