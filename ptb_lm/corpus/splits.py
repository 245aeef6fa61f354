"""The parts of a corpus, and where those of a user's own lie."""

import os
import re
from contextlib import suppress
from pathlib import Path

SPLITS = ("train", "valid", "test")
"""Of which a folder need not have the last."""


def split_file(folder: Path, split: str) -> Path:
    """Return where a split of a user's own text lies."""
    return folder / f"{split}.txt"


def splits_in(folder: Path) -> list[str]:
    """Return the splits that a folder is read for: all but a test text that is not there."""
    has_test = os.path.lexists(split_file(folder, "test"))
    return [split for split in SPLITS if split != "test" or has_test]


_OTHER_NAMES = {
    "train": {"train", "training"},
    "valid": {"valid", "validation", "val", "dev", "devel", "development", "eval"},
    "test": {"test", "testing", "tst"},
}
_TEXT_ENDINGS = {"txt", "text", "tok", "tokens", "raw"}
_PACKED_ENDINGS = {"gz", "bz2", "xz"}


def files_like(folder: Path, split: str) -> list[str]:
    """Return the files that seem to be a split under another name, such as ``dev.txt``.

    Args:
        folder: of a user's own text; one that cannot be listed holds none.
        split: ``train``, ``valid`` or ``test``.
    """
    names = []
    with suppress(OSError):
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    return [
        name for name in names if name != f"{split}.txt" and _split_of(name) & _OTHER_NAMES[split]
    ]


def _split_of(name: str) -> set[str]:
    """Return the words of a file's name, if it has the ending of a text or none."""
    *words, ending = re.split(r"[._-]", name.lower())
    if words and ending in _PACKED_ENDINGS:
        *words, ending = words
    if not words:
        return {ending}
    return {*words} if ending in _TEXT_ENDINGS else set()
