"""The training loop: window, forward, objective, backward, clip, step.

Shapes: T unrolled steps, B streams, V words.
"""

import logging
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from ptb_lm.corpus.batching import training_window
from ptb_lm.model.objective import nll_sum, target_log_probabilities, window_objective
from ptb_lm.model.perplexity import perplexity
from ptb_lm.model.state import detach
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.progress import Progress
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import Record
from ptb_lm.training.schedule import learning_rate
from ptb_lm.training.sgd import clip_factor, gradient_norm, sgd_step_

logger = logging.getLogger(__name__)


def train(run: Run, stop: StopFlag, max_steps: int | None = None) -> None:
    """Train a run from where it stands to its end, or to where it is stopped, and save it.

    Args:
        run: left where the training ended; ``run.finished`` says whether that is the end.
        stop: looked at after each step, and within a validation.
        max_steps: stop when the run has made this many steps since it began.

    Raises:
        Stopped: a signal came; the run is saved.
        PtbLmError: the objective or a gradient is not a number, or a file could not be written.
            The checkpoints are as they were.
    """
    training, network, state = run.config.training, run.network, run.state
    # All steps may be made and the last epoch's validation still be to come: a run is not
    # finished by its count of steps.
    if run.finished or (max_steps is not None and run.step >= max_steps):
        return
    network.train()
    with _left_resumable(run), Progress(run) as progress:
        while not run.finished:
            progress.epoch_begins()
            rate = learning_rate(training, state.epochs_done + 1)
            if state.windows_done == 0:
                state.hidden = network.zero_state(training.batch_size)
            for window in range(state.windows_done, run.windows):
                began = time.perf_counter()
                inputs, targets = training_window(run.columns, window, training.unrolled_steps)
                logits, hidden = network(inputs, state.hidden)  # (T, B, V)
                objective = window_objective(logits, targets)
                objective.backward()  # type: ignore[no-untyped-call]
                norm = gradient_norm(network.parameters())
                require_finite(run, rate, objective, norm)
                sgd_step_(network.parameters(), rate * clip_factor(norm, training.clip_norm))
                state.window_is_done(objective, targets, detach(hidden), began)
                progress.step_is_done()
                if run.step % run.config.run.log_steps == 0:
                    record = {**_record(run, rate), "gradient_norm": float(norm)}
                    run.folder.append_metrics(record)
                if run.checkpoint_is_due:
                    run.save()
                if run.step == max_steps:
                    return
                stop.check()
            _finish_epoch(run, rate, progress, stop)


def validation_perplexity(run: Run, stop: StopFlag) -> float:
    """Return the perplexity of the validation text in B columns, every target counted.

    Raises:
        PtbLmError: it is not a number.
        Stopped: a signal came.
    """
    tokens = run.corpus.splits["valid"]
    scores = target_log_probabilities(run.network, tokens, run.config.training.batch_size, stop)
    nll = nll_sum(scores)
    if not math.isfinite(nll):
        raise run.diverged(f"after step {run.step:,} the NLL of the validation text is {nll}")
    return perplexity(nll, len(scores))


def require_finite(run: Run, rate: float, objective: Tensor, norm: Tensor) -> None:
    """Stop before an update that would put NaN or infinity into the weights.

    A NaN or an infinity in any gradient makes their global norm one.

    Raises:
        PtbLmError: naming the step, both values, and what there is to go back to.
    """
    if torch.isfinite(objective + norm):  # one read-back from the device
        return
    raise run.diverged(
        f"in step {run.step + 1:,} the objective is {objective.item():.6g}, the gradient norm "
        f"{norm.item():.6g}, the learning rate {rate:.6g}; the weights were not updated"
    )


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
    if run.saved_step is None:
        run.save()  # so that there is never a best.pt without a last.pt to resume from
    began = time.perf_counter()
    valid_perplexity = validation_perplexity(run, stop)
    record = {**_record(run, rate), "valid/perplexity": valid_perplexity}
    state.epoch_is_done(valid_perplexity, time.perf_counter() - began)
    progress.epoch_is_done(record)
    run.folder.append_metrics({**record, "seconds": state.seconds})
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
