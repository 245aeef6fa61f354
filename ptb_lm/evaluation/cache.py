"""The continuous cache: what followed a state like this one not long ago may follow again.

Grave, Joulin and Usunier, "Improving Neural Language Models with a Continuous Cache"
(arXiv 1612.04426), section 3. A memory holds the last n pairs of a state h_i, layer L's output,
and the word x_{i+1} that came after it. At step t, with sums over the pairs in the memory,

    p_cache(w) = sum of [x_{i+1} = w] exp(theta h_t . h_i) / sum of exp(theta h_t . h_i)
    p(w) = (1 - lambda) p_vocab(w) + lambda p_cache(w)

the second being their linear interpolation. Nothing is trained. Where nothing is remembered yet,
which is at the first step of a text alone, p_cache is taken to be p_vocab.

Shapes: T steps of a window of one stream, M remembered pairs of at most n, H hidden units.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ptb_lm.arguments import require_integer, require_number
from ptb_lm.errors import InputError

TUNED = (0.4, 0.15)
"""Theta and weight, tuned on the validation text for the paper's small model."""


@dataclass(frozen=True)
class Cache:
    """The settings of a cache.

    Attributes:
        size: n, how many pairs are remembered.
        theta: sharpness, how similar to the present state one must be to count; 0: all count alike.
        weight: lambda, the share of p_cache.

    Raises:
        TypeError: a setting is not a number, or the size not a whole one.
        InputError: a setting is out of its range.
    """

    size: int
    theta: float
    weight: float
    key: ClassVar = "cache"

    def __post_init__(self) -> None:
        if require_integer(self.size, "size") < 1:
            raise InputError(f"--cache {self.size}: expected 1 or more")
        if not 0 <= require_number(self.theta, "theta") < math.inf:
            raise InputError(f"--cache-theta {self.theta}: expected 0 or more")
        if not 0 <= require_number(self.weight, "weight") < 1:
            raise InputError(f"--cache-weight {self.weight}: expected 0 or more and less than 1")

    @classmethod
    def tuned(cls, size: int, theta: float | None = None, weight: float | None = None) -> "Cache":
        """Fill in what is not given with what was tuned for the small model.

        Raises:
            InputError: a setting is out of its range.
        """
        tuned_theta, tuned_weight = TUNED
        return cls(
            size,
            theta=tuned_theta if theta is None else theta,
            weight=tuned_weight if weight is None else weight,
        )

    @property
    def settings(self) -> dict[str, float]:
        """By their names in JSON."""
        return {"cache": self.size, "cache_theta": self.theta, "cache_weight": self.weight}

    @property
    def title(self) -> str:
        """What a person reads."""
        return (
            f"a continuous cache ({self.size:,} states, theta {self.theta:g}, "
            f"weight {self.weight:g})"
        )


class Memory(NamedTuple):
    """What is remembered, oldest first.

    Attributes:
        states: h_i, (M, H).
        words: x_{i+1}, int64 (M,).
    """

    states: Tensor
    words: Tensor


def empty_memory(like: Tensor) -> Memory:
    """Return the memory at the beginning of a text; states are of the width of some rows (…, H)."""
    return Memory(like.detach()[:0], torch.empty(0, dtype=torch.int64, device=like.device))


def recall(
    memory: Memory, states: Tensor, words: Tensor, log_p_vocab: Tensor, cache: Cache
) -> tuple[Tensor, Memory]:
    """Ask the cache for the words of a window, each step by what was there before it.

    Args:
        memory: before the window.
        states: h of its steps, (T, H).
        words: the word after each, int64 (T,).
        log_p_vocab: ln p of each by the softmax, (T,).
        cache: the settings; its weight is not used.

    Returns:
        ln p_cache of each word, (T,), and the memory after the window.
    """
    all_states = torch.cat([memory.states, states])  # (M + T, H)
    all_words = torch.cat([memory.words, words])  # (M + T,)
    place = torch.arange(len(all_words), device=words.device)
    now = place[len(memory.words) :, None]  # (T, 1)
    in_memory = (place < now) & (place >= now - cache.size)  # (T, M + T)
    likeness = (cache.theta * states) @ all_states.t()
    likeness.masked_fill_(~in_memory, -torch.inf)
    log_total = likeness.logsumexp(1)
    log_of_word = likeness.masked_fill_(all_words != words[:, None], -torch.inf).logsumexp(1)
    log_p_cache = torch.where(in_memory.any(1), log_of_word - log_total, log_p_vocab)
    return log_p_cache, Memory(all_states[-cache.size :], all_words[-cache.size :])


def interpolated(log_p_vocab: Tensor, log_p_cache: Tensor, weight: float) -> Tensor:
    """Return ln of (1 - weight) p_vocab + weight p_cache, of any shape."""
    if weight == 0:
        return log_p_vocab
    log_p = torch.logaddexp(math.log1p(-weight) + log_p_vocab, math.log(weight) + log_p_cache)
    return log_p.clamp(max=0)  # of two that are nearly 1, it may be rounded to more
