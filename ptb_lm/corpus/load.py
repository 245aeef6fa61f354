"""The one way from what the user asked for to encoded splits."""

import hashlib
import logging
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptb_lm.corpus.download import fetch_ptb
from ptb_lm.corpus.ptb import is_installed, read_ptb
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.corpus.text import decode, read_words, split_words
from ptb_lm.corpus.vocabulary import TokenIds, Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.stop import NEVER, StopFlag

logger = logging.getLogger(__name__)

SPLITS = ("train", "valid", "test")
BUILT_IN = ("ptb", "synthetic")
"""Names of corpora; any other is a folder."""


@dataclass(frozen=True)
class Corpus:
    """Three encoded splits and the vocabulary of the first.

    Attributes:
        name: ``ptb``, ``synthetic`` or the folder it came from.
        splits: int32 word indices of shape (N,) for each of train, valid and test.
    """

    name: str
    vocabulary: Vocabulary
    splits: dict[str, TokenIds]

    @cached_property
    def sha256(self) -> str:
        """The identity of the texts that a training sees: train and valid, word for word."""
        digest = hashlib.sha256(self.vocabulary.sha256.encode())
        for split in ("train", "valid"):
            digest.update(self.splits[split].astype("<i4").tobytes())
        return digest.hexdigest()


def data_directory(option: Path | None) -> Path:
    """Return the data folder: the option, else ``$PTB_LM_DATA_DIR``, else ``./data``."""
    return option or Path(os.environ.get("PTB_LM_DATA_DIR") or "data")


def load_corpus(name: str, data_dir: Path, stop: StopFlag = NEVER) -> Corpus:
    """Load ``ptb`` (fetched first where it is not there), ``synthetic``, or a folder of texts.

    Raises:
        InputError: no such data, a file missing, empty, damaged or not UTF-8.
        PtbLmError: the Penn Treebank is not there and could not be fetched.
        Stopped: a signal came while it was fetched.
    """
    if name == "ptb":
        words = _ptb_words(data_dir, stop)
    elif name == "synthetic":
        words = synthetic_words()
    elif os.path.isdir(name):  # noqa: PTH112 - Path's raises of a name that is too long
        words = {split: read_words(Path(name) / f"{split}.txt") for split in SPLITS}
    else:
        raise InputError(
            f"--data {name}: expected ptb, synthetic, or a folder with train.txt, valid.txt "
            "and test.txt"
        )
    vocabulary = Vocabulary.of_text(words["train"])
    return Corpus(name, vocabulary, {split: vocabulary.encode(words[split]) for split in SPLITS})


def _ptb_words(data_dir: Path, stop: StopFlag) -> dict[str, list[str]]:
    if not is_installed(data_dir):
        logger.info("The Penn Treebank is not in %s: fetching it.", data_dir)
        fetch_ptb(data_dir, stop=stop)
    return {split: split_words(decode(data, split)) for split, data in read_ptb(data_dir).items()}
