"""The run folder: which files a run leaves, and what happens to them on a new start."""

import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptb_lm.config import Config, to_toml
from ptb_lm.durable import PARTIAL, durable_file, remove_partial_files
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.lock import locked
from ptb_lm.strict_json import to_json

logger = logging.getLogger(__name__)

Record = dict[str, Any]

KEYS = ("step", "epoch")
"""What each line of the metrics has."""

SCORED_SPLITS = ("valid", "test")
"""The splits that a finished run leaves scores of; of the last only where there is a test text."""


EVENTS = "events.out.tfevents.{}.ptb-lm"
"""An event file's name, with a number; TensorBoard knows its files by the third word."""
EVENT_DIGITS = 10


class RunFolder:
    """The files of a run by their names.

    Attributes:
        config: the resolved config; ``--config`` of this file repeats the run.
        environment: versions, device, threads and commit, of the start and of each resumption.
        metrics: one JSON object a line.
        last: the checkpoint that the run resumes from, and whose weights are reported.
        previous: the one before it, to fall back on.
        best: the weights of the epoch with the lowest validation perplexity.
        lock: held by the training that is at work here.
        followers: called with each record that is added to the metrics, after it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.toml"
        self.environment = path / "environment.json"
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.pt"
        self.previous = path / "previous.pt"
        self.best = path / "best.pt"
        self.lock = path / ".lock"
        self.followers: list[Callable[[Record], None]] = []
        self._claim: os.stat_result | None = None

    def scores(self, split: str) -> Path:
        """Return the file of the last weights' per-token scores of a split."""
        return self.path / f"scores-{split}.npz"

    @property
    def event_files(self) -> list[Path]:
        """The metrics again, as TensorBoard reads them, in the order in which they were begun."""
        return sorted(self.path.glob(EVENTS.format("[0-9]" * EVENT_DIGITS)))

    @property
    def resumable(self) -> bool:
        """Whether there is a checkpoint to go on from."""
        return self.last.exists() or self.previous.exists()

    @property
    def is_evidence(self) -> bool:
        """Whether there is what a finished run has scored, and none of its weights."""
        has_weights = self.resumable or self.best.exists()
        return not has_weights and any(self.scores(split).exists() for split in SCORED_SPLITS)

    def require_usable(self, *, resume: bool, overwrite: bool) -> None:
        """Raise InputError if there is something here that the call would put out of sight."""
        try:
            if not self.path.exists():
                return
        except OSError as error:
            raise InputError(f"--run-dir {self.path}: {error.strerror}") from None
        if not self.path.is_dir():
            raise InputError(f"{self.path}: not a folder")
        if not any(self._is_content(entry) for entry in self.path.iterdir()):
            return
        if not self.config.exists():
            raise InputError(f"{self.path}: not empty and not a run folder; name another --run-dir")
        if not (resume or overwrite):
            raise InputError(
                f"{self.path}: a run is there already; use --resume to go on with it, "
                "--overwrite to begin anew, or another --run-dir"
            )
        if resume and not self.resumable and (self.best.exists() or self.is_evidence):
            # Evidence travels without its checkpoints: to begin anew in such a folder is not what
            # --resume can have meant.
            raise InputError(
                f"{self.path}: has results but no last.pt to resume from; name another --run-dir, "
                "or use --overwrite to begin anew"
            )

    def _is_content(self, entry: Path) -> bool:
        """Whether an entry is more than what a run that was killed at its start has left."""
        return entry != self.lock and not entry.name.endswith(PARTIAL)

    def require_space(self, checkpoint_bytes: int) -> None:
        """Raise PtbLmError if the disk has no room for the checkpoints of a run.

        There are three of them, and a fourth while one is being replaced.
        """
        checkpoints = (self.last, self.previous, self.best)
        there = sum(file.stat().st_size for file in checkpoints if file.exists())
        folders = (self.path, *self.path.absolute().parents)
        place = next(folder for folder in folders if folder.is_dir())
        needed = 4 * checkpoint_bytes - there
        free = shutil.disk_usage(place).free
        if free < needed:
            raise PtbLmError(
                f"{self.path}: {math.floor(free / 1e6):,} MB are free on its disk, the checkpoints "
                f"of this run need {math.ceil(needed / 1e6):,} MB; make room, or name another "
                "--run-dir"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder and keep every other training out of it.

        Raises:
            InputError: another training is at work in it.
            PtbLmError: it cannot be made.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PtbLmError(f"{self.path}: cannot be created: {error.strerror}") from None
        with locked(self.lock) as self._claim:
            remove_partial_files(self.path)
            try:
                yield
            finally:
                self._claim = None

    def require_claim(self) -> None:
        """Raise PtbLmError if the folder was taken away, and another training's is in its place.

        The lock went with the folder that was removed; files are written by their paths.
        """
        if self._claim is None:
            return
        try:
            there = self.lock.stat()  # not opened, see `locked`
        except OSError:
            return  # no folder, no lock: nobody else's to write into
        if not os.path.samestat(there, self._claim):
            raise PtbLmError(
                f"{self.path}: the folder was removed, and another training has made a new one of "
                "the same name; this training stops, and nothing more of it is kept"
            )

    def clear(self) -> None:
        """Remove the files that this program writes.

        The checkpoints go first, so that no new run can be taken for the old one, and the config
        last, so that wherever this is broken off the folder is still seen to be a run's.
        """
        for file in (self.previous, self.last):
            self._remove(file)
        self.forget_scores()
        for file in (self.best, *self.event_files, self.metrics, self.environment, self.config):
            self._remove(file)

    def next_event_file(self) -> Path:
        """Return the path for a new event file, the older ones being made void.

        The last of them stays, empty: a TensorBoard that is reading it finds its end there and goes
        on to the new one, where it would wait for a file that is gone to come back.
        """
        files = self.event_files
        for file in files[:-1]:
            self._remove(file)
        number = 1
        for file in files[-1:]:
            os.truncate(file, 0)
            number += int(file.name.split(".")[3])
        return self.path / EVENTS.format(f"{number:0{EVENT_DIGITS}}")

    def forget_scores(self) -> None:
        """Remove the scores of a run that trains on, as they are no longer its last weights'."""
        for split in SCORED_SPLITS:
            self._remove(self.scores(split))

    def restore_previous(self) -> None:
        """Put the previous checkpoint in the place of one that is damaged."""
        with self.previous.open("rb") as source, durable_file(self.last) as file:
            shutil.copyfileobj(source, file)

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise PtbLmError(f"{file}: cannot be removed: {error.strerror}") from None

    def write_config(self, config: Config) -> None:
        """Record the resolved config, unless it stands there already."""
        text = to_toml(config).encode()
        if not self.config.exists() or self.config.read_bytes() != text:
            with durable_file(self.config) as file:
                file.write(text)

    def write_environments(self, environments: list[Record]) -> None:
        """Record where the run is made; the start first, then each resumption."""
        with durable_file(self.environment) as file:
            file.write((to_json(environments, indent=2) + "\n").encode())

    def read_environments(self) -> list[Record]:
        """Read what :meth:`write_environments` wrote; nothing, if the file is not there.

        Raises:
            InputError: it is something else.
        """
        if not self.environment.exists():
            return []
        try:
            parts = json.loads(self.environment.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            parts = None
        if not isinstance(parts, list):
            raise InputError(
                f"{self.environment}: not a list of environments any more; remove it to go on "
                "without it"
            )
        return parts

    def append_metrics(self, record: Record) -> None:
        """Add a line to the metrics.

        Raises:
            PtbLmError: it could not be written.
        """
        self._write_metrics(to_json(record) + "\n")
        for follow in tuple(self.followers):
            follow(record)

    def flush_metrics(self) -> None:
        """Bring the metrics to disk, as those up to a checkpoint must be there before it is."""
        self._write_metrics("", flush=True)

    def _write_metrics(self, lines: str, *, flush: bool = False) -> None:
        self.require_claim()
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(lines)
                if flush:
                    os.fsync(file.fileno())
        except OSError as error:
            raise PtbLmError(f"{self.metrics}: cannot be written: {error.strerror}") from None

    def forget_metrics_after(self, step: int, epochs_done: int) -> None:
        """Drop the lines that a run resumed at a step, with so many epochs done, makes again.

        The line of an epoch's end has the step of the epoch's last window, after which a run may
        have been stopped with its validation still to come.
        """
        kept = [
            record
            for record in read_metrics(self.metrics)
            if record["step"] <= step
            and not ("valid/perplexity" in record and record["epoch"] > epochs_done)
        ]
        text = "".join(to_json(record) + "\n" for record in kept).encode()
        if text != (self.metrics.read_bytes() if self.metrics.exists() else b""):
            with durable_file(self.metrics) as file:
                file.write(text)


def read_metrics(path: Path) -> list[Record]:
    """Read a metrics file; a line that is not whole, as a crash leaves the last, is left out."""
    if not path.exists():
        return []
    records: list[Record] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        record = metrics_record(line)
        if record is not None:
            records.append(record)
        else:
            logger.warning("%s: a line that is not whole is left out", path)
    return records


def metrics_record(line: str) -> Record | None:
    """Read a line of the metrics; None if it is not a whole one."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    values = [record.get(key) for key in KEYS] if isinstance(record, dict) else [None]
    is_whole = all(isinstance(value, int) and 0 <= value < 2**63 for value in values)
    return record if is_whole else None
