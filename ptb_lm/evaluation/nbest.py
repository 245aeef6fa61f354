"""The n best hypotheses of a speech recogniser for each utterance, ranked anew by a model."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, tee

from ptb_lm.errors import InputError
from ptb_lm.evaluation.score import SentenceScore, score
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.stop import NEVER, StopFlag


@dataclass(frozen=True)
class Hypothesis:
    """What a line holds, ``id text``.

    Attributes:
        utterance: whose hypotheses are ranked against one another.
        id: as it stands in the line.
        text: the words; may be empty.
    """

    utterance: str
    id: str
    text: str


@dataclass(frozen=True)
class RankedHypothesis:
    """A hypothesis and its place.

    Attributes:
        hypothesis: of an utterance.
        rank: 1 for the likeliest of the utterance; equals keep the order they came in.
        score: of the text as a sentence that stands alone.
    """

    hypothesis: Hypothesis
    rank: int
    score: SentenceScore


def _numbered(id_: str) -> str:
    """Return the utterance of ``utterance-3``."""
    utterance, _, number = id_.rpartition("-")
    if not utterance or not (number.isascii() and number.isdigit()):
        raise InputError(
            f"the id {id_!r} does not end in a hyphen and a number, as in utterance-1; "
            "where an utterance's hypotheses all have its own id, use --nbest repeated"
        )
    return utterance


CONVENTIONS: dict[str, Callable[[str], str]] = {"numbered": _numbered, "repeated": lambda id_: id_}
"""From a line's id to its utterance.

``numbered``: ``utterance-1``, ``utterance-2``, …, as Kaldi's lattice-to-nbest writes them.
``repeated``: each hypothesis has the id of the utterance. Which of the two a list follows is not
guessed: ids of utterances, too, may end in a number.
"""


def read_hypotheses(lines: Iterable[str], convention: str) -> Iterator[Hypothesis]:
    """Read lines ``id text``, white space between; the text may be missing.

    Raises:
        InputError: there is no such convention, or a line has no id that follows it.
    """
    if convention not in CONVENTIONS:
        raise InputError(f"--nbest {convention}: expected {' or '.join(CONVENTIONS)}")
    return _read_hypotheses(lines, CONVENTIONS[convention])


def _read_hypotheses(
    lines: Iterable[str], utterance_of: Callable[[str], str]
) -> Iterator[Hypothesis]:
    for number, line in enumerate(lines, 1):
        id_, *words = line.split() or [""]
        try:
            if not id_:
                raise InputError("an empty line; expected an id and a text")
            utterance = utterance_of(id_)
        except InputError as error:
            raise InputError(f"--nbest: line {number}: {error}") from None
        yield Hypothesis(utterance, id_, " ".join(words))


UTTERANCES_REMEMBERED = 10_000
"""Of those that come again later than that nothing is noticed: a list may be of any length."""


def rank(
    model: TrainedModel,
    hypotheses: Iterable[Hypothesis],
    *,
    lines_at_once: int,
    stop: StopFlag = NEVER,
) -> Iterator[RankedHypothesis]:
    """Rank the hypotheses of each utterance by their log-probabilities.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        hypotheses: those of an utterance stand together; one at a time is held in memory, and the
            names of the last :data:`UTTERANCES_REMEMBERED`.
        lines_at_once: see :func:`~ptb_lm.evaluation.score.score`.
        stop: checked before each window.

    Yields:
        the utterances as they come, each's hypotheses by rank.

    Raises:
        InputError: hypotheses of an utterance come again after those of another.
        PtbLmError: the network gives no probabilities, or memory does not suffice.
        Stopped: a signal came.
    """
    to_score, to_name = tee(hypotheses)
    texts = (hypothesis.text for hypothesis in to_score)
    scores = score(model, texts, lines_at_once=lines_at_once, stop=stop)
    scored = zip(scores, to_name, strict=True)
    ranked: dict[str, None] = {}  # in the order in which they came
    for utterance, group in groupby(scored, key=lambda pair: pair[1].utterance):
        if utterance in ranked:
            raise InputError(
                f"--nbest: the hypotheses of {utterance!r} do not stand together; sort the list"
            )
        ranked[utterance] = None
        if len(ranked) > UTTERANCES_REMEMBERED:
            del ranked[next(iter(ranked))]
        ordered = sorted(group, key=lambda pair: -pair[0].log_probability)
        for place, (sentence, hypothesis) in enumerate(ordered, 1):
            yield RankedHypothesis(hypothesis, place, sentence)
