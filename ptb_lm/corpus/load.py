"""The one way from what the user asked for to encoded splits."""

import hashlib
import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ptb_lm.config import BUILT_IN
from ptb_lm.corpus.download import fetch_ptb
from ptb_lm.corpus.oddities import Oddities
from ptb_lm.corpus.ptb import PTB_FILES, is_installed, ptb_folder, read_ptb
from ptb_lm.corpus.reading import PART_BYTES, read_words, require_readable
from ptb_lm.corpus.splits import files_like, split_file, splits_in
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.corpus.text import UNK, decoded, words_of
from ptb_lm.corpus.tokens import TokenIds, count_token, parts_of
from ptb_lm.corpus.unknown import UnknownWords
from ptb_lm.corpus.vocabulary import Vocabulary, encode_training_text
from ptb_lm.errors import InputError
from ptb_lm.paths import named_path, named_user_path, user_path
from ptb_lm.stop import NEVER, StopFlag

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Corpus:
    """Encoded splits and the vocabulary of the first.

    Attributes:
        name: ``ptb``, ``synthetic`` or the folder it came from.
        splits: int32 word indices of shape (N,) for each of train, valid and, where there is one,
            test.
        unknown: the words of each split that the vocabulary lacks.
        oddities: characters of each split that its words do not show; none of a built-in corpus.
    """

    name: str
    vocabulary: Vocabulary
    splits: dict[str, TokenIds]
    unknown: dict[str, UnknownWords] = field(default_factory=dict)
    oddities: dict[str, Oddities] = field(default_factory=dict)

    def place(self, split: str) -> str:
        """Return the file of a split, or of a built-in corpus its name and the split."""
        if self.name in BUILT_IN:
            return f"{self.name} {split}"
        return str(split_file(named_path(self.name), split))

    @cached_property
    def sha256(self) -> str:
        """The identity of the texts that a training sees: train and valid, word for word.

        The test text is no part of it, so that a model may be evaluated on another in its place.
        """
        digest = hashlib.sha256(self.vocabulary.sha256.encode())
        for split in ("train", "valid"):
            for part in parts_of(self.splits[split]):
                digest.update(part.astype("<i4").tobytes())
        return digest.hexdigest()


def data_directory(option: Path | None) -> Path:
    """Return the data folder: the option, else ``$PTB_LM_DATA_DIR``, else ``./data``."""
    return user_path(option or os.environ.get("PTB_LM_DATA_DIR") or "data")


def is_corpus(name: str) -> bool:
    """Whether a name is that of a built-in corpus, or of a folder that is here."""
    # Not Path's, which raises of a name that is too long.
    return name in BUILT_IN or os.path.isdir(named_user_path(name))  # noqa: PTH112


def require_corpus(name: str) -> None:
    """Raise InputError if a name is of no corpus; what is in a folder is not looked at."""
    if not is_corpus(name):
        advice = ""
        if os.path.isfile(named_user_path(name)):  # noqa: PTH113 - Path's raises of too long a name
            advice = "; `ptb-lm data prepare` makes such a folder from a text file"
        raise InputError(
            f"--data {name}: expected ptb, synthetic, or a folder with train.txt, valid.txt and, "
            f"if there is to be one, test.txt{advice}"
        )


def load_corpus(name: str, data_dir: Path, stop: StopFlag = NEVER) -> Corpus:
    """Load ``ptb`` (fetched first where it is not there), ``synthetic``, or a folder of texts.

    The texts are read once, and in memory are their tokens, 4 bytes each.

    Raises:
        InputError: no such data, a file missing, empty, damaged or not UTF-8.
        PtbLmError: the Penn Treebank is not there and could not be fetched.
        Stopped: a signal came while it was fetched, or while a folder was read.
    """
    require_corpus(name)
    oddities: dict[str, Oddities] = {}
    if name == "ptb":
        words = _ptb_words(data_dir, stop)
    elif name == "synthetic":
        words = {split: iter([text]) for split, text in synthetic_words().items()}
    else:
        folder = named_user_path(name)
        _require_own_text(folder)
        files = {split: split_file(folder, split) for split in splits_in(folder)}
        _require_files(folder, files)
        oddities = {split: Oddities() for split in files}
        words = {
            split: read_words(file, stop, seen=oddities[split].see) for split, file in files.items()
        }
    vocabulary, train = encode_training_text(words.pop("train"))
    unknown = {split: UnknownWords(vocabulary) for split in ("train", *words)}
    unknown["train"].tokens = len(train)
    unknown["train"].written = count_token(train, vocabulary.index[UNK])
    others = {
        split: vocabulary.encode_text(text, unknown[split].see) for split, text in words.items()
    }
    return Corpus(name, vocabulary, {"train": train, **others}, unknown, oddities)


def _require_files(folder: Path, files: Mapping[str, Path]) -> None:
    """Raise InputError if a split cannot be read, naming a file that seems to be it."""
    for split, file in files.items():
        try:
            require_readable([file])
        except InputError as error:
            names = files_like(folder, split)
            corpora = [] if names else sorted(folder.glob("*/train.txt"))
            if os.path.lexists(file) or not (names or corpora):
                raise
            advice = f"if {names[0]} is its text, rename it to {file.name}" if names else ""
            if corpora:
                advice = f"{corpora[0].parent} has such a file; try --data with that folder"
            raise InputError(f"{error}; {advice}") from None


def _require_own_text(folder: Path) -> None:
    """Raise InputError if a folder is that of the Penn Treebank, whose files have other names."""
    names = [file.name for file in PTB_FILES if (folder / file.name).exists()]
    if not names or os.path.lexists(split_file(folder, "train")):
        return
    advice = f"`ptb-lm data fetch --from {shlex.quote(str(folder))}` installs it"
    place = Path(os.path.abspath(folder))  # noqa: PTH100 - a `..` goes, a link stays
    if ptb_folder(place.parent) == place:
        parent = folder.parent if folder.name == place.name else place.parent
        advice = f"leave --data out, and use --data-dir {shlex.quote(str(parent))}"
    raise InputError(
        f"--data {folder}: {names[0]} in it is of the Penn Treebank, and there is no train.txt; "
        f"{advice}"
    )


def _ptb_words(data_dir: Path, stop: StopFlag) -> dict[str, Iterator[Sequence[str]]]:
    if not is_installed(data_dir):
        logger.info("The Penn Treebank is not in %s: fetching it.", data_dir)
        fetch_ptb(data_dir, stop=stop)
    return {
        split: words_of(decoded(_parts(data), split)) for split, data in read_ptb(data_dir).items()
    }


def _parts(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PART_BYTES):
        yield data[start : start + PART_BYTES]
