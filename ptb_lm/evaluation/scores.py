"""Per-token scores: what a model gives each target of a text, and the average of several models.

An average of models averages their probabilities: at each target the mean of p over the members,
not of logits and not of weights. That needs each member's ln p of each target and nothing else,
so members can be made anywhere and joined later, no model loaded.

Shapes: N tokens of a text, N - 1 targets.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from ptb_lm.errors import InputError
from ptb_lm.model.perplexity import TRAIN_AGAIN, perplexity, require_perplexity

PROTOCOLS = ("stream", "columns")
PAPER_PROTOCOL = {"train": "columns", "valid": "columns", "test": "stream"}
"""How the paper's figure of each split is made; a text of the user's is one stream."""

USUAL = "usual"
"""The way of the paper: no dropout, fixed weights, nothing remembered but the hidden state."""

MONTE_CARLO = "monte_carlo"
"""The way of arXiv 1512.05287: the mean probability of several passes with dropout."""


@dataclass(frozen=True)
class ScoredText:
    """What was scored, and how. Scores are comparable where all of this is equal.

    Attributes:
        split: ``train``, ``valid``, ``test``, or the name of a text of the user's.
        protocol: ``stream``: one stream from a zero state, as the paper's test figure;
            ``columns``: B streams, each from a zero state, as its validation figure.
        streams: B; 1 in the protocol ``stream``.
        text_sha256: of the words, so that it does not depend on a vocabulary's order.
        vocabulary_size: V; perplexities over different vocabularies cannot be compared.
        way: with its settings, see :mod:`ptb_lm.evaluation.ways`.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    split: str
    protocol: str
    streams: Annotated[int, Field(gt=0, strict=True)]
    text_sha256: str
    vocabulary_size: Annotated[int, Field(gt=0, strict=True)]
    way: str = USUAL

    @property
    def layout(self) -> str:
        """The protocol in words."""
        return "one stream" if self.streams == 1 else f"{self.streams} columns"


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one text.

    Attributes:
        name: what the member is called: its checkpoint or file.
        text: what was scored.
        log_probabilities: ln p of each target in the order of the text, float32 (N - 1,).
        unknown: of the text's ``tokens``, how many are ``not_in_vocabulary`` and so count as
            ``<unk>``, and how many are ``written_as_unk``; None where a file does not say.
    """

    name: str
    text: ScoredText
    log_probabilities: NDArray[np.float32]
    unknown: Mapping[str, int] | None = None

    @property
    def perplexity(self) -> float:
        """Over all of the targets."""
        return figure(self.log_probabilities).perplexity


@dataclass(frozen=True)
class Figure:
    """A perplexity and what it is made of."""

    tokens: int
    nll: float
    perplexity: float


def figure(log_probabilities: NDArray[np.floating[Any]]) -> Figure:
    """Add up scores in float64: perplexity = exp(summed NLL / counted tokens)."""
    nll = -float(log_probabilities.sum(dtype=np.float64))
    tokens = len(log_probabilities)
    return Figure(tokens, nll, perplexity(nll, tokens))


def require_figure(scores: Scores, remedy: str = TRAIN_AGAIN) -> Scores:
    """Return scores that have a perplexity.

    Raises:
        PtbLmError: a log-probability is not a number, or the perplexity is beyond a double.
    """
    reached = figure(scores.log_probabilities)
    what = f"{scores.name}: {scores.text.split}"
    require_perplexity(reached.nll, reached.tokens, what, remedy)
    return scores


def require_each_once(named: Iterable[tuple[Path, Path]]) -> None:
    """Raise InputError if a member of an average is named twice, which would count it twice.

    Args:
        named: of each member, what names it in the call, and the file or folder that this is.
    """
    seen: dict[str, Path] = {}
    for path, place in named:
        real = os.path.realpath(place)
        if real in seen:
            raise InputError(f"{path}: named twice, as {seen[real]}; name another, or leave it out")
        seen[real] = path


def average(members: Sequence[Scores]) -> Figure:
    """Return the figure of the mean of the members' probabilities, exact in float64.

    Raises:
        InputError: the members did not score the same text in the same way.
    """
    first = members[0]
    for member in members[1:]:
        for key, value in asdict(first.text).items():
            other = getattr(member.text, key)
            if other != value:
                raise InputError(
                    f"{member.name}: {key} is {other}, but {value} in {first.name}; an average "
                    "needs the same text scored in the same way"
                )
    total = np.full(len(first.log_probabilities), -np.inf)
    for member in members:
        np.logaddexp(total, member.log_probabilities.astype(np.float64), out=total)
    return figure(total - np.log(len(members)))


def evaluation_json(members: Sequence[Scores]) -> dict[str, Any]:
    """Return the object that ``eval --json`` and ``average --json`` print.

    The second has no ``unknown``, as score files do not say how many words are unknown.
    """
    text = members[0].text
    several = len(members) > 1
    return {
        "split": text.split,
        "protocol": text.protocol,
        **({"way": text.way} if text.way != USUAL else {}),
        "members": [
            {"checkpoint": member.name, **asdict(figure(member.log_probabilities))}
            for member in members
        ],
        "average": asdict(average(members)) if several else None,
        **({} if members[0].unknown is None else {"unknown": members[0].unknown}),
    }


def text_sha256(batches: Iterable[Sequence[str]]) -> str:
    """Return the identity of a text that comes as lists of words: of the words, however cut."""
    digest = hashlib.sha256()
    separator = ""
    for words in filter(None, batches):
        digest.update((separator + "\n".join(words)).encode())
        separator = "\n"
    return digest.hexdigest()
