"""SIGKILL at any moment of real trainings, which the same command takes up again, unaided."""

import random
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cli_support import done
from processes import (
    EPOCHS,
    WINDOWS,
    ChangeCount,
    Process,
    epochs_in_log,
    furnish_workplace,
    in_validation,
    log_of_run,
    partial_checkpoints,
    partial_files,
    ptb_lm_process,
    require_loadable,
    require_same_content,
    tally_for,
    train_command,
)
from promises import Tally

WORKERS = 2
# A checkpoint at every step, at some steps, and at each epoch's end alone.
CHECKPOINT_MINUTES = (1e-9, 0.001, 10.0)
IN_A_WRITE = "kills while a checkpoint was written"


@dataclass
class Campaign:
    """What killing has left.

    Attributes:
        workplace: holds the runs, and the uninterrupted one that they are to equal.
        runs: killed again and again, and then left alone to their end.
        counts: of kills, by what they hit.
    """

    workplace: Path
    runs: list[Path] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def uninterrupted(self) -> Path:
        return self.workplace / "runs" / "uninterrupted"


Aim = Callable[[Process, Path, random.Random], object]
"""Waits for the moment to kill a process that is at work in a run folder, or for its end."""


def at_start_up(process: Process, run: Path, rng: random.Random) -> None:
    process.linger(rng.uniform(0, 2))


def at_the_first_files(process: Process, run: Path, rng: random.Random) -> None:
    changed = ChangeCount(run / rng.choice(["config.toml", "environment.json"]))
    process.wait_until(changed)
    process.linger(rng.uniform(0, 0.02))


def at_a_step(process: Process, run: Path, rng: random.Random) -> None:
    changes, wanted = ChangeCount(run / "metrics.jsonl"), rng.randint(1, WINDOWS)
    process.wait_until(lambda: changes() >= wanted)
    process.linger(rng.uniform(0, 0.02))


def after_checkpoints(process: Process, run: Path, rng: random.Random) -> None:
    changes, wanted = ChangeCount(run / "last.pt"), rng.randint(1, EPOCHS)
    process.wait_until(lambda: changes() >= wanted)
    process.linger(rng.uniform(0, 0.1))


def between_best_and_last(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(ChangeCount(run / "best.pt"))
    process.linger(rng.uniform(0, 0.005))


def at_a_validation(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: in_validation(run))
    process.linger(rng.uniform(0, 0.2))


def at_the_end(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: epochs_in_log(run) == EPOCHS)
    process.linger(rng.uniform(0, 0.5))


def as_the_old_run_vanishes(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: not (run / "last.pt").exists())
    process.linger(rng.uniform(0, 0.003))


def at_a_write(process: Process, run: Path, rng: random.Random) -> None:
    checkpoint = rng.choice(["last.pt", "last.pt", "best.pt"])
    leftover = set(partial_files(run))  # of a writer killed before, for a while still there

    def is_written() -> bool:
        new = set(partial_files(run)) - leftover
        return any(name.startswith(f".{checkpoint}.") for name in new)

    for _ in range(rng.randint(0, 3)):  # not always the first that this process writes
        process.wait_until(is_written)
        process.wait_until(lambda: not is_written())
    process.wait_until(is_written)
    process.linger(rng.uniform(0, 0.01))


ELSEWHERE: tuple[Aim, ...] = (
    at_start_up,
    at_the_first_files,
    at_a_step,
    after_checkpoints,
    between_best_and_last,
    at_a_validation,
    at_the_end,
)
AT_AN_OVERWRITING: tuple[Aim, ...] = (at_start_up, at_the_first_files, at_a_step)


def run_and_kill(
    campaign: Campaign, run: Path, command: list[str], aim: Aim | None, rng: random.Random
) -> bool:
    """Run a command until a moment, or to its end without an aim; return whether it has ended."""
    with ptb_lm_process(*command, cwd=campaign.workplace) as process:
        if aim is not None:
            aim(process, run, rng)
            process.popen.kill()
        code = process.end()
        assert "Traceback" not in process.err
        assert "error" not in process.err, process.err
        assert code in ((0,) if aim is None else (0, -signal.SIGKILL)), process.err
        finished = "run folder:" in process.out
    assert finished or code == -signal.SIGKILL
    require_loadable(run)
    if code == 0:
        return True
    campaign.counts["kills"] += 1
    if written := partial_checkpoints(run):
        campaign.counts[IN_A_WRITE] += 1
        campaign.counts[f"{IN_A_WRITE}: {written[0]}"] += 1
    return False


def kill_again_and_again(
    worker: int, workplace: Path, kills: int, writes: int, of_a_run: int
) -> Campaign:
    """Kill trainings until so many kills are done and so many of them have hit a write."""
    rng = random.Random(f"kills of worker {worker}")
    campaign = Campaign(workplace)
    counts = campaign.counts
    while counts["kills"] < kills or counts[IN_A_WRITE] < writes:
        name = f"runs/killed-{worker}-{len(campaign.runs)}"
        minutes = CHECKPOINT_MINUTES[(worker + len(campaign.runs)) % len(CHECKPOINT_MINUTES)]
        command = train_command(name, "--resume", run__checkpoint_minutes=minutes)
        run = workplace / name
        campaign.runs.append(run)
        assert len(campaign.runs) <= kills, "most runs end before they are killed"
        for _ in range(of_a_run):
            writes_are_short = writes - counts[IN_A_WRITE] >= kills - counts["kills"]
            at_writes = writes_are_short or rng.random() < 0.4
            aim = at_a_write if at_writes else rng.choice(ELSEWHERE)
            if run_and_kill(campaign, run, command, aim, rng):
                break
        else:
            assert run_and_kill(campaign, run, command, None, rng)
    return campaign


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_workplace(tmp_path_factory.mktemp("kills"))


@pytest.fixture(scope="module")
def campaign(request: pytest.FixtureRequest, workplace: Path) -> Campaign:
    """Runs that were killed, each to its end in spite of it; two at once."""
    tally = tally_for(request)
    kills, writes = tally.amount(10, 200), tally.amount(4, 60)
    with ThreadPoolExecutor(WORKERS) as workers:
        futures = [
            workers.submit(
                kill_again_and_again,
                worker,
                workplace,
                kills // WORKERS,
                writes // WORKERS,
                tally.amount(5, 8),
            )
            for worker in range(WORKERS)
        ]
        parts = [future.result() for future in futures]
    together = Campaign(workplace)
    for part in parts:
        together.runs += part.runs
        together.counts += part.counts
    return together


@pytest.mark.promise("killed")
def test_a_run_killed_again_and_again_ends_with_the_weights_of_one_left_alone(
    campaign: Campaign, tally: Tally
) -> None:
    """Trainings are killed at random moments of all that they do and taken up by the same command.

    What they end with is compared to the bit: weights of last.pt and best.pt, hidden state, random
    numbers, counts and scores.
    """
    for run in campaign.runs:
        require_same_content(run, campaign.uninterrupted)
    for what, number in sorted(campaign.counts.items()):
        tally.count(what, number)
    tally.count("killed runs with bitwise the weights of one left alone", len(campaign.runs))
    assert campaign.counts["kills"] >= tally.amount(10, 200)
    assert campaign.counts[IN_A_WRITE] >= tally.amount(3, 50)


@pytest.mark.promise("log")
def test_the_log_of_a_killed_run_is_the_uninterrupted_ones(
    campaign: Campaign, tally: Tally
) -> None:
    """The log of each killed run is, line for line, that of one left alone, apart from times."""
    expected = log_of_run(campaign.uninterrupted)
    steps = [line["step"] for line in expected if "valid/perplexity" not in line]
    assert steps == list(range(1, EPOCHS * WINDOWS + 1))
    for run in campaign.runs:
        assert log_of_run(run) == expected
    tally.count("kills", campaign.counts["kills"])
    tally.count("lines equal to those of a run left alone", len(campaign.runs) * len(expected))


@pytest.mark.promise("killed")
def test_overwriting_killed_again_and_again_ends_with_a_fresh_run(
    workplace: Path, tally: Tally
) -> None:
    """A finished run is begun anew with --overwrite, which is killed early, again and again.

    The same command then ends with what it would have made in an empty folder: of the old run,
    made with another seed, nothing is left.
    """
    rng = random.Random("kills of --overwrite")
    name = "runs/overwritten"
    run = workplace / name
    with chdir(workplace):
        done(*train_command(name, "--seed", "2"))
    old = {file.name: file.read_bytes() for file in run.iterdir()}
    campaign = Campaign(workplace)
    command = train_command(name, "--overwrite")
    for attempt in range(tally.amount(1, 20)):
        for file, data in old.items():
            (run / file).write_bytes(data)
        aim = rng.choice(AT_AN_OVERWRITING) if attempt % 2 else as_the_old_run_vanishes
        run_and_kill(campaign, run, command, aim, rng)
    assert run_and_kill(campaign, run, command, None, rng)
    require_same_content(run, workplace / "runs" / "uninterrupted")
    assert log_of_run(run) == log_of_run(workplace / "runs" / "uninterrupted")
    assert campaign.counts["kills"] > 0
    tally.count("kills", campaign.counts["kills"])
