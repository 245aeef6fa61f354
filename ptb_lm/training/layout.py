"""Check the archive of a checkpoint before PyTorch builds anything from it.

``torch.load(weights_only=True)`` runs no code of a file's, but it builds what the file says: a few
bytes can ask for any amount of memory, or nest so deep that the interpreter dies. Of that language
our checkpoints, as ``torch.save`` writes them, need very little, and a file may use no more.
"""

import os
import pickletools
import struct
import zipfile
from typing import IO

# All that our files name of what can be called; PyTorch's own list takes memory as a file pleases.
_CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Byte")),
}
_MEMO = {"BINPUT", "LONG_BINPUT"}
_OPCODES = _MEMO | {
    *("PROTO", "STOP", "GLOBAL", "REDUCE", "BINPERSID", "MARK", "BINGET", "LONG_BINGET"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    "BINUNICODE",
}
# Beside the words of the vocabulary. A tensor takes about 20, a network of 100 layers, the most
# that a config may have, about 12,000; the interpreter's stack bears twice as many, nested.
_MOST_OPCODES = 20_000

_USUAL_VALUES_BYTES = 32 << 20
"""Bytes that the plain values, the vocabulary included, may always take. They may take more where
the tensors do."""

_LONGEST_DIRECTORY = 4 << 20
"""Bytes of the list of entries; ours have about 100 for each tensor."""

# The records that end an archive: signature, size and offset of the directory; signature and
# offset of the first record; signature.
_END = struct.Struct("<4s36xQQ4s4xQ4x4s18x")


def require_our_layout(file: IO[bytes], comment_bytes: int) -> None:
    """Raise ValueError if an archive is built otherwise than ``torch.save`` builds ours.

    Args:
        file: the archive.
        comment_bytes: the length of its comment.

    Raises:
        ValueError, or whatever the readers of archives and pickles raise of nonsense.
    """
    _require_one_directory(file, comment_bytes)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        # PyTorch finds an entry whatever its case, and unpacks some before it is asked to.
        names = {entry.filename.lower() for entry in entries}
        stored = all(
            entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
            for entry in entries
        )
        if len(names) != len(entries) or not stored:
            raise ValueError("entries")
        folder = entries[0].filename.partition("/")[0]
        values = archive.getinfo(f"{folder}/data.pkl")
        tensor_bytes = sum(entry.file_size for entry in entries) - values.file_size
        if values.file_size > max(_USUAL_VALUES_BYTES, tensor_bytes):
            raise ValueError("more plain values than tensors")
        _require_plain_values(archive.read(values))


def _require_one_directory(file: IO[bytes], comment_bytes: int) -> None:
    """Raise ValueError unless the directory lies right before the end of the archive.

    Of an archive that says otherwise, ``zipfile`` reads one directory and PyTorch another.
    """
    end = file.seek(-(_END.size + comment_bytes), os.SEEK_END)
    end64, size, offset, locator, end64_offset, last = _END.unpack(file.read(_END.size))
    if (end64, locator, last) != (b"PK\6\6", b"PK\6\7", b"PK\5\6"):
        raise ValueError("end")
    if end64_offset != end or offset + size != end or size > _LONGEST_DIRECTORY:
        raise ValueError("directory")


def _require_plain_values(pickled: bytes) -> None:
    """Raise ValueError if a pickle holds more than tensors and plain values, or too many."""
    opcodes: list[str] = []
    for opcode, argument, _ in pickletools.genops(pickled):
        name = opcode.name
        if name not in _OPCODES or (name == "GLOBAL" and argument not in _CALLABLES):
            raise ValueError(name)
        if name in _MEMO or name == "BINUNICODE":
            continue
        if name == "APPENDS" and opcodes[-1:] == ["MARK"]:
            opcodes.pop()  # of a thousand words, of which a vocabulary may have any number
            continue
        opcodes.append(name)
        # A tensor is called for with arguments that end in a new OrderedDict, which is called for
        # without any: called with arguments it would copy them.
        called_for = opcodes[-2:-1] == ["EMPTY_TUPLE"] or opcodes[-4:-1] == [
            *("EMPTY_TUPLE", "REDUCE", "TUPLE")
        ]
        if name == "REDUCE" and not called_for:
            raise ValueError("REDUCE")
        if len(opcodes) > _MOST_OPCODES:
            raise ValueError("opcodes")
