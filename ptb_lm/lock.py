"""A lock that the system takes back when its holder ends, however that happens."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptb_lm.errors import InputError, PtbLmError

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock on a folder, or on a file of its own, which holds on more kinds of disks.

    Args:
        path: a folder, or a lock file, which is made where it is missing and stays; its content is
            the number of the process that holds it.
        wait: for another holder to let go, instead of being refused.

    Raises:
        InputError: another process holds it.
        PtbLmError: the file cannot be made.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            # The number is a courtesy: of a holder that has only just come, it is not there yet.
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            named = f"process {holder}" if holder else "another process"
            raise InputError(
                f"{path.parent}: in use by {named}; wait for its end, or name another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s: no lock (%s); nothing else may write here", path, error.strerror)
        with suppress(OSError):  # a folder, or a full disk
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        try:
            yield
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)
