"""The training loop: epochs of steps, what is recorded and saved between, validation."""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ptb_lm.model.perplexity import no_perplexity, perplexity
from ptb_lm.model.scoring import nll_sum, target_log_probabilities
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.metrics import Record
from ptb_lm.training.progress import Progress
from ptb_lm.training.run import Run
from ptb_lm.training.schedule import Moment, learning_rate
from ptb_lm.training.step import stepper_of

logger = logging.getLogger(__name__)


def train(run: Run, stop: StopFlag, max_steps: int | None = None) -> None:
    """Train a run from where it stands to its end, or to where it is stopped, and save it.

    Args:
        run: left where the training ended; ``run.finished`` says whether that is the end.
        stop: checked after each step, and within a validation.
        max_steps: stop when the run has made this many steps since it began.

    Raises:
        Stopped: a signal came; the run is saved.
        PtbLmError: the objective, a gradient or the validation perplexity is not a number, or a
            file could not be written. The checkpoints are as they were.
    """
    network, state = run.network, run.state
    # All steps may be made and the last epoch's validation still be to come: a run is not
    # finished by its count of steps.
    if run.finished or (max_steps is not None and run.step >= max_steps):
        return
    network.train()
    stop = run.world.shared(stop)
    stepper = stepper_of(run)
    with _left_resumable(run), Progress(run) as progress:
        while not run.finished:
            progress.start_epoch()
            if state.windows_done == 0:
                state.hidden = network.zero_state(run.share.streams)
            while state.windows_done < run.windows:
                count = min(stepper.max_steps_per_call, _steps_to_next_record(run, max_steps))
                rates = [_learning_rate(run, run.step + index) for index in range(count)]
                norm, rate = stepper.advance(rates), rates[-1]
                progress.advance(count, rate)
                if run.step % run.config.run.log_steps == 0:
                    run.record_metrics({**_record(run, rate), "gradient_norm": norm})
                if run.world.broadcast_flag(run.checkpoint_is_due):
                    run.save()
                if run.step == max_steps:
                    return
                stop.check()
            _finish_epoch(run, _learning_rate(run, run.step - 1), progress, stop)


def _learning_rate(run: Run, step: int) -> float:
    """Return the learning rate of a step, counted from 0."""
    return learning_rate(run.config, Moment(step, run.windows, run.config.training.epochs))


def validation_perplexity(run: Run, stop: StopFlag) -> float:
    """Return the perplexity of the validation text in B columns, every target counted.

    Raises:
        PtbLmError: it is not a number.
        Stopped: a signal came.
    """
    tokens = run.corpus.splits["valid"]
    scores = target_log_probabilities(run.network, tokens, run.share.total, stop, run.share)
    run.world.all_reduce_(scores)
    nll = nll_sum(scores)
    reached = perplexity(nll, len(scores))
    if not math.isfinite(reached):
        raise run.divergence_error(
            f"validation after step {run.step:,}: {no_perplexity(nll, len(scores))}"
        )
    return reached


def _steps_to_next_record(run: Run, max_steps: int | None) -> int:
    """Return how many steps lie before a line of metrics, the epoch's end or the last step."""
    log_steps = run.config.run.log_steps
    distances = [run.windows - run.state.windows_done, log_steps - run.step % log_steps]
    if max_steps is not None:
        distances.append(max_steps - run.step)
    return min(distances)


@contextmanager
def _left_resumable(run: Run) -> Iterator[None]:
    """Save a run that is left before its end, by its count of steps or a signal."""
    stopped = None
    try:
        yield
    except Stopped as signal:
        stopped = signal
    if not run.finished:
        run.save()
        logger.info(
            "Stopped after step %s; the same command with --resume goes on from there.",
            f"{run.step:,}",
        )
    if stopped is not None:
        raise stopped


def _finish_epoch(run: Run, rate: float, progress: Progress, stop: StopFlag) -> None:
    """Validate, record and save at the end of an epoch."""
    state = run.state
    began = time.perf_counter()
    with run.averager.applied(run.network):
        valid_perplexity = validation_perplexity(run, stop)
    if run.saved_step is None:
        run.save()  # so that there is never a best.pt without a last.pt to resume from
    record = {**_record(run, rate), "valid/perplexity": valid_perplexity}
    run.averager.after_validation(valid_perplexity)
    state.finish_epoch(valid_perplexity, time.perf_counter() - began)
    progress.finish_epoch(record)
    run.record_metrics({**record, "seconds": state.seconds})
    if state.best_epoch == state.epochs_done:
        run.save_best()
    run.save()


def _record(run: Run, rate: float) -> Record:
    """Return the metrics of the epoch so far."""
    return {
        "step": run.step,
        "epoch": run.state.epochs_done + 1,
        "train/perplexity": run.state.train_perplexity,
        "lr": rate,
        "words_per_second": run.state.words_per_second,
    }
