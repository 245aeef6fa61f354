"""Unknown words: every command that reads a text says how many there are, and why."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import Outcome, done, done_json, ptb_lm, train_arguments
from small_models import decided_model

from ptb_lm.corpus.unknown import UnknownWords
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.training.checkpoint import Checkpoint, save_checkpoint

LOWER = ["the", "dog", "sees", "a", "cat", "n't", "do", "'s"]
CASED = [*LOWER, "Anna", "The", ".", ",", '"']


def message_of(vocabulary: Sequence[str], text: str) -> str | None:
    words = Vocabulary(["<eos>", "<unk>", *vocabulary])
    unknown = UnknownWords(words)
    tokens = [token for line in text.splitlines() for token in [*line.split(), "<eos>"]]
    for token in tokens:  # a text may come in any parts
        unknown.see([token], words.encode([token]))
    return unknown.message("text")


@pytest.mark.parametrize(
    ("vocabulary", "text", "count", "reason"),
    [
        (LOWER, "The DOG sees Quux", "3 of 5", "all of them have capitals (The), and the voc"),
        (CASED, "ANNA SEES THE dog", "3 of 5", "all of them differ from a known word only in cap"),
        (CASED, "the dog, sees a cat.", "2 of 6", "all of them have punctuation attached (dog,)"),
        (LOWER, "the dog, sees a cat.", "2 of 6", "and the vocabulary has none; remove it"),
        (CASED, "do don't dog's", "2 of 4", "have punctuation attached (don't)"),
        (CASED, "Dog, CAT, SEES. DOG cat.", "5 of 6", "have capitals or punctuation attached"),
        (LOWER, "the dog .", "1 of 4", "are punctuation (.), and the vocabulary has none"),
        (["狗", "猫", "看"], "狗看猫\n猫看狗狗", "2 of 4", "are text without spaces"),
        (LOWER, "thedogseesacatthedogseesacatthedogseesacat", "1 of 2", "text without spaces"),
        (LOWER, "thedogseesacatthecat", "1 of 2", "text without spaces"),
        (LOWER, "<s> the dog </s>", "2 of 5", "mark the ends of sentences (<s>)"),
        (CASED, "\u201cthe dog.\u201d the.\u201d", "3 of 4", "have punctuation attached"),
        (["été"], "e\u0301te\u0301 été", "1 of 3", "are known in Unicode form NFC"),
        (["e\u0301te\u0301"], "été", "1 of 2", "are known in Unicode form NFD"),
        (["do", "don't"], "don\u2019t do", "1 of 3", "have curly quotes"),
        (["R&D", "dog"], "R&amp;D dog", "1 of 3", "hold an HTML entity (R&amp;D)"),
        (LOWER, "\u2581the \u2581do g", "3 of 4", "are pieces of words (\u2581the)"),
        (CASED, "An@@ d@@ the", "2 of 4", "are pieces of words (An@@)"),
        (LOWER, "the_DT dog/NN sees", "2 of 4", "have a tag attached (the_DT)"),
        (LOWER, "\ufeffthe dog", "1 of 3", "hold an invisible character"),
        (LOWER, "<UNK> dog [UNK]", "2 of 4", "are other spellings of the unknown word (<UNK>)"),
        ([*LOWER, "N"], "the 1,200 3.5%", "2 of 4", "are numbers (1,200), which are N in the"),
    ],
)
def test_reason_is_named(vocabulary: list[str], text: str, count: str, reason: str) -> None:
    message = message_of(vocabulary, text)
    assert message is not None
    assert message.startswith(f"text: {count} tokens (")
    assert "are not in the vocabulary and count as <unk>; " in message
    assert reason in message


@pytest.mark.parametrize("text", ["the dog sees quux xyzzy", "The dog quux xyzzy plugh", "a 7 n 8"])
def test_no_reason_without_a_majority(text: str) -> None:
    message = message_of([*LOWER, "Anna", "N", "12"], text)
    assert message is not None
    assert message.endswith("count as <unk>")


def test_vocabulary_of_pieces_has_no_whole_words_to_give() -> None:
    message = message_of(["\u2581the", "\u2581dog"], "\u2581the \u2581cat")
    assert message is not None
    assert message.endswith("count as <unk>")


def test_known_text_is_silent() -> None:
    assert message_of(LOWER, "the dog sees <unk>\n\na cat") is None


def test_memory_does_not_grow_with_the_text() -> None:
    vocabulary = Vocabulary(["<eos>", "<unk>", *CASED])
    unknown = UnknownWords(vocabulary)
    for number in range(100_000):
        word = f"Word{number}" * (1 + 50 * (number % 2))
        unknown.see([word], vocabulary.encode([word]))
    assert unknown.missing == 100_000
    assert unknown._remembered.cache_info().currsize < 20_000
    assert all(len(word) <= 100 for word in unknown._examples.values())


# The commands


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of a model over lower-case words."""
    trained = decided_model(LOWER)
    checkpoint = Checkpoint(
        trained.config, trained.vocabulary, "0" * 64, trained.network.weights(), 1, 9.0
    )
    path = tmp_path_factory.mktemp("model") / "model.pt"
    save_checkpoint(checkpoint, path)
    return str(path)


TEXT = "The Dog sees <unk>\na CAT sees xyzzy\n"
WARNING = (
    "text.txt: 4 of 10 tokens (40.0 %) are not in the vocabulary and count as <unk>; 3 of them "
    "have capitals (The), and the vocabulary has none; put the text into lower case\n"
)


@pytest.fixture(autouse=True)
def text(empty_workplace: Path) -> None:
    Path("text.txt").write_text(TEXT)
    Path("nbest.txt").write_text("u-1 The Dog sees <unk>\nu-2 a CAT sees xyzzy\n")


@pytest.mark.parametrize("options", [[], ["--per-word"], ["--continuous"], ["--line-buffered"]])
@pytest.mark.parametrize("form", [[], ["--json-lines"]])
def test_score_reports_each_mode(model: str, options: list[str], form: list[str]) -> None:
    outcome = done("score", model, "text.txt", *options, *form)
    assert outcome.err == WARNING
    if form:
        rows = [json.loads(line) for line in outcome.out.splitlines()]
        assert sum(row["unknown"] for row in rows) == 5  # <unk> itself is scored as <unk> too


def test_score_reports_nbest(model: str) -> None:
    outcome = done("score", model, "nbest.txt", "--nbest", "numbered")
    assert outcome.err.endswith("\n" + WARNING.replace("text.txt", "nbest.txt"))


def test_score_reports_several_texts_together(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert done("score", model, "text.txt", "text.txt").err.startswith("2 files: 8 of 20 tokens")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert done("score", model).err == WARNING.replace("text.txt", "standard input")


def test_score_reports_what_a_reader_has_taken(model: str, tmp_path: Path) -> None:
    """As in ``ptb-lm score … | head -1``."""
    Path("text.txt").write_text(TEXT * 3_000)
    command = [sys.executable, "-m", "ptb_lm", "score", model, "text.txt"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 0
    assert error.count("\n") == 1
    assert "(40.0 %) are not in the vocabulary and count as <unk>; " in error


def test_score_of_known_words_is_silent(model: str) -> None:
    Path("text.txt").write_text("the dog <unk>\n\na cat\n")
    assert done("score", model, "text.txt").err == ""


def test_eval_reports_a_text(model: str) -> None:
    outcome = done("eval", model, "--text", "text.txt", "--json")
    assert outcome.err == WARNING
    assert json.loads(outcome.out)["unknown"] == {
        "tokens": 10,
        "not_in_vocabulary": 4,
        "written_as_unk": 1,
    }


def test_generate_reports_a_prompt(model: str) -> None:
    outcome = done("generate", model, "--words", "2", "--prompt", "The CAT xyzzy the")
    assert outcome.err == (
        "--prompt: 3 of 4 words (75.0 %) are not in the vocabulary and count as <unk>: "
        "The CAT xyzzy; 2 of them have capitals (The), and the vocabulary has none; put the text "
        "into lower case\n"
    )
    assert done("generate", model, "--words", "2", "--prompt", "the cat").err == ""


def test_api_gives_the_counts(model: str) -> None:
    import ptb_lm as package

    scores = package.evaluate(package.load(model), text="text.txt")
    assert scores.unknown == {"tokens": 10, "not_in_vocabulary": 4, "written_as_unk": 1}


def test_eval_reports_a_changed_test_text() -> None:
    torch.set_num_threads(1)
    Path("text").mkdir()
    for split in ("train", "valid", "test"):
        Path("text", f"{split}.txt").write_text("the dog sees a cat <unk> dog\n" * 30)
    done(*train_arguments("run", training__epochs=1))
    assert done("eval", "run").err == ""
    assert done_json("eval", "run")["unknown"]["not_in_vocabulary"] == 0
    Path("text/test.txt").write_text("The Dog sees\n" * 9)
    warning = done("eval", "run").err
    assert warning.startswith("text/test.txt: 18 of 36 tokens (50.0 %) are not in the vocabulary")
    assert done_json("eval", "run")["unknown"]["not_in_vocabulary"] == 18
    assert done("eval", "run", "run/best.pt").err == warning  # once for several models


def test_short_text_is_named(model: str) -> None:
    Path("text.txt").write_text("a dog\n")
    outcome: Outcome = ptb_lm("eval", model, "--text", "text.txt", "--protocol", "columns")
    assert outcome.code == 2
    assert outcome.err == (
        "error: text.txt has 3 tokens; 20 columns need at least 21; use --protocol stream, or "
        "give more text\n"
    )


def test_json_of_average_stays_as_it_was(model: str) -> None:
    done("eval", model, "--text", "text.txt", "--save-scores", "scores.npz")
    result: dict[str, Any] = done_json("average", "scores.npz")
    assert list(result) == ["split", "protocol", "members", "average"]


def test_lines_ended_by_cr_are_reported(model: str) -> None:
    Path("cr.txt").write_bytes(b"the dog\rthe dog\rthe dog\r")
    for command in (("score", model, "cr.txt"), ("eval", model, "--text", "cr.txt")):
        assert "cr.txt: 3 lines are ended by CR alone" in done(*command).err
    Path("crlf.txt").write_bytes(b"the dog\r\nthe dog\r\n")
    assert done("score", model, "crlf.txt").err == ""
