"""A file of tensors and plain values: sealed, and opened without trusting a byte of it.

It is the zip archive that ``torch.save`` writes and ``torch.load(weights_only=True)`` opens. Its
comment (``unzip -z`` shows it) is the sha256 of all that stands before, because PyTorch itself
checks nothing: of single flipped bits it loads every second as if nothing were wrong.

Opening one allocates no more than its plain values: the tensors are views of the file mapped into
memory, so that whoever asked for them can look at their shapes before making room for any.
"""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.memory import is_out_of_memory
from ptb_lm.regular import NotRegularError, open_regular
from ptb_lm.training.layout import require_our_layout

_SEAL = b"ptb-lm sha256 "
_SEAL_BYTES = len(_SEAL) + 2 * hashlib.sha256().digest_size
_CHUNK_BYTES = 1 << 20


class DamagedFileError(InputError):
    """The bytes of a file are not what was written, or never were a file of ours."""

    def __init__(self, path: Path, what: str = "not a checkpoint of ptb-lm, or damaged") -> None:
        super().__init__(f"{path}: {what}")


def save_tensors(
    content: dict[str, Any],
    path: Path,
    *,
    prove: Callable[[Path], object],
    previous: Path | None = None,
) -> None:
    """Write tensors and plain values durably; see :func:`ptb_lm.durable.durable_file`.

    Raises:
        PtbLmError: it could not be written; the old file is as it was.
    """
    with durable_file(path, prove=prove, previous=previous) as file:
        sealing = _SealingFile(file)
        try:
            torch.save(content, cast(IO[bytes], sealing), pickle_protocol=2)
        except RuntimeError as error:  # how PyTorch's zip writer reports a failed write
            raise sealing.failure or OSError(0, str(error).splitlines()[0]) from None
        sealing.seal()


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; the tensors are views of the file, on the CPU.

    Raises:
        NotRegularError: it is no regular file.
        DamagedFileError: it is not, to the bit, a file that was written so.
        PtbLmError: it may not be read.
    """
    try:
        with open_regular(path) as file:
            _require_seal(file)
            require_our_layout(file, _SEAL_BYTES)
            content = _map(file, path)
            tensors = list(_tensors(content))
            if sum(tensor.nbytes for tensor in tensors) > os.fstat(file.fileno()).st_size:
                raise ValueError("tensors share their bytes")
    except NotRegularError:
        raise
    except PermissionError as error:  # no damage, for which a caller may look elsewhere
        raise PtbLmError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # other bytes than ours break the readers in any way whatever
        if is_out_of_memory(error):
            raise
        raise DamagedFileError(path) from error
    return content


def _map(file: IO[bytes], path: Path) -> dict[str, Any]:
    """Open an archive with PyTorch, its tensors mapped."""
    # By its descriptor where the system has that, so that it is the file that was looked at, and
    # of any name; PyTorch maps no open file.
    descriptor = Path(f"/proc/self/fd/{file.fileno()}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle that is none of ours: it is refused
        content = torch.load(
            descriptor if descriptor.exists() else path,
            map_location="cpu",
            weights_only=True,
            mmap=True,
        )
    if not isinstance(content, dict):
        raise ValueError("content")
    return content


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in plain values."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


class _SealingFile:
    """Passes an archive on as it is written, and ends it with the seal as its comment.

    The last two bytes of an archive are the length of its comment. Only the end shows which they
    are, so that two bytes are always held back.

    Attributes:
        failure: the error of a write that failed, which PyTorch's zip writer would hide.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.held_back = b""
        self.failure: OSError | None = None

    def write(self, data: bytes) -> int:
        if len(data) < 2:
            data = self.held_back + bytes(data)
            self._pass_on(data[:-2])
            self.held_back = data[-2:]
            return 1
        view = memoryview(data)
        self._pass_on(self.held_back)
        self._pass_on(view[:-2])
        self.held_back = bytes(view[-2:])
        return len(data)

    def flush(self) -> None:
        pass

    def seal(self) -> None:
        assert self.held_back == b"\0\0", "an archive without a comment"
        self._pass_on(_SEAL_BYTES.to_bytes(2, "little"))
        self.file.write(_SEAL + self.digest.hexdigest().encode())

    def _pass_on(self, data: bytes | memoryview) -> None:
        self.digest.update(data)
        try:
            self.file.write(data)
        except OSError as error:
            self.failure = error
            raise


def _require_seal(file: IO[bytes]) -> None:
    """Raise ValueError if the bytes of a file are not those it was sealed with."""
    unread = os.fstat(file.fileno()).st_size - _SEAL_BYTES
    file.seek(max(0, unread))
    seal = file.read(_SEAL_BYTES)
    if not seal.startswith(_SEAL):  # known before gigabytes of something else are read
        raise ValueError("seal")
    file.seek(0)
    digest = hashlib.sha256()
    while unread > 0 and (chunk := file.read(min(unread, _CHUNK_BYTES))):
        digest.update(chunk)
        unread -= len(chunk)
    if seal != _SEAL + digest.hexdigest().encode():
        raise ValueError("seal")
