"""Text, vocabulary, batching: DESIGN-level numbers on the real corpus, properties on any."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptb_lm.corpus.batching import (
    evaluation_windows,
    training_columns,
    training_window,
    windows_per_epoch,
)
from ptb_lm.corpus.load import Corpus
from ptb_lm.corpus.vocabulary import Vocabulary, encode_training_text
from ptb_lm.errors import InputError


def test_the_vocabulary_is_ordered_by_frequency_then_by_code_point() -> None:
    vocabulary, tokens = encode_training_text([["b", "a", "c"], ["c", "<eos>"]])
    assert tokens.tolist() == [3, 2, 0, 0, 1]
    assert vocabulary.words == ["c", "<eos>", "a", "b", "<unk>"]
    assert vocabulary.encode(["c", "nowhere", "a"]).tolist() == [0, 4, 2]
    assert vocabulary.decode([3, 0]) == ["b", "c"]


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
    windows = [
        training_window(columns, window, unrolled_steps)
        for window in range(windows_per_epoch(columns, unrolled_steps))
    ]
    assert windows  # what is just long enough has a window
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
