"""The Penn Treebank as preprocessed by Mikolov: its three files, their sizes and checksums."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.errors import InputError


@dataclass(frozen=True)
class PtbFile:
    """One file of the corpus, known to the byte."""

    split: str
    name: str
    size: int
    sha256: str

    def check(self, data: bytes, where: str) -> None:
        """Raise InputError, naming the place, if these bytes are not the file's."""
        if len(data) != self.size:
            raise InputError(
                f"{where}: {len(data):,} bytes where {self.name} has {self.size:,}; "
                "fetch it again with `ptb-lm data fetch`"
            )
        if hashlib.sha256(data).hexdigest() != self.sha256:
            raise InputError(
                f"{where}: sha256 differs from that of {self.name}; "
                "fetch it again with `ptb-lm data fetch`"
            )


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


def ptb_folder(data_dir: Path) -> Path:
    """Return where the corpus lies below a data folder."""
    return data_dir / "ptb"


def is_installed(data_dir: Path) -> bool:
    """Return whether any file of the corpus is there; :func:`read_ptb` says whether it is right."""
    return any((ptb_folder(data_dir) / file.name).exists() for file in PTB_FILES)


def read_ptb(data_dir: Path) -> dict[str, bytes]:
    """Read the three files, checked, as a mapping from split to bytes.

    Raises:
        InputError: a file is missing or is not the published one.
    """
    contents = {}
    for file in PTB_FILES:
        path = ptb_folder(data_dir) / file.name
        if not path.is_file():
            raise InputError(f"{path}: missing; fetch it with `ptb-lm data fetch`")
        contents[file.split] = path.read_bytes()
        file.check(contents[file.split], str(path))
    return contents
