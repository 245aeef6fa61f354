"""Durable writing: at every moment a checkpoint is the whole old one or the whole new one."""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import (
    SECONDS,
    STEPS_PER_EPOCH,
    STOPPED,
    STOPPED_AT,
    WHOLE,
    environment,
    error_line,
    furnish_runs,
    kept,
    partial_files,
    require_same_run,
    resume,
    with_event,
)
from cli_support import done, ptb_lm, train_arguments
from promises import Tally

from ptb_lm.errors import PtbLmError
from ptb_lm.training import checkpoint as checkpoint_module
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

LAST, PREVIOUS = Path(STOPPED) / "last.pt", Path(STOPPED) / "previous.pt"
AT_EVERY_STEP = {"run__checkpoint_minutes": 1e-9}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_runs(tmp_path_factory.mktemp("template"))


# Whoever reads meanwhile.


@contextmanager
def training_at_work(workplace: Path, run_dir: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that trains without end and saves at every step; ended by SIGTERM."""
    changes = {**AT_EVERY_STEP, "training__epochs": 1_000_000, "run__log_steps": 1_000_000}
    command = train_arguments(run_dir, **changes)
    with (
        (workplace / "stderr.txt").open("wb") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", "ptb_lm", *command],
            cwd=workplace,
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as process,
    ):
        try:
            yield process
            assert process.poll() is None, (workplace / "stderr.txt").read_text()
            process.terminate()
            assert process.wait(SECONDS) == 143
        finally:
            process.kill()


@pytest.mark.promise("durable writing")
def test_a_reader_never_finds_an_unreadable_checkpoint(workplace: Path, tally: Tally) -> None:
    """last.pt, previous.pt and best.pt are opened in a loop while a process saves at every step."""
    folder = workplace / "runs/endless"
    give_up_at = time.monotonic() + SECONDS
    with training_at_work(workplace, "runs/endless") as process:
        while not all((folder / f"{name}.pt").exists() for name in ("last", "previous", "best")):
            assert process.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.001)
        others = cycle([folder / "previous.pt", folder / "best.pt"])
        newest: dict[Path, tuple[int, int]] = {}
        for number in range(tally.amount(300, 10_000)):
            for path in [folder / "last.pt", *([next(others)] if number % 5 == 0 else [])]:
                stands_at = position(load_checkpoint(path))
                before = newest.get(path, (0, 0))
                assert stands_at >= before
                newest[path] = stands_at
                tally.count(f"opens of {path.name}")
                if stands_at > before:
                    tally.count(f"of a {path.name} written since the open before")
    checkpoint = load_checkpoint(folder / "last.pt")
    assert position(checkpoint) >= max(newest.values())
    assert partial_files(folder) == []


def position(checkpoint: Checkpoint) -> tuple[int, int]:
    """Epochs and windows done; of weights alone the epochs."""
    return checkpoint.epoch, 0 if checkpoint.state is None else checkpoint.state.windows_done


LOOKS = ((Path, "stat"), (Path, "open"), (zipfile.ZipFile, "__init__"), (torch, "load"))
"""By which a reader of a checkpoint may look at its file."""


@pytest.mark.promise("durable writing")
def test_a_checkpoint_that_is_replaced_while_it_is_being_read_is_not_called_damaged(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A new checkpoint is put in place before each look that reading takes at the file."""
    old, new = Path(WHOLE, "last.pt").read_bytes(), Path(WHOLE, "best.pt").read_bytes()
    assert len(old) != len(new)
    read = Path("read.pt")
    looks, replaced_at = 0, 0

    def looking(true: Callable[..., Any]) -> Callable[..., Any]:
        def look(*arguments: Any, **options: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks == replaced_at:
                Path("new.pt").replace(read)
                tally.count("replacements while a checkpoint was being read")
            return true(*arguments, **options)

        return look

    for owner, name in LOOKS:
        monkeypatch.setattr(owner, name, looking(getattr(owner, name)))
    while looks >= replaced_at:
        replaced_at += 1
        looks = -1000
        read.write_bytes(old)
        Path("new.pt").write_bytes(new)
        looks = 0
        loaded = load_checkpoint(read)
        assert loaded.epoch in (1, 2)
    assert replaced_at > 3


# The order of what is asked of the system.


class Recorder:
    """What is asked of the system, in order, by the names of files.

    Attributes:
        events: 'fsync NAME', 'read NAME' (as a proof), 'link NAME', 'NAME put in place'.
        unfinished: what was put in place or linked with other bytes than were flushed.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.events: list[str] = []
        self.unfinished: list[str] = []
        # By the number of the file on the disk; what is there already is taken for flushed.
        self.flushed = {file.stat().st_ino: file.read_bytes() for file in folder.iterdir()}
        self.fsync, self.replace, self.link = os.fsync, os.replace, os.link
        monkeypatch.setattr(os, "fsync", self._fsync)
        monkeypatch.setattr(os, "replace", self._replace)
        monkeypatch.setattr(os, "link", self._link)
        monkeypatch.setattr(checkpoint_module, "load_checkpoint", self._prove)

    def _fsync(self, descriptor: int) -> None:
        self.fsync(descriptor)
        number = os.fstat(descriptor).st_ino
        places = [self.folder, *self.folder.iterdir()]
        (place, *_) = [place for place in places if place.stat().st_ino == number]
        if place.is_file():
            self.flushed[number] = place.read_bytes()
        self.events.append(f"fsync {self._name(place)}")

    def _prove(self, path: Path) -> Checkpoint:
        self.events.append(f"read {self._name(path)}")
        return load_checkpoint(path)

    def _link(self, source: Any, target: Any) -> None:
        self.link(source, target)
        self.events.append(f"link {self._name(Path(source))}")

    def _replace(self, source: Any, target: Any) -> None:
        source, target = Path(source), Path(target)
        assert source.parent == target.parent
        if self.flushed.get(source.stat().st_ino) != source.read_bytes():
            self.unfinished.append(target.name)
        self.replace(source, target)
        self.events.append(f"{self._name(target)} put in place")

    def _name(self, path: Path) -> str:
        if path.resolve() == self.folder.resolve():
            return "folder"
        return re.sub(r"^\.(.*)\.\d+\.partial$", r"new \1", path.name)


ORDER_OF_A_SAVE = [
    "fsync metrics.jsonl",
    "fsync new last.pt",
    "read new last.pt",
    "link last.pt",
    "previous.pt put in place",
    "last.pt put in place",
    "fsync folder",
]


@pytest.mark.promise("durable writing")
def test_every_file_is_flushed_proven_put_in_place_and_its_folder_flushed(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """The calls of a whole run, in order: write, fsync, read back, keep, replace, fsync folder."""
    folder = Path("runs/watched")
    done(*train_arguments(str(folder), "--max-steps", "40"))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # as a crash may leave it
    recorder = Recorder(folder, monkeypatch)
    done(*resume(str(folder), **AT_EVERY_STEP))
    events = recorder.events
    assert recorder.unfinished == []
    for place, event in enumerate(events):
        if not event.endswith(" put in place"):
            continue
        name = event.removesuffix(" put in place")
        tally.count(f"times a {Path(name).suffix} file was put in place")
        if name == "last.pt":
            assert events[place - 5 : place + 2] == ORDER_OF_A_SAVE
        elif name == "best.pt":
            assert events[place - 2 : place] == ["fsync new best.pt", "read new best.pt"]
        elif name != "previous.pt":  # which goes on to last.pt
            assert events[place - 1] == f"fsync new {name}"
        if name != "previous.pt":
            assert events[place + 1] == "fsync folder"
    put = {event.split()[0] for event in events if event.endswith("put in place")}
    assert put == {path.name for path in folder.iterdir() if path.name != ".lock"}
    monkeypatch.undo()
    monkeypatch.chdir(workplace)
    require_same_run(folder)


@pytest.mark.promise("durable writing")
def test_the_metrics_that_a_checkpoint_counts_on_are_on_disk_before_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """At each save metrics.jsonl is flushed with all its lines before the checkpoint is written."""
    folder = Path("runs/watched")
    done(*train_arguments(str(folder), "--max-steps", "3", run__log_steps=1))
    recorder = Recorder(folder, monkeypatch)
    metrics = folder / "metrics.jsonl"

    def save(checkpoint: Checkpoint, path: Path, previous: Path | None = None) -> None:
        if path.name == "last.pt":
            assert recorder.flushed[metrics.stat().st_ino] == metrics.read_bytes()
            assert len(metrics.read_bytes().splitlines()) >= 3
            tally.count("saves")
        save_checkpoint(checkpoint, path, previous)

    monkeypatch.setattr("ptb_lm.training.run.save_checkpoint", save)
    stop_at = str(tally.amount(15, 58))
    done(*resume(str(folder), "--max-steps", stop_at, run__log_steps=1, **AT_EVERY_STEP))


@pytest.mark.promise("durable writing")
def test_the_systems_own_record_shows_the_order(workplace: Path, tally: Tally) -> None:
    """strace of a real process: no byte is written after the fsync, no name moved before it."""
    tracer = shutil.which("strace")
    if tracer is None or subprocess.run([tracer, "-o", "t", "true"]).returncode != 0:
        pytest.skip("strace is not installed, or may not trace")
    if not tally.full:
        pytest.skip("a traced process takes long to start; see --full")
    calls = "trace=write,pwrite64,writev,fsync,link,linkat,rename,renameat,renameat2"
    trace = workplace / "trace"
    arguments = train_arguments("runs/traced", "--max-steps", "12", **AT_EVERY_STEP)
    command = [tracer, "-f", "-y", "-s", "0", "-e", calls, "-o", str(trace), sys.executable]
    subprocess.run(
        [*command, "-m", "ptb_lm", *arguments],
        env=environment(),
        cwd=workplace,
        check=True,
        stderr=subprocess.DEVNULL,
        timeout=SECONDS,
    )
    fresh: set[str] = set()  # flushed since they were last written
    unflushed_folder = False
    for line in trace.read_text().splitlines():
        call, _, rest = line.split(maxsplit=1)[1].partition("(")
        names = re.findall(r'[<"]([^<>"]*)[>"]', rest.partition(" = ")[0])
        if call in ("write", "pwrite64", "writev"):
            fresh.discard(Path(names[0]).name)
        elif call == "fsync":
            if Path(names[0]).name == "traced":
                unflushed_folder = False
            fresh.add(Path(names[0]).name)
        elif call.startswith("rename"):
            source, target = (Path(name) for name in names[-2:])
            assert source.parent == target.parent
            if target.name != "previous.pt":  # the old last.pt, flushed long ago
                assert source.name in fresh, line
                assert not unflushed_folder, line
                unflushed_folder = True
                tally.count("files put in place, as the system saw it")
    assert not unflushed_folder


# What does not come back as it was written.


def flip_a_bit(data: bytearray, rng: random.Random) -> bytes:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def lose_a_page(data: bytearray, rng: random.Random) -> bytes:
    start = rng.randrange(len(data) // 4096) * 4096
    return bytes(data[:start] + bytes(4096) + data[start + 4096 :])


def lose_the_end(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data))])


@contextmanager
def disk_that_lies(name: str, rng: random.Random) -> Iterator[list[Path]]:
    """A disk that keeps other bytes of a file than it was given; yields the files it did it to."""
    true = os.fsync
    damaged = []

    def fsync(descriptor: int) -> None:
        true(descriptor)
        file = os.fstat(descriptor)
        for path in Path().rglob(f".{name}.*"):
            if path.stat().st_ino == file.st_ino:
                change = rng.choice([flip_a_bit, lose_a_page, lose_the_end])
                good = path.read_bytes()
                path.write_bytes(changed := change(bytearray(good), rng))
                assert changed != good
                damaged.append(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield damaged


@pytest.mark.promise("durable writing")
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_what_does_not_come_back_as_written_replaces_nothing(
    workplace: Path, tally: Tally, name: str
) -> None:
    """The new file reads back with other bytes: one line, and every checkpoint is as it was."""
    rng = random.Random(name)
    before = {path.name: path.read_bytes() for path in Path(STOPPED).glob("*.pt")}
    for _ in range(tally.amount(4, 50)):
        with disk_that_lies(name, rng) as damaged:
            outcome = ptb_lm(*resume(STOPPED, **AT_EVERY_STEP if name == "last.pt" else {}))
        assert len(damaged) == 1
        error_line(outcome, 1, f"{STOPPED}/{name}: cannot be written: ", "do not come back")
        assert {path.name: path.read_bytes() for path in Path(STOPPED).glob("*.pt")} == before
        assert partial_files(workplace) == []
        tally.count("new checkpoints that did not read back as written, refused")
    done(*resume(STOPPED))
    require_same_run(STOPPED)


# File systems without hard links.


@pytest.fixture
def no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)


@pytest.mark.promise("durable writing")
@pytest.mark.usefixtures("no_hard_links")
def test_the_previous_checkpoint_is_kept_without_hard_links(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Where the system makes no hard links each save keeps the one before it as a copy."""
    recorder = Recorder(Path(STOPPED), monkeypatch)
    saves = tally.amount(8, 2 * STEPS_PER_EPOCH - STOPPED_AT)  # an epoch's end would be one more
    for step in range(STOPPED_AT + 1, STOPPED_AT + 1 + saves):
        before = LAST.read_bytes()
        done(*resume(STOPPED, "--max-steps", str(step)))
        assert PREVIOUS.read_bytes() == before
        load_checkpoint(LAST)
        assert partial_files(workplace) == []
        tally.count("saves without hard links")
    # A copy is a new file, which a crash may lose where it was not flushed.
    assert recorder.unfinished == []


@pytest.mark.promise("durable writing")
@pytest.mark.usefixtures("no_hard_links")
def test_a_copy_that_cannot_be_made_leaves_both_checkpoints(workplace: Path, tally: Tally) -> None:
    """Where neither a link nor a copy of the old checkpoint can be made, both stay as they were."""
    before = LAST.read_bytes(), PREVIOUS.read_bytes()
    for size in (0, 5000, len(before[0]) - 1):
        outcome = with_event("limit", "previous.pt", size, 1, *resume(STOPPED), real=False)
        error_line(outcome, 1, f"{LAST}: cannot be written: File too large")
        assert (LAST.read_bytes(), PREVIOUS.read_bytes()) == before
        assert partial_files(workplace) == []
        tally.count("copies that failed")


@pytest.mark.promise("durable writing")
def test_a_run_on_a_real_disk_without_hard_links(workplace: Path, tally: Tally) -> None:
    """A run on a FAT file system, which has no hard links, keeps previous.pt and resumes."""
    image, disk = workplace / "image", workplace / "disk"
    with image.open("wb") as file:
        file.truncate(32 << 20)
    disk.mkdir()
    maker = shutil.which("mkfs.vfat") or "/sbin/mkfs.vfat"
    commands = [maker, str(image)], ["mount", "-o", "loop", str(image), str(disk)]
    for command in commands:
        if (
            shutil.which(command[0]) is None
            or subprocess.run(command, capture_output=True).returncode
        ):
            pytest.skip("no FAT file system can be made and mounted here")
    try:
        done(*train_arguments("disk/run", "--max-steps", "40", **AT_EVERY_STEP))
        load_checkpoint(disk / "run/previous.pt")
        (disk / "run/last.pt").write_bytes(b"damaged")
        done(*resume("disk/run"))
        require_same_run("disk/run")
        tally.count("runs on FAT")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.promise("durable writing")
def test_what_a_killed_writer_left_is_removed(workplace: Path, tally: Tally) -> None:
    """Temporary files of killed writers go when the folder is next trained in; others' never."""
    names = [".last.pt.1.partial", ".previous.pt.22.partial", ".scores-test.npz.3.partial"]
    for name in names:
        Path(STOPPED, name).write_bytes(b"half")
    Path(STOPPED, "notes.txt").write_bytes(b"mine")
    before = kept(Path(STOPPED))
    assert load_checkpoint(LAST).epoch == 1
    assert kept(Path(STOPPED)) == before
    done(*resume(STOPPED))
    assert partial_files(workplace) == []
    assert Path(STOPPED, "notes.txt").read_bytes() == b"mine"
    tally.count("files left by killed writers", len(names))


def test_a_durable_file_in_no_folder_is_one_line(workplace: Path) -> None:
    with pytest.raises(PtbLmError, match="cannot be written: No such file or directory"):
        save_checkpoint(load_checkpoint(LAST), Path("nowhere/last.pt"))
