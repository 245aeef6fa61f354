"""The run folder: which files a run leaves, and what happens to them on a new start."""

import json
import math
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ptb_lm.config import Config, to_toml
from ptb_lm.durable import PARTIAL, added_to, durable_file, partial_files, remove_partial_files
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.lock import locked, require_lock_file
from ptb_lm.regular import kind_of, open_regular, read_small, require_regular
from ptb_lm.strict_json import to_json
from ptb_lm.training.metrics import Record, ends_epoch, whole_lines

SCORED_SPLITS = ("valid", "test")
"""The splits that a finished run leaves scores of; of the last only where there is a test text."""


EVENTS = "events.out.tfevents.{}.ptb-lm"
"""An event file's name, with a number; TensorBoard knows its files by the third word."""
EVENT_DIGITS = 10

ENVIRONMENT_BYTES = 4 << 20
"""The largest environment.json; a start or a resumption adds 400 bytes."""


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
        require_lock_file(self.lock)
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
        self._require_files(resume=resume)

    def _require_files(self, *, resume: bool) -> None:
        """Raise InputError if a name of the run's files is that of something else.

        Args:
            resume: whether the files are to be used. Else they are only removed, for which they
                may be anything but folders.
        """
        for file in (*self._files, *self.event_files):
            try:
                facts = file.lstat()
                if stat.S_ISDIR(facts.st_mode):
                    raise InputError(f"{file}: a folder, expected a file of the run; move it away")
                if not resume or file in self.event_files:  # which are replaced, not read
                    continue
                if file == self.metrics and not stat.S_ISREG(facts.st_mode):
                    # It is written in place, and nothing is written through a link.
                    raise InputError(
                        f"{file}: {kind_of(facts)}, expected a regular file; put the file itself "
                        "there, or remove it to go on without it"
                    )
                require_regular(file.stat(), file)
                if file == self.metrics:
                    open_regular(file).close()
            except FileNotFoundError:  # perhaps the target of a link
                continue
            except OSError as error:
                if file == self.metrics:  # of the others, whatever reads them says so
                    raise InputError(f"{file}: cannot be read: {error.strerror}") from None

    @property
    def _files(self) -> tuple[Path, ...]:
        """Every file that a run leaves but its lock and event files, in the order of removal.

        The checkpoints go first, so that no new run can be taken for the old one, and the config
        last, so that wherever this is broken off the folder is still seen to be a run's.
        """
        scores = (self.scores(split) for split in SCORED_SPLITS)
        checkpoints = (self.previous, self.last)
        return (*checkpoints, *scores, self.best, self.metrics, self.environment, self.config)

    def _is_content(self, entry: Path) -> bool:
        """Whether an entry is more than what a run that was killed at its start has left."""
        return entry != self.lock and not entry.name.endswith(PARTIAL)

    def require_space(self, checkpoint_bytes: int) -> None:
        """Raise PtbLmError if the disk has no room for the checkpoints of a run.

        There are three of them, and a fourth while one is being replaced. They replace those that
        are there, and what killed trainings have left.
        """
        going = (self.last, self.previous, self.best, *partial_files(self.path))
        there = sum(file.stat().st_size for file in going if file.exists())
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
        """Remove the files that this program writes."""
        self.tidy()
        for file in (*self.event_files, *self._files):
            self._remove(file)

    def tidy(self) -> None:
        """Remove what killed trainings have left half-written; the folder must be held."""
        remove_partial_files(self.path)

    def next_event_file(self) -> Path:
        """Return the path for a new event file, where nothing stands; the older ones are made void.

        The last of them stays, empty: a TensorBoard that is reading it finds its end there and goes
        on to the new one, where it would wait for a file that is gone to come back. An empty file
        is put in its place, as it may be a link.
        """
        files = self.event_files
        for file in files[:-1]:
            self._remove(file)
        number = 1
        for file in files[-1:]:
            with durable_file(file):
                pass
            number += int(file.name.split(".")[3])
        path = self.path / EVENTS.format(f"{number:0{EVENT_DIGITS}}")
        self._remove(path)
        return path

    def forget_scores(self) -> None:
        """Remove the scores of a run that trains on, as they are no longer its last weights'."""
        for split in SCORED_SPLITS:
            self._remove(self.scores(split))

    def restore_previous(self) -> None:
        """Put the previous checkpoint in the place of one that is damaged."""
        with open_regular(self.previous) as source, durable_file(self.last) as file:
            shutil.copyfileobj(source, file)

    def _remove(self, file: Path) -> None:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise PtbLmError(f"{file}: cannot be removed: {error.strerror}") from None

    def write_config(self, config: Config) -> None:
        """Record the resolved config, unless it stands there already."""
        text = to_toml(config).encode()
        if not self.config.exists() or not _has_content(self.config, text):
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
        try:
            text = read_small(self.environment, ENVIRONMENT_BYTES).decode()
            parts = json.loads(text, parse_int=_integer)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InputError(f"{self.environment}: cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError):
            parts = None
        if not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
            raise InputError(
                f"{self.environment}: not a list of environments any more; remove it to go on "
                "without it"
            )
        return [{key: _plain(value) for key, value in part.items()} for part in parts]

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
            with added_to(self.metrics) as file:
                file.write(lines.encode())
                if flush:
                    file.flush()
                    os.fsync(file.fileno())
        except OSError as error:
            raise PtbLmError(f"{self.metrics}: cannot be written: {error.strerror}") from None

    def forget_metrics_after(self, step: int, epochs_done: int) -> None:
        """Drop the lines that a run resumed at a step, with so many epochs done, makes again.

        The line of an epoch's end has the step of the epoch's last window, after which a run may
        have been stopped with its validation still to come. The other lines stay as they are,
        byte for byte; one that is not whole is dropped.
        """

        def kept_lines(*, warn: bool) -> Iterator[bytes]:
            for line, record in whole_lines(self.metrics, warn=warn):
                is_later_end = ends_epoch(record) and record["epoch"] > epochs_done
                if record["step"] <= step and not is_later_end:
                    yield line

        kept_bytes, last = 0, b"\n"
        for last in kept_lines(warn=True):
            kept_bytes += len(last)
        is_whole = last.endswith(b"\n")
        if self.metrics.exists() and (self.metrics.stat().st_size != kept_bytes or not is_whole):
            with durable_file(self.metrics) as file:
                for line in kept_lines(warn=False):
                    file.write(line.removesuffix(b"\n") + b"\n")


def _has_content(path: Path, content: bytes) -> bool:
    with open_regular(path) as file:
        return file.read(len(content) + 1) == content


def _plain(value: object) -> object:
    """Return a value of an environment, None for one of no kind that ours have."""
    is_plain = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if is_plain else None


def _integer(digits: str) -> int | None:
    """Return an integer of JSON, None for one of more digits than ours have."""
    return int(digits) if len(digits) < 20 else None
