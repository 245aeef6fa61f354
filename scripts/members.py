"""Several runs at once, a process a core: each kept, gone on with where it was, or failed alone.

A process on one core gives less than one on every core, but together they give more: see
docs/SPEED.md. Each member is a run of scripts/reproduce.py with a log of its own beside its run
folder; finished members are kept, and the others go on where they were.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.config import resolve
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.environment import choose_device, settled
from ptb_lm.training.run_folder import RunFolder

REPRODUCE = Path(__file__).with_name("reproduce.py")
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Member:
    """A run among others.

    Attributes:
        name: of its run folder and of its evidence.
        command: that makes it, or goes on with it.
    """

    name: str
    command: tuple[str, ...]

    @classmethod
    def of(cls, preset: str, seed: int, precision: str) -> "Member":
        """Name a seed of a preset, and the command that makes it."""
        options = {"seed": seed, "precision": precision}
        name = settled(resolve(preset, options=options)).run_name
        choice = ("--seed", str(seed), "--precision", precision)
        return cls(name, reproduce_command(preset, *choice))

    @property
    def log(self) -> Path:
        """What the process prints."""
        return Path("runs") / f"{self.name}.log"

    @property
    def evidence(self) -> RunFolder:
        """Where it leaves config, metrics and scores."""
        return RunFolder(Path("results") / self.name)

    @property
    def finished(self) -> bool:
        """Whether all of it is there."""
        return self.evidence.config.exists()  # which is the last to be copied


def make_members(members: list[Member], processes: int, stop: StopFlag) -> list[Member]:
    """Make all members that are not finished, so many at once.

    Returns:
        those that failed; the others are made all the same.

    Raises:
        Stopped: a signal came; every member under way has saved where it stands.
    """
    waiting = [member for member in members if not member.finished]
    failed = []
    with _open_pipe() as pipe, _terminated_in_the_end() as running:
        while waiting or running:
            stop.check()
            while waiting and len(running) < processes:
                at_once = min(processes, len(waiting) + len(running))
                member = waiting.pop(0)
                say(f"{member.name}: under way, see {member.log}")
                running[member] = _start(member, pipe, max(1, (os.cpu_count() or 1) // at_once))
            for member, process in list(running.items()):
                if process.poll() is not None:
                    del running[member]
                    if process.returncode:
                        failed.append(member)
                    say(f"{member.name}: {'failed' if process.returncode else 'done'}")
            time.sleep(SECONDS_BETWEEN_LOOKS)
    return failed


@contextmanager
def _terminated_in_the_end() -> Iterator[dict[Member, subprocess.Popen[bytes]]]:
    """Ask the processes that still run to save and end, and wait until they have."""
    running: dict[Member, subprocess.Popen[bytes]] = {}
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()


@contextmanager
def _open_pipe() -> Iterator[int]:
    """Give the end to read from of a pipe that nothing is written to.

    Who reads from it is told when this process ends, however it does.
    """
    reading, writing = os.pipe()
    try:
        yield reading
    finally:
        os.close(reading)
        os.close(writing)


def _start(member: Member, pipe: int, threads: int) -> "subprocess.Popen[bytes]":
    member.log.parent.mkdir(parents=True, exist_ok=True)
    with member.log.open("ab") as log:
        # Of its own session, so that a Ctrl-C in the terminal reaches it once, through us.
        return subprocess.Popen(
            member.command,
            stdin=pipe,
            stdout=log,
            stderr=log,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            start_new_session=True,
        )


def reproduce_command(*arguments: str) -> tuple[str, ...]:
    """Return the command of a member's process: it leaves the tables as they are, and ends with us.

    Otherwise a kill of this process would leave its members at work, and in the way of the next.
    """
    return (sys.executable, str(REPRODUCE), *arguments, "--no-table", "--while-input-is-open")


def usual_processes() -> int:
    """Return how many members to make at once: one a core, or one on a GPU.

    A GPU is one device for all: several at once give more under MPS (docs/SPEED.md), which is not
    there unless someone starts it.
    """
    return 1 if choose_device("auto").type == "cuda" else os.cpu_count() or 1


def make_or_explain(members: list[Member], processes: int) -> int:
    """Make members, and say what failed.

    Returns:
        the exit code: 0 if all are made, 1 if some failed, that of a signal that came.
    """
    try:
        with StopFlag() as stop:
            failed = make_members(members, processes, stop)
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on")
        return stopped.exit_code
    for member in failed:
        say(f"{member.name}: {_last_line(member.log)}")
    return 1 if failed else 0


def _last_line(log: Path) -> str:
    return log.read_text(encoding="utf-8").rstrip().rpartition("\n")[2]


def say(message: str) -> None:
    """Write a word on progress to standard error."""
    sys.stderr.write(message + "\n")
