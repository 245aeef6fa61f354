"""A built-in language whose best possible perplexity is known exactly.

A hidden Markov source: a hidden state walks by a transition table and emits a word at each step.
The forward algorithm gives the probability of each next word given all before it, so that the
perplexity of the source itself on a text, which no model can beat but by chance, is computed.

The language has sentences in which a verb agrees in number with a subject several words back::

    a tepoc sebu from a mezo of the sebus revuly sogat <eos>
            ----                    -----        -----
            one          one        many         one: it agrees with "sebu"

All weights are integers and the random numbers are Python's own Mersenne Twister, whose
``random()`` is the same on every version and platform; so is the text, byte for byte.
"""

import math
import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from ptb_lm.corpus.text import EOS

SEED = 1409_2329
SENTENCES = {"train": 20_000, "valid": 1_500, "test": 1_500}

Weights = Mapping[str, int]


@dataclass(frozen=True)
class Source:
    """A hidden Markov source over words with integer weights.

    Attributes:
        start: weight of each state as that of the first word.
        transitions: for each state, the weight of each following state.
        emissions: for each state, the weight of each word.
    """

    start: Weights
    transitions: Mapping[str, Weights]
    emissions: Mapping[str, Weights]

    def generate(self, tokens_end: str, count: int, rng: random.Random) -> list[str]:
        """Emit words until ``tokens_end`` has been emitted ``count`` times."""
        following = {state: _Draw(weights) for state, weights in self.transitions.items()}
        emitted = {state: _Draw(weights) for state, weights in self.emissions.items()}
        state = _Draw(self.start)(rng)
        words: list[str] = []
        while count:
            word = emitted[state](rng)
            words.append(word)
            count -= word == tokens_end
            state = following[state](rng)
        return words

    def log_probabilities(self, words: Sequence[str]) -> NDArray[np.float64]:
        """Return ln p(word | all words before it) for each word, shape (N,), in nats.

        The forward algorithm: with a[s] = p(state s | words so far) before a word w,
        p(w) = sum over s of a[s] e[s, w], and the next a = (a * e[:, w] / p(w)) @ transitions.

        Raises:
            ValueError: the source cannot emit this text.
        """
        states = list(self.emissions)
        place = {state: index for index, state in enumerate(states)}
        transition = np.zeros((len(states), len(states)))
        for state, weights in self.transitions.items():
            for target, weight in weights.items():
                transition[place[state], place[target]] = weight / sum(weights.values())
        emission: dict[str, NDArray[np.float64]] = {}
        for state, weights in self.emissions.items():
            total = sum(weights.values())
            for word, weight in weights.items():
                emission.setdefault(word, np.zeros(len(states)))[place[state]] = weight / total
        belief = np.zeros(len(states))
        for state, weight in self.start.items():
            belief[place[state]] = weight / sum(self.start.values())
        result = np.empty(len(words))
        for index, word in enumerate(words):
            joint = belief * emission.get(word, 0.0)
            probability = float(joint.sum())
            if probability == 0:
                raise ValueError(f"the source cannot emit {word!r} as word {index}")
            result[index] = math.log(probability)
            belief = (joint / probability) @ transition
        return result


class _Draw:
    """Draws from integer weights by one ``random()``: exact arithmetic, so portable."""

    def __init__(self, weights: Weights) -> None:
        self.outcomes = list(weights)
        self.cumulative = list(accumulate(weights.values()))

    def __call__(self, rng: random.Random) -> str:
        return self.outcomes[bisect_right(self.cumulative, int(rng.random() * self.cumulative[-1]))]


@cache
def language() -> Source:
    """Return the source of the built-in language.

    The number of the subject is part of the hidden state from the determiner on, through
    adjectives and any number of prepositional phrases whose nouns have a number of their own, up
    to the verb.
    """
    transitions: dict[str, Weights] = {
        "opening": {"subject det one": 3, "subject det many": 2},
        "closing": {"end": 1},
        "end": {"opening": 2, "subject det one": 5, "subject det many": 3},
    }
    emissions: dict[str, Weights] = {
        "opening": _adverbs(),
        "closing": _adverbs(),
        "end": {EOS: 1},
    }

    def add_noun_phrase(role: str, number: str, after: Weights) -> None:
        det, adjective, noun = f"{role} det {number}", f"{role} adj {number}", f"{role} {number}"
        transitions[det] = {adjective: 1, noun: 3}
        transitions[adjective] = {adjective: 1, noun: 4}
        transitions[noun] = after
        emissions[det] = _DETERMINERS[number]
        emissions[adjective] = _adjectives()
        emissions[noun] = _nouns(number)

    for number in NUMBERS:
        phrase, adverb, verb = f"phrase of {number}", f"adverb of {number}", f"verb {number}"
        after_noun = {phrase: 9, adverb: 4, verb: 7}
        add_noun_phrase("subject", number, after_noun)
        transitions[phrase] = {f"{phrase} det one": 1, f"{phrase} det many": 1}
        for inner_number in NUMBERS:
            add_noun_phrase(phrase, inner_number, after_noun)
        transitions[adverb] = {verb: 1}
        transitions[verb] = {"object det one": 4, "object det many": 3, "closing": 1, "end": 2}
        add_noun_phrase("object", number, {"closing": 1, "end": 4})
        emissions |= {phrase: _PREPOSITIONS, adverb: _adverbs(), verb: _verbs(number)}
    return Source(transitions["end"], transitions, emissions)


NUMBERS = ("one", "many")
_DETERMINERS: dict[str, Weights] = {
    "one": {"the": 4, "a": 4, "this": 1, "each": 1},
    "many": {"the": 4, "some": 3, "these": 2, "few": 1},
}
_PREPOSITIONS: Weights = {
    "of": 12, "in": 8, "near": 6, "under": 5, "with": 4, "from": 3, "over": 3, "by": 2
}  # fmt: skip


def _adverbs() -> Weights:
    return _zipf([stem + "ly" for stem in _stems(0, 100)])


def _adjectives() -> Weights:
    return _zipf([stem + "c" for stem in _stems(1, 250)])


def _nouns(number: str) -> Weights:
    return _zipf([stem + ("s" if number == "many" else "") for stem in _stems(2, 350)])


def _verbs(number: str) -> Weights:
    return _zipf([stem + ("n" if number == "many" else "t") for stem in _stems(3, 150)])


def synthetic_words() -> dict[str, list[str]]:
    """Generate the three splits of the built-in language, each from its own stream of draws."""
    return {
        split: language().generate(EOS, count, random.Random(f"{SEED} {split}"))
        for split, count in SENTENCES.items()
    }


def optimal_nll(words: Sequence[str]) -> float:
    """Return the summed NLL, in nats, of words 2 … N of a text under the source itself.

    The first word is no target for a language model (nothing precedes it) and is left out.
    For a text drawn from the source, a model's summed NLL lies more than d nats below this one
    with probability at most exp(-d): the likelihood ratio has the mean 1 (Markov's inequality).
    """
    return -float(language().log_probabilities(words)[1:].sum())


def _zipf(words: Sequence[str]) -> dict[str, int]:
    """Give the r-th word a weight proportional to 1 / (r + 1)."""
    return {word: 1_000_000 // (rank + 2) for rank, word in enumerate(words)}


def _stems(family: int, count: int) -> list[str]:
    """Return pronounceable stems of two syllables; the families share none."""
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    pairs = len(syllables) ** 2
    # A stride that shares no factor with 4,900 visits each pair once, in a scattered order.
    visited = ((4 * index + family) * 1_787 % pairs for index in range(count))
    return [
        syllables[pair // len(syllables)] + syllables[pair % len(syllables)] for pair in visited
    ]
