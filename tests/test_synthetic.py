"""The built-in language: reproducible bytes, known statistics, an exact optimum."""

import hashlib
import itertools
import math
from collections import Counter

import numpy as np
import pytest

from ptb_lm.corpus.synthetic import (
    NUMBERS,
    Source,
    language,
    optimal_nll,
    synthetic_words,
)

TINY = Source(
    start={"x": 1, "y": 2},
    transitions={"x": {"x": 1, "y": 3}, "y": {"x": 2, "y": 1, "z": 1}, "z": {"x": 1}},
    emissions={"x": {"a": 2, "b": 1}, "y": {"b": 3, "c": 1, "a": 1}, "z": {".": 1}},
)


def brute_force_probability(source: Source, words: tuple[str, ...]) -> float:
    """p(words): the sum over every path of hidden states."""

    def share(weights: dict[str, int], key: str) -> float:
        return weights.get(key, 0) / sum(weights.values())

    total = 0.0
    for path in itertools.product(source.emissions, repeat=len(words)):
        probability = share(source.start, path[0])
        for here, there in itertools.pairwise(path):
            probability *= share(source.transitions[here], there)
        for state, word in zip(path, words, strict=True):
            probability *= share(source.emissions[state], word)
        total += probability
    return total


def test_the_forward_algorithm_agrees_with_enumerating_every_hidden_path() -> None:
    possible = 0
    for words in itertools.product("abc.", repeat=5):
        expected = brute_force_probability(TINY, words)
        if expected == 0:
            with pytest.raises(ValueError, match="cannot emit"):
                TINY.log_probabilities(words)
            continue
        possible += 1
        assert math.exp(TINY.log_probabilities(words).sum()) == pytest.approx(expected, rel=1e-12)
    assert possible > 300


def test_the_probabilities_of_all_texts_of_a_length_sum_to_one() -> None:
    texts = itertools.product("abc.", repeat=4)
    assert sum(brute_force_probability(TINY, words) for words in texts) == pytest.approx(1)


def test_the_text_is_the_same_byte_for_byte_everywhere() -> None:
    digests = {
        split: hashlib.sha256(" ".join(words).encode()).hexdigest()[:16]
        for split, words in synthetic_words().items()
    }
    assert digests == {
        "train": "fa8aa734d327d77f",
        "valid": "14f3b4872572c6a3",
        "test": "1a4cf8c9a2aa619f",
    }


def test_word_frequencies_are_zipf_like_over_a_thousand_types() -> None:
    counts = sorted(Counter(synthetic_words()["train"]).values(), reverse=True)
    assert len(counts) >= 1000
    ranks = np.arange(10, 1000)
    slope = np.polyfit(np.log(ranks), np.log(np.array(counts)[ranks - 1]), 1)[0]
    assert -1.3 < slope < -0.7


def test_a_verb_agrees_with_a_subject_that_may_be_many_words_back() -> None:
    """The number of the subject is in the hidden state only: the verb's probability shows it."""
    source = language()
    verbs = {number: next(iter(source.emissions[f"verb {number}"])) for number in NUMBERS}
    nouns = {number: next(iter(source.emissions[f"subject {number}"])) for number in NUMBERS}
    attractor = {"one": f"of the {nouns['one']}", "many": f"of the {nouns['many']}"}
    for number, other in (("one", "many"), ("many", "one")):
        subject = f"the {nouns[number]} {attractor[other]} {attractor[other]}".split()
        assert len(subject) == 8
        agreeing = source.log_probabilities([*subject, verbs[number]])
        assert math.exp(agreeing[-1]) > 0.01
        with pytest.raises(ValueError, match="cannot emit"):
            source.log_probabilities([*subject, verbs[other]])


def test_no_words_are_shared_by_classes_that_should_differ() -> None:
    emissions = language().emissions
    classes = ["opening", "subject adj one", "subject one", "subject many", "verb one", "verb many"]
    words = [word for name in classes for word in emissions[name]]
    assert len(words) == len(set(words)) == 100 + 250 + 2 * 350 + 2 * 150


def test_the_first_word_is_no_target_of_the_optimum() -> None:
    words = synthetic_words()["test"][:50]
    expected = -language().log_probabilities(words).sum()
    first = -language().log_probabilities(words[:1]).sum()
    assert optimal_nll(words) == pytest.approx(expected - first)
