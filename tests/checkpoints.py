"""Real runs and real processes for the tests of damage, durable writing and full disks.

As a script it runs a command of ptb-lm in which something fails at a chosen moment:
``python checkpoints.py EVENT NAME NUMBER NTH COMMAND...``, see :data:`EVENTS`.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import WORDS, Outcome, contents, done, ptb_lm, train_arguments, write_texts

from ptb_lm.__main__ import main
from ptb_lm.durable import PARTIAL
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.run_folder import RunFolder

TEXT_SEED = 2
"""Of a random text on which the second epoch is the better, so that it writes a ``best.pt``."""

STEPS_PER_EPOCH = 26
STOPPED_AT = 40
"""Where ``runs/stopped`` stands, whose ``previous.pt`` is that of the first epoch's end."""

WHOLE, STOPPED = "runs/whole", "runs/stopped"
TIMES = ("words_per_second", "seconds")
SECONDS = 600  # a safety net; no process here takes more than a few


def furnish_runs(folder: Path) -> Path:
    """Put into a folder: a text, a run that was never interrupted, and one stopped in epoch 2."""
    write_texts(folder / "text", WORDS, seed=TEXT_SEED)
    before = Path.cwd()
    os.chdir(folder)
    try:
        done(*train_arguments(WHOLE))
        done(*train_arguments(STOPPED, "--max-steps", str(STOPPED_AT)))
    finally:
        os.chdir(before)
    assert load_checkpoint(folder / STOPPED / "previous.pt").epoch == 1
    assert load_checkpoint(folder / WHOLE / "best.pt").epoch == 2
    return folder


def resume(run_dir: str, *options: str, **changes: Any) -> list[str]:
    return train_arguments(run_dir, "--resume", *options, **changes)


def ptb_lm_process(*arguments: str, **popen: Any) -> Outcome:
    """Run a command in a process of its own."""
    return _ran([sys.executable, "-m", "ptb_lm", *arguments], popen)


def _ran(command: list[str], popen: dict[str, Any]) -> Outcome:
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, env=environment(), **popen
    )
    return Outcome(ran.returncode, ran.stdout, ran.stderr)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def error_line(outcome: Outcome, code: int, *fragments: str) -> str:
    """Return the one line of an error, which is the last on standard error."""
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err, outcome.err
    assert "Exception ignored" not in outcome.err, outcome.err
    lines = outcome.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:], outcome.err
    for fragment in fragments:
        assert fragment in lines[-1]
    return lines[-1]


def only_line(outcome: Outcome, code: int, *fragments: str) -> str:
    """Return the line of an error that stands alone: nothing else was printed anywhere."""
    line = error_line(outcome, code, *fragments)
    assert outcome.err == line + "\n"
    assert outcome.out == ""
    return line


def kept(folder: Path) -> dict[str, bytes | None]:
    """All of a folder but the lock file, whose content is the last holder's number."""
    return {name: data for name, data in contents(folder).items() if Path(name).name != ".lock"}


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(PARTIAL)]


def require_same_run(folder: Path | str, as_folder: Path | str = WHOLE) -> None:
    """Assert that two finished runs left the same, bit for bit, apart from times."""
    ours, theirs = RunFolder(Path(folder)), RunFolder(Path(as_folder))
    for file in ("last", "best"):
        assert plain(getattr(ours, file)) == plain(getattr(theirs, file))
    metrics = [without_times(record) for record in read_metrics(ours.metrics)]
    assert metrics == [without_times(record) for record in read_metrics(theirs.metrics)]
    for split in ("valid", "test"):
        one, other = load_scores(ours.scores(split)), load_scores(theirs.scores(split))
        assert one.text == other.text
        assert one.log_probabilities.tobytes() == other.log_probabilities.tobytes()
    assert partial_files(ours.path) == []


def without_times(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if key not in TIMES}


def plain(path: Path) -> Any:
    """A checkpoint as plain values that can be compared, without times and how it was made."""
    content = torch.load(path, weights_only=True)
    del content["config"]["run"]
    for key in ("seconds", "epoch_seconds"):
        if content["state"] is not None:
            del content["state"][key]
    return _plain(content)


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own, of so many bytes, where this process may mount one."""
    folder.mkdir(exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(folder).free


BALLAST = "ballast"
"""What a disk is filled with."""


def fill(folder: Path, leave: int) -> None:
    """Fill a disk but for so many bytes."""
    with (folder / BALLAST).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, free_bytes(folder) - leave)


class Events:
    """Lets something happen when a file is opened for writing, or put in place.

    Attributes:
        happened: whether it did.
    """

    def __init__(self, name: str, nth: int, event: Callable[[Path, str], None]) -> None:
        self.name = name
        self.nth = nth
        self.event = event
        self.seen = 0
        self.happened = False
        self._open, self._os_open, self._replace = Path.open, os.open, os.replace

    def _opened(self, path: Path, mode: str = "r", *rest: Any, **options: Any) -> Any:
        names = (self.name, f".{self.name}.{os.getpid()}{PARTIAL}")
        if {*mode} & {*"wax"} and path.name in names:
            self._count(path, mode)
        return self._open(path, mode, *rest, **options)

    def _opened_to_append(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if flags & os.O_APPEND and Path(path).name == self.name:
            self._count(Path(path), "a")
        return self._os_open(path, flags, *rest, **options)

    def _replaced(self, source: Any, target: Any, **options: Any) -> None:
        if self.name == "*":  # any file at all
            self._count(Path(target), "replace")
        self._replace(source, target, **options)

    def _count(self, path: Path, mode: str) -> None:
        self.seen += 1
        if self.seen == self.nth:
            self.happened = True
            self.event(path, mode)

    def __enter__(self) -> "Events":
        events = self

        def opened(path: Path, *rest: Any, **options: Any) -> Any:
            return events._opened(path, *rest, **options)

        Path.open = opened  # type: ignore[method-assign,assignment]
        os.open = self._opened_to_append  # type: ignore[assignment]
        os.replace = self._replaced  # type: ignore[assignment]
        return self

    def __exit__(self, *error: object) -> None:
        Path.open = self._open  # type: ignore[method-assign]
        os.open = self._os_open
        os.replace = self._replace


@contextmanager
def write_that_fails(name: str, after: int, nth: int = 1) -> Iterator[Events]:
    """The nth time that a file of this name is written it takes so many bytes more and no further.

    The limit is the system's own on the size of a file (Python ignores SIGXFSZ, so that a write
    beyond it fails with EFBIG), and holds to the end of the context.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(path: Path, mode: str) -> None:
        size = path.stat().st_size if mode == "a" and path.exists() else 0
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + after, hard))

    with Events(name, nth, limit) as events:
        try:
            yield events
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def disk_that_fills(name: str, leave: int, nth: int = 1) -> Iterator[Events]:
    """The nth time that a file of this name is written, its disk fills up but for so many bytes."""
    with Events(name, nth, lambda path, mode: fill(path.parent, leave)) as events:
        yield events


@contextmanager
def killed_at_replacement(name: str, number: int, nth: int = 1) -> Iterator[Events]:
    """Killed by SIGKILL just before a file is put in place for the nth time."""
    with Events(name, nth, lambda path, mode: os.kill(os.getpid(), signal.SIGKILL)) as events:
        yield events


@contextmanager
def nothing_to_be_written(name: str, size: int, nth: int = 1) -> Iterator[Events]:
    """From the beginning no file takes more than so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    events = Events(name, nth, lambda path, mode: None)
    events.happened = True
    try:
        yield events
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


EVENTS = {
    "start": nothing_to_be_written,
    "limit": write_that_fails,
    "fill": disk_that_fills,
    "kill": killed_at_replacement,
}
"""What may happen: its name on the command line, and what takes NAME, NUMBER and NTH."""


def with_event(
    event: str, name: str, number: int, nth: int, *arguments: str, real: bool
) -> Outcome:
    """Run a command in which something happens, in a process of its own or in this one."""
    if real:
        words = [event, name, str(number), str(nth)]
        return _ran([sys.executable, str(Path(__file__).resolve()), *words, *arguments], {})
    with EVENTS[event](name, number, nth) as events:
        outcome = ptb_lm(*arguments)
    assert events.happened
    return outcome


if __name__ == "__main__":
    with EVENTS[sys.argv[1]](sys.argv[2], int(sys.argv[3]), int(sys.argv[4])):
        main(sys.argv[5:])
