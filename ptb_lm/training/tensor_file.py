"""A file of tensors and plain values: sealed, and opened without trusting a byte of it.

It is the zip archive that ``torch.save`` writes and ``torch.load(weights_only=True)`` opens. Its
comment (``unzip -z`` shows it) is the sha256 of all that stands before, because PyTorch itself
checks nothing: of single flipped bits it loads every second as if nothing were wrong.

Opening one allocates no more than its plain values: the tensors are views of the file mapped into
memory, so that whoever asked for them can look at their shapes before making room for any.
"""

import hashlib
import pickletools
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError

_SEAL = b"ptb-lm sha256 "
_SEAL_BYTES = len(_SEAL) + 2 * hashlib.sha256().digest_size
_CHUNK_BYTES = 1 << 20

# All that our files name of what can be called. PyTorch's own list is longer; some of it takes
# memory as the file pleases.
_CALLABLES = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Byte")),
}


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
            torch.save(content, sealing)  # type: ignore[arg-type]  # all it calls is write
        except RuntimeError as error:  # how PyTorch's zip writer reports a failed write
            raise sealing.failure or OSError(0, str(error).splitlines()[0]) from None
        sealing.seal()


def load_tensors(path: Path) -> dict[str, Any]:
    """Read what :func:`save_tensors` wrote; the tensors are views of the file, on the CPU.

    Raises:
        DamagedFileError: it is not, to the bit, a file that was written so.
    """
    try:
        _require_seal(path)
        _require_known_callables(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is none of ours: it is refused
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except DamagedFileError:
        raise
    except (
        Exception
    ) as error:  # other bytes than ours break each of the readers in any way whatever
        raise DamagedFileError(path) from error
    if not isinstance(content, dict):
        raise DamagedFileError(path)
    return content


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


def _require_seal(path: Path) -> None:
    """Raise DamagedFileError if the bytes of a file are not those it was sealed with."""
    unread = path.stat().st_size - _SEAL_BYTES
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while unread > 0 and (chunk := file.read(min(unread, _CHUNK_BYTES))):
            digest.update(chunk)
            unread -= len(chunk)
        if file.read() != _SEAL + digest.hexdigest().encode():
            raise DamagedFileError(path)


def _require_known_callables(path: Path) -> None:
    """Raise DamagedFileError if a file names anything to call that our files do not."""
    with zipfile.ZipFile(path) as archive:
        (values,) = (info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
        if values.compress_type != zipfile.ZIP_STORED:  # it might unpack to any size
            raise DamagedFileError(path)
        for opcode, name, _ in pickletools.genops(archive.read(values)):
            if opcode.name == "GLOBAL" and name not in _CALLABLES:
                raise DamagedFileError(path)
