"""A run: all that a training works on, and how it is saved."""

import time
from dataclasses import dataclass, field, replace

from torch import Tensor

from ptb_lm.config import Config
from ptb_lm.corpus.load import Corpus
from ptb_lm.errors import PtbLmError
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.share import Share
from ptb_lm.training.averaging import Averager
from ptb_lm.training.checkpoint import (
    Checkpoint,
    is_finite,
    random_states,
    save_checkpoint,
)
from ptb_lm.training.metrics import Record
from ptb_lm.training.optim import Optimizer, OptimizerState
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder
from ptb_lm.training.state import TrainingState
from ptb_lm.training.world import SINGLE_PROCESS, World


@dataclass
class Run:
    """All that a training works on.

    Attributes:
        columns: the training text as int32 (N // B, B) on the device; where several processes
            share the training, this one's columns of it.
        windows: windows, and so steps, of an epoch.
        state: where it stands, beside the weights.
        saved_at: when ``last.pt`` was written or read, on the clock ``time.monotonic``.
        saved_step: the step it stands at; None while there is none.
        averager: the average of the weights.
        optimizer: the optimizer, once the training has begun.
        resumed_optimizer: the optimizer's state in the checkpoint that the run was resumed from.
        world: the processes that share the training, of which the first has the folder. Whatever
            one of them saves or records, all have to call.
    """

    config: Config
    corpus: Corpus
    folder: RunFolder
    network: LanguageModel
    columns: Tensor
    windows: int
    averager: Averager
    state: TrainingState = field(default_factory=TrainingState)
    saved_at: float = field(default_factory=time.monotonic)
    saved_step: int | None = None
    optimizer: Optimizer | None = None
    resumed_optimizer: OptimizerState = field(default_factory=dict)
    world: World = SINGLE_PROCESS

    def optimizer_state(self) -> OptimizerState:
        """Return the state of the optimizer, also before the training has begun."""
        return self.resumed_optimizer if self.optimizer is None else self.optimizer.state_dict()

    @property
    def share(self) -> Share:
        """Which of the B streams are computed here."""
        return self.world.share(self.config.training.batch_size)

    @property
    def step(self) -> int:
        """Steps done since the run began."""
        return self.state.epochs_done * self.windows + self.state.windows_done

    @property
    def finished(self) -> bool:
        """Whether every epoch is trained and validated."""
        return self.state.epochs_done >= self.config.training.epochs

    @property
    def scored_splits(self) -> tuple[str, ...]:
        """The splits that it is scored on when it is finished."""
        return tuple(split for split in SCORED_SPLITS if split in self.corpus.splits)

    @property
    def is_scored(self) -> bool:
        """Whether the last weights' scores are all there."""
        return all(self.folder.scores(split).exists() for split in self.scored_splits)

    @property
    def checkpoint_is_due(self) -> bool:
        """Whether the last one is older than the config has it."""
        return time.monotonic() - self.saved_at >= 60 * self.config.run.checkpoint_minutes

    def divergence_error(self, what: str) -> PtbLmError:
        """Return the error of a training whose figures are no longer numbers.

        Args:
            what: which of them, when, and what has been done.
        """
        good = "there is no checkpoint yet"
        if self.saved_step is not None:
            good = f"the last good checkpoint is {self.folder.last}, of step {self.saved_step:,}"
        return PtbLmError(
            f"the training diverged: {what}; {good}; begin a new run with a lower "
            "optimizer.learning_rate or optimizer.clip_norm"
        )

    def record_metrics(self, record: Record) -> None:
        """Add a line to the metrics."""
        if self.world.is_first:
            self.folder.append_metrics(record)

    def save(self) -> None:
        """Write ``last.pt``: this moment, complete. What stood there becomes ``previous.pt``.

        Raises:
            PtbLmError: it could not be written, or the weights are not numbers: a checkpoint
                that is no good never replaces one that is.
        """
        checkpoint = self._checkpoint()
        checkpoint.state = replace(self.state, hidden=self.world.gather_streams(self.state.hidden))
        checkpoint.optimizer = self.optimizer_state()
        checkpoint.averager = self.averager.state
        if self.averager.state.average:
            checkpoint.raw_weights = self.network.weights()
        checkpoint.random_states = random_states()
        if self.world.is_first:
            self.folder.flush_metrics()
            save_checkpoint(checkpoint, self.folder.last, previous=self.folder.previous)
        self.world.barrier()  # nobody goes away, or on, without it
        self.saved_at, self.saved_step = time.monotonic(), self.step

    def save_best(self) -> None:
        """Write ``best.pt``: the weights alone."""
        checkpoint = self._checkpoint()
        if self.world.is_first:
            self.folder.require_claim()
            save_checkpoint(checkpoint, self.folder.best)

    def _checkpoint(self) -> Checkpoint:
        average = self.averager.state.average
        if not all(map(is_finite, [*self.network.parameters(), *average.values()])):
            raise self.divergence_error(f"after step {self.step:,} the weights are not finite")
        return Checkpoint(
            config=self.config,
            vocabulary=self.corpus.vocabulary,
            corpus_sha256=self.corpus.sha256,
            weights=average or self.network.weights(),
            epoch=self.state.epochs_done,
            valid_perplexity=self.state.last_valid_perplexity,
        )
