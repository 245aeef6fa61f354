"""Full disks: seen before the training starts, and at whatever byte a write fails, nothing lost."""

import hashlib
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from checkpoints import (
    BALLAST,
    STOPPED,
    STOPPED_AT,
    WHOLE,
    environment,
    error_line,
    free_bytes,
    furnish_runs,
    kept,
    only_line,
    partial_files,
    ptb_lm_process,
    require_same_run,
    resume,
    small_disk,
    with_event,
)
from cli_support import contents, done, ptb_lm, train_arguments
from http_server import loopback_server
from promises import Tally

from ptb_lm.corpus import download, ptb
from ptb_lm.corpus.ptb import PtbFile
from ptb_lm.evaluation.score_file import load_scores

LAST = f"{STOPPED}/last.pt"
PAGE = 4096
CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_runs(tmp_path_factory.mktemp("template"))


def checkpoints_of(folder: Path | str) -> dict[str, bytes]:
    return {
        name: Path(folder, name).read_bytes() for name in CHECKPOINTS if Path(folder, name).exists()
    }


# Before the training starts.

RECIPES: dict[str, dict[str, Any]] = {
    "tiny": {},
    "wide": {"model__hidden_size": 150},
    "deep": {"model__layers": 12, "model__hidden_size": 64},
    # Whose hidden state is larger than the weights.
    "many streams": {
        "model__hidden_size": 32,
        "model__layers": 6,
        "training__batch_size": 130,
        "training__unrolled_steps": 2,
    },
}


@pytest.mark.promise("disk")
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_let_in_fits_and_one_that_does_not_fit_is_kept_out(
    workplace: Path, tally: Tally, recipe: str
) -> None:
    """On a real disk with the room that is asked for a run ends; with a page less it is refused."""
    changes = RECIPES[recipe]
    low, high = 0, 64 << 20  # refused with so many bytes free, and let in
    while high - low > PAGE:
        middle = (low + high) // 2 // PAGE * PAGE
        if is_refused(middle, train_arguments("run", "--max-steps", "1", **changes)):
            low = middle
        else:
            high = middle
            shutil.rmtree("run")
    with small_disk(Path("disk"), low) as disk:
        outcome = ptb_lm(*train_arguments("disk/run", **changes))
        require_refused_for_space(outcome, low)
        assert contents(disk) == {}
        tally.count("runs that would not fit refused")
    with small_disk(Path("disk"), high):
        outcome = ptb_lm(*train_arguments("disk/run", **changes))
        assert outcome.code == 0, outcome.err
        tally.count("runs that just fit let in, and ended")


def is_refused(free: int, command: list[str]) -> bool:
    """Whether a run does not begin on a disk that says to have so many bytes free."""
    with pytest.MonkeyPatch.context() as patch:
        usage = shutil.disk_usage(".")
        patch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=free))
        return ptb_lm(*command).code == 1


def require_refused_for_space(outcome: Any, free: int) -> None:
    line = only_line(outcome, 1, "MB are free on its disk", "make room")
    found = re.search(r"([\d,.]+) MB are free .* need ([\d,.]+) MB", line)
    assert found, line
    named_free, needed = (float(text.replace(",", "")) for text in found.groups())
    assert named_free <= free / 1e6 + 0.051
    assert needed > named_free, line


@pytest.mark.promise("disk")
def test_a_run_that_finds_a_full_disk_writes_nothing(workplace: Path, tally: Tally) -> None:
    """On a disk too small: exit code 1, one line with free and needed MB, and an untouched disk."""
    with small_disk(Path("disk"), 400_000) as disk:
        run = ptb_lm_process if tally.full else ptb_lm
        require_refused_for_space(run(*train_arguments("disk/deep/run")), free_bytes(disk))
        assert contents(disk) == {}
        tally.count("runs that would not fit refused")


@pytest.mark.promise("disk")
def test_the_checkpoints_that_are_there_already_are_counted(workplace: Path, tally: Tally) -> None:
    """A resumed run needs only what it will write more; a finished one needs nothing."""
    changes = {"model__hidden_size": 200}
    with small_disk(Path("disk"), 16 << 20) as disk:
        stopped = train_arguments("disk/run", "--max-steps", str(STOPPED_AT), **changes)
        done(*stopped)
        size = (disk / "run/last.pt").stat().st_size
        assert set(checkpoints_of("disk/run")) == set(CHECKPOINTS)
        leave(disk, size * 3 // 4)
        before = kept(disk)
        outcome = ptb_lm(*resume("disk/run", **changes))
        require_refused_for_space(outcome, size)
        assert kept(disk) == before
        tally.count("resumptions that would not fit refused")
        leave(disk, size * 3 // 2)
        done(*resume("disk/run", **changes))
        done(*train_arguments(WHOLE, "--overwrite", **changes))
        require_same_run("disk/run")
        tally.count("resumptions on a disk with room for one checkpoint ended bitwise the same")
        leave(disk, 0)
        before = kept(disk)
        outcome = ptb_lm(*resume("disk/run", **changes))
        assert outcome.code == 0, outcome.err
        assert "finished already" in outcome.err
        assert kept(disk) == before
        tally.count("finished runs that are told so on a full disk")


def leave(disk: Path, size: int) -> None:
    """Let a disk have so many bytes free."""
    (disk / BALLAST).unlink(missing_ok=True)
    with (disk / BALLAST).open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free_bytes(disk) - size))


# While it trains: at whatever byte.


@pytest.mark.promise("disk")
def test_a_checkpoint_whose_writing_fails_leaves_the_one_before_it(
    workplace: Path, tally: Tally
) -> None:
    """A checkpoint fails to be written at one byte after another, by a real limit; nothing is lost.

    The limit is on the size of a file, set when the file is opened. The full form takes a process
    of its own for each place.
    """
    rng = random.Random(11)
    size = Path(LAST).stat().st_size
    places = [0, size - 1, 1, 4096, size - 78, 8192, 16383, *rng.sample(range(size), 50)]
    for index, place in enumerate(places[: tally.amount(8, 50)]):
        # The first checkpoint of a run, a later one within an epoch, at an epoch's end, the best.
        name = "best.pt" if index % 4 == 3 else "last.pt"
        place = min(place, Path(STOPPED, name).stat().st_size - 1)
        if index % 4 != 0:
            shutil.copytree(STOPPED, "runs/cut")
        minutes = 10 if index % 4 == 2 else 1e-9
        command = resume("runs/cut", run__checkpoint_minutes=minutes)
        before = checkpoints_of("runs/cut")
        nth = 5 if name == "last.pt" and index % 8 == 1 else 1
        outcome = with_event("limit", name, place, nth, *command, real=tally.full)
        error_line(outcome, 1, f"runs/cut/{name}: cannot be written: File too large")
        assert partial_files(workplace) == []
        if nth == 1:
            require_kept(before, "runs/cut", failed=name)
        done(*command)
        require_same_run("runs/cut")
        shutil.rmtree("runs/cut")
        tally.count("byte positions at which a checkpoint failed to be written")


def require_kept(before: dict[str, bytes], run_dir: str, failed: str) -> None:
    """Assert that of a checkpoint that failed to be written, and the one before, none changed."""
    after = checkpoints_of(run_dir)
    for name in ("last.pt", "previous.pt") if failed == "last.pt" else (failed,):
        assert after.get(name) == before.get(name)


@pytest.mark.promise("disk")
def test_a_disk_that_fills_up_while_it_trains(workplace: Path, tally: Tally) -> None:
    """A real disk fills up as a checkpoint is written; after making room --resume ends the same."""
    rng = random.Random(13)
    for index in range(tally.amount(4, 30)):
        name = rng.choice(["last.pt", "last.pt", "best.pt"])
        pages = rng.randrange(Path(STOPPED, name).stat().st_size // PAGE)
        command = resume("disk/run", run__checkpoint_minutes=rng.choice([10, 1e-9]))
        with small_disk(Path("disk"), 2 << 20):
            if index % 3:
                shutil.copytree(STOPPED, "disk/run")
            before = checkpoints_of("disk/run")
            real = tally.full or index == 1
            outcome = with_event("fill", name, pages * PAGE, 1, *command, real=real)
            error_line(outcome, 1, f"disk/run/{name}: cannot be written: No space left on device")
            assert partial_files(Path("disk")) == []
            require_kept(before, "disk/run", failed=name)
            Path("disk/run", BALLAST).unlink()
            done(*command)
            require_same_run("disk/run")
            tally.count("times a disk filled up while a checkpoint was written")


OTHER_FILES = {
    "metrics.jsonl": (1, 2, 3, 4),
    "config.toml": (1,),
    "environment.json": (1,),
    "scores-valid.npz": (1,),
    "scores-test.npz": (1,),
}
"""The files of a run beside its checkpoints, and which of their writings in a resumption fail."""


@pytest.mark.promise("disk")
@pytest.mark.parametrize("name", OTHER_FILES)
def test_the_other_files_of_a_run_may_fail_to_be_written(
    workplace: Path, tally: Tally, name: str
) -> None:
    """Metrics, config, environment or scores cannot be written: one line, and nothing is lost."""
    rng = random.Random(name)
    shutil.copytree(STOPPED, "aside")
    whole = Path(WHOLE, name).stat().st_size
    for nth in OTHER_FILES[name][:: tally.amount(2, 1)]:
        for position in [0, *rng.sample(range(1, whole // 2), tally.amount(1, 12))]:
            if name == "metrics.jsonl":
                position = min(position, 40)  # of a line, or of the whole when it is rewritten
            command = resume(STOPPED, run__checkpoint_minutes=5)  # so that the config is written
            outcome = with_event("limit", name, position, nth, *command, real=False)
            error_line(outcome, 1, f"{STOPPED}/{name}: cannot be written: File too large")
            assert partial_files(workplace) == []
            done(*command)
            require_same_run(STOPPED)
            tally.count(f"failed writes of {name}")
            shutil.rmtree(STOPPED)
            shutil.copytree("aside", STOPPED)


@pytest.mark.promise("disk")
def test_scores_that_fail_to_be_written_leave_the_old_ones(workplace: Path, tally: Tally) -> None:
    """eval --save-scores fails at any byte: one line, and a score file of before is as it was."""
    done("eval", LAST, "--save-scores", "old.npz")
    old = Path("old.npz").read_bytes()
    rng = random.Random(17)
    positions = [0, len(old) - 1, *rng.sample(range(1, len(old)), 40)]
    for index, position in enumerate(positions[: tally.amount(6, 42)]):
        for name in ("old.npz", "new.npz"):
            real = tally.full and index % 8 == 0
            command = ["eval", LAST, "--save-scores", name]
            outcome = with_event("limit", name, position, 1, *command, real=real)
            only_line(outcome, 1, f"{name}: cannot be written: File too large")
            assert not Path("new.npz").exists()
            assert Path("old.npz").read_bytes() == old
            assert partial_files(workplace) == []
            tally.count("failed writes of scores")
    assert len(load_scores(Path("old.npz")).log_probabilities)


@pytest.mark.promise("disk")
def test_a_run_that_can_write_nothing_says_so_in_one_line(workplace: Path, tally: Tally) -> None:
    """A new run and a resumed one that may not write a byte: one line, and all is as it was."""
    for run_dir, options in (("runs/new", []), (STOPPED, ["--resume"])):
        before = kept(Path(run_dir)) if Path(run_dir).exists() else {}
        command = train_arguments(run_dir, *options)
        outcome = with_event("start", "", 0, 1, *command, real=tally.full)
        line = error_line(outcome, 1, "cannot be written: File too large")
        assert line.startswith(f"error: {run_dir}/")
        assert kept(Path(run_dir)) == before
        tally.count("runs that could write nothing")


@pytest.mark.promise("disk")
def test_results_that_no_disk_takes_are_one_line(workplace: Path, tally: Tally) -> None:
    """Standard output on a full disk (/dev/full): exit code 1 and one line."""
    for command in (["config", "list"], ["eval", LAST]):
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(
                [sys.executable, "-m", "ptb_lm", *command],
                env=environment(),
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert ran.returncode == 1
        assert ran.stderr == "error: the output cannot be written: No space left on device\n"
        tally.count("commands with no room for their result")
        if not tally.full:
            break


# The corpus.

NAMES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
TEXTS = {name: f"{name} {'a b c ' * 9000}\n".encode() for name in NAMES}
TEXT_BYTES = sum(map(len, TEXTS.values()))


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make three small texts the published ones."""
    files = tuple(
        PtbFile(name.split(".")[1], name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in TEXTS.items()
    )
    monkeypatch.setattr(ptb, "PTB_FILES", files)
    monkeypatch.setattr(download, "PTB_FILES", files)


@pytest.mark.promise("disk")
@pytest.mark.usefixtures("stand_ins")
def test_a_corpus_that_does_not_fit_is_not_half_installed(workplace: Path, tally: Tally) -> None:
    """data fetch onto a disk too small, or filling up: one line, all three files or none."""
    Path("given").mkdir()
    for name, data in TEXTS.items():
        Path("given", name).write_bytes(data)
    with small_disk(Path("disk"), 64 * PAGE) as disk:
        for pages in range(0, TEXT_BYTES // PAGE, tally.amount(8, 1)):
            leave(disk, pages * PAGE)
            outcome = ptb_lm("data", "fetch", "--from", "given", "--data-dir", "disk/data")
            only_line(outcome, 1, "disk/data", "cannot be written: No space left on device")
            assert {path.name for path in disk.rglob("*")} <= {BALLAST, "data"}
            tally.count("fetches onto a full disk")
        (disk / BALLAST).unlink()
        done("data", "fetch", "--from", "given", "--data-dir", "disk/data")
        good = contents(disk / "data")
        assert {name.removeprefix("ptb/") for name in good} == {"ptb", *NAMES}
        leave(disk, 2 * PAGE)
        outcome = ptb_lm("data", "fetch", "--from", "given", "--data-dir", "disk/data")
        only_line(outcome, 1, "disk/data/ptb", "cannot be written: No space left on device")
        assert contents(disk / "data") == good
        tally.count("fetches onto a full disk")


@pytest.mark.promise("disk")
@pytest.mark.usefixtures("stand_ins")
def test_a_download_with_no_room_for_it_is_one_line(
    workplace: Path, tally: Tally, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk of temporary files is full: one line that says so; nothing is left or installed."""
    with small_disk(Path("disk"), 16 * PAGE) as disk, loopback_server() as server:
        server.serve_files("", TEXTS)
        monkeypatch.setattr(tempfile, "tempdir", str(disk.absolute()))
        for pages in (0, 1, 8):
            leave(disk, pages * PAGE)
            outcome = ptb_lm("data", "fetch", "--from", server.url, "--data-dir", "data")
            only_line(outcome, 1, "temporary files: No space left on device", "TMPDIR")
            assert list(contents(disk)) == [BALLAST]
            assert not Path("data").exists()
            tally.count("downloads without room")


# Where nothing may be written.


@contextmanager
def read_only(disk: Path) -> Iterator[None]:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)


@pytest.mark.promise("disk")
@pytest.mark.usefixtures("stand_ins")
def test_on_a_read_only_disk_reading_works_and_writing_is_one_line(
    workplace: Path, tally: Tally
) -> None:
    """A run on a disk that is read-only: eval works; whatever would write says so in one line."""
    Path("given").mkdir()
    for name, data in TEXTS.items():
        Path("given", name).write_bytes(data)
    with small_disk(Path("disk"), 4 << 20) as disk:
        shutil.copytree(STOPPED, "disk/run")
        with read_only(disk):
            before = contents(disk)
            writers = (
                train_arguments("disk/new"),
                train_arguments("disk/run", "--overwrite"),
                resume("disk/run"),
                ["eval", "disk/run/last.pt", "--save-scores", "disk/scores.npz"],
                ["data", "fetch", "--from", "given", "--data-dir", "disk/data"],
            )
            for command in writers:
                line = only_line(ptb_lm(*command), 1, "Read-only file system")
                assert re.match(r"error: disk/\S+: cannot be (written|created|removed): ", line)
                tally.count("commands that would write refused")
            on_disk, here = (done("eval", path).out for path in ("disk/run/last.pt", LAST))
            assert on_disk.replace("disk/run", STOPPED) == here
            assert contents(disk) == before
        done(*resume("disk/run"))
        require_same_run("disk/run")
