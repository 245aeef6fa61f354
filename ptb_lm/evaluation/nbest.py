"""The n best hypotheses of a speech recogniser for each utterance, ranked anew by a model."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, tee

from ptb_lm.corpus.text import UNK
from ptb_lm.errors import InputError
from ptb_lm.evaluation.nbest_format import Look
from ptb_lm.evaluation.score import CHARACTERS_OF_A_WORD, SentenceScore, score
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.stop import NEVER, StopFlag

logger = logging.getLogger(__name__)

OR_REPEATED = "where an utterance's hypotheses all have its own id, use --nbest repeated"
"""The end of a message about ids that are not numbered."""


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
            f"{OR_REPEATED}"
        )
    if number.startswith("0") and number != "0":
        raise InputError(
            f"the number in the id {id_!r} begins with 0, as in ids of utterances; expected "
            f"utterance-1, utterance-2, …; {OR_REPEATED}"
        )
    return utterance


CONVENTIONS: dict[str, Callable[[str], str]] = {"numbered": _numbered, "repeated": lambda id_: id_}
"""From a line's id to its utterance.

``numbered``: ``utterance-1``, ``utterance-2``, …, as Kaldi's lattice-to-nbest writes them.
``repeated``: each hypothesis has the id of the utterance. Which of the two a list follows is not
guessed: ids of utterances, too, may end in a number.
"""

UTTERANCES_REMEMBERED = 10_000
"""An utterance that comes again after more others than that is not noticed."""

HYPOTHESES_OF_UTTERANCE, WORDS_OF_UTTERANCE = 100_000, 1_000_000
"""An utterance is held in memory as a whole; one of more than that has surely got others' lines."""

LONGEST_HYPOTHESIS = 100_000
"""In characters: Python's ``csv`` reads no field of more than 131,072."""


def require_convention(convention: str) -> None:
    """Raise InputError if there is no such convention."""
    if convention not in CONVENTIONS:
        raise InputError(f"--nbest {convention}: expected {' or '.join(CONVENTIONS)}")


def read_hypotheses(
    lines: Iterable[str], convention: str, vocabulary: Collection[str] = ()
) -> Iterator[Hypothesis]:
    """Read lines ``id text``, white space between; the text may be missing.

    Args:
        lines: those of an utterance stand together; empty ones may follow the last.
        convention: of :data:`CONVENTIONS`.
        vocabulary: the words of the model, by which lists in other formats are told apart.

    Returns:
        the hypotheses, as the lines come.

    Raises:
        InputError: there is no such convention, or, when a line's turn comes: it has no id that
            follows the convention, or the list is in another format.
    """
    require_convention(convention)
    return _read_hypotheses(lines, CONVENTIONS[convention], Look(convention, vocabulary))


def _read_hypotheses(
    lines: Iterable[str], utterance_of: Callable[[str], str], look: Look
) -> Iterator[Hypothesis]:
    utterances = _Utterances(is_id_unique=utterance_of is _numbered)
    empty = None
    for number, line in enumerate(lines, 1):
        id_, *words = line.split() or [""]
        if not id_:
            empty = empty or number
            continue
        look.at(line)
        try:
            if empty:
                number = empty
                raise InputError("an empty line; expected an id and a text")
            if len(line) > LONGEST_HYPOTHESIS:
                raise InputError(
                    f"{len(line):,} characters; a hypothesis is a sentence; expected at most "
                    f"{LONGEST_HYPOTHESIS:,}"
                )
            hypothesis = Hypothesis(utterance_of(id_), id_, " ".join(words))
            utterances.add(hypothesis, max(len(words), len(line) // CHARACTERS_OF_A_WORD))
        except InputError as error:
            look.judge()  # which may know better what is wrong
            raise InputError(f"--nbest: line {number}: {error}") from None
        yield hypothesis
    look.judge()


class _Utterances:
    """Keeps account of the utterances of a list: the one that is being read, and those before it.

    Attributes:
        is_id_unique: whether each hypothesis has an id of its own.
    """

    def __init__(self, *, is_id_unique: bool) -> None:
        self.is_id_unique = is_id_unique
        self._seen: dict[str, None] = {}  # in the order in which they came
        self._utterance: str | None = None
        self._ids: set[str] = set()
        self._hypotheses = self._words = 0

    def add(self, hypothesis: Hypothesis, words: int) -> None:
        """Add the next hypothesis, of some words.

        Raises:
            InputError: it cannot be one of its utterance's.
        """
        if hypothesis.utterance != self._utterance:
            self._begin(hypothesis.utterance)
        if hypothesis.id in self._ids:
            raise InputError(
                f"the id {hypothesis.id!r} comes twice; expected utterance-1, utterance-2, …; "
                f"{OR_REPEATED}"
            )
        if self.is_id_unique:
            self._ids.add(hypothesis.id)
        self._hypotheses += 1
        self._words += words
        if self._hypotheses > HYPOTHESES_OF_UTTERANCE or self._words > WORDS_OF_UTTERANCE:
            raise InputError(
                f"{hypothesis.utterance!r} has more than {HYPOTHESES_OF_UTTERANCE:,} hypotheses or "
                f"{WORDS_OF_UTTERANCE:,} words; give each utterance an id of its own"
            )

    def _begin(self, utterance: str) -> None:
        if utterance in self._seen:
            raise InputError(
                f"the hypotheses of {utterance!r} do not stand together; sort the list"
            )
        self._seen[utterance] = None
        if len(self._seen) > UTTERANCES_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._utterance = utterance
        self._ids.clear()
        self._hypotheses = self._words = 0


def rank(
    model: TrainedModel,
    hypotheses: Iterable[Hypothesis],
    *,
    lines_at_once: int,
    stop: StopFlag = NEVER,
) -> Iterator[RankedHypothesis]:
    """Rank the hypotheses of each utterance by their log-probabilities.

    Warnings say where unknown words may have decided, and that there was nothing to rank.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        hypotheses: see :func:`read_hypotheses`; one utterance at a time is held in memory.
        lines_at_once: see :func:`~ptb_lm.evaluation.score.score`.
        stop: checked before each window.

    Yields:
        the hypotheses of each utterance by rank, the utterances in the order they come.

    Raises:
        PtbLmError: the network gives no probabilities, or memory does not suffice.
        Stopped: a signal came.
    """
    to_score, to_name = tee(hypotheses)
    texts = (hypothesis.text for hypothesis in to_score)
    scores = score(model, texts, lines_at_once=lines_at_once, stop=stop)
    scored = zip(scores, to_name, strict=True)
    utterances = hypotheses_ranked = doubtful = 0
    for _, group in groupby(scored, key=lambda pair: pair[1].utterance):
        ordered = sorted(group, key=lambda pair: -pair[0].log_probability)
        utterances += 1
        hypotheses_ranked += len(ordered)
        fewest = min(sentence.unknown_words for sentence, _ in ordered)
        doubtful += ordered[0][0].unknown_words > fewest
        for place, (sentence, hypothesis) in enumerate(ordered, 1):
            yield RankedHypothesis(hypothesis, place, sentence)
    if doubtful:
        logger.warning(
            "--nbest: in %s of %s utterances the first has more unknown words than another: as %s "
            "they may be likelier than the right ones; see the column unknown",
            *(f"{doubtful:,}", f"{utterances:,}", UNK),
        )
    if 1 < utterances == hypotheses_ranked:
        logger.warning(
            "--nbest: each of %s utterances has a single hypothesis, so that nothing was ranked; "
            "the ids are to be utterance-1, utterance-2, … (numbered) or the utterance's own "
            "(repeated)",
            f"{utterances:,}",
        )
