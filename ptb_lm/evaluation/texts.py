"""Where the tokens come from that a trained model is used on: its own data, or a file."""

import logging
from collections.abc import Iterator
from pathlib import Path

from ptb_lm.corpus.load import Corpus, is_corpus, load_corpus
from ptb_lm.corpus.reading import name_of, read_words
from ptb_lm.corpus.text import UNK
from ptb_lm.corpus.tokens import TokenIds, count_token
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.stop import StopFlag

logger = logging.getLogger(__name__)


def corpus_of(
    model: TrainedModel, data_dir: Path, stop: StopFlag, *, otherwise: str | None = None
) -> Corpus:
    """Return the data that a model was trained on, the same to the word.

    What is held to the model is what :attr:`~ptb_lm.corpus.load.Corpus.sha256` covers: the texts
    for training and validation. The test text may be another than at the time of the training.

    Args:
        model: which says what its data is and where it lies.
        data_dir: the data folder.
        stop: checked between two files.
        otherwise: what a user can do without the data, if anything.

    Raises:
        InputError: the data is not here, or no longer what the model was trained on.
        PtbLmError: the Penn Treebank is not here and could not be fetched.
        Stopped: a signal came.
    """
    data = model.config.run.data
    rest = f", or {otherwise}" if otherwise else ""
    if not is_corpus(data):
        raise InputError(
            f"{model.name}: it was trained on the folder {data}, which is not here; name where it "
            f"lies now with --data{rest}"
        )
    corpus = load_corpus(data, data_dir, stop)
    elsewhere = f"name the texts that it was trained on with --data{rest}"
    if corpus.vocabulary.sha256 != model.vocabulary.sha256:
        differs = model.vocabulary.differs_from(corpus.vocabulary, f"the data {corpus.name}")
        raise InputError(f"{model.name}: {differs}; {elsewhere}")
    if corpus.sha256 != model.corpus_sha256:
        raise InputError(
            f"{model.name}: the texts of the data {corpus.name} are not those that it was trained "
            f"on, or have changed since; {elsewhere}"
        )
    return corpus


def tokens_of_split(
    model: TrainedModel,
    split: str,
    data_dir: Path,
    stop: StopFlag,
    *,
    otherwise: str = "use --text FILE to evaluate it on another text",
) -> TokenIds:
    """Return a split of the data that a model was trained on, in its indices.

    Args:
        model: which says what its data is and where it lies.
        split: ``train``, ``valid`` or ``test``; of these the last may be another text than at the
            time of the training, see :func:`corpus_of`.
        data_dir: the data folder.
        stop: checked between two files.
        otherwise: what a user can do without the data.

    Raises:
        InputError: the data is not here, no longer what the model was trained on, or without the
            split.
        PtbLmError: the Penn Treebank is not here and could not be fetched.
        Stopped: a signal came.
    """
    corpus = corpus_of(model, data_dir, stop, otherwise=otherwise)
    if split not in corpus.splits:
        raise InputError(
            f"{model.name}: the folder {corpus.name} that it was trained on has no {split}.txt; "
            "use --split valid, or --text FILE"
        )
    return corpus.splits[split]


def tokens_of_file(vocabulary: Vocabulary, path: Path, stop: StopFlag) -> TokenIds:
    """Return a text of the user's; a warning says how much of it the vocabulary lacks.

    Raises:
        InputError: it cannot be read.
        Stopped: a signal came.
    """
    written = 0  # <unk> that the file has itself

    def words_of_file() -> Iterator[list[str]]:
        nonlocal written
        for words in read_words(path, stop):
            written += words.count(UNK)
            yield words

    tokens = vocabulary.encode_text(words_of_file())
    unknown = count_token(tokens, vocabulary.index[UNK]) - written
    if unknown:
        logger.warning(
            "%s: %s of %s tokens (%.1f %%) are not in the vocabulary and count as <unk>",
            name_of(path),
            f"{unknown:,}",
            f"{len(tokens):,}",
            100 * unknown / len(tokens),
        )
    return tokens
