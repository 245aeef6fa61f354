"""The one way in which this program writes a file that matters."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ptb_lm.errors import PtbLmError


@contextmanager
def durable_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing that is at every moment the whole old one or the whole new one.

    The bytes go to a temporary file in the same folder, which is flushed to disk and then put in
    the place of the old one.

    Raises:
        PtbLmError: it could not be written; the old file is as it was, and nothing is left over.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise PtbLmError(
            f"{path}: cannot be written: {error.strerror}; what stood there before still stands"
        ) from None
    finally:
        with suppress(OSError):  # it is in place already, or its folder is none
            temporary.unlink()
