"""Where the tokens come from that a trained model is used on: its own data, or a file."""

from dataclasses import dataclass
from pathlib import Path

from ptb_lm.corpus.findings import announced, file_findings
from ptb_lm.corpus.load import Corpus, is_corpus, load_corpus
from ptb_lm.corpus.oddities import Oddities
from ptb_lm.corpus.reading import name_of, read_words
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.corpus.unknown import UnknownWords
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.stop import StopFlag

ANOTHER = "use --text FILE to evaluate it on another text"


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


@dataclass(frozen=True)
class EncodedText:
    """A text to score.

    Attributes:
        name: its file, or the name of the corpus and the split.
        tokens: (N,).
        unknown: which of its words the vocabulary lacks.
    """

    name: str
    tokens: TokenIds
    unknown: UnknownWords


def encoded_split(
    model: TrainedModel, split: str, data_dir: Path, stop: StopFlag, *, otherwise: str = ANOTHER
) -> EncodedText:
    """Return a split of the data that a model was trained on, and its words that are unknown.

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
    return EncodedText(corpus.place(split), corpus.splits[split], corpus.unknown[split])


def encoded_file(vocabulary: Vocabulary, path: Path, stop: StopFlag) -> EncodedText:
    """Return a text of the user's, and which of its words the vocabulary lacks.

    Other line ends than line feeds, and byte order marks, are reported.

    Raises:
        InputError: it cannot be read.
        Stopped: a signal came.
    """
    unknown, oddities = UnknownWords(vocabulary), Oddities()
    tokens = vocabulary.encode_text(read_words(path, stop, seen=oddities.see), unknown.see)
    announced(file_findings(name_of(path), oddities))
    return EncodedText(name_of(path), tokens, unknown)
