"""Compressed texts: recognized by their first bytes and unpacked in bounded memory."""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from itertools import product
from typing import IO, Protocol

from ptb_lm.errors import InputError

READ_BYTES = 1 << 16
"""How many bytes of a file are read, and at most unpacked, at once."""

XZ_MEMORY = 1 << 28
"""The most memory that unpacking xz may take; the strongest preset, ``xz -9``, needs 65 MiB."""

BOMB_BYTES = 1 << 26
BOMB_RATIO = 100
"""A file that unpacks to more than both, bytes and times its size, is refused as no text."""


class _Decompressor(Protocol):
    """The interface that the standard library's decompressors of bzip2 and xz share."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, XZ_MEMORY)


# A bzip2 file begins with its level, then its first block or, if it is empty, its end.
_BZIP2 = [
    b"BZh%d%b" % (level, block)
    for level, block in product(range(1, 10), (b"1AY&SY", b"\x17rE8P\x90"))
]
_READ: dict[bytes, tuple[str, Callable[[], _Decompressor]]] = {
    b"\x1f\x8b\x08": ("gzip", _Gzip),
    **dict.fromkeys(_BZIP2, ("bzip2", bz2.BZ2Decompressor)),
    b"\xfd7zXZ\x00": ("xz", _xz),
}
_REFUSED = {
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\x04\x22\x4d\x18": "compressed by lz4",
    b"\x1f\x9d": "compressed by compress",
    b"]\0\0": "compressed by lzma",
}
_MAGICS = [*_READ, *_REFUSED]
_TAR_PLACE = 257
"""Where a tar archive, compressed or not, names its format."""


def unpacked(file: IO[bytes], name: str) -> io.BufferedReader:
    """Return a reader of a text that may be compressed by gzip, bzip2 or xz.

    It answers as soon as the file does, so that lines of a pipe arrive when they are written.

    Args:
        file: at its beginning; may be a pipe.
        name: what the file is called in a message.

    Raises:
        InputError: here, the file is an archive or compressed by another program; on reading, it
            is damaged, unpacks to far more than a text can, or needs too much memory.
    """
    head = b""
    while any(magic.startswith(head) and magic != head for magic in _MAGICS):
        more = _read_some(file, READ_BYTES)
        head += more
        if not more:
            break
    for magic, what in _REFUSED.items():
        if head.startswith(magic):
            raise InputError(f"{name}: {what}, not a text; unpack it first")
    source = _Source(head, file)
    reader: io.BufferedReader = io.BufferedReader(source, READ_BYTES)
    for magic, (what, decompressor) in _READ.items():
        if head.startswith(magic):
            reader = io.BufferedReader(_Unpacked(source, name, what, decompressor), READ_BYTES)
            if reader.peek(READ_BYTES).startswith((*_MAGICS,)):
                raise InputError(f"{name}: compressed twice, or an archive; unpack it first")
    if reader.peek(READ_BYTES)[_TAR_PLACE:].startswith(b"ustar"):
        raise InputError(f"{name}: a tar archive, not a text; unpack it first")
    return reader


def _read_some(file: IO[bytes], size: int) -> bytes:
    """Read what there is, waiting only where there is nothing."""
    read: Callable[[int], bytes] = getattr(file, "read1", file.read)
    return read(size)


class _Source(io.RawIOBase):
    """A file whose first bytes have been read already."""

    def __init__(self, head: bytes, file: IO[bytes]) -> None:
        self._head, self._file = head, file

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._file.fileno()

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        data = self._head[: len(buffer)] or _read_some(self._file, len(buffer))
        self._head = self._head[len(buffer) :]
        buffer[: len(data)] = data
        return len(data)


class _Unpacked(io.RawIOBase):
    """The bytes that a compressed file unpacks to, of all its members one after the other."""

    def __init__(
        self, source: _Source, name: str, what: str, new: Callable[[], _Decompressor]
    ) -> None:
        self._source, self._name, self._what, self._new = source, name, what, new
        self._parts = self._unpack()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "memoryview[int]") -> int:  # type: ignore[override]
        self._room = len(buffer)
        part = next(self._parts, b"")
        buffer[: len(part)] = part
        return len(part)

    def _unpack(self) -> Iterator[bytes]:
        """Yield parts of at most the size that is asked for, none of them empty."""
        decompressor, began, rest = self._new(), False, b""
        taken = given = 0
        while True:
            data = b""
            if decompressor.needs_input:
                data = rest or self._source.read(READ_BYTES) or b""
                taken, rest, ended = taken + len(data), b"", not data
                if not began:
                    data = data.lstrip(b"\0")  # padding between members
                    if not data and not ended:
                        continue
            else:
                ended = False
            if ended and not began:
                return
            began = True
            part = self._decompressed(decompressor, data)
            given += len(part)
            if given > max(BOMB_BYTES, BOMB_RATIO * taken):
                raise InputError(
                    f"{self._name}: unpacks to more than {BOMB_RATIO} times its size, as no "
                    "ordinary text does; unpack it first if it is one"
                )
            if part:
                yield part
            if decompressor.eof:
                rest = decompressor.unused_data
                taken -= len(rest)  # counted again when it is used
                decompressor, began = self._new(), False
            elif ended and not part:
                raise InputError(
                    f"{self._name}: damaged: its {self._what} data end too early; copy or fetch "
                    "the file again"
                )

    def _decompressed(self, decompressor: _Decompressor, data: bytes) -> bytes:
        try:
            return decompressor.decompress(data, self._room)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            if "limit" in str(error).lower():
                problem = f"unpacking it needs more than {XZ_MEMORY >> 20} MiB; unpack it first"
            else:
                problem = f"damaged: not valid {self._what} data; copy or fetch the file again"
            raise InputError(f"{self._name}: {problem}") from None
