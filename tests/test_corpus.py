"""Text, vocabulary, batching: DESIGN-level numbers on the real corpus, properties on any."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from short_runs import ended, start

from ptb_lm.corpus import tokens as tokens_room
from ptb_lm.corpus.batching import (
    evaluation_windows,
    training_columns,
    training_window,
    windows_per_epoch,
)
from ptb_lm.corpus.load import Corpus
from ptb_lm.corpus.tokens import (
    BLOCK_TOKENS,
    TokenBuffer,
    count_token,
    count_types,
    parts_of,
)
from ptb_lm.corpus.vocabulary import Vocabulary, encode_training_text
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import text_sha256


def test_the_vocabulary_is_ordered_by_frequency_then_by_code_point() -> None:
    vocabulary, tokens = encode_training_text([["b", "a", "c"], ["c", "<eos>"]])
    assert tokens.tolist() == [3, 2, 0, 0, 1]
    assert vocabulary.words == ["c", "<eos>", "a", "b", "<unk>"]
    assert vocabulary.encode(["c", "nowhere", "a"]).tolist() == [0, 4, 2]
    assert vocabulary.decode([3, 0]) == ["b", "c"]


@given(
    st.lists(st.lists(st.sampled_from([*"abcdefg", "<eos>", "<unk>"]), max_size=9), min_size=1),
    st.lists(st.sampled_from("abxyz"), min_size=1),
)
def test_a_text_is_encoded_as_it_would_be_whole(batches: list[list[str]], other: list[str]) -> None:
    words = [word for batch in batches for word in batch]
    counts = Counter(words)
    expected = sorted({*words, "<eos>", "<unk>"}, key=lambda word: (-counts[word], word))
    vocabulary, tokens = encode_training_text(batches)
    assert vocabulary.words == expected
    assert (tokens.dtype, vocabulary.decode(tokens.tolist())) == (np.int32, words)
    again = vocabulary.encode_text([other[:3], other[3:]])
    assert vocabulary.decode(again.tolist()) == [w if w in counts else "<unk>" for w in other]
    if words:
        assert vocabulary.share_unknown(tokens) == words.count("<unk>") / len(words)
        assert text_sha256(vocabulary.decode_text(tokens)) == text_sha256([words])
        assert text_sha256(batches) == hashlib.sha256("\n".join(words).encode()).hexdigest()


@pytest.mark.parametrize("length", [0, 1, BLOCK_TOKENS, 2 * BLOCK_TOKENS + 7])
def test_tokens_come_out_of_a_buffer_as_they_went_in(length: int) -> None:
    tokens = np.arange(length, dtype=np.int32)
    buffer = TokenBuffer()
    for part in range(0, length, 300_000):
        buffer.append(tokens[part : part + 300_000])
    assert np.array_equal(buffer.joined(), tokens)
    assert np.array_equal(np.concatenate([tokens[:0], *parts_of(tokens)]), tokens)
    if length:
        assert count_types(tokens % 5, 6).tolist() == np.bincount(tokens % 5, minlength=6).tolist()
        assert count_token(tokens % 5, 0) == (length + 4) // 5


def test_no_memory_for_a_text_is_said_as_such() -> None:
    with pytest.raises(MemoryError, match="no memory is left for the text"):
        tokens_room._mapped(1 << 60)


@pytest.mark.corpus
def test_the_identity_of_the_penn_treebank_is_what_it_always_was(ptb: Corpus) -> None:
    """Runs are resumed, and averages made, where these are equal."""
    assert ptb.vocabulary.sha256.startswith("135c1cdfba9ba262")
    assert ptb.sha256.startswith("503ffd5a05da97a1")
    words = ptb.vocabulary.decode_text(ptb.splits["test"])
    assert text_sha256(words).startswith("ee085eddd39f337c")


def test_the_identity_of_a_vocabulary_is_its_words_and_their_order() -> None:
    first = Vocabulary(["a", "b", "<eos>", "<unk>"])
    assert first.sha256 == Vocabulary(["a", "b", "<eos>", "<unk>"]).sha256
    assert first.sha256 != Vocabulary(["b", "a", "<eos>", "<unk>"]).sha256


@pytest.mark.corpus
def test_the_penn_treebank_has_the_counts_that_the_field_uses(ptb: Corpus) -> None:
    assert {split: len(tokens) for split, tokens in ptb.splits.items()} == {
        "train": 929_589,
        "valid": 73_760,
        "test": 82_430,
    }
    assert len(ptb.vocabulary) == 10_000
    assert {"<eos>", "<unk>", "N"} <= ptb.vocabulary.index.keys()
    assert ptb.vocabulary.share_unknown(ptb.splits["test"]) == pytest.approx(4794 / 82_430)


@pytest.mark.corpus
@pytest.mark.parametrize(("unrolled_steps", "windows"), [(20, 2323), (35, 1327)])
def test_an_epoch_of_the_penn_treebank_has_the_papers_number_of_steps(
    ptb: Corpus, unrolled_steps: int, windows: int
) -> None:
    columns = training_columns(ptb.splits["train"], 20, unrolled_steps)
    assert columns.shape == (46_479, 20)
    assert windows_per_epoch(columns, unrolled_steps) == windows


@given(batch_size=st.integers(1, 7), unrolled_steps=st.integers(1, 9), extra=st.integers(0, 200))
def test_training_windows_read_each_column_in_order_and_targets_are_the_next_tokens(
    batch_size: int, unrolled_steps: int, extra: int
) -> None:
    count = batch_size * (unrolled_steps + 1) + extra
    columns = training_columns(np.arange(count, dtype=np.int32), batch_size, unrolled_steps)
    assert columns.dtype == torch.int32
    windows = [
        training_window(columns, window, unrolled_steps)
        for window in range(windows_per_epoch(columns, unrolled_steps))
    ]
    assert windows  # what is just long enough has a window
    for number, window in enumerate(windows):
        same = training_window(columns, torch.tensor(number), unrolled_steps)
        for text, again in zip(window, same, strict=True):
            assert text.dtype == again.dtype == torch.int64
            assert text.is_contiguous() and again.is_contiguous()
            assert torch.equal(text, again)
    inputs = torch.cat([inputs for inputs, _ in windows])
    length = count // batch_size
    for column in range(batch_size):
        start = column * length
        assert inputs[:, column].tolist() == list(range(start, start + len(inputs)))
    assert all(torch.equal(targets, inputs + 1) for inputs, targets in windows)
    assert length - 1 - len(inputs) < unrolled_steps  # only a partial window is dropped


def test_a_corpus_that_is_too_short_names_the_least_number_of_tokens() -> None:
    with pytest.raises(InputError, match=r"\b83 tokens.*at least 84;"):
        training_columns(np.zeros(83, dtype=np.int32), 4, 20)


@given(
    streams=st.integers(1, 20),
    extra=st.integers(0, 300),
    max_steps=st.integers(1, 40),
)
def test_evaluation_scores_each_target_exactly_once(
    streams: int, extra: int, max_steps: int
) -> None:
    targets = streams + extra
    windows = list(evaluation_windows(targets, streams, max_steps))
    scored = torch.cat([places.flatten() for places in windows])
    assert sorted(scored.tolist()) == list(range(targets))
    assert all(1 <= len(places) <= max_steps for places in windows)
    for column in range(streams):  # each column is contiguous: the carried state fits
        rows = [places[:, column] for places in windows if places.shape[1] > column]
        assert (torch.cat(rows).diff() == 1).all()


# Memory

PEAK = """
import re, sys
from pathlib import Path
path = Path(sys.argv[1])

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""

PREPARING = """
from ptb_lm.corpus.prepare import prepare
before = peak()
prepare([path / "train.txt"], path / "out")
print(peak() - before)
"""

TRAINING = """
from ptb_lm.config import resolve
from ptb_lm.stop import StopFlag
from ptb_lm.training.loop import train
from ptb_lm.training.shared_run import open_shared_run
from ptb_lm.training.world import joined_world
config = resolve("small", ["model.hidden_size=1"], {"data": str(path), "device": "cpu"})
before = peak()
with joined_world("cpu") as world, open_shared_run(config, path, path / "run", world) as run:
    train(run, StopFlag(), max_steps=2)
print(peak() - before)
"""

EVALUATING = """
import torch
from ptb_lm.config import resolve
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.evaluation.evaluate import evaluate
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.network import LanguageModel
torch.set_num_threads(1)
sizes = ["model.hidden_size=1", "model.layers=1", "training.batch_size=1000"]
config = resolve("small", sizes, {"precision": "fp32"})
vocabulary = Vocabulary(["<eos>", "<unk>", "w1"])
model = TrainedModel("model", config, vocabulary, "0" * 64, LanguageModel(config.model, 3))
evaluate(model, text=path / "valid.txt", protocol="columns")
before = peak()
evaluate(model, text=path / "train.txt", protocol="columns")
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("work", "most"),
    [(PREPARING, 5), (TRAINING, 5), (EVALUATING, 9)],
    ids=["preparing", "training", "evaluating"],
)
def test_a_text_takes_four_bytes_a_token(tmp_path: Path, work: str, most: int) -> None:
    """In processes of their own, for texts of half a million and of six million tokens: by the
    difference, in which what does not grow with the text does not count. Scores take four bytes a
    target too. The same process' peak differs by a megabyte from time to time, which the
    difference must be well above."""
    line = " ".join(f"w{number % 7}" for number in range(19)) + "\n"  # 20 tokens
    processes = {}
    for millions in (0.5, 6):
        folder = tmp_path / str(millions)
        folder.mkdir()
        (folder / "train.txt").write_text(line * int(millions * 50_000))
        (folder / "valid.txt").write_text(line * 2_000)
        processes[millions] = start(tmp_path, "-c", PEAK + work, str(folder))
    peaks = {}
    for millions, process in processes.items():
        outcome = ended(process)
        assert outcome.code == 0, outcome.err
        peaks[millions] = 1024 * int(outcome.out)
    assert 3.5 < (peaks[6] - peaks[0.5]) / 5.5e6 < most
