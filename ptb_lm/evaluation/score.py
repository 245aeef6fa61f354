"""Text scored sentence by sentence, any amount of it in constant memory.

Shapes: n words of a sentence, which has n + 1 tokens: its words, then ``<eos>``.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ptb_lm.arguments import require_integer, require_ordered, require_type, require_words
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel, require_model, require_probabilities
from ptb_lm.model.perplexity import perplexity, require_perplexity
from ptb_lm.model.scoring import continued_log_probabilities, sentence_log_probabilities
from ptb_lm.stop import NEVER, StopFlag

# So many lines are read, sorted by length and scored before the next: enough to fill batches of
# like lengths, and less than a second of work for a small model.
LINES_AT_ONCE = 1000
# Or fewer long ones. A word counts as one for each of these characters that it has, on average.
WORDS_AT_ONCE = 50_000
CHARACTERS_OF_A_WORD = 20


@dataclass(frozen=True, eq=False)
class SentenceScore:
    """What a model makes of a sentence.

    Attributes:
        words: as they stand in the line; ``<eos>``, which is scored too, is not among them.
        unknown: of each word whether it is scored as ``<unk>``: one that the vocabulary lacks, or
            ``<unk>`` itself. Bool (n,).
        log_probabilities: ln p of each word and of ``<eos>``, given all before it; float64
            (n + 1,). NaN where nothing is predicted: at the first token of a continuous stream.
    """

    words: list[str]
    unknown: NDArray[np.bool_]
    log_probabilities: NDArray[np.float64]

    @property
    def tokens(self) -> int:
        """How many tokens are predicted: the words and ``<eos>``."""
        return int(np.count_nonzero(~np.isnan(self.log_probabilities)))

    @property
    def unknown_words(self) -> int:
        """How many words are scored as ``<unk>``."""
        return int(self.unknown.sum())

    @property
    def log_probability(self) -> float:
        """Of the whole sentence with its ``<eos>``, in nats."""
        return float(np.nansum(self.log_probabilities))

    @property
    def perplexity(self) -> float:
        """Over the predicted tokens, ``<eos>`` among them; NaN if there is none."""
        return perplexity(-self.log_probability, self.tokens) if self.tokens else math.nan

    @property
    def surprisals(self) -> NDArray[np.float64]:
        """Of each word and of ``<eos>``, -log2 p: in bits, (n + 1,)."""
        return -self.log_probabilities / math.log(2)


def score(
    model: TrainedModel,
    lines: Iterable[str | Sequence[str]],
    *,
    continuous: bool = False,
    lines_at_once: int = LINES_AT_ONCE,
    stop: StopFlag = NEVER,
) -> Iterator[SentenceScore]:
    """Score lines, each a sentence, in the order they come.

    A line is split at white space and ended with ``<eos>``, as the texts of training are; one
    without words is ``<eos>`` alone. Each is scored as if it stood alone: from a zero state after
    an ``<eos>``, since the network has seen one before each sentence. Lines are taken
    ``lines_at_once`` (fewer where they are long) and scored side by side, those of like lengths
    together; to rounding this changes no score.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        lines: each a text, or a list of words; there may be any number of lines, as no more are
            held than are scored at once.
        continuous: all lines are one stream, as in the paper's test protocol: the state goes on
            from line to line, and the first token of all is given, not predicted. The sum is then
            that of :func:`~ptb_lm.evaluation.evaluate.evaluate` of the same text.
        lines_at_once: 1 answers each line as it comes.
        stop: checked before each window.

    Returns:
        the score of each line.

    Raises:
        TypeError: an argument is of the wrong type; of a line, when its turn comes.
        InputError: ``lines_at_once`` is less than 1.
        PtbLmError: the network gives no probabilities, the perplexity of a sentence is not a
            number, or memory does not suffice.
        Stopped: a signal came.
    """
    require_model(model)
    if isinstance(lines, str):
        raise TypeError("lines: expected several, got a text; try text.splitlines() or [text]")
    require_ordered(lines, "lines", "a list of texts or of lists of words")
    require_type(continuous, bool, "continuous")
    if require_integer(lines_at_once, "lines_at_once") < 1:
        raise InputError(f"lines_at_once {lines_at_once}: expected 1 or more")
    if isinstance(lines, Sequence):  # others are checked as they come: they may have no end
        for number, line in enumerate(lines, 1):
            if not isinstance(line, str | Iterator):
                require_words(line, f"lines: line {number}")
    chunks = _chunks(lines, lines_at_once)
    return _stream(model, chunks, stop) if continuous else _apart(model, chunks, stop)


def _chunks(lines: Iterable[str | Sequence[str]], lines_at_once: int) -> Iterator[list[list[str]]]:
    """Split lines into words, and gather so many lines, or fewer where they are long."""
    chunk: list[list[str]] = []
    size = 0
    for number, line in enumerate(lines, 1):
        words = require_words(line, f"lines: line {number}")
        chunk.append(words)
        size += max(len(words), sum(map(len, words)) // CHARACTERS_OF_A_WORD)
        if len(chunk) >= lines_at_once or size >= WORDS_AT_ONCE:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _tokens(vocabulary: Vocabulary, sentences: Sequence[list[str]]) -> TokenIds:
    """Return ``<eos>`` and then the sentences, each with its own, as indices."""
    return vocabulary.encode([EOS, *(token for words in sentences for token in [*words, EOS])])


def _apart(
    model: TrainedModel, chunks: Iterator[list[list[str]]], stop: StopFlag
) -> Iterator[SentenceScore]:
    """Score each sentence from a zero state."""
    with model.at_work() as network:
        for sentences in chunks:
            tokens = _tokens(model.vocabulary, sentences)
            lengths = torch.tensor([len(words) + 1 for words in sentences])
            scores = sentence_log_probabilities(network, tokens, lengths, stop)
            require_probabilities(model, scores)
            yield from _by_sentence(model, sentences, tokens, scores.double().numpy())


def _stream(
    model: TrainedModel, chunks: Iterator[list[list[str]]], stop: StopFlag
) -> Iterator[SentenceScore]:
    """Score all sentences as one text."""
    with model.at_work() as network:
        hidden = network.zero_state(1)
        first = 1  # of all tokens the first has none before it
        for sentences in chunks:
            tokens = _tokens(model.vocabulary, sentences)
            scores, hidden = continued_log_probabilities(network, tokens[first:], hidden, stop)
            require_probabilities(model, scores)
            padded = np.pad(scores.double().numpy(), (first, 0), constant_values=np.nan)
            yield from _by_sentence(model, sentences, tokens, padded)
            first = 0


def _by_sentence(
    model: TrainedModel,
    sentences: Sequence[list[str]],
    tokens: TokenIds,
    log_probabilities: NDArray[np.float64],
) -> list[SentenceScore]:
    """Cut the scores of a text, (N - 1,), into those of its sentences.

    Raises:
        PtbLmError: the perplexity of a sentence is not a number.
    """
    unknown = tokens[1:] == model.vocabulary.index[UNK]
    scores = []
    start = 0
    for words in sentences:
        end = start + len(words)
        score = SentenceScore(words, unknown[start:end], log_probabilities[start : end + 1])
        if score.tokens:
            require_perplexity(-score.log_probability, score.tokens, f"{model.name}: a sentence")
        scores.append(score)
        start = end + 1
    return scores
