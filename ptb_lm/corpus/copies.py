"""Find the published files among others: by their content, whatever their names and line ends.

A copy counts only if its bytes, or its words with the published white space, have the published
sha256. So nothing can be taken by mistake, and names only decide what an error message mentions.
"""

import re
import stat
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.corpus import ptb
from ptb_lm.corpus.archive import CONTENT_BYTES, MEMBERS, archive_members
from ptb_lm.corpus.ptb import Contents, PtbFile
from ptb_lm.errors import InputError

FOLDER_DEPTH = 3
"""Levels of folders that are searched below the one that is named."""

READ_BYTES = 200_000_000
"""Most bytes that are read in a search, so that a large folder does not take minutes."""

_GZIP_WINDOW = 31  # zlib's code of a gzip header
_SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "valid": "valid",
    "validation": "valid",
    "val": "valid",
    "dev": "valid",
    "test": "test",
}


@dataclass(frozen=True)
class Candidate:
    """A file that may be a copy of a published one.

    Attributes:
        name: its path, or its name in an archive.
        place: what an error message calls it.
        size: in bytes, as the folder or archive declares it.
        read: returns at most the given number of its bytes.
    """

    name: str
    place: str
    size: int
    read: Callable[[int], bytes]

    @property
    def is_gzip(self) -> bool:
        """Whether it is packed, by its name."""
        return self.name.lower().endswith(".gz")

    def may_be_copy(self) -> bool:
        """Return whether a copy, in UTF-16 or stripped of white space, can have this size."""
        if self.is_gzip:
            return self.size <= CONTENT_BYTES
        return any(file.size // 2 <= self.size <= file.most_bytes for file in ptb.PTB_FILES)

    def content(self) -> bytes:
        """Return its bytes, unpacked if it is a .gz, up to the most that a copy can have."""
        limit = max(file.most_bytes for file in ptb.PTB_FILES)
        data = self.read(limit)
        if not self.is_gzip:
            return data
        with suppress(zlib.error):
            return zlib.decompressobj(_GZIP_WINDOW).decompress(data, limit)
        return data


def folder_copies(folder: Path) -> Contents:
    """Return the three published files from a folder or the folders below it.

    Raises:
        InputError: not all of them are there.
    """
    names = ", ".join(file.name for file in ptb.PTB_FILES)
    return _find(lambda: _in_folder(folder), f"{folder}: expected {names} in it")


def archive_copies(path: Path, origin: str) -> Contents:
    """Return the three published files from an archive; nothing is extracted by path.

    Args:
        path: the archive.
        origin: what a message calls it.

    Raises:
        InputError: not all of them are there.
        UNREADABLE: see :func:`~ptb_lm.corpus.archive.archive_members`.
    """

    def candidates() -> Iterator[Candidate]:
        for name, size, stream in archive_members(path):
            # The name may hold a line feed.
            yield Candidate(name, f"{origin}, member {name!r}", size, stream.read)

    return _find(candidates, f"{origin}: no {{missing}} in the archive")


def is_copy(path: Path) -> bool:
    """Return whether a file is a copy of one of the published ones."""
    candidate = _file_candidate(path)
    return candidate.may_be_copy() and ptb.recognized(candidate.content()) is not None


def _find(candidates: Callable[[], Iterable[Candidate]], refusal: str) -> Contents:
    """Return the published files among candidates: exact copies first, then converted ones.

    Raises:
        InputError: some are missing; the message is about a candidate that has the right name, or
            else the refusal.
    """
    found: Contents = {}
    sizes = {file.size for file in ptb.PTB_FILES}
    for candidate in candidates():
        if candidate.size in sizes:
            _take(candidate.read(candidate.size), found, convert=False)
            if len(found) == len(ptb.PTB_FILES):
                return found
    read_bytes = 0
    complaints: dict[str, InputError] = {}
    for candidate in candidates():
        if candidate.may_be_copy() and read_bytes < READ_BYTES:
            data = candidate.content()
            read_bytes += len(data)
            if _take(data, found, convert=True):
                continue
        else:
            data = None
        _complain(candidate, data, complaints)
    missing = [file for file in ptb.PTB_FILES if file.name not in found]
    for file in missing:
        if file.name in complaints:
            raise complaints[file.name]
    if missing:
        raise InputError(refusal.replace("{missing}", ", ".join(file.name for file in missing)))
    return found


def _take(data: bytes, found: Contents, *, convert: bool) -> bool:
    """Add a file to those that were found if its bytes are those of a published one."""
    match = ptb.recognized(data, convert=convert)
    if match is not None:
        file, published = match
        found.setdefault(file.name, published)
    return match is not None


def _complain(candidate: Candidate, data: bytes | None, complaints: dict[str, InputError]) -> None:
    """Note what is wrong with a file whose name is that of a published one, or resembles it."""
    base = candidate.name.rpartition("/")[2]
    file = _named_like(base)
    if file is None or (file.name in complaints and base != file.name):
        return
    try:
        data = candidate.read(file.size + 1) if data is None else data
        file.check(data, candidate.place, "it is another text, or damaged")
    except InputError as error:
        complaints[file.name] = error


def _named_like(name: str) -> PtbFile | None:
    """Return the published file that a file name suggests."""
    if name.startswith("._"):  # attributes of a file, in archives made on macOS
        return None
    words = re.split(r"[^a-z]+", name.lower())
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return next((file for file in ptb.PTB_FILES if {file.split} == splits), None)


def _in_folder(folder: Path) -> Iterator[Candidate]:
    """Yield the regular files of a folder, nearest first; links to folders are not followed."""
    level, entries = [folder], 0
    for _ in range(FOLDER_DEPTH + 1):
        below: list[Path] = []
        for place in level:
            try:
                paths = sorted(place.iterdir())
            except OSError:  # no folder, or not ours to read
                continue
            for path in paths:
                entries += 1
                if entries > MEMBERS:
                    return
                with suppress(OSError):
                    if stat.S_ISDIR(path.lstat().st_mode):
                        below.append(path)
                    elif stat.S_ISREG(path.stat().st_mode):
                        yield _file_candidate(path)
        level = below


def _file_candidate(path: Path) -> Candidate:
    def read(limit: int) -> bytes:
        try:
            with path.open("rb") as file:
                return file.read(limit)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None

    return Candidate(str(path), str(path), path.stat().st_size, read)
