"""The parts of a corpus, and where those of a user's own lie."""

import os
from pathlib import Path

SPLITS = ("train", "valid", "test")
"""Of which a folder need not have the last."""

BUILT_IN = ("ptb", "synthetic")
"""Names of corpora, of which each has all splits; any other is a folder."""


def split_file(folder: Path, split: str) -> Path:
    """Return where a split of a user's own text lies."""
    return folder / f"{split}.txt"


def splits_in(folder: Path) -> list[str]:
    """Return the splits that a folder is read for: all but a test text that is not there."""
    has_test = os.path.lexists(split_file(folder, "test"))
    return [split for split in SPLITS if split != "test" or has_test]
