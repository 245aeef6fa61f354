"""Text to words, and nothing else: what a token is stands here.

A line is a sentence. Each line is split at white space and ended with ``<eos>``; an empty line is
the sentence of no words. That reading of the Penn Treebank gives the 929,589 / 73,760 / 82,430
tokens that the field's perplexities are counted over.
"""

from pathlib import Path

from ptb_lm.errors import InputError

EOS = "<eos>"
UNK = "<unk>"


def split_words(text: str) -> list[str]:
    """Return the words of a text, each line ended with ``<eos>``, whether the last is or not."""
    if text and not text.endswith("\n"):
        text += "\n"
    return text.replace("\n", f" {EOS} ").split()


def decode(data: bytes, name: str) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
        InputError: naming the file, line and byte that is not UTF-8.
    """
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name}: line {line}, byte {error.start}: not UTF-8 (0x{data[error.start]:02x}); "
            "convert the file to UTF-8"
        ) from None


def read_words(path: Path) -> list[str]:
    """Read a text file into words.

    Raises:
        InputError: the file is missing, is not UTF-8, or holds no word.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    words = split_words(decode(data, str(path)))
    if all(word == EOS for word in words):
        raise InputError(f"{path}: no word in it")
    return words
