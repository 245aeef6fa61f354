"""What this program promises of a run that something happens to, and how its tests count.

A test of a promise carries ``@pytest.mark.promise(NAME)`` and takes the fixture ``tally``, which
tells it how often to try and keeps what it counted. ``make test`` runs the short form,
``make torture`` the full one, from whose counts the table of docs/RELIABILITY.md is made.
"""

import json
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from ptb_lm.training.environment import describe_environment

PROMISES = {
    "exact resumption": "A resumed run continues as if it had never stopped: weights, hidden "
    "state, random numbers, position, learning rate, best so far and metrics, bitwise on the CPU.",
    "changed recipe": "A run is resumed only as what it was: differences are listed and refused; "
    "more epochs, another device, log interval, checkpoint interval or name of the config, and the "
    "same texts at another place are allowed.",
    "killed": "Killed at any moment (SIGKILL, a crash), a run resumes by the same command to "
    "bitwise the same final weights.",
    "log": "After any number of kills the log has each step once, in order, every line whole.",
    "durable writing": "Whoever opens a checkpoint, at any moment, finds a whole one.",
    "damage": "A checkpoint of which any bit has changed is refused with one line before anything "
    "is changed; `--resume` falls back on the one before it and says so.",
    "signals": "Ctrl-C, SIGTERM and SIGHUP stop a training, a validation, an evaluation or a fetch "
    "within a step and a save; a second Ctrl-C ends it at once, without damage.",
    "not a number": "A NaN or an infinity stops the run before the update; no checkpoint is "
    "replaced, and one line names the step and the last good one.",
    "disk": "A full disk is seen before the training starts; a write that fails leaves the "
    "checkpoint before it intact and nothing half-written.",
    "memory": "Out of memory is one line with the sizes that matter; the batch size is never "
    "changed.",
    "hostile files": "A checkpoint, score file or archive from a stranger runs no code, writes "
    "nothing outside its place and takes no more memory than a good one.",
    "strangers": "In a run folder or exported model from a stranger only regular files are read, "
    "in bounded memory; nothing is written through a link, and a refused call changes nothing.",
    "two at once": "Two trainings never write into one run folder; two fetches leave one good "
    "copy.",
    "odd text": "What a token is depends neither on the locale nor on line ends nor on byte order "
    "marks.",
    "fuzzing": "Whatever a config, `--set`, checkpoint, score file or archive holds, the program "
    "succeeds or says in one line what is wrong.",
}


PASSED = pytest.StashKey[bool]()


@dataclass
class Tally:
    """How much a test of a promise tries, and what it has counted."""

    full: bool
    counts: dict[str, int] = field(default_factory=dict)

    def amount(self, short: int, full: int) -> int:
        """How often to try: the first number in ``make test``, the second in ``make torture``."""
        return full if self.full else short

    def count(self, what: str, number: int = 1) -> None:
        """Add to a count, named as it is to be read: '200 kills'."""
        self.counts[what] = self.counts.get(what, 0) + number


class TallyFile:
    """Collects what the tests have counted, in whichever process each ran, and writes it."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.environment = describe_environment(torch.device("cpu"))  # what is tested, as it starts
        self.began = time.monotonic()
        self.tests: list[dict[str, Any]] = []
        self.failed: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)
        if report.when == "teardown":
            self.tests += [value for name, value in report.user_properties if name == "tally"]

    def pytest_sessionfinish(self) -> None:
        results = {
            "environment": self.environment,
            "minutes": round((time.monotonic() - self.began) / 60, 1),
            "promises": PROMISES,
            "failed": sorted(self.failed),
            "tests": sorted(self.tests, key=lambda test: test["test"]),
        }
        self.path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("promises")
    group.addoption("--full", action="store_true", help="try as often as `make torture` does")
    group.addoption("--tally", type=Path, metavar="FILE", help="write what was counted as JSON")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "promise(name): tests one of the PROMISES")
    path = config.getoption("--tally")
    is_worker = hasattr(config, "workerinput")  # which pytest-xdist gives
    if path is not None and not (is_worker or config.option.collectonly):
        config.pluginmanager.register(TallyFile(path))


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """The counts of this test; kept if it passes."""
    marker = request.node.get_closest_marker("promise")
    assert marker is not None, "a test that counts is a test of a promise"
    (promise,) = marker.args
    assert promise in PROMISES
    counts = Tally(request.config.getoption("--full"))
    began = time.monotonic()
    yield counts
    if request.node.stash.get(PASSED, False):
        result = {
            "promise": promise,
            "test": request.node.nodeid,
            "counts": counts.counts,
            "seconds": round(time.monotonic() - began, 1),
        }
        request.node.user_properties.append(("tally", result))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report
