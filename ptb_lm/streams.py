"""Standard streams that are there in every process, whatever it was started with.

A process may be started with standard streams that are closed (``>&-``), full or broken. Without
this module, Python has no stream object for a closed one, the first file that is opened gets its
number, and a progress message that cannot be written ends a training.
"""

import codecs
import errno
import io
import os
import sys
from typing import Any

from ptb_lm.paths import utf8_text

_EXACT, _READABLE = "ptb-lm-exact", "ptb-lm-readable"
"""Error handlers of the two streams for what UTF-8 cannot encode."""


class ClosedOutput(io.TextIOBase):
    """Stands for a standard output that is closed: writing to it is an error."""

    def fileno(self) -> int:
        """Return the number of the descriptor, which leads to the null device."""
        return 1

    def write(self, text: str) -> int:
        """Raise OSError."""
        raise OSError(errno.EBADF, "standard output is closed")


class _Forgiving(io.FileIO):
    """A descriptor on which a write that fails counts as made."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or len(data)  # nothing is written while a pipe is full
        except OSError:
            return len(data)


def open_streams(*, is_whole_process: bool) -> None:
    """Put streams in the place of closed ones, and make both write the same in every locale.

    Standard output gets the exact bytes of a file's name. Standard error is UTF-8 text, and never
    fails: what is said there is not the result of any command.

    Args:
        is_whole_process: whether nobody else writes to these streams afterwards.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: the null device gets the lowest free number, which is this one
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    codecs.register_error(_EXACT, _exact_bytes)
    codecs.register_error(_READABLE, _readable_bytes)
    if sys.stdout is None:
        sys.stdout = ClosedOutput()
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors=_EXACT)
    if sys.stderr is None or is_whole_process:
        raw = io.BufferedWriter(_Forgiving(2, "w", closefd=False))
        sys.stderr = io.TextIOWrapper(raw, "utf-8", _READABLE, line_buffering=True)
    elif isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr.reconfigure(encoding="utf-8", errors=_READABLE)


def _exact_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Encode surrogates as the bytes of a file's name that they stand for."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    try:
        return text.encode("utf-8", "surrogateescape"), error.end
    except UnicodeEncodeError:  # one that stands for no byte
        return utf8_text(text).encode(), error.end


def _readable_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Encode surrogates as :func:`~ptb_lm.paths.utf8_text` has them."""
    assert isinstance(error, UnicodeEncodeError)
    return utf8_text(error.object[error.start : error.end]).encode(), error.end
