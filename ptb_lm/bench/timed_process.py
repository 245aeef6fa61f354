"""A process that works when it is told to and idles meanwhile, so that several can take turns.

What is compared alternates within one run: on a machine that others use as well, two runs after
one another differ by more than what is to be measured.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import IO, cast

from ptb_lm.errors import PtbLmError

ROUND_SECONDS = 2.0
SECONDS_TO_END = 30.0


@dataclass(frozen=True)
class Spread:
    """What the rounds of a measurement gave."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Sum up the rounds."""
        return cls(median(values), min(values), max(values))


class TimedProcess:
    """Takes a number of units of work a line, and answers with a line of figures as JSON."""

    def __init__(self, command: list[str], **environment: str) -> None:
        self.command = command
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=os.environ | environment,
        )

    def work(self, units: int) -> dict[str, float]:
        """Have it do so many units, and return its figures, ``seconds`` among them.

        Raises:
            PtbLmError: it has ended.
        """
        try:
            cast(IO[str], self.process.stdin).write(f"{units}\n")
            line = cast(IO[str], self.process.stdout).readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            raise PtbLmError(f"{' '.join(self.command)}: ended with code {code} while it was timed")
        figures: dict[str, float] = json.loads(line)
        return figures

    def units_of_a_round(self) -> int:
        """Warm up, and return how many units take about as long as a round is to take."""
        self.work(1)
        return max(1, round(2 * ROUND_SECONDS / self.work(2)["seconds"]))


@contextmanager
def timed_process(command: list[str], **environment: str) -> Iterator[TimedProcess]:
    """Start a process, and end it at the end: its input ends, so that it can tidy up.

    Args:
        command: what takes the units.
        environment: what is set for it beside what is set here.
    """
    timed = TimedProcess(command, **environment)
    try:
        yield timed
    finally:
        try:
            timed.process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            timed.process.kill()
            timed.process.communicate()
