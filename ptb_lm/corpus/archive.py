"""Read an untrusted archive's files one by one, in bounded memory, never extracting by path.

The standard library trusts the sizes that an archive declares, so each read is bounded here.
"""

import gzip
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

ARCHIVE_BYTES = 50_000_000  # simple-examples.tgz has 35 MB
UNPACKED_BYTES = 500_000_000
MEMBERS = 10_000
HEADER_BYTES = 1_000_000
CONTENT_BYTES = 12_000_000

# What the modules raise for a damaged file; RuntimeError also for a zip that is encrypted and for
# headers nested without end, the last four for a header that says nonsense.
UNREADABLE = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    struct.error,
    ValueError,
    OverflowError,
    LookupError,
)

_ZIP_MEMBER = b"PK\x01\x02"  # begins each entry of a zip's directory
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 16


def archive_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Yield name, declared size and opened content of each regular file of a .zip, .tar.gz or .tar.

    At most ``CONTENT_BYTES`` of a content may be read.

    Raises:
        UNREADABLE: the file is no such archive, is damaged, or is larger, in itself or in what it
            declares, than an archive of a text corpus has cause to be.
    """
    if path.stat().st_size > ARCHIVE_BYTES:
        raise ValueError(f"more than {ARCHIVE_BYTES:,} bytes")
    return _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)


def _zip_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    if path.read_bytes().count(_ZIP_MEMBER) > MEMBERS:  # before the module lists them
        raise ValueError(f"more than {MEMBERS:,} members")
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            # Of the other methods a few bytes unpack to hundreds of MB at once.
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{info.filename!r} is compressed otherwise than by deflate")
            if not info.is_dir():
                with archive.open(info) as content:
                    yield info.filename, info.file_size, content


def _tar_members(path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    with path.open("rb") as file:
        compressed = file.read(len(_GZIP)) == _GZIP
    with gzip.open(path) if compressed else path.open("rb") as unpacked:
        reader = _BoundedReader(cast(IO[bytes], unpacked))
        with tarfile.open(fileobj=cast(IO[bytes], reader), mode="r:") as archive:
            while (member := archive.next()) is not None:
                if member.isreg() and (content := archive.extractfile(member)) is not None:
                    reader.budget = CONTENT_BYTES
                    yield member.name, member.size, content
                # What the module remembers of each member would grow with their number.
                archive.members.clear()  # type: ignore[attr-defined]
                archive.pax_headers = {}
                reader.budget = HEADER_BYTES


class _BoundedReader:
    """The bytes of a tar archive, forwards only: a limited number may be read, more may be skipped.

    Attributes:
        budget: bytes that may be read until it is set anew. A header may declare extensions of any
            size, which the module reads into memory; what it skips costs time alone.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.budget = HEADER_BYTES
        self.position = 0

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        if not 0 <= size <= self.budget:
            raise tarfile.ReadError("a header declares more than any member needs")
        self.budget -= size
        data = self.file.read(size)
        self.position += len(data)
        return data

    def seek(self, position: int) -> None:
        if not self.position <= position <= UNPACKED_BYTES:
            raise tarfile.ReadError(f"a member lies before its header or beyond {UNPACKED_BYTES:,}")
        while self.position < position:
            skipped = len(self.file.read(min(position - self.position, _CHUNK_BYTES)))
            if not skipped:
                return
            self.position += skipped
