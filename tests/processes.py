"""Real processes of the program: started, watched, frozen, stopped or killed, and compared.

What happens to a process happens at an event in its files or its output, so that nothing here
depends on how fast the machine is.
"""

import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import pytest
from cli_support import WORDS, done, train_arguments
from promises import Tally

from ptb_lm.durable import PARTIAL
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder

SAFETY_SECONDS = 300.0
POLL_SECONDS = 0.001

EPOCHS = 3
WINDOWS = 8
RECIPE: dict[str, Any] = {
    "model__hidden_size": 256,  # 4 MB, which take about as long to write as some steps to train
    "training__epochs": EPOCHS,
    "training__unrolled_steps": 7,
    "run__log_steps": 1,
}
TOKENS = {"train": 3 * (7 * WINDOWS + 1), "valid": 2997, "test": 495}  # batch size 3

CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")
CHANGES_IN_A_RESUMPTION = {"run": {"checkpoint_minutes"}}
TIMES = {"seconds", "epoch_seconds", "words_per_second"}


class Process:
    """A process of ours, its output kept in files without a name."""

    def __init__(
        self,
        command: Sequence[str],
        cwd: Path,
        out: IO[bytes],
        err: IO[bytes],
        environment: Mapping[str, str],
    ) -> None:
        self.out_file, self.err_file = out, err
        self.popen = subprocess.Popen(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=plain_environment() | {"OMP_NUM_THREADS": "1"} | environment,
        )

    @property
    def out(self) -> str:
        return _content(self.out_file)

    @property
    def err(self) -> str:
        return _content(self.err_file)

    @property
    def ended(self) -> bool:
        return self.popen.poll() is not None

    def wait_until(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition; return whether it came true before the process ended."""
        give_up_at = time.monotonic() + SAFETY_SECONDS
        while not condition():
            if self.ended:
                return False
            assert time.monotonic() < give_up_at, f"waited in vain; stderr:\n{self.err}"
            time.sleep(POLL_SECONDS)
        return True

    def wait_for(self, text: str) -> None:
        """Wait for a text on standard error, which must come."""
        assert self.wait_until(lambda: text in self.err), f"no {text!r} in\n{self.err}"

    def linger(self, seconds: float) -> None:
        """Let it run for so long, or to its end."""
        until = time.monotonic() + seconds
        self.wait_until(lambda: time.monotonic() >= until)

    def send(self, number: int) -> None:
        self.popen.send_signal(number)

    def end(self) -> int:
        """Wait for its end and return its exit code, negative if a signal killed it."""
        try:
            return self.popen.wait(SAFETY_SECONDS)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not end; stderr:\n{self.err}") from None

    @contextmanager
    def frozen(self) -> Iterator[bool]:
        """Stop the process where it is, all of it, and let it go on; False if it has ended.

        A signal sent meanwhile reaches it before anything else happens.
        """
        if self.ended:
            yield False
            return
        self.send(signal.SIGSTOP)
        state = os.waitid(
            os.P_PID, self.popen.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT
        )  # WNOWAIT: its end is still to be seen by Popen
        assert state is not None
        try:
            yield state.si_code == os.CLD_STOPPED
        finally:
            self.send(signal.SIGCONT)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def plain_environment() -> dict[str, str]:
    """Return our environment without proxies, which a loopback server does not need."""
    return {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}


def _content(file: IO[bytes]) -> str:
    """Read a file that a process writes, without moving the place that both share."""
    size = os.fstat(file.fileno()).st_size
    return os.pread(file.fileno(), size, 0).decode(errors="replace")


@contextmanager
def started(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Process]:
    """Start a command; what is left of it at the end is killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = Process(command, cwd, out, err, environment or {})
        try:
            yield process
        finally:
            process.popen.kill()
            process.popen.wait()


@contextmanager
def ptb_lm_process(
    *arguments: str,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
    python: Sequence[str] = (),
) -> Iterator[Process]:
    """Start ``python -m ptb_lm``.

    Args:
        before: a command that runs it, as ``nohup``.
        python: options of the interpreter.
    """
    command = [*before, sys.executable, *python, "-m", "ptb_lm", *arguments]
    with started(command, cwd, environment) as process:
        yield process


def write_corpus(folder: Path, tokens: Mapping[str, int], seed: int) -> None:
    """Write texts of so many tokens, a multiple of 9: of lines of 8 random words and an end."""
    rng = random.Random(seed)
    folder.mkdir()
    for split, count in tokens.items():
        lines = (" ".join(rng.choices(WORDS, k=8)) for _ in range(count // 9))
        (folder / f"{split}.txt").write_text("".join(f"{line}\n" for line in lines))


def train_command(run_dir: str, *options: str, **changes: Any) -> list[str]:
    """Return the arguments of a training of RECIPE on ``text`` in the folder it is called from."""
    return train_arguments(run_dir, *options, **{**RECIPE, **changes})


def furnish_workplace(folder: Path) -> Path:
    """Put a corpus into a folder, and the finished run that all others are to equal."""
    write_corpus(folder / "text", TOKENS, seed=1)
    with chdir(folder):
        done(*train_command("runs/uninterrupted"))
    return folder


def content_of_run(path: Path) -> dict[str, Any]:
    """Return all that the files of a run hold, apart from times and from the log.

    Numbers are given as their bytes, so that ``==`` is equality to the bit.
    """
    folder = RunFolder(path)
    return {
        "files": {file.name for file in path.iterdir()},
        "last": _content_of_checkpoint(load_checkpoint(folder.last)),
        "best": _content_of_checkpoint(load_checkpoint(folder.best)),
        "scores": {
            split: (scores.text, scores.log_probabilities.tobytes())
            for split in SCORED_SPLITS
            for scores in [load_scores(folder.scores(split))]
        },
    }


def require_same_content(run: Path, expected: Path) -> None:
    """Compare what two runs hold, and name what differs rather than show its bytes."""
    differences = list(_differences(content_of_run(run), content_of_run(expected), ""))
    assert not differences, f"{run.name} differs in {', '.join(differences)}"


def _differences(one: Any, other: Any, name: str) -> Iterator[str]:
    if not (isinstance(one, dict) and isinstance(other, dict)):
        if one != other:
            yield name
        return
    for key in sorted(one.keys() | other.keys()):
        yield from _differences(one.get(key), other.get(key), f"{name}/{key}")


def _content_of_checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config.model_dump()
    for section, keys in CHANGES_IN_A_RESUMPTION.items():
        for key in keys:
            del config[section][key]
    state: dict[str, Any] = {}
    if checkpoint.state is not None:
        state = {key: value for key, value in asdict(checkpoint.state).items() if key not in TIMES}
        state["hidden"] = [(_bits(h), _bits(c)) for h, c in checkpoint.state.hidden]
    return {
        "config": config,
        "words": checkpoint.vocabulary.words,
        "corpus": checkpoint.corpus_sha256,
        "weights": {name: _bits(value) for name, value in checkpoint.weights.items()},
        "epoch": checkpoint.epoch,
        "valid_perplexity": checkpoint.valid_perplexity,
        "state": state,
        "random_states": {name: _bits(value) for name, value in checkpoint.random_states.items()},
    }


def _bits(tensor: Any) -> bytes:
    return bytes(tensor.numpy().tobytes())


def log_of_run(path: Path) -> list[dict[str, Any]]:
    """Read the log, of which every line must be whole, and leave out the times."""
    text = RunFolder(path).metrics.read_text(encoding="utf-8")
    assert text.endswith("\n")
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for line in text.splitlines()
    ]


def partial_files(path: Path) -> list[str]:
    """Return the names of files half-written in a run folder, which may not be there yet."""
    try:
        return [file.name for file in path.iterdir() if file.name.endswith(PARTIAL)]
    except FileNotFoundError:
        return []


def partial_checkpoints(path: Path) -> list[str]:
    """Return the checkpoints that were being written, by the names of what there is of them."""
    return [
        checkpoint
        for name in partial_files(path)
        for checkpoint in CHECKPOINTS
        if name.startswith(f".{checkpoint}.")
    ]


def require_loadable(path: Path) -> None:
    """Load every checkpoint of a run folder that is there."""
    for name in CHECKPOINTS:
        if (path / name).exists():
            load_checkpoint(path / name)


def identity(file: Path) -> tuple[int, int, int] | None:
    """Return what changes of a file when it is replaced or added to; None while it is missing."""
    try:
        status = file.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


class ChangeCount:
    """Counts the changes of a file since this was made; called, it looks again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.before = identity(file)
        self.changes = 0

    def __call__(self) -> int:
        now = identity(self.file)
        if now != self.before:
            self.before = now
            self.changes += 1
        return self.changes


def epochs_in_log(path: Path) -> int:
    """Return how many epochs the log of a run says are validated."""
    try:
        return (path / "metrics.jsonl").read_bytes().count(b"valid/perplexity")
    except FileNotFoundError:
        return 0


def steps_in_log(path: Path) -> int:
    """Return the last step of which the log of a run has a whole line, 0 before the first."""
    try:
        lines = (path / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-1])["step"]) if lines else 0


def in_validation(path: Path) -> bool:
    """Whether the log of a run has the last step of an epoch and not yet its validation."""
    return steps_in_log(path) == WINDOWS * (epochs_in_log(path) + 1)


def only_in_full(tally: Tally) -> None:
    """Leave a test to ``make torture``: a process takes a second or two to start."""
    if not tally.full:
        pytest.skip("in the full form only: make torture")


def tally_for(request: pytest.FixtureRequest) -> Tally:
    """A tally for a fixture that several tests of promises share."""
    return Tally(request.config.getoption("--full"))
