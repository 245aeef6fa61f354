"""Short real trainings: made here or in other processes, and what must be equal of two of them."""

import hashlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from cli_support import WORDS, Outcome, write_texts
from torch import Tensor

from ptb_lm.config import Config, resolve
from ptb_lm.stop import StopFlag
from ptb_lm.training.loop import train
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.open_run import FREE_ON_RESUMPTION, open_run
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import RunFolder

SECONDS = 120.0
"""A safety net: no process here takes more than a few."""

TIMES = ("words_per_second", "seconds", "epoch_seconds")
"""What two runs of the same figures differ in."""

RECIPE = {
    "model.layers": 2,
    "model.hidden_size": 10,
    "model.dropout": 0.5,
    "training.batch_size": 5,
    "training.unrolled_steps": 7,
    "training.epochs": 3,
    "training.constant_epochs": 1,
    "training.decay": 0.5,  # a rate that grows, so that the best epoch is not the last
    "training.clip_norm": 1.5,
    "run.log_steps": 1,
}


def short_config(data: Path | str, **changes: object) -> Config:
    """The recipe of a short run; a change is written section__key=value."""
    values = RECIPE | {key.replace("__", "."): value for key, value in changes.items()}
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve("small", assignments, {"data": str(data), "device": "cpu"})


def trained(
    config: Config,
    path: Path,
    *,
    max_steps: int | None = None,
    resume: bool = False,
    before: Callable[[Run], object] = lambda run: None,
) -> Run:
    """Open a run, do what is to be done before it, train it, close it; signals are heard."""
    with StopFlag() as stop, open_run(config, Path(), path, stop, resume=resume) as run:
        before(run)
        train(run, stop, max_steps)
    return run


@dataclass(frozen=True)
class WholeRun:
    """A run that nothing happened to, and what of it every other one is held against."""

    data: Path
    config: Config
    path: Path
    windows: int
    steps: int
    result: dict[str, Any]


def whole_run(folder: Path, **changes: object) -> WholeRun:
    """Write a corpus into a folder, and train on it without interruption."""
    data = folder / "text"
    if not data.exists():
        write_texts(data, WORDS, seed=1)
    config = short_config(data, **changes)
    run = trained(config, folder / "whole")
    return WholeRun(data, config, run.folder.path, run.windows, run.step, result(run.folder.path))


def result(path: Path, *, options_too: bool = True) -> dict[str, Any]:
    """All that a run leaves but for what is counted in seconds; tensors by the hash of their bits.

    Args:
        path: the run folder.
        options_too: whether the options count that a resumption may change.
    """
    folder = RunFolder(path)
    return {
        "last": _content(folder.last, options_too),
        "best": _content(folder.best, options_too),
        "metrics": timeless_metrics(path),
    }


def timeless_metrics(path: Path) -> list[dict[str, Any]]:
    records = read_metrics(RunFolder(path).metrics)
    return [{key: record[key] for key in record if key not in TIMES} for record in records]


def _content(path: Path, options_too: bool) -> Any:
    content = torch.load(path, weights_only=True)
    if not options_too:
        for section, key in FREE_ON_RESUMPTION:
            del content["config"][section][key]
    return _bits(content)


def _bits(value: Any) -> Any:
    if isinstance(value, Tensor):
        bits = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        return str(value.dtype), tuple(value.shape), bits
    if isinstance(value, Mapping):
        return {key: _bits(item) for key, item in value.items() if key not in TIMES}
    if isinstance(value, list | tuple):
        return [_bits(item) for item in value]
    return repr(value)


def weight_bits(run: Run) -> Any:
    """The weights a run has in memory, by the hash of their bits."""
    return _bits(run.network.state_dict())


Snapshot = dict[str, tuple[int, bytes | None]]


def snapshot(path: Path) -> Snapshot:
    """Each file of a run folder but for the lock: when it was written, and its bytes."""
    return {
        str(file.relative_to(path)): (
            file.stat().st_mtime_ns,
            file.read_bytes() if file.is_file() else None,
        )
        for file in sorted(path.rglob("*"))
        if file.name != ".lock"
    }


def checkpoints_of(path: Path) -> Snapshot:
    return {name: file for name, file in snapshot(path).items() if name.endswith(".pt")}


def strict_json(text: str) -> Any:
    """Read JSON as the standard has it; Python's own reader takes NaN and Infinity too."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def spread(first: int, last: int, step: int, *corners: int) -> list[int]:
    """Every so many numbers of a range, both ends and the corners among them."""
    chosen = {*range(first, last + 1, step), last, *corners}
    return sorted(number for number in chosen if first <= number <= last)


# Other processes.


def environment(**changes: str) -> dict[str, str]:
    """The environment of another process: ours but for the locale, with one thread."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG"))}
    return kept | {"OMP_NUM_THREADS": "1", "NO_PROXY": "*"} | changes


def start(cwd: Path, *command: str, **popen: Any) -> subprocess.Popen[bytes]:
    """Start Python with a command line of its own."""
    popen.setdefault("env", environment())
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=cwd,
        stdin=popen.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **popen,
    )


def ended(process: subprocess.Popen[bytes]) -> Outcome:
    """Wait for a process to end by itself."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    return Outcome(process.returncode, out.decode(), err.decode())


def in_process(cwd: Path, *arguments: str, **popen: Any) -> Outcome:
    """Run a command of ptb-lm in a process of its own."""
    return ended(start(cwd, "-m", "ptb_lm", *arguments, **popen))


WORKER = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
answers, sys.stdout = sys.stdout, sys.stderr
import cli_support
from ptb_lm.training.progress import Progress
import ptb_lm.evaluation.evaluate, ptb_lm.report.summary

pause_at = 0
advance = Progress.advance

def pausing(progress, count, rate):
    advance(progress, count, rate)
    if progress.run.step == pause_at:
        print(json.dumps("paused"), file=answers, flush=True)
        sys.stdin.readline()

Progress.advance = pausing
print(json.dumps("ready"), file=answers, flush=True)
for line in sys.stdin:
    folder, pause_at, arguments = json.loads(line)
    os.chdir(folder)
    outcome = cli_support.ptb_lm(*arguments)
    print(json.dumps([outcome.code, outcome.out, outcome.err]), file=answers, flush=True)
"""


class Worker:
    """Another process that runs commands as it is told, and may be held between two steps."""

    def __init__(self) -> None:
        tests = Path(__file__).parent
        self.process = start(tests, "-c", WORKER, str(tests), stdin=subprocess.PIPE, bufsize=0)
        self.number = self.process.pid

    def tell(self, *arguments: str, pause_at: int = 0) -> None:
        """Have a command run in our current folder; it pauses when it has made so many steps."""
        self._write(json.dumps([str(Path.cwd()), pause_at, arguments]))

    def go_on(self) -> None:
        """End a pause."""
        self._write("")

    def expect(self, word: str) -> None:
        """Wait until it is ready, or paused."""
        assert self.answer() == word

    def outcome(self) -> Outcome:
        """Wait for the end of the command."""
        return Outcome(*self.answer())

    def answer(self) -> Any:
        """Wait for what it says next: ``ready``, ``paused``, or what a command left."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], SECONDS)
        assert readable, "the other process does not answer"
        return json.loads(self.process.stdout.readline())

    def _write(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line.encode() + b"\n")


@contextmanager
def workers(count: int) -> Iterator[list[Worker]]:
    """Other processes, started at once and ready."""
    team = [Worker() for _ in range(count)]
    try:
        for worker in team:
            worker.expect("ready")
        yield team
    finally:
        for worker in team:
            worker.process.kill()
            worker.process.communicate()
