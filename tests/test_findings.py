"""Findings about a corpus: `data prepare`, `data info` and `train` report the same ones."""

import random
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cli_support import done, done_json, ptb_lm, train_arguments

from ptb_lm.corpus.findings import corpus_findings
from ptb_lm.corpus.lines import are_in, count_blank_lines, line_hashes
from ptb_lm.corpus.load import Corpus, load_corpus
from ptb_lm.corpus.oddities import Oddities
from ptb_lm.corpus.prepare import prepare
from ptb_lm.corpus.tokens import PART_TOKENS
from ptb_lm.corpus.unknown import UnknownWords
from ptb_lm.corpus.vocabulary import Vocabulary

NOUNS = [f"noun{number}" for number in range(60)]


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sentences(count: int, seed: int = 1) -> list[str]:
    """Lines of ten words, none of which comes twice but by chance."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(NOUNS, k=10)) for _ in range(count)]


def write(path: str, lines: list[str], end: str = "\n") -> None:
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_bytes("".join(line + end for line in lines).encode())


def write_corpus(change: Callable[[str], str] = str, end: str = "\n") -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        lines = sentences(400 if split == "train" else 50, seed)
        lines[0] = f"<unk> {lines[0]}"
        write(f"text/{split}.txt", [change(line) for line in lines], end)


def kinds(*command: str) -> dict[str, int]:
    found = done_json("data", *command)["warnings"]
    counts: dict[str, int] = {}
    for finding in found:
        assert "\n" not in finding["message"]
        counts[finding["kind"]] = counts.get(finding["kind"], 0) + finding["count"]
    return counts


def test_ordinary_corpus_has_no_findings() -> None:
    write_corpus()
    assert kinds("info", "--data", "text") == {}
    assert done("data", "info", "--data", "text").err == ""
    write("one.txt", sentences(600))
    assert kinds("prepare", "one.txt", "--out", "out") == {}


@pytest.mark.corpus
def test_penn_treebank_has_no_findings(data_dir: Path) -> None:
    """As itself, and as a folder and a text of a user's own."""
    Path("text").mkdir()
    for split in ("train", "valid", "test"):
        source = data_dir / "ptb" / f"ptb.{split}.txt"
        Path("text", f"{split}.txt").write_bytes(source.read_bytes())
    assert done("data", "info", "--data-dir", str(data_dir)).err == ""
    assert kinds("info", "--data", "text") == {}
    assert kinds("prepare", "text/train.txt", "--out", "out") == {}


def test_synthetic_corpus_has_no_findings(synthetic: Corpus) -> None:
    assert corpus_findings(synthetic) == []
    assert done("data", "info", "--data", "synthetic").err == ""


CHANGES: dict[str, tuple[Callable[[str], str], str, str, int]] = {
    "<s> and </s>": (lambda line: f"<s> {line} </s>", "\n", "sentence-markers", 1000),
    "<s> without a space": (lambda line: f"<s>{line}</s>", "\n", "attached-markers", 1000),
    "<eol>": (lambda line: f"{line} <eol>", "\n", "sentence-markers", 500),
    "<unk> and a comma": (lambda line: f"{line} <unk>,", "\n", "attached-markers", 500),
    "<eos>": (lambda line: f"{line} <eos>", "\n", "eos-in-lines", 500),
    "<UNK>": (lambda line: line.replace("noun7 ", "<UNK> "), "\n", "other-unknown", 0),
    "[UNK]": (lambda line: line.replace("noun7 ", "[UNK] "), "\n", "other-unknown", 0),
    "blank lines": (str, "\n\n", "blank-lines", 500),
    "blank lines of CRLF": (str, "\r\n \r\n", "blank-lines", 500),
    "CR": (str, "\r", "line-ends", 500),
    "U+2028": (str, "\u2028", "line-ends", 500),
    "byte order marks": (lambda line: f"{line} \ufeffnoun", "\n", "byte-order-marks", 500),
    "no spaces": (lambda line: line.replace(" ", ""), "\n", "no-spaces", 400),
}


@pytest.mark.parametrize(("change", "end", "kind", "count"), CHANGES.values(), ids=CHANGES)
def test_peculiar_text_is_named_by_each_command(
    change: Callable[[str], str], end: str, kind: str, count: int
) -> None:
    write_corpus(change, end)
    texts = [Path(f"text/{split}.txt").read_bytes() for split in ("train", "valid")]
    Path("whole.txt").write_bytes(b"".join(texts))
    found = kinds("info", "--data", "text")
    assert next(iter(found)) == kind
    if count:
        assert found[kind] == count
    error = done("data", "info", "--data", "text").err
    assert error.startswith("text/train.txt: ")
    assert error in done(*train_arguments("run", "--max-steps", "1")).err
    resumed = done(*train_arguments("run", "--resume", "--max-steps", "2")).err
    assert error.splitlines()[0] not in resumed
    outcome = ptb_lm("data", "prepare", "whole.txt", "--out", "out", "--min-count", "1")
    assert "whole.txt: " in outcome.err
    if outcome.code == 0:
        again = kinds("prepare", "whole.txt", "--out", "again", "--min-count", "1")
        assert next(iter(again)) == kind


def test_remedies_remove_what_they_name() -> None:
    """The commands in the messages, run as they stand."""
    write_corpus(lambda line: f"<s> {line} [UNK] </s>", "\r\n\r\n")
    for _ in range(6):
        found = done_json("data", "info", "--data", "text")["warnings"]
        if not found:
            break
        remedy = found[0]["message"].rpartition("as with: ")[2]
        for split in ("train", "valid", "test"):
            path = Path(f"text/{split}.txt")
            path.write_bytes(
                subprocess.run(
                    ["sh", "-c", remedy], input=path.read_bytes(), stdout=-1, check=True
                ).stdout
            )
    assert found == []


def test_ordinary_line_ends_are_silent() -> None:
    write_corpus(end="\r\n")
    assert kinds("info", "--data", "text") == {}
    write_corpus(end="\r\r\n")
    assert kinds("info", "--data", "text") == {}
    write_corpus()
    with Path("text/train.txt").open("a") as file:
        file.write("\n")  # a single blank line at the end
    assert kinds("info", "--data", "text") == {}


def test_error_names_what_may_have_caused_it() -> None:
    write("cr.txt", sentences(100), "\r")
    outcome = ptb_lm("data", "prepare", "cr.txt", "--out", "out")
    assert outcome.code == 2
    assert "too few lines (1)" in outcome.err
    assert "100 lines are ended by CR alone" in outcome.err
    assert "tr -s '\\r' '\\n' < cr.txt" in outcome.err


@pytest.mark.parametrize("part", [1, 2, 3, 7])
def test_characters_are_counted_wherever_a_part_ends(part: int) -> None:
    text = "a\rb\r\nc\r\r\nd\u2028<eos>\ufeff\n\r"
    oddities = Oddities()
    for start in range(0, len(text), part):
        oddities.see(text[start : start + part])
    assert oddities.line_feeds == 3
    assert oddities.separators == {"\r": 2, "\x85": 0, "\u2028": 1, "\u2029": 0}
    assert (oddities.marks, oddities.written_eos) == (1, 1)


# Unknown words


def test_training_text_without_unk_is_named() -> None:
    write("text/train.txt", sentences(400))
    write("text/valid.txt", [*sentences(50, 2), "zelda noun1"])
    (line,) = done("data", "info", "--data", "text").err.splitlines()
    assert line == (
        "text/train.txt has no <unk>, so that a model cannot learn how likely it is in "
        "text/valid.txt (1 of 553 tokens, 0.2 %); `ptb-lm data prepare` makes some of rare words"
    )
    assert line in done(*train_arguments("run", "--max-steps", "1")).err


def test_other_spelling_of_unk_has_one_remedy() -> None:
    write_corpus(lambda line: line.replace("<unk>", "<UNK>") + " <UNK>")
    path = Path("text/valid.txt")
    path.write_text(path.read_text().replace("<UNK>", "<unk>"))
    assert kinds("info", "--data", "text").keys() == {"other-unknown"}


def test_validation_in_capitals_is_named() -> None:
    write_corpus()
    text = Path("text/valid.txt").read_text().upper().replace("<UNK>", "<unk>")
    Path("text/valid.txt").write_text(text)
    error = done("data", "info", "--data", "text").err
    assert "text/valid.txt: 500 of 551 tokens (90.7 %) are not in the vocabulary" in error
    assert "all of them have capitals" in error


def test_much_unk_has_a_remedy_that_does_not_go_in_a_circle() -> None:
    rng = random.Random(1)
    words = [f"w{rng.randint(0, 3000)}" for _ in range(3000)]
    write("rare.txt", [" ".join(words[start : start + 10]) for start in range(0, 3000, 10)])

    def error(*options: str) -> str:
        return done("data", "prepare", "rare.txt", "--out", "out", "--overwrite", *options).err

    assert "--min-count 2 or more makes some" in error("--min-count", "1")
    at_two = error()
    assert "<unk> is more than a tenth of the tokens in train (" in at_two
    assert "give more text" in at_two
    assert "--min-count" not in at_two
    assert "lower --min-count" in error("--min-count", "3")
    assert "raise --max-vocab" in error("--max-vocab", "50")


def test_unspaced_script_is_named_with_any_min_count() -> None:
    rng = random.Random(1)
    han = "他喜猫我山狗地水见欢你大天书人"
    write("zh.txt", ["".join(rng.choices(han, k=9)) + "。" for _ in range(300)] + ["你好。"] * 60)
    for count in ("1", "2", "3"):
        arguments = ["prepare", "zh.txt", "--out", "out", "--overwrite", "--min-count", count]
        assert list(kinds(*arguments)) == ["no-spaces"]
    assert list(kinds("info", "--data", "out")) == ["no-spaces"]
    spaced = Path("zh.txt").read_text(encoding="utf-8").replace("", " ").replace(" \n ", "\n")
    Path("zh.txt").write_text(spaced, encoding="utf-8")
    assert "no-spaces" not in kinds("prepare", "zh.txt", "--out", "out", "--overwrite")


# Lines of other splits in the training text


def test_training_lines_in_the_test_text_are_counted() -> None:
    write_corpus()
    train, test = Path("text/train.txt"), Path("text/test.txt")
    leaked = test.read_text().splitlines()[10:20]
    train.write_text(train.read_text() + "\n".join(leaked) + "\n")
    assert kinds("info", "--data", "text") == {"repeated-lines": 10}
    assert "10 of 50 lines of text/test.txt stand in text/train.txt too (10 of the 50 with" in (
        done("data", "info", "--data", "text").err
    )


def test_text_given_twice_is_named() -> None:
    write("one.txt", sentences(600))
    assert kinds("prepare", "one.txt", "one.txt", "--out", "out")["repeated-lines"] > 90
    assert kinds("info", "--data", "out")["repeated-lines"] > 90
    train = {*Path("out/train.txt").read_text().splitlines()}
    test = Path("out/test.txt").read_text().splitlines()
    count = sum(line in train for line in test)
    assert f"{count} of 60 lines of out/test.txt" in done("data", "info", "--data", "out").err


def test_repeated_phrases_of_a_small_language_are_silent() -> None:
    """Short lines, and long ones of a text that repeats itself, come again by chance."""
    rng = random.Random(1)
    forms = [" ".join(rng.choices(NOUNS, k=9)) for _ in range(8000)]
    write("log.txt", [*rng.choices(forms, k=4000), *["noun1 noun2 ."] * 900])
    assert "repeated-lines" not in kinds("prepare", "log.txt", "--out", "out")


def test_lines_are_compared_wherever_a_part_ends() -> None:
    rng = random.Random(1)
    lines = [[rng.randint(1, 5) for _ in range(rng.randint(0, 12))] for _ in range(300)]
    lines[7] = [1] * (PART_TOKENS + 1)  # too long to be compared
    tokens = np.array([token for line in lines for token in [*line, 0]], np.int32)
    ordinary = np.array([True] * 5 + [False])
    whole = np.concatenate([*line_hashes([tokens], 0, ordinary)])
    cut = np.concatenate([*line_hashes(np.array_split(tokens, 977), 0, ordinary)])
    assert np.array_equal(whole, cut)
    for number, line in enumerate(lines):
        same = [other for other, each in enumerate(lines) if each == line]
        if line and number != 7:
            assert np.flatnonzero(whole == whole[number]).tolist() == same
            assert whole[number] % 2 == (sum(token != 5 for token in line) >= 8)
        else:
            assert whole[number] == 0
    found = are_in(whole[:100], [whole[50:200], whole[200:]])
    rest = lines[50:]
    assert found.tolist() == [bool(whole[i]) and lines[i] in rest for i in range(100)]
    assert count_blank_lines(tokens, 0) == lines.count([])


# Files under other names


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *[(name, "valid") for name in ("val.txt", "dev.txt", "validation.txt", "Valid.TXT")],
        *[(name, "train") for name in ("TRAIN.TXT", "train.txt.gz", "training.txt", "train")],
        *[("valid.txt.xz", "valid"), ("wiki.valid.tokens", "valid"), ("train.text", "train")],
    ],
)
def test_file_under_another_name_is_suggested(name: str, split: str) -> None:
    write_corpus()
    Path(f"text/{split}.txt").rename(f"text/{name}")
    for command in (["data", "info", "--data", "text"], train_arguments("run")):
        outcome = ptb_lm(*command)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert outcome.err.startswith(f"error: text/{split}.txt: cannot be read: No such file")
        assert f"if {name} is its text, rename it to {split}.txt" in outcome.err


def test_folder_below_is_suggested() -> None:
    write_corpus()
    Path("all").mkdir()
    Path("text").rename("all/text")
    outcome = ptb_lm("data", "info", "--data", "all")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "all/text has such a file; try --data with that folder" in outcome.err


def test_test_text_under_another_name_is_named() -> None:
    write_corpus()
    Path("text/test.txt").rename("text/test.txt.bz2")
    (line,) = done("data", "info", "--data", "text").err.splitlines()
    assert "if test.txt.bz2 is the test text, rename it to test.txt" in line
    Path("text/test.txt.bz2").rename("text/test.py")
    assert done("data", "info", "--data", "text").err == ""


def test_findings_change_nothing_that_is_read() -> None:
    write_corpus(lambda line: f"<s> {line}\ufeff </s> <eos>", "\r\n\n")
    corpus = load_corpus("text", Path())
    before = {split: tokens.copy() for split, tokens in corpus.splits.items()}
    assert len(corpus_findings(corpus)) >= 6
    assert all(np.array_equal(corpus.splits[split], tokens) for split, tokens in before.items())


def test_prepare_logs_and_returns_its_findings(caplog: pytest.LogCaptureFixture) -> None:
    write("one.txt", sentences(300), "\n\n")
    (finding,) = prepare(["one.txt"], "out")["warnings"]
    assert (finding["kind"], finding["count"]) == ("blank-lines", 300)
    assert [record.getMessage() for record in caplog.records] == [finding["message"]]


def test_validation_that_is_the_training_text() -> None:
    """Also of so few sentences that all of them are repeated anyway."""
    write_corpus()
    lines = ["<unk> sees noun1", "noun1 sees noun2", "noun2 sees noun3"] * 100
    write("text/train.txt", lines)
    write("text/valid.txt", lines)
    found = done_json("data", "info", "--data", "text")["warnings"]
    messages = [each["message"] for each in found if each["kind"] == "same-text"]
    assert len(messages) == 1
    assert "text/valid.txt is the same text as text/train.txt" in messages[0]


def test_written_unk_has_another_remedy_than_rare_words() -> None:
    write("whole.txt", [f"{line} <unk> <unk> <unk>" for line in sentences(400)])
    (finding,) = done_json("data", "prepare", "whole.txt", "--out", "out")["warnings"]
    assert finding["kind"] == "many-unknown"
    assert "the text itself has 1,200 of them" in finding["message"]
    assert "give more text" not in finding["message"]


def test_no_spaces_has_one_remedy_for_all_splits() -> None:
    write_corpus(lambda line: line.replace(" ", ""))
    found = done_json("data", "info", "--data", "text")["warnings"]
    assert {each["kind"] for each in found} == {"no-spaces"}


def test_copied_test_of_short_lines() -> None:
    """Where no line has eight words, a split is judged by all its lines."""
    rng = random.Random(2)
    words = [f"word{number}" for number in range(60)]
    lines = [" ".join(rng.choices(words, k=5)) for _ in range(400)]
    write("text/train.txt", lines)
    write("text/valid.txt", lines[:40])
    write("text/test.txt", [" ".join(rng.choices(words, k=5)) for _ in range(40)])
    found = kinds("info", "--data", "text")
    assert found == {"repeated-lines": 40}


def test_punctuation_of_a_raw_text_is_no_mistake() -> None:
    """A model of a text whose punctuation is attached is not told to separate it."""
    raw = Vocabulary(["<eos>", "<unk>", "the", "dog", "dog,", "cat,", "cat", "end."])
    unknown = UnknownWords(raw)
    unknown.see(["the", "end,"], raw.encode(["the", "end,"]))
    assert unknown.explanation() is None
    spaced = Vocabulary(["<eos>", "<unk>", "the", "dog", ",", ".", "cat", "end"])
    unknown = UnknownWords(spaced)
    unknown.see(["the", "end,"], spaced.encode(["the", "end,"]))
    assert "put spaces around punctuation" in str(unknown.explanation())


def test_replacing_whole_words_only() -> None:
    """The remedy leaves a word alone that holds another spelling of the unknown word."""
    write("text.txt", ["the DRUNK saw UNK and UNK [UNK] ."] * 40)
    (warning,) = [line for line in warnings("text.txt") if "ordinary words" in line]
    command = warning.partition("as with: ")[2]
    remedied = subprocess.run(
        f"{command} text.txt | head -1", shell=True, capture_output=True, text=True, check=True
    )
    assert remedied.stdout == "the DRUNK saw <unk> and <unk> <unk> .\n"


def test_commas_alone_are_no_spaces_between_words() -> None:
    rng = random.Random(5)
    han = "我们今天去公园看书他学校吃饭天气很好的是不了人这中大"
    clauses = ["".join(rng.choices(han, k=length)) for length in (5, 7) * 300]
    write(
        "zh.txt", [f"{a}\uff0c {b}\u3002" for a, b in zip(clauses[::2], clauses[1::2], strict=True)]
    )
    assert "no-spaces" in kinds("prepare", "zh.txt", "--out", "out", "--min-count", "1")


def test_split_in_capitals_is_not_called_short_of_text() -> None:
    write_corpus()
    write("text/valid.txt", [line.upper() for line in sentences(50, 1)])
    found = kinds("info", "--data", "text")
    assert "unknown-words" in found
    assert "many-unknown" not in found


def warnings(path: str) -> list[str]:
    return done("data", "prepare", path, "--out", "out").err.splitlines()
