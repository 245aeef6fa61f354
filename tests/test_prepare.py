"""`data prepare`: which lines go where, which words stay, and that the folder is whole or not."""

import errno
import os
import random
import resource
import shutil
import signal
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cli_support import contents, done, done_json, ptb_lm, train_arguments
from hypothesis import given, settings
from hypothesis import strategies as st
from short_runs import ended, start

import ptb_lm as package
from ptb_lm import durable
from ptb_lm.corpus import prepare as room
from ptb_lm.corpus.load import load_corpus
from ptb_lm.corpus.prepare import Preparation, prepare
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.stop import StopFlag, Stopped

SPLITS = ("train", "valid", "test")
KEEP_ALL = Preparation(valid_share=0.1, test_share=0.2, min_count=1)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_lines(lines: list[str], path: str = "text.txt") -> None:
    Path(path).write_bytes("".join(f"{line}\n" for line in lines).encode())


def lines_of(folder: str, split: str) -> list[str]:
    text = Path(folder, f"{split}.txt").read_bytes().decode()
    assert text.endswith("\n")
    return text[:-1].split("\n")


def numbered(count: int) -> list[str]:
    """Lines that differ in nothing but how often they have the one word."""
    return [" ".join(["a"] * (1 + number)) for number in range(count)]


# Which lines go where


@pytest.mark.parametrize(("lines", "valid", "test"), [(100, 10, 20), (37, 4, 7), (3, 1, 1)])
def test_each_line_is_in_one_split_and_each_split_in_order(
    lines: int, valid: int, test: int
) -> None:
    write_lines(numbered(lines))
    prepare(["text.txt"], "out", KEEP_ALL)
    places = {split: [line.count("a") - 1 for line in lines_of("out", split)] for split in SPLITS}
    assert all(numbers == sorted(numbers) for numbers in places.values())
    assert sorted(chain.from_iterable(places.values())) == list(range(lines))
    assert (len(places["valid"]), len(places["test"])) == (valid, test)


def test_the_files_follow_one_another_and_each_ends_its_last_line() -> None:
    Path("a").write_bytes(b"a\na a")
    Path("b").write_bytes(b"\xef\xbb\xbfa a a\na a a a")
    Path("c").write_bytes(b"a a a a a\n")
    described = prepare(["c", "a", "b"], "out", KEEP_ALL)
    assert sum(facts["lines"] for facts in described["splits"].values()) == 5
    together = Counter(line for split in SPLITS for line in lines_of("out", split))
    assert together == Counter(numbered(5))
    in_order = ["a a a a a", "a", "a a", "a a a", "a a a a"]
    train = lines_of("out", "train")
    assert train == [line for line in in_order if line in train]


def test_a_seed_gives_the_same_bytes_and_another_seed_another_draw() -> None:
    write_lines(numbered(60))
    for name, seed in (("one", 5), ("again", 5), ("other", 6)):
        prepare(["text.txt"], name, Preparation(seed=seed))
    assert contents(Path("one")) == contents(Path("again"))
    assert contents(Path("one")) != contents(Path("other"))


def test_the_draw_is_the_one_that_it_always_was() -> None:
    """A text prepared today and in a year is the same corpus."""
    write_lines(numbered(20))
    prepare(["text.txt"], "out", KEEP_ALL)
    assert [line.count("a") - 1 for line in lines_of("out", "valid")] == [8, 9]
    assert [line.count("a") - 1 for line in lines_of("out", "test")] == [0, 3, 13, 16]


def test_each_line_is_as_likely_as_any_other_to_be_drawn() -> None:
    """3,000 draws of 2 and 3 of 12 lines; a line's count is binomial, and no pair is preferred."""
    counts: dict[int, Counter[int]] = {1: Counter(), 2: Counter()}
    pairs: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        preparation = Preparation(valid_share=2 / 12, test_share=3 / 12, seed=seed)
        drawn = room._draw(12, preparation, "text", StopFlag())
        for split, counter in counts.items():
            counter.update((drawn == split).nonzero()[0].tolist())
        pairs[tuple((drawn == 1).nonzero()[0].tolist())] += 1
    for split, expected in ((1, 500), (2, 750)):
        assert all(abs(counts[split][line] - expected) < 110 for line in range(12))  # 5 sigma
    assert len(pairs) == 66
    assert all(abs(count - 3000 / 66) < 35 for count in pairs.values())


# Which words stay


def test_rare_words_of_the_training_lines_become_unk_in_all_splits() -> None:
    rng = random.Random(3)
    types = [f"w{number}" for number in range(40)]
    write_lines([" ".join(rng.choices(types, range(1, 41), k=6)) for _ in range(120)])
    prepare(["text.txt"], "whole", Preparation(min_count=1))
    counts = Counter(word for line in lines_of("whole", "train") for word in line.split())
    prepare(["text.txt"], "out", Preparation(min_count=9))
    kept = {word for word, count in counts.items() if count >= 9}
    assert 0 < len(kept) < len(counts)
    for split in SPLITS:
        assert lines_of("out", split) == [
            " ".join(word if word in kept else "<unk>" for word in line.split())
            for line in lines_of("whole", split)
        ]


def test_the_most_frequent_words_stay_and_of_equals_the_first_by_code_point() -> None:
    write_lines(["c b b", "d d d", "a a c", "Z Z", "e"] * 20)
    described = prepare(["text.txt"], "out", Preparation(max_vocab=5, seed=3))
    counts = Counter(word for line in lines_of("out", "train") for word in line.split())
    del counts["<unk>"]
    whole = load_corpus("out", Path())
    assert len(whole.vocabulary) == described["types"] == 5
    raw = prepare(["text.txt"], "raw", Preparation(min_count=1, seed=3))
    assert raw["types"] == 8
    every = Counter(word for line in lines_of("raw", "train") for word in line.split())
    assert {*counts} == {*sorted(every, key=lambda word: (-every[word], word))[:3]}


def test_equals_at_the_limit_are_taken_by_code_point() -> None:
    write_lines(["b a Z"] * 30)
    prepare(["text.txt"], "out", Preparation(max_vocab=4))
    assert {*lines_of("out", "train")} == {"<unk> a Z"}


def test_lower_case_joins_words_before_they_are_counted() -> None:
    write_lines(["Straße STRASSE İ ÉTÉ été", "ΑΣ ας a"] * 20)
    described = prepare(["text.txt"], "out", Preparation(lower=True, min_count=30))
    assert {*lines_of("out", "train")} == {"<unk> <unk> <unk> été été", "ας ας <unk>"}
    assert described["types"] == 4
    done("data", "prepare", "text.txt", "--out", "again", "--lower", "--min-count", "30")
    assert contents(Path("again")) == contents(Path("out"))


def test_words_that_validation_alone_has_are_unk_and_that_is_said() -> None:
    write_lines([f"w{number} a" for number in range(40)])
    outcome = done("data", "prepare", "text.txt", "--out", "out", "--min-count", "1")
    assert {*lines_of("out", "valid")} == {"<unk> a"}
    assert "<unk>" not in Path("out/train.txt").read_text()
    (line,) = outcome.err.splitlines()
    assert line.startswith("train has no <unk>, so that a model cannot learn how likely it is in ")
    others = done("data", "prepare", "text.txt", "--out", "other").err
    assert others.startswith("<unk> is more than a tenth of the tokens in train (36 of 108 tokens")


# What it says


def test_what_it_says_is_what_data_info_and_the_files_say() -> None:
    rng = random.Random(1)
    write_lines([" ".join(rng.choices("abcdefgh", k=rng.randint(0, 5))) for _ in range(200)])
    options = ["--valid-share", "0.2", "--max-vocab", "8", "--seed", "4"]
    described = done_json("data", "prepare", "text.txt", "--out", "out", *options)
    settings_said = {key: described[key] for key in ("valid_share", "max_vocab", "seed", "lower")}
    assert settings_said == {"valid_share": 0.2, "max_vocab": 8, "seed": 4, "lower": False}
    info = done_json("data", "info", "--data", "out")
    assert (described["folder"], described["types"]) == ("out", info["types"])
    printed = done("data", "prepare", "text.txt", "--out", "again", *options).out
    for split, lines in (("train", 150), ("valid", 40), ("test", 10)):
        facts = described["splits"][split]
        words = [w for line in lines_of("out", split) for w in [*line.split(), "<eos>"]]
        assert facts == {
            "lines": lines,
            "tokens": len(words),
            "types": len({*words}),
            "unknown_share": words.count("<unk>") / len(words),
        }
        for key in ("tokens", "unknown_share"):
            assert info["splits"][split][key] == facts[key]
        assert f"{facts['tokens']:,}" in printed
        assert f"{facts['unknown_share']:.2%}" in printed
    assert printed.splitlines()[-1] == (
        "next: ptb-lm train --config small --data again --run-dir runs/again"
    )


@pytest.mark.parametrize(
    ("out", "data", "run_dir"),
    [
        ("texts/my words/", "'texts/my words'", "'runs/my words'"),
        ("texts/a/../b", "texts/a/../b", "runs/b"),
        ("-x", "-x", "runs/-x"),
    ],
)
def test_the_next_command_is_typed_as_it_stands(out: str, data: str, run_dir: str) -> None:
    write_lines(numbered(30))
    Path("texts/a").mkdir(parents=True)
    printed = done("data", "prepare", "text.txt", f"--out={out}").out.splitlines()[-1]
    assert printed == f"next: ptb-lm train --config small --data {data} --run-dir {run_dir}"


def test_a_notebook_calls_the_same_function() -> None:
    write_lines(numbered(30))
    described = package.prepare(["text.txt"], "out", package.Preparation(test_share=0))
    assert described == done_json(
        "data", "prepare", "text.txt", "--out", "out", "--overwrite", "--test-share", "0"
    )
    assert sorted(path.name for path in Path("out").iterdir()) == ["train.txt", "valid.txt"]


def test_standard_input_is_a_text_among_others(workplace: Path) -> None:
    write_lines(numbered(10))
    command = ["-m", "ptb_lm", "data", "prepare", "text.txt", "-", "--out", "out"]
    with Path("text.txt").open("rb") as piped:
        outcome = ended(start(workplace, *command, "--json", stdin=piped))
    assert (outcome.code, outcome.err) == (0, "")
    write_lines(2 * numbered(10), "twice.txt")
    prepare(["twice.txt"], "expected")
    assert contents(Path("out")) == contents(Path("expected"))
    outcome = ended(start(workplace, *command[:4], "-", "--out", "none"))  # of nothing
    assert (outcome.code, outcome.err) == (2, "error: standard input: no word in it\n")
    assert not Path("none").exists()


# Odd text

SPACES = " \t\r\v\f\x1c\x85\u00a0\u2028\u3000"
ODD = st.lists(
    st.text(st.sampled_from(f"ab\ufeff\u200bé語\x01{SPACES}"), max_size=12),
    min_size=12,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(ODD, st.booleans(), st.booleans())
def test_the_tokens_of_the_corpus_are_those_of_the_text(
    lines: list[str], has_mark: bool, is_ended: bool
) -> None:
    """Each word stays what it is, as a reader of the folder sees it, and each line one line."""
    lines[0] = f"\ufeffa b{lines[0]}"  # a word that looks like a mark
    text = "\n".join([*lines, *lines, *lines, "\ufeffa <eos> b"]) + "\n" * is_ended
    Path("text.txt").write_bytes(b"\xef\xbb\xbf" * has_mark + text.encode())
    shutil.rmtree("out", ignore_errors=True)
    try:
        prepare(["text.txt"], "out", Preparation(0.3, 0.2, min_count=1, seed=len(text)))
    except InputError as error:
        assert "no word in the" in str(error) or "leaves no word" in str(error)
        return
    if not has_mark:
        text = text.removeprefix("\ufeff")  # it was one
    expected = Counter(tuple(line.split()) for line in text.removesuffix("\n").split("\n"))
    corpus = load_corpus("out", Path())
    train = corpus.vocabulary.decode(corpus.splits["train"].tolist())
    known = {*train}
    found: Counter[tuple[str, ...]] = Counter()
    for split in SPLITS:
        written = Path("out", f"{split}.txt").read_bytes().decode()
        found.update(tuple(line.split()) for line in written[:-1].removeprefix(" ").split("\n"))
        words = corpus.vocabulary.decode(corpus.splits[split].tolist())
        assert words == [
            word for line in written[:-1].split("\n") for word in [*line.split(), "<eos>"]
        ]
    replaced: Counter[tuple[str, ...]] = Counter()
    for line, count in expected.items():
        replaced[tuple(word if word in known else "<unk>" for word in line)] += count
    assert found == replaced


def test_a_word_that_looks_like_a_mark_begins_a_file_and_stays() -> None:
    write_lines(["", *["\ufeffa b"] * 40])
    prepare(["text.txt"], "out")
    for split in SPLITS:
        assert Path("out", f"{split}.txt").read_text(encoding="utf-8").strip().startswith("\ufeffa")
    corpus = load_corpus("out", Path())
    assert "\ufeffa" in corpus.vocabulary.index
    assert "a" not in corpus.vocabulary.index


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b"a b\nc \xe9\n", "line 2, byte 6: not UTF-8 (0xe9)"),
        (b"a b\n" * 50_000 + b"c\0\n", "line 50001, byte 200001: a NUL byte"),
        ("a\n".encode("utf-16"), "line 1, byte 0: not UTF-8"),
    ],
)
def test_what_is_no_text_is_refused_with_file_line_and_byte(data: bytes, place: str) -> None:
    write_lines(numbered(30))
    Path("bad.txt").write_bytes(data)
    before = contents(Path())
    outcome = ptb_lm("data", "prepare", "text.txt", "bad.txt", "--out", "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: bad.txt: {place}")
    assert contents(Path()) == before


# Whole or not at all


def test_a_corpus_is_replaced_as_a_whole_if_that_is_asked_for() -> None:
    write_lines(numbered(30))
    prepare(["text.txt"], "out")
    before = contents(Path("out"))
    with pytest.raises(InputError, match="--out out: there already; use --overwrite"):
        prepare(["text.txt"], "out", Preparation(test_share=0))
    assert contents(Path("out")) == before
    prepare(["text.txt"], "out", Preparation(test_share=0), overwrite=True)
    assert contents(Path("out")).keys() == {"train.txt", "valid.txt"}
    assert sorted(contents(Path())) == ["out", "out/train.txt", "out/valid.txt", "text.txt"]


def test_the_folders_above_are_made_and_an_empty_one_is_taken() -> None:
    write_lines(numbered(30))
    prepare(["text.txt"], "some/where/out")
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    prepare(["text.txt"], "link")
    assert contents(Path("empty")) == contents(Path("some/where/out"))
    assert Path("link").is_symlink()
    umask = os.umask(0o022)
    os.umask(umask)
    assert stat.S_IMODE(Path("empty").stat().st_mode) == 0o777 & ~umask


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """A disk that is full, as far as this process is concerned."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("size", [0, 100, 500])
@pytest.mark.parametrize("was_there", [False, True])
def test_a_write_that_fails_leaves_what_was_there(size: int, was_there: bool) -> None:
    write_lines(numbered(40))
    if was_there:
        prepare(["text.txt"], "out", Preparation(seed=2))
    before = contents(Path())
    with files_of_at_most(size), pytest.raises(PtbLmError, match="out: cannot be written: File "):
        prepare(["text.txt"], "out", overwrite=True)
    assert contents(Path()) == before


def test_a_move_that_fails_brings_the_old_folder_back(monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(numbered(40))
    prepare(["text.txt"], "out", Preparation(seed=2))
    before = contents(Path())
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(PtbLmError, match="out: cannot be written: Input/output error"):
        prepare(["text.txt"], "out", overwrite=True)
    assert contents(Path()) == before


class Countdown(StopFlag):
    """A flag that a signal has raised when it has been looked at so many times."""

    def __init__(self, looks_left: int) -> None:
        super().__init__()
        self.looks_left = looks_left

    def check(self) -> None:
        if not self.looks_left:
            raise Stopped(signal.SIGTERM)
        self.looks_left -= 1


def test_a_signal_at_any_time_leaves_what_was_there() -> None:
    write_lines(numbered(40))
    prepare(["text.txt"], "out", Preparation(seed=2))
    before = contents(Path())
    undisturbed = Countdown(1000)
    prepare(["text.txt"], "whole", stop=undisturbed)
    shutil.rmtree("whole")
    looks = 1000 - undisturbed.looks_left
    assert looks >= 4
    for looks_left in range(looks):
        with pytest.raises(Stopped):
            prepare(["text.txt"], "out", overwrite=True, stop=Countdown(looks_left))
        assert contents(Path()) == before


def test_a_wait_for_standard_input_is_ended_by_a_signal(workplace: Path) -> None:
    reader, writer = os.pipe()
    command = ["-m", "ptb_lm", "data", "prepare", "-", "--out", "out"]
    process = start(workplace, *command, stdin=reader)
    os.close(reader)
    os.write(writer, b"a b c\n" * 100_000)  # returns when it has read most of it
    process.send_signal(signal.SIGTERM)
    outcome = ended(process)
    os.close(writer)
    assert (outcome.code, outcome.err) == (143, "stopped by SIGTERM\n")
    assert contents(workplace) == {}


@pytest.mark.parametrize("killed", ["before the moves", "between the moves", "after the moves"])
def test_what_a_kill_has_left_is_put_right_by_the_next_call(killed: str) -> None:
    write_lines(numbered(40))
    prepare(["text.txt"], "out", Preparation(seed=2))
    old = contents(Path("out"))
    left = Path(".out.abcd_123.partial")
    shutil.copytree("out", left / "new")
    if killed != "before the moves":
        Path("out").rename(left / "replaced")
    if killed == "after the moves":
        (left / "new").rename("out")
    with durable.durable_folder(Path("other")) as new:
        (new / "train.txt").touch()
    assert left.exists()  # it is another's
    with pytest.raises(ZeroDivisionError), durable.durable_folder(Path("out"), replace=True):
        raise ZeroDivisionError
    assert contents(Path("out")) == old
    assert sorted(path.name for path in Path().iterdir()) == ["other", "out", "text.txt"]


def test_what_came_meanwhile_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the first look and the lock somebody has put more than a corpus there."""
    write_lines(numbered(40))
    prepare(["text.txt"], "out", Preparation(seed=2))
    held = room.place_held

    def note_first(folder: Path, stop: StopFlag) -> Any:
        Path("out/note.txt").write_text("mine")
        return held(folder, stop)

    monkeypatch.setattr(room, "place_held", note_first)
    outcome = ptb_lm("data", "prepare", "text.txt", "--out", "out", "--overwrite")
    assert outcome.code == 2
    assert "note.txt in it is no part of a corpus and would go" in outcome.err
    assert Path("out/note.txt").read_text() == "mine"


def test_a_folder_is_on_disk_before_it_is_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a loss of power could leave one whose files are empty."""
    events: list[str] = []
    fsync, rename = os.fsync, os.rename

    def flushed(descriptor: int) -> None:
        number = os.fstat(descriptor).st_ino
        places = [path for path in Path().absolute().rglob("*") if path.stat().st_ino == number]
        events.append(f"fsync {places[0].name if places else 'parent'}")
        fsync(descriptor)

    def moved(source: Any, target: Any) -> None:
        rename(source, target)
        events.append(f"{Path(target).name} put in place")

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "rename", moved)
    with durable.durable_folder(Path("out")) as new:
        (new / "train.txt").write_text("a b")
    assert events == ["fsync train.txt", "fsync new", "out put in place", "fsync parent"]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_disk_that_cannot_flush_folders_is_used_all_the_same(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    fsync = os.fsync

    def of_files_only(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", of_files_only)
    write_lines(numbered(40))
    outcome = ptb_lm("data", "prepare", "text.txt", "--out", "out")
    if number == errno.EINVAL:
        assert outcome.code == 0, outcome.err
        return
    assert outcome.code == 1  # it can, and failed
    assert outcome.err.endswith(f"out: cannot be written: {os.strerror(number)}\n")


def test_what_a_kill_has_left_of_another_folder_is_let_be() -> None:
    """Names with a dot begin like others: ``out.v2`` like ``out``."""
    left = Path(".out.v2.abcd_123.partial")
    (left / "replaced").mkdir(parents=True)
    (left / "replaced" / "train.txt").write_text("all that is left of out.v2")
    for replace in (False, True):
        with durable.durable_folder(Path("out"), replace=replace) as new:
            (new / "train.txt").touch()
        assert (left / "replaced" / "train.txt").exists()
    with durable.durable_folder(Path("out.v3")):
        pass
    assert not Path("out.v2").exists()


def test_a_folder_that_a_kill_has_left_stops_nobody() -> None:
    left = Path(".model.abcd_123.partial")
    (left / "replaced").mkdir(parents=True)
    Path(".last.pt.77.partial").touch()
    durable.remove_partial_files(Path())
    assert (left / "replaced").exists()
    assert not Path(".last.pt.77.partial").exists()


def test_a_prepared_text_is_trained_on() -> None:
    rng = random.Random(1)
    write_lines([" ".join(rng.choices("abcdefgh", k=rng.randint(1, 9))) for _ in range(200)])
    done("data", "prepare", "text.txt", "--out", "text", "--valid-share", "0.2")
    summary = done(*train_arguments("run")).out
    assert "vocabulary 10 words, <unk> is 0.00% of valid and 0.00% of test" in summary
