"""Damage is noticed: no checkpoint of which any bit has changed is ever taken for a good one."""

import ctypes
import os
import random
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count, zip_longest
from pathlib import Path

import pytest
import torch
from checkpoints import (
    STEPS_PER_EPOCH,
    STOPPED,
    STOPPED_AT,
    TEXT_SEED,
    furnish_runs,
    kept,
    only_line,
    ptb_lm_process,
    require_same_run,
    resume,
    with_event,
)
from cli_support import WORDS, done, ptb_lm, train_arguments, write_texts
from promises import Tally

from ptb_lm.config import Config, load_config
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.training import layout
from ptb_lm.training.checkpoint import FORMAT, load_checkpoint
from ptb_lm.training.open_run import open_run
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.tensor_file import DamagedFileError, load_tensors, save_tensors

LAST, PREVIOUS = Path(STOPPED) / "last.pt", Path(STOPPED) / "previous.pt"
CAPABILITY_VERSION_3, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 0x20080522, 1, 2
SEAL = 78  # bytes at the end of a checkpoint
END = SEAL + 22  # and with the end record of the archive

Change = Callable[[bytes], bytes]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_runs(tmp_path_factory.mktemp("template"))


# Cut anywhere, any bit flipped.


def end_of_archive(path: Path) -> int:
    """Where the directory of the zip archive begins, which its end record and the seal follow."""
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def lengths(path: Path, rng: random.Random) -> Iterator[int]:
    """Lengths to cut a file to, none twice: the telling ones first."""
    size, directory = path.stat().st_size, end_of_archive(path)
    telling = [0, size - 1, 1, directory, size - SEAL, size - END, size // 2, 4096, 4, 30]
    telling += [end + off for end in (directory, size - SEAL, size - END) for off in (-1, 1)]
    at_the_end = rng.sample(range(directory, size), 100)
    yield from dict.fromkeys([*telling, *mixed(at_the_end, rng.sample(range(size), 300))])


def bits(path: Path, rng: random.Random) -> Iterator[int]:
    """Bits to flip, none twice: one of each byte of the end record and the seal, and anywhere."""
    size, directory = path.stat().st_size, end_of_archive(path)
    ends = [*range(size - END, size), *rng.sample(range(directory, size - END), 50)]
    rng.shuffle(ends)
    at_the_end = [8 * byte + rng.randrange(8) for byte in ends]
    yield from dict.fromkeys(mixed(at_the_end, rng.sample(range(8 * size), 300)))


def mixed(some: list[int], others: list[int]) -> list[int]:
    """The two in turn, and then the rest of the longer one."""
    pairs = zip_longest(some, others)
    return [value for pair in pairs for value in pair if value is not None]


def cut(length: int) -> Change:
    return lambda data: data[:length]


def flip(bit: int) -> Change:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    return change


@pytest.mark.promise("damage")
@pytest.mark.parametrize("hidden_size", [8, 200])
@pytest.mark.parametrize("kind", ["truncations", "bit flips"])
def test_a_checkpoint_that_is_cut_or_has_a_bit_flipped_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally, kind: str, hidden_size: int
) -> None:
    """A checkpoint (17 kB and 2.7 MB) is cut or has one bit flipped; all that read it refuse it.

    Both files of a run are so damaged, each elsewhere: --resume leaves every byte of its folder as
    it was.
    """
    monkeypatch.chdir(tmp_path)
    write_texts(Path("text"), WORDS, seed=TEXT_SEED)
    changes = {"model__hidden_size": hidden_size}
    done(*train_arguments("run", "--max-steps", str(STEPS_PER_EPOCH + 1), **changes))
    folder = RunFolder(Path("run"))
    config = load_config(folder.config)
    rng = random.Random(f"{kind} {hidden_size}")
    places, damage = (lengths, cut) if kind == "truncations" else (bits, flip)
    last, previous = (file.read_bytes() for file in (folder.last, folder.previous))
    assert last != previous
    pairs = list(zip(places(folder.last, rng), places(folder.previous, rng), strict=False))
    for attempt, (in_last, in_previous) in enumerate(pairs[: tally.amount(8, 250)]):
        folder.last.write_bytes(damage(in_last)(last))
        folder.previous.write_bytes(damage(in_previous)(previous))
        before = kept(folder.path)
        with pytest.raises(DamagedFileError) as error:
            load_checkpoint(folder.last)
        require_one_line(error.value, "run/last.pt: ", "damaged")
        require_refused_unchanged(config, folder, "previous.pt beside it is damaged too")
        if attempt % 25 == 0:
            again = resume("run", **changes)
            only_line(ptb_lm(*again), 2, "run/last.pt: ", "previous.pt beside it is damaged too")
            only_line(ptb_lm("eval", "run/last.pt"), 2, "run/last.pt: ", "damaged")
            tally.count("damaged checkpoints refused by the command line")
        assert kept(folder.path) == before, in_last
        tally.count(f"{kind} refused")
    folder.last.write_bytes(last)
    assert load_checkpoint(folder.last).state is not None


def require_one_line(error: PtbLmError, *fragments: str) -> None:
    assert "\n" not in str(error)
    for fragment in fragments:
        assert fragment in str(error)


def require_refused_unchanged(config: Config, folder: RunFolder, *fragments: str) -> None:
    with (
        pytest.raises(InputError) as error,
        open_run(config, Path(), folder.path, resume=True),
    ):
        pass
    require_one_line(error.value, *fragments)
    assert error.value.exit_code == 2


# Other damage.


def swap(data: bytes) -> bytes:
    """Two neighbouring bytes in the weights, the first two that differ."""
    place = next(i for i in range(len(data) // 3, len(data)) if data[i] != data[i + 1])
    return data[:place] + data[place + 1 : place - 1 : -1] + data[place + 2 :]


def without_seal(data: bytes) -> bytes:
    return data[:-80] + b"\0\0"


DAMAGE: dict[str, Change] = {
    "a byte appended": lambda data: data + b"\0",
    "a line feed appended": lambda data: data + b"\n",
    "itself appended": lambda data: data + data,
    "a byte put before": lambda data: b"\0" + data,
    "two bytes swapped": swap,
    "a page of zeros": lambda data: data[:4096] + bytes(4096) + data[8192:],
    "zeros": lambda data: bytes(len(data)),
    "empty": lambda data: b"",
    "without its seal": without_seal,
    "a text": lambda data: b"version https://git-lfs.github.com/spec/v1\n",
    "the seal in capitals": lambda data: data[:-64] + data[-64:].upper(),
}


def in_place_of(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


def onto_itself(path: Path) -> None:
    path.symlink_to(path.name)


def into_nothing(path: Path) -> None:
    path.symlink_to("not-mounted")


GONE: dict[str, Callable[[Path], object]] = {
    "missing": Path.exists,
    "a link to itself": onto_itself,
    "a link to nothing": into_nothing,
}
NO_FILE: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
}


def test_each_damage_is_one(workplace: Path) -> None:
    data = LAST.read_bytes()
    assert all(change(data) != data for change in DAMAGE.values())
    assert sorted(swap(data)) == sorted(data)
    assert sum(one != other for one, other in zip(swap(data), data, strict=True)) == 2


def damage_last(kind: str) -> None:
    if kind in DAMAGE:
        LAST.write_bytes(DAMAGE[kind](LAST.read_bytes()))
    else:
        in_place_of(LAST, {**GONE, **NO_FILE}[kind])


@pytest.mark.promise("damage")
def test_other_damage_is_refused_by_name_and_fallen_back_from_by_resume(
    workplace: Path, tally: Tally
) -> None:
    """Bytes added, swapped or zeroed, or no file: a named path is refused, --resume falls back."""
    good, before_it = LAST.read_bytes(), PREVIOUS.read_bytes()
    kinds = [*DAMAGE, *GONE]
    ended = set(random.Random(1).sample(kinds, tally.amount(3, len(kinds))))
    for kind in kinds:
        shutil.copytree(STOPPED, "aside")
        damage_last(kind)
        what = "damaged" if kind in DAMAGE else "no such checkpoint"
        for command in (["eval", str(LAST)], ["generate", str(LAST)]):
            before = kept(workplace)
            only_line(ptb_lm(*command), 2, f"{LAST}: ", what)
            assert kept(workplace) == before, kind
        ends = kind in ended
        outcome = done(*resume(STOPPED, *([] if ends else ["--max-steps", str(STEPS_PER_EPOCH)])))
        (line,) = [line for line in outcome.err.splitlines() if str(PREVIOUS) in line]
        assert str(LAST) in line
        assert f"Resuming {STOPPED} after step {STEPS_PER_EPOCH}." in outcome.err
        if ends:
            require_same_run(STOPPED)
            tally.count("runs that fell back ended bitwise as the uninterrupted one")
        else:
            assert LAST.read_bytes() == before_it
            assert PREVIOUS.read_bytes() == before_it
        tally.count("kinds of other damage refused and fallen back from")
        shutil.rmtree(STOPPED)
        shutil.move("aside", STOPPED)
    assert LAST.read_bytes() == good


@pytest.mark.promise("damage")
@pytest.mark.parametrize("kind", NO_FILE)
def test_what_is_no_file_is_never_put_away_for_a_checkpoint(
    workplace: Path, tally: Tally, kind: str
) -> None:
    """A folder or a pipe named last.pt is refused with one line; nothing is removed for it."""
    in_place_of(LAST, NO_FILE[kind])
    before = kept(workplace)
    for command in (resume(STOPPED), ["eval", str(LAST)], ["generate", str(LAST)]):
        only_line(ptb_lm(*command), 2, str(LAST))
        assert kept(workplace) == before
        tally.count("commands refused")


@contextmanager
def bound_by_rights() -> Iterator[None]:
    """Take from this thread, if root, what lets it read any file; its own files stay its own.

    By capset(2): to become another user would also hide a home folder with the program in it.
    """
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    this_thread = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable, of 32 each, twice
    assert libc.capget(this_thread, sets) == 0, os.strerror(ctypes.get_errno())
    before = sets[0]
    sets[0] &= ~(1 << CAP_DAC_OVERRIDE | 1 << CAP_DAC_READ_SEARCH)
    assert libc.capset(this_thread, sets) == 0, os.strerror(ctypes.get_errno())
    try:
        yield
    finally:
        sets[0] = before
        assert libc.capset(this_thread, sets) == 0, os.strerror(ctypes.get_errno())


@pytest.mark.promise("damage")
def test_a_file_that_may_not_be_read_is_not_called_damaged(workplace: Path, tally: Tally) -> None:
    """A checkpoint that may not be read is said to be so; nothing falls back, nothing changes."""
    done(*resume(STOPPED, "--max-steps", str(STOPPED_AT)))
    before = kept(workplace)
    for command in (["eval", str(LAST)], ["generate", str(LAST)], resume(STOPPED)):
        LAST.chmod(0)
        with bound_by_rights():
            outcome = ptb_lm(*command)
        LAST.chmod(0o644)
        assert outcome.code in (1, 2)
        line = only_line(outcome, outcome.code, f"{LAST}: ")
        assert "ermission denied" in line
        assert kept(workplace) == before
        tally.count("commands refused")


@pytest.mark.promise("damage")
def test_a_good_checkpoint_of_another_run_is_refused(workplace: Path, tally: Tally) -> None:
    """Another run's checkpoint copied over one is refused; beside a damaged one, it is no help."""
    done(*train_arguments("runs/b", "--seed", "2", "--max-steps", "5"))
    other = Path("runs/b/last.pt").read_bytes()
    good, before_it = LAST.read_bytes(), PREVIOUS.read_bytes()
    for last, previous in ((other, before_it), (good[:-1], other)):
        LAST.write_bytes(last)
        PREVIOUS.write_bytes(previous)
        before = kept(workplace)
        line = only_line(ptb_lm(*resume(STOPPED)), 2, "run.seed was 2, asked for 1")
        assert f"{LAST if last == other else PREVIOUS}: " in line
        assert kept(workplace) == before
        tally.count("resumptions refused")


@pytest.mark.promise("damage")
def test_a_newer_format_is_not_damage(workplace: Path, tally: Tally) -> None:
    """A last.pt of a newer format is refused with one line; --resume does not fall back."""
    content = torch.load(LAST, weights_only=True)
    newer = {**content, "format": FORMAT + 1, "something": "new"}
    save_tensors(newer, LAST, prove=lambda path: None)
    before = kept(workplace)
    for command in (resume(STOPPED), ["eval", str(LAST)], ["generate", str(LAST)]):
        only_line(ptb_lm(*command), 2, f"{LAST}: checkpoint format {FORMAT + 1}", str(FORMAT))
        assert kept(workplace) == before
        tally.count("commands refused")


# Falling back.


@pytest.mark.promise("damage")
def test_a_run_that_fell_back_ends_as_if_never_stopped(workplace: Path, tally: Tally) -> None:
    """With last.pt cut, --resume falls back, says so in one line and ends as if never stopped."""
    LAST.write_bytes(LAST.read_bytes()[:9000])
    outcome = (ptb_lm_process if tally.full else ptb_lm)(*resume(STOPPED))
    assert outcome.code == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if str(PREVIOUS) in line]
    assert str(LAST) in line
    require_same_run(STOPPED)
    tally.count("runs that fell back ended bitwise as the uninterrupted one")


@pytest.mark.promise("damage")
def test_a_run_may_fall_back_again_and_again(workplace: Path, tally: Tally) -> None:
    """Damaged, resumed, stopped before or after the next save, damaged again: nothing is lost."""
    rng = random.Random(5)
    shutil.copytree(STOPPED, "aside")
    last_step = 2 * STEPS_PER_EPOCH - 1
    for _ in range(tally.amount(6, 60)):
        good, good_step = PREVIOUS.read_bytes(), load_step(PREVIOUS)
        LAST.write_bytes(LAST.read_bytes()[: rng.randrange(16_000)])
        # At the step that it fell back on it stops at once and saves nothing.
        stop_at = rng.choice([good_step, rng.randint(good_step, last_step)])
        outcome = done(*resume(STOPPED, "--max-steps", str(stop_at)))
        assert f"after step {good_step}." in outcome.err
        assert load_step(LAST) == stop_at
        assert PREVIOUS.read_bytes() == good  # not what was damaged
        tally.count("times fallen back")
        if stop_at < last_step and rng.random() < 0.5:  # on, so that previous.pt is a later one
            done(*resume(STOPPED, "--max-steps", str(stop_at + 1)))
        elif load_step(PREVIOUS) > last_step - 5:
            shutil.rmtree(STOPPED)
            shutil.copytree("aside", STOPPED)
    done(*resume(STOPPED))
    require_same_run(STOPPED)


def load_step(path: Path) -> int:
    state = load_checkpoint(path).state
    assert state is not None
    return state.epochs_done * STEPS_PER_EPOCH + state.windows_done


REPLACEMENTS = 7
"""Files put in place by a run that falls back to its first epoch's end: the least of them."""


@pytest.mark.promise("damage")
def test_killed_while_it_falls_back_a_run_loses_nothing(workplace: Path, tally: Tally) -> None:
    """SIGKILL at each file that a falling-back run puts in place; it still ends the same."""
    rng = random.Random(3)
    shutil.copytree(STOPPED, "aside")
    moments = count(1) if tally.full else [rng.randint(1, REPLACEMENTS)]
    for moment in moments:
        LAST.write_bytes(LAST.read_bytes()[:-1])
        command = resume(STOPPED)
        killed = with_event("kill", "*", 0, moment, *command, real=True)
        if killed.code == 0:  # it had no such moment left
            assert moment > REPLACEMENTS
            break
        assert killed.code == -9, killed
        load_checkpoint(PREVIOUS)
        if moment > 1:  # the first is last.pt itself
            load_checkpoint(LAST)
            if rng.random() < 0.5:
                damaged = LAST.read_bytes()[:-1]
                LAST.unlink()  # which may be one file with previous.pt, killed in that moment
                LAST.write_bytes(damaged)
        done(*command)
        require_same_run(STOPPED)
        tally.count("kills of a run that fell back")
        shutil.rmtree(STOPPED)
        shutil.copytree("aside", STOPPED)


# What stands beside the checkpoints.


@pytest.mark.promise("damage")
def test_bits_flipped_in_the_files_beside_the_checkpoints_end_no_run_in_a_traceback(
    workplace: Path, tally: Tally
) -> None:
    """Bits flipped in metrics.jsonl, environment.json, config.toml: one line, or the run goes on.

    These are text, made again or only read by people; where one stops a resumption, all is as it
    was.
    """
    rng = random.Random(7)
    shutil.copytree(STOPPED, "aside")
    for _ in range(tally.amount(24, 600)):
        name = rng.choice(["metrics.jsonl", "environment.json", "config.toml"])
        path = Path(STOPPED) / name
        good = path.read_bytes()
        path.write_bytes(flip(rng.randrange(8 * len(good)))(good))
        before = kept(workplace)
        command = ["train", "--resume", "--run-dir", STOPPED, "--max-steps", str(STOPPED_AT)]
        outcome = ptb_lm(*command)
        if outcome.code:
            only_line(outcome, 2)
            assert kept(workplace) == before, outcome.err
            tally.count(f"refusals for a bit in {name}")
        tally.count("bits flipped beside the checkpoints")
        assert LAST.read_bytes() == Path("aside/last.pt").read_bytes()
        shutil.rmtree(STOPPED)
        shutil.copytree("aside", STOPPED)


DEEP = pytest.param("[" * 100_000, id="deep")


@pytest.mark.promise("damage")
@pytest.mark.parametrize("content", ["", "{}", "null", '"text"', "[1", DEEP, "\xff"])
def test_an_environment_that_is_none_stops_a_resumption_before_anything_is_changed(
    workplace: Path, tally: Tally, content: str
) -> None:
    """An environment.json that is no list of records is refused before anything is written."""
    (Path(STOPPED) / "environment.json").write_bytes(content.encode("latin-1"))
    before = kept(workplace)
    only_line(ptb_lm(*resume(STOPPED)), 2, "environment.json: ")
    assert kept(workplace) == before
    tally.count("resumptions refused")


@pytest.mark.promise("damage")
@pytest.mark.parametrize(
    "line",
    [
        '{"step": 40, "valid/perplexity": 9.0}',
        '{"step": 40, "epoch": null, "valid/perplexity": 9.0}',
        '{"step": 40, "epoch": "2", "valid/perplexity": 9.0}',
        '{"step": 1e999, "epoch": 1}',
        "\0",
        "\xff",
        DEEP,
    ],
)
def test_a_line_of_the_metrics_that_is_none_of_ours_is_left_out_with_a_warning(
    workplace: Path, tally: Tally, line: str
) -> None:
    """A foreign line in metrics.jsonl is left out with a warning, and the run ends the same.

    It stands where damage may be: in the midst of the others.
    """
    metrics = Path(STOPPED) / "metrics.jsonl"
    lines = metrics.read_bytes().splitlines(keepends=True)
    metrics.write_bytes(b"".join([*lines[:3], line.encode("latin-1") + b"\n", *lines[3:]]))
    outcome = done(*resume(STOPPED))
    assert f"{metrics}: a line that is not whole is left out" in outcome.err
    require_same_run(STOPPED)
    tally.count("resumed runs ended bitwise as the uninterrupted one")


# What others may rely on.


def test_every_checkpoint_is_a_zip_archive_that_others_can_open(workplace: Path) -> None:
    """As the contract has it: torch.load(weights_only=True), and a comment that is the seal."""
    for path in Path("runs").rglob("*.pt"):
        for mmap in (False, True):
            content = torch.load(path, weights_only=True, mmap=mmap)
            assert content["mark"] == "ptb-lm checkpoint"
            assert content["format"] == FORMAT
        with zipfile.ZipFile(path) as archive:
            comment = archive.comment.decode()
            assert archive.testzip() is None
        assert comment.startswith("ptb-lm sha256 ")
        assert path.read_bytes().endswith(comment.encode())


def test_a_vocabulary_may_have_any_number_of_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list takes two operations of the pickle for each thousand, and those are limited."""
    monkeypatch.setattr(layout, "_MOST_OPCODES", 100)
    words = [str(number) for number in range(100_000)]
    save_tensors({"vocabulary": words}, tmp_path / "many.pt", prove=load_tensors)
    assert load_tensors(tmp_path / "many.pt") == {"vocabulary": words}
