"""How far a run is: read from its folder while a training is at work in it, and not disturbing it.

Only the config, the environment, the metrics and, of a finished run, the scores are read.
"""

import os
from dataclasses import asdict, dataclass
from functools import cached_property
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any, Literal

from ptb_lm.config import Config, load_config
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import Scores, figure
from ptb_lm.lock import holder
from ptb_lm.regular import open_regular
from ptb_lm.report.evidence import read_scores, run_folder_at, splits_scored
from ptb_lm.training.history import History
from ptb_lm.training.metrics import LineReader, metrics_record, number_in
from ptb_lm.training.run_folder import RunFolder

State = Literal["training", "scoring", "stopped", "finished"]

HEAD_BYTES = 256
"""Of a metrics file, by which another one in its place is noticed."""


@dataclass(frozen=True)
class EpochDone:
    """What the metrics say of an epoch that is trained and validated; NaN what they do not."""

    epoch: int
    train_perplexity: float
    valid_perplexity: float
    learning_rate: float
    words_per_second: float


@dataclass(frozen=True)
class RunStatus:
    """A run at a moment. A figure that the metrics do not give, or that is no number, is NaN.

    Attributes:
        folder: the run's.
        config: the resolved config.
        process: the number of the process that is at work in the folder; None if none is.
        history: what is used of the metrics.
        steps_per_epoch: None while nothing tells it: in the first epoch of runs that did not
            record it.
        idle_seconds: since the last line of the metrics was written; NaN before the first.
        scores: of the last weights, by split; empty while the run is unfinished.
    """

    folder: RunFolder
    config: Config
    process: int | None
    history: History
    steps_per_epoch: int | None
    idle_seconds: float
    scores: dict[str, Scores]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.absolute().name

    @property
    def state(self) -> State:
        """What goes on in the folder."""
        if self.process is not None:
            return "training" if self.epochs_done < self.epochs else "scoring"
        return "finished" if self.scores else "stopped"

    @property
    def epochs(self) -> int:
        """How many the run is to have."""
        return self.config.training.epochs

    @cached_property
    def curve(self) -> list[EpochDone]:
        """The epochs that are done, in order."""
        return [
            EpochDone(
                record["epoch"],
                *(
                    number_in(record, key)
                    for key in ("train/perplexity", "valid/perplexity", "lr", "words_per_second")
                ),
            )
            for record in self.history.ends
        ]

    @property
    def best(self) -> EpochDone | None:
        """The epoch with the lowest validation perplexity."""
        valid = [each for each in self.curve if isfinite(each.valid_perplexity)]
        return min(valid, key=lambda each: each.valid_perplexity, default=None)

    @property
    def epochs_done(self) -> int:
        """How many are trained and validated."""
        return self.curve[-1].epoch if self.curve else 0

    @property
    def epoch(self) -> int:
        """The one under way, or the last."""
        return min(self.epochs_done + 1, self.epochs)

    @property
    def step(self) -> int:
        """Steps since the run began, as of the last line."""
        return int(self.history.last["step"]) if self.history.last else 0

    @property
    def step_in_epoch(self) -> int:
        """Steps of the epoch under way, or all of the last."""
        if self.epochs_done >= self.epochs:
            return self.steps_per_epoch or 0
        ends = self.history.ends
        return self.step - (int(ends[-1]["step"]) if ends else 0)

    @property
    def train_perplexity(self) -> float:
        """Of the epoch under way so far, or of the last; NaN before the first line of it."""
        return self._latest("train/perplexity")

    @property
    def learning_rate(self) -> float:
        """Of the last line."""
        return number_in(self.history.last or {}, "lr")

    @property
    def words_per_second(self) -> float:
        """Of the last line: those of its epoch so far."""
        return number_in(self.history.last or {}, "words_per_second")

    @property
    def seconds(self) -> float:
        """How long the run has trained, stops not counted; up to now, if it is at work."""
        training = self.config.training
        elapsed = self.history.clock.seconds(training.batch_size * training.unrolled_steps)
        is_counting = self.state == "training" and self.history.last is not None
        return elapsed + (self.idle_seconds if is_counting else 0.0)

    @property
    def seconds_left(self) -> float:
        """How long it has still to train at the speed it has; NaN where that is not known."""
        rate = self.words_per_second
        if self.steps_per_epoch is None or not rate > 0:
            return nan
        training = self._seconds_of(self.epochs * self.steps_per_epoch - self.step, rate)
        validation = (self.epochs - self.epochs_done) * self._validation_seconds
        idle = self.idle_seconds if self.state == "training" else 0.0
        return max(0.0, training + validation - idle)

    @property
    def _validation_seconds(self) -> float:
        """How long the last epoch took beside its steps; 0 before its end."""
        if not self.history.ends or self.steps_per_epoch is None:
            return 0.0
        ends = [number_in(record, "seconds") for record in self.history.ends[-2:]]
        took = ends[-1] - (ends[0] if len(ends) > 1 else 0.0)
        rest = took - self._seconds_of(self.steps_per_epoch, self.curve[-1].words_per_second)
        return rest if 0 < rest < inf else 0.0

    def _seconds_of(self, steps: int, words_per_second: float) -> float:
        training = self.config.training
        targets = steps * training.batch_size * training.unrolled_steps
        return targets / words_per_second if words_per_second > 0 else nan

    def _latest(self, key: str) -> float:
        """Return a figure of the last line, unless that is of the epoch before."""
        last = self.history.last
        return number_in(last, key) if last and last["epoch"] >= self.epoch else nan


class StatusReader:
    """Reads a run's status again and again; of the metrics only what is new each time.

    Raises:
        InputError: the path is not a run's folder.
    """

    def __init__(self, path: Path) -> None:
        self.folder = run_folder_at(path, "watch runs/small-seed1")
        self.metrics = MetricsTail(self.folder.metrics)

    def read(self, now: float) -> RunStatus:
        """Read the run as it is.

        Args:
            now: the time, as ``time.time`` has it.

        Raises:
            InputError: the config or a score file is gone or damaged.
        """
        process = holder(self.folder.lock)
        history, written_at = self.metrics.read(), self.metrics.written_at
        config = load_config(self.folder.config)
        return RunStatus(
            folder=self.folder,
            config=config,
            process=process,
            history=history,
            steps_per_epoch=self._recorded_steps_per_epoch() or _steps_per_epoch(history),
            idle_seconds=nan if written_at is None else max(0.0, now - written_at),
            scores=self._scores(config.run.data) if process is None else {},
        )

    def _scores(self, data: str) -> dict[str, Scores]:
        try:
            return read_scores(self.folder, data)
        except InputError:
            if splits_scored(self.folder, data):
                raise
            return {}  # a training has just been taken up again

    def _recorded_steps_per_epoch(self) -> int | None:
        try:
            environments = self.folder.read_environments()
        except InputError:  # damaged or just being replaced, and no reason to stop
            return None
        steps = environments[-1].get("steps_per_epoch") if environments else None
        return steps if isinstance(steps, int) and 0 < steps < 2**63 else None


def _steps_per_epoch(history: History) -> int | None:
    """Return the steps of an epoch, as the line of an epoch's end tells them."""
    end = next((record for record in reversed(history.ends) if record["epoch"] > 0), None)
    return int(end["step"]) // int(end["epoch"]) or None if end else None


class MetricsTail:
    """The lines of a metrics file that another process writes, each read once.

    A last line without its end is left for the next time. A file that was put in the place of the
    one before, as on resumption, is read from its beginning.

    Attributes:
        path: of the file, which may be missing.
        written_at: when it was last written to; None while it is missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written_at: float | None = None
        self._forget()

    def _forget(self) -> None:
        self._history = History(self.path)
        self._lines = LineReader()
        self._file: tuple[int, int] | None = None
        self._head = b""

    def read(self) -> History:
        """Return what is used of all whole lines so far.

        Raises:
            InputError: the file cannot be read.
        """
        try:
            with open_regular(self.path) as file:
                facts = os.fstat(file.fileno())
                head = file.read(HEAD_BYTES)
                identity = (facts.st_dev, facts.st_ino)
                same = identity == self._file and head.startswith(self._head)
                if not same or facts.st_size < self._lines.offset:
                    self._forget()
                self._file = identity
                for line in self._lines.read(file, facts.st_size):
                    record = metrics_record(line)
                    if record is not None:
                        self._history.add(record)
        except FileNotFoundError:
            self._forget()
            self.written_at = None
            return self._history
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}") from None
        self.written_at = facts.st_mtime
        self._head = head[: self._lines.offset]
        return self._history.copy()


def status_json(status: RunStatus) -> dict[str, Any]:
    """Return what ``watch --json`` prints; what is not known is null."""
    best = status.best
    return {
        "run": str(status.folder.path),
        "state": status.state,
        "process": status.process,
        "epoch": status.epoch,
        "epochs": status.epochs,
        "epochs_done": status.epochs_done,
        "step": status.step,
        "step_in_epoch": status.step_in_epoch,
        "steps_per_epoch": status.steps_per_epoch,
        "train_perplexity": status.train_perplexity,
        "learning_rate": status.learning_rate,
        "words_per_second": status.words_per_second,
        "seconds": status.seconds,
        "seconds_left": status.seconds_left,
        "idle_seconds": status.idle_seconds,
        "best_epoch": best.epoch if best else None,
        "curve": [asdict(each) for each in status.curve],
        "scores": {
            split: {
                "protocol": scores.text.protocol,
                "streams": scores.text.streams,
                **asdict(figure(scores.log_probabilities)),
            }
            for split, scores in status.scores.items()
        },
    }
