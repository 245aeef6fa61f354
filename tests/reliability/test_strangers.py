"""Run folders and exported models from a stranger: links, pipes, devices, sizes and numbers."""

import fcntl
import itertools
import json
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any

import cli_support
import pytest
from cli_support import Outcome, done, ptb_lm, train_arguments, write_texts
from hostile import MEMORY, Watched, sealed
from processes import ptb_lm_process
from promises import Tally
from short_runs import result, workers

from ptb_lm.lock import holder, place_lock

HANG_SECONDS = 60
"""A safety net: no command here takes more than a few."""

EVENTS = "events.out.tfevents.0000000001.ptb-lm"

NAMES = [
    *(".lock", "metrics.jsonl", "environment.json", "config.toml", "last.pt", "previous.pt"),
    *("best.pt", "scores-valid.npz", "scores-test.npz", EVENTS),
]

VICTIM = b"not yours\n"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a finished run, a stopped one, and an exported model."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / "text", cli_support.WORDS, seed=1)
    with chdir(folder):
        done(*train_arguments("whole", "--log", "tensorboard"))
        done(*train_arguments("part", "--log", "tensorboard", "--max-steps", "40"))
        done("export", "whole", "--out", "model")
    return folder


@contextmanager
def no_hang() -> Iterator[None]:
    """Raise an error where a command waits for ever."""

    def give_up(number: int, frame: object) -> None:
        raise AssertionError("the command hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def state_of(folder: Path) -> dict[str, tuple[Any, ...]]:
    """All that a command could change below a folder, links not followed."""
    return {
        str(path.relative_to(folder)): (
            facts.st_mode,
            facts.st_ino,
            facts.st_mtime_ns,
            path.readlink() if path.is_symlink() else None,
            path.read_bytes() if stat.S_ISREG(facts.st_mode) else None,
        )
        for path in sorted(folder.rglob("*"))
        for facts in [path.lstat()]
    }


def require_done_or_one_line(outcome: Outcome, *codes: int) -> None:
    """See that a command succeeded, or said in one line what is wrong."""
    assert outcome.code in (codes or (0, 1, 2)), outcome.err
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert errors == outcome.err.splitlines()[-1:] if outcome.code else not errors, outcome.err
    assert "--debug" not in outcome.err, outcome.err


def pipe(path: Path) -> None:
    os.mkfifo(path)


def with_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, chdir(path.parent):
        listener.bind(path.name)


def device(path: Path) -> None:
    """Make a terminal of one's own, which nobody writes to: whoever reads it waits."""
    major, minor = os.openpty()
    path.symlink_to(os.ttyname(minor))
    os.close(minor)
    OPEN_TERMINALS.append(major)


OPEN_TERMINALS: list[int] = []

PLANTED: dict[str, Callable[[Path], object]] = {
    "a link to a file": lambda path: path.symlink_to("../outside/file"),
    "a hard link to a file": lambda path: path.hardlink_to("outside/file"),
    "a link to nothing": lambda path: path.symlink_to("../outside/nothing"),
    "a link to a folder": lambda path: path.symlink_to("../outside"),
    "a link to a pipe": lambda path: path.symlink_to("../outside/pipe"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "an endless file": lambda path: path.symlink_to("/proc/self/pagemap"),
    "a pipe": pipe,
    "a folder": Path.mkdir,
    "a socket": with_socket,
    "a terminal": device,
}

COMMANDS: dict[str, list[str]] = {
    "train": train_arguments("bad"),
    "train --resume": train_arguments("bad", "--resume", "--log", "tensorboard"),
    "train --overwrite": train_arguments("bad", "--overwrite", "--log", "tensorboard"),
    "watch": ["watch", "bad", "--once"],
    "report": ["report", "bad"],
    "compare": ["compare", "bad", "whole"],
    "eval": ["eval", "bad"],
    "generate": ["generate", "bad", "--words", "3"],
    "average": ["average", "bad/scores-valid.npz"],
    "export": ["export", "bad", "--out", "exported"],
}


@pytest.mark.promise("strangers")
def test_planted_names(workplace: Path, tally: Tally) -> None:
    """Links, pipes, terminals, sockets and folders under each name of a run's files: each command
    ends by itself, nothing outside changes, and a refused training changes nothing inside."""
    Path("outside").mkdir()
    Path("outside/file").write_bytes(VICTIM)
    os.mkfifo("outside/pipe")
    outside = state_of(Path("outside"))
    variants = list(itertools.product(COMMANDS, NAMES, PLANTED))
    for command, name, kind in random.Random(1).sample(variants, tally.amount(80, len(variants))):
        shutil.copytree("part", "bad")
        with suppress(FileNotFoundError):
            Path("bad", name).unlink()
        PLANTED[kind](Path("bad", name))
        before = state_of(Path("bad"))
        with no_hang():
            outcome = ptb_lm(*COMMANDS[command])
        what = f"{command}, {name}: {kind}\n{outcome.err}"
        assert state_of(Path("outside")) == outside, what
        require_done_or_one_line(outcome, 0, 2)
        if outcome.code:
            assert state_of(Path("bad")) == before, what
        shutil.rmtree("bad")
        shutil.rmtree("exported", ignore_errors=True)
        tally.count("variants of a planted name")


@pytest.mark.promise("strangers")
def test_planted_temporary_names(workplace: Path, tally: Tally) -> None:
    """Links under the names of files that are still to be written: their targets stay as they
    are, and the training ends as if alone."""
    Path("outside").mkdir()
    Path("outside/file").write_bytes(VICTIM)
    for name in (*NAMES, EVENTS.replace("1.ptb", "2.ptb")):
        run = Path(f"bad-{name}")
        shutil.copytree("part", run)
        (run / f".{name}.{os.getpid()}.partial").symlink_to("../outside/file")
        (run / f".{name}.1.partial").symlink_to("../outside/nothing")
        if name == EVENTS.replace("1.ptb", "2.ptb"):
            (run / name).symlink_to("../outside/nothing")
        done(*train_arguments(str(run), "--resume", "--log", "tensorboard"))
        assert result(run) == result(Path("whole"))
        assert list(run.glob(".*.partial")) == []
        tally.count("temporary names planted", 2)
    assert [(path.name, path.read_bytes()) for path in Path("outside").iterdir()] == [
        ("file", VICTIM)
    ]


@pytest.mark.promise("strangers")
@pytest.mark.parametrize("held", [False, True])
def test_copy_made_of_hard_links(workplace: Path, tally: Tally, held: bool) -> None:
    """A copy of a run made of hard links (`cp -al`), as the run stands and as it is in training:
    the copy is resumed to the same bits, and the original is not touched."""
    with workers(1) as (trainer,):
        if held:
            trainer.tell(*train_arguments("part", "--resume", "--log", "tensorboard"), pause_at=45)
            trainer.expect("paused")
        for number, mode in enumerate(("--resume", "--overwrite")):
            copy = f"copy-{number}"
            subprocess.run(["cp", "-al", "part", copy], check=True)
            before = state_of(Path("part"))
            assert holder(Path(copy, ".lock")) is None
            done(*train_arguments(copy, mode, "--log", "tensorboard"))
            assert result(Path(copy)) == result(Path("whole"))
            assert state_of(Path("part")) == before
            assert holder(Path("part/.lock")) == (trainer.number if held else None)
            tally.count("copies of hard links trained in")
        if held:  # whose lock still keeps others out
            refused = ptb_lm(*train_arguments("part", "--resume"))
            assert refused.code == 2
            assert f"in use by process {trainer.number};" in refused.err
            trainer.go_on()
            assert trainer.outcome().code == 0
        else:
            done(*train_arguments("part", "--resume"))
        assert result(Path("part")) == result(Path("whole"))


@pytest.mark.promise("strangers")
def test_refusals_change_nothing(workplace: Path, tally: Tally) -> None:
    """Trainings refused for another reason than a planted name leave the folder as it was, its
    lock, times and half-written files too."""
    refused = {
        "another recipe": train_arguments("part", "--resume", model__hidden_size=9),
        "a run is there": train_arguments("part"),
        "no checkpoint": train_arguments("evidence", "--resume"),
        "no run folder": train_arguments("other", "--overwrite"),
        "damaged environment": train_arguments("damaged", "--resume"),
        "damaged checkpoints": train_arguments("cut", "--resume"),
    }
    for name in ("evidence", "damaged", "cut"):
        shutil.copytree("part", name)
        Path(name, ".lock").unlink()
    for name in ("last.pt", "previous.pt", "best.pt"):
        Path("evidence", name).unlink()
        Path("cut", name).write_bytes(b"PK")
    Path("evidence/scores-valid.npz").touch()
    Path("damaged/environment.json").write_text("{}")
    shutil.copytree("text", "other")
    for folder in ("part", "evidence", "damaged", "cut", "other"):
        Path(folder, ".last.pt.1.partial").touch()
    Path("part/.lock").write_text("123456\n")  # of a process that was killed
    before = state_of(workplace)
    for why, command in refused.items():
        outcome = ptb_lm(*command)
        require_done_or_one_line(outcome, 2)
        assert state_of(workplace) == before, why
        tally.count("refused trainings")


# Sizes.


def sparse(path: Path, size: int) -> None:
    """Make a file of zeros that takes no room."""
    path.unlink(missing_ok=True)
    with path.open("wb") as file:
        file.truncate(size)


def one_sparse_word(path: Path, size: int) -> None:
    """Make a vocabulary of as many lines as before, the last of which is a word of zeros."""
    lines = path.read_bytes()
    with path.open("wb") as file:
        file.write(lines[:-1])
        file.truncate(size)
        file.seek(size)
        file.write(b"\n")


def endless_line(path: Path, size: int) -> None:
    """Make metrics whose good lines are followed by one of zeros without an end."""
    with path.open("ab") as file:
        file.truncate(size)


def repeated(line: bytes) -> Callable[[Path, int], None]:
    """Return what fills a file with a line."""

    def fill(path: Path, size: int) -> None:
        block = line * (10**6 // len(line))
        with path.open("wb") as file:
            for _ in range(size // len(block)):
                file.write(block)

    return fill


def sparse_pickle(path: Path, size: int) -> None:
    """Make a checkpoint whose values are zeros."""
    with zipfile.ZipFile(path) as good:
        names = good.namelist()
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for name in names:
            data = bytes(size) if name.endswith("data.pkl") else b"1"
            archive.writestr(name, data)
    path.write_bytes(sealed(path.read_bytes()))


def sparse_scores(path: Path, size: int) -> None:
    """Make a score file whose scores are stored zeros that take no room on the disk."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        archive.writestr("description.npy", b"")
        archive.writestr("log_probabilities.npy", b"")
    data = path.read_bytes()
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write(data)


WITHIN = json.dumps({"step": 7, "epoch": 1, "lr": 1.0, "words_per_second": 9.0}).encode() + b"\n"
END = json.dumps({"step": 7, "epoch": 1, "valid/perplexity": 9.0}).encode() + b"\n"
DEEP = b"[" * 10**5 + b"\n"

READ_METRICS = [
    *(COMMANDS[name] for name in ("watch", "compare", "train --resume")),
    ["report", "bad", "--json"],
]
READ_MODEL = [["eval", "model"], ["generate", "model", "--words", "3"]]

SIZES: dict[str, tuple[str, Callable[[Path, int], None], list[list[str]]]] = {
    "a word of zeros": ("model/vocab.txt", one_sparse_word, READ_MODEL),
    "words of zeros": ("model/vocab.txt", sparse, READ_MODEL),
    "a config of zeros": ("model/config.json", sparse, READ_MODEL),
    "weights of zeros": ("model/model.safetensors", sparse, READ_MODEL),
    **{
        f"metrics of {what}": ("bad/metrics.jsonl", make, READ_METRICS)
        for what, make in {
            "zeros": sparse,
            "an endless line": endless_line,
            "empty lines": repeated(b"\n"),
            "whole lines": repeated(WITHIN),
            "ends of epochs": repeated(END),
            "deep brackets": repeated(DEEP),
        }.items()
    },
    "an environment of zeros": ("bad/environment.json", sparse, READ_METRICS),
    "a config.toml of zeros": ("bad/config.toml", sparse, [COMMANDS["watch"], COMMANDS["train"]]),
    "scores of zeros": ("bad/scores-valid.npz", sparse, [COMMANDS["average"], COMMANDS["report"]]),
    "scores behind zeros": ("bad/scores-valid.npz", sparse_scores, [COMMANDS["average"]]),
    "a checkpoint of zeros": (
        "bad/last.pt",
        sparse,
        [COMMANDS["eval"], COMMANDS["train --resume"]],
    ),
    "values of zeros": ("bad/last.pt", sparse_pickle, [COMMANDS["eval"]]),
}

LINES = ("empty lines", "whole lines", "ends of epochs", "deep brackets")

AMOUNTS = {
    **{f"metrics of {what}": (2 * 10**6, 4 * 10**7) for what in LINES},
    "values of zeros": (4 * 10**7, 4 * 10**8),
}
"""Bytes that are really written, in the short and the full form; sparse files have 0.3 and 3 GB."""


@pytest.mark.promise("strangers")
def test_sizes(workplace: Path, tally: Tally) -> None:
    """Files of gigabytes, most of them of zeros that take no room, are refused by their size or
    read within 200 MB above idle."""
    usual = [["watch", "whole", "--once"], ["eval", "model"], ["report", "whole"]]
    usual += [["compare", "part", "whole"], train_arguments("whole", "--resume")]
    with Watched(workplace, usual) as watched:
        assert watched.run(*usual[0]).code == 0
        for what, (name, make, commands) in SIZES.items():
            shutil.copytree("model", "good")
            shutil.copytree("whole", "bad")
            make(Path(name), tally.amount(*AMOUNTS.get(what, (3 * 10**8, 3 * 10**9))))
            for command in commands:
                answer = watched.run(*command)
                assert answer.code is not None, answer.err
                assert not answer.trace, answer.trace
                assert answer.peak <= MEMORY, f"{what}, {command}: {answer.peak / 1e6:,.0f} MB"
                assert answer.err.count("error: ") == (answer.code != 0), answer.err
                tally.count("openings of large files")
            shutil.rmtree("model")
            shutil.rmtree("bad")
            shutil.move("good", "model")


# Numbers.

FIGURES = ["train/perplexity", "valid/perplexity", "lr", "words_per_second", "seconds"]

ODD = [
    *("10" + "0" * 400, "-10" + "0" * 400, "1e999", "NaN", "Infinity", "-Infinity", "1e308"),
    *("1e-320", "-1", "0", "true", "null", '"many"', "[1]", "{}", "[" * 900 + "]" * 900),
]
ODD_COUNTS = [*ODD, str(2**63 - 1), str(2**63), "1.5"]

READ_NUMBERS = [
    *(["watch", "bad", "--once"], ["watch", "bad", "--json"], ["report", "bad"]),
    *(["report", "bad", "--json"], ["report", "bad", "--out", "page"]),
    *(["compare", "bad", "whole"], ["compare", "whole", "bad", "--json"]),
    train_arguments("bad", "--resume", "--log", "tensorboard"),
]


def replaced(line: str, key: str, value: str) -> str:
    """Return a line of JSON with the value of a key written otherwise."""
    parts = {name: json.dumps(each) for name, each in json.loads(line).items()} | {key: value}
    return "{" + ", ".join(f"{json.dumps(name)}: {each}" for name, each in parts.items()) + "}"


@pytest.mark.promise("strangers")
@pytest.mark.filterwarnings("error")
def test_odd_numbers(workplace: Path, tally: Tally) -> None:
    """Numbers beyond all floats, NaN, infinities, strings, lists and booleans in metrics.jsonl and
    environment.json: no command ends in an error of its own."""
    variants = [
        *(("metrics.jsonl", key, value) for key in FIGURES for value in ODD),
        *(("metrics.jsonl", key, value) for key in ("step", "epoch") for value in ODD_COUNTS),
        *(
            ("environment.json", key, value)
            for key in ("device", "threads", "processes", "steps_per_epoch", "processor")
            for value in ODD
        ),
    ]
    for name, key, value in random.Random(2).sample(variants, tally.amount(4, len(variants))):
        for run in ("part", "whole"):
            shutil.rmtree("bad", ignore_errors=True)
            shutil.copytree(run, "bad")
            file = Path("bad", name)
            lines = file.read_text().splitlines()
            if name == "metrics.jsonl":
                lines[-1] = replaced(lines[-1], key, value)
            else:
                (part,) = json.loads(file.read_text())
                lines = ["[", replaced(json.dumps(part), key, value), "]"]
            file.write_text("\n".join(lines) + "\n")
            for command in READ_NUMBERS:
                with no_hang():
                    outcome = ptb_lm(*command)
                require_done_or_one_line(outcome, 0, 2)
                assert "inf" not in outcome.out.lower(), f"{name}, {key}: {value}: {command}"
                tally.count("readings of odd numbers")


def test_kept_lines_stay_as_they_are(workplace: Path) -> None:
    """A resumption keeps the lines before its checkpoint byte for byte, and ends the last one."""
    metrics = Path("part/metrics.jsonl")
    first, *others = metrics.read_bytes().splitlines(keepends=True)
    first = first.replace(b": ", b" :  ").replace(b"}", b', "note": "\xc3\xbc"}')
    # The blank line goes and the end of the last one comes: the size is the same.
    metrics.write_bytes(b"".join([first, b"\n", *others]).removesuffix(b"\n"))
    outcome = done(*train_arguments("part", "--resume"))
    assert "a line that is not whole is left out" in outcome.err
    assert metrics.read_bytes().startswith(b"".join([first, *others]))
    assert result(Path("part"))["last"] == result(Path("whole"))["last"]


def test_number_beyond_floats_is_missing(workplace: Path) -> None:
    """A perplexity of 10**400 is no figure, in whatever shows it."""
    lines = Path("part/metrics.jsonl").read_text().splitlines()
    at = next(n for n, line in enumerate(lines) if "valid/perplexity" in line)
    lines[at] = replaced(lines[at], "valid/perplexity", "1" + "0" * 400)
    Path("part/metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert done("report", "part", "--json").out
    assert "curves-" in done("report", "part", "--out", "page").out
    (epoch,) = json.loads(done("watch", "part", "--json").out)["curve"]
    assert epoch["valid_perplexity"] is None
    assert epoch["train_perplexity"] > 0


# Locks beside the folders that are prepared, fetched and exported.

PREPARE = ["data", "prepare", "text/train.txt", "--out", "corpus"]
EXPORT = ["export", "whole", "--out", "exported"]
MADE = {"corpus": PREPARE, "exported": EXPORT}


@pytest.mark.promise("strangers")
def test_lock_on_parent_folder(workplace: Path, tally: Tally) -> None:
    """Somebody holds a lock on the parent folder, as anybody can: nothing waits for it."""
    descriptor = os.open(workplace, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        for name, command in MADE.items():
            with no_hang():
                done(*command)
            assert not place_lock(Path(name)).exists()
            tally.count("folders made under a stranger's lock")
    finally:
        os.close(descriptor)


@pytest.mark.promise("strangers")
def test_planted_place_locks(workplace: Path, tally: Tally) -> None:
    """Links, pipes, files of another kind or user at the name of the lock of a folder that is to
    be made: one line, and nothing is written through them."""
    Path("outside").mkdir()
    Path("outside/file").write_bytes(VICTIM)
    os.mkfifo("outside/pipe")
    planted = {
        **{kind: plant for kind, plant in PLANTED.items() if "hard link" not in kind},
        "another file": lambda path: path.write_bytes(VICTIM),
    }
    if os.geteuid() == 0:
        planted["another user's"] = lambda path: (path.touch(), os.chown(path, 12345, 12345))
    for (name, command), (kind, plant) in itertools.product(MADE.items(), planted.items()):
        lock = place_lock(Path(name))
        plant(lock)
        before = state_of(workplace)
        with no_hang():
            outcome = ptb_lm(*command)
        assert outcome.code == 2, (kind, outcome.err)
        require_done_or_one_line(outcome)
        assert str(lock) in outcome.err
        assert state_of(workplace) == before, kind
        shutil.rmtree(lock) if lock.is_dir() and not lock.is_symlink() else lock.unlink()
        tally.count("planted locks refused")
    place_lock(Path("corpus")).hardlink_to("outside/file")
    done(*PREPARE)
    assert Path("outside/file").read_bytes() == VICTIM


HOLD = """
import sys
from pathlib import Path
from ptb_lm.lock import place_held
from ptb_lm.stop import NEVER
with place_held(Path(sys.argv[1]), NEVER):
    print(flush=True)
    sys.stdin.read()
"""


@pytest.mark.promise("strangers")
def test_wait_for_another_writer(workplace: Path, tally: Tally) -> None:
    """A call that waits for another process of ours names that process, continues when it has
    ended, and is itself ended by a signal at once."""
    for name, command in list(MADE.items())[: tally.amount(1, 2)]:
        holding = subprocess.Popen(
            [sys.executable, "-c", HOLD, name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with holding:
            assert holding.stdout is not None
            assert holding.stdout.readline() == b"\n"
            waits = f"{name}: waiting for process {holding.pid}, which is writing there"
            with (
                ptb_lm_process(*command, cwd=workplace) as stopped,
                ptb_lm_process(*command, cwd=workplace) as patient,
            ):
                stopped.wait_for(waits)
                patient.wait_for(waits)
                stopped.send(signal.SIGTERM)
                assert stopped.end() == 143
                assert not patient.ended
                holding.communicate(timeout=HANG_SECONDS)
                assert patient.end() == 0, patient.err
        assert not place_lock(Path(name)).exists()
        assert Path(name).is_dir()
        tally.count("waits for another writer", 2)


@pytest.mark.promise("strangers")
def test_planted_leftovers(workplace: Path, tally: Tally) -> None:
    """A link at the name of what a killed call has left of a folder is not followed."""
    Path("outside/replaced").mkdir(parents=True)
    Path("outside/replaced/train.txt").write_bytes(VICTIM)
    for name, command in MADE.items():
        Path(f".{name}.abcdefgh.partial").symlink_to("outside")
        done(*command)
        assert Path("outside/replaced/train.txt").read_bytes() == VICTIM
        tally.count("planted leftovers")
