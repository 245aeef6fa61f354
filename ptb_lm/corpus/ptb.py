"""The Penn Treebank as preprocessed by Mikolov: its three files, their sizes and checksums."""

import codecs
import hashlib
import shlex
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.errors import InputError

Contents = dict[str, bytes]
"""From the name of a published file to its bytes, which have been checked."""

MOST_WHITE_SPACE = 2_000_000
"""White space characters of a text that may be a copy: the published texts have half of it."""


@dataclass(frozen=True)
class PtbFile:
    """One file of the corpus, known to the byte."""

    split: str
    name: str
    size: int
    sha256: str

    @property
    def most_bytes(self) -> int:
        """The most bytes that a copy can have: in UTF-16, with CRLF line ends."""
        return self.size * 11 // 5

    def is_exactly(self, data: bytes) -> bool:
        """Return whether these are the published bytes."""
        return len(data) == self.size and hashlib.sha256(data).hexdigest() == self.sha256

    def check(self, data: bytes, where: str, advice: str) -> None:
        """Raise InputError if these bytes are not the file's.

        The message says what is wrong with a copy that :func:`restored` does not make right.

        Args:
            data: the bytes.
            where: where they are from.
            advice: what the message ends with.
        """
        if self.is_exactly(data):
            return
        size = f"{len(data):,} bytes where {self.name} has {self.size:,}"
        difference = f"sha256 differs from that of {self.name}" if len(data) == self.size else size
        signs = signs_of_conversion(data)
        found = f"; it has {' and '.join([*signs, 'other differences'])}" if signs else ""
        raise InputError(f"{where}: {difference}{found}; {advice}")


PTB_FILES = (
    PtbFile(
        "train",
        "ptb.train.txt",
        5_101_618,
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
    ),
    PtbFile(
        "valid",
        "ptb.valid.txt",
        399_782,
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
    ),
    PtbFile(
        "test",
        "ptb.test.txt",
        449_945,
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
    ),
)


def restored(data: bytes) -> bytes:
    """Return a copied text with the white space of the published files.

    Each line holds the words of a sentence, with a space before the first and after each. What is
    undone: UTF-16, a byte order mark, other line ends, other white space, no line feed at the end,
    and ``<eos>`` at the ends of sentences. The caller compares checksums, so it is safe to guess.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"<eos>", b"\n")
    if len(data) - len(data.translate(None, b" \t\n\r\f\v")) > MOST_WHITE_SPACE:
        return data  # no copy, and its words and lines would fill the memory
    lines = (line.split() for line in data.splitlines())
    return b"".join(b" " + b" ".join(words) + b" \n" for words in lines if words)


def recognized(data: bytes, *, convert: bool = True) -> tuple[PtbFile, bytes] | None:
    """Return the published file that some bytes are a copy of, and its published bytes.

    Args:
        data: of any file.
        convert: whether to also try them as :func:`restored` returns them.
    """
    for text in (data, restored(data)) if convert else (data,):
        for file in PTB_FILES:
            if file.is_exactly(text):
                return file, text
    return None


def signs_of_conversion(data: bytes) -> list[str]:
    """Return what shows that a text was converted: its line ends, its encoding."""
    signs = {
        "CRLF line ends": b"\r\n" in data,
        "CR line ends": b"\r" in data.replace(b"\r\n", b""),
        "a byte order mark": data.startswith(
            (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        ),
    }
    return [sign for sign, is_there in signs.items() if is_there]


def ptb_folder(data_dir: Path) -> Path:
    """Return where the corpus lies: ``data_dir/ptb``, or the data folder itself if it is there."""
    usual = data_dir / "ptb"
    return data_dir if _has_any(data_dir) and not _has_any(usual) else usual


def is_installed(data_dir: Path) -> bool:
    """Return whether any file of the corpus is there; :func:`read_ptb` says whether it is right."""
    return _has_any(ptb_folder(data_dir))


def _has_any(folder: Path) -> bool:
    return any((folder / file.name).exists() for file in PTB_FILES)


def read_ptb(data_dir: Path) -> dict[str, bytes]:
    """Read the three files, checked, as a mapping from split to bytes.

    Raises:
        InputError: a file is missing or is not the published one. For a copy with other line ends
            the message holds the command that converts it.
    """
    folder, contents, conversions = ptb_folder(data_dir), {}, []
    for file in PTB_FILES:
        path = folder / file.name
        if not path.is_file():
            raise InputError(f"{path}: missing; fetch it with `ptb-lm data fetch`")
        with path.open("rb") as opened:
            data = opened.read(file.most_bytes)
        if not file.is_exactly(data):
            if not file.is_exactly(restored(data)):
                file.check(data, str(path), "fetch it again with `ptb-lm data fetch`")
            what = " and ".join(signs_of_conversion(data) or ["other white space"])
            conversions.append(f"{path}: {file.name} with {what}")
        contents[file.split] = data
    if conversions:
        source, destination = (shlex.quote(str(place)) for place in (folder, data_dir))
        raise InputError(
            f"{conversions[0]}; `ptb-lm data fetch --from {source} --data-dir {destination}` "
            "converts it to the published bytes"
        )
    return contents
