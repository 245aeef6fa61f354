"""A lock that the system releases when its holder ends, however that happens."""

import fcntl
import logging
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.stop import StopFlag

logger = logging.getLogger(__name__)

# struct flock of fcntl(2): kind, whence, start, length, process; elsewhere the last three first.
_LINUX = sys.platform == "linux"
_QUESTION = struct.Struct("@hhqqi0q" if _LINUX else "@qqihh0q")


@contextmanager
def locked(path: Path, *, wait: StopFlag | None = None) -> Iterator[os.stat_result]:
    """Hold an exclusive lock on a folder or a lock file; lock files work on more file systems.

    Args:
        path: a folder, or a lock file, which is made if it is missing, and stays; its content is
            the number of the process that holds it.
        wait: wait for another holder to release it, unless this flag is raised, instead of
            being refused.

    Yields:
        which file it is that is locked, by ``st_dev`` and ``st_ino``. The holder is not to open it:
        with a descriptor that it closes, it would lose what :func:`holder` asks about.

    Raises:
        InputError: another process holds it.
        PtbLmError: the file cannot be made.
        Stopped: a signal came while it waited.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        try:
            if wait is None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                with wait.while_waiting():
                    fcntl.flock(descriptor, fcntl.LOCK_EX)
        except BlockingIOError:
            # The number is a courtesy: a holder that has only just come has not written it yet.
            number = os.read(descriptor, 20).decode(errors="replace").strip()
            named = f"process {number}" if number else "another process"
            raise InputError(
                f"{path.parent}: in use by {named}; wait for its end, or name another folder"
            ) from None
        except OSError as error:  # some network file systems have no locks
            logger.warning("%s: no lock (%s); nothing else may write here", path, error.strerror)
        with suppress(OSError):  # a folder; what keeps others out is the lock above
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # for `holder` to ask about
        with suppress(OSError):  # a folder, or a full disk
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        try:
            yield os.fstat(descriptor)
        finally:
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def place_held(folder: Path, stop: StopFlag) -> Iterator[Path]:
    """Keep others from making or replacing a folder while it is made; wait for them to finish.

    Args:
        folder: its parents are made if they are missing.
        stop: checked while waiting.

    Yields:
        where it is to stand: for a link, its target.

    Raises:
        PtbLmError: its parents cannot be made.
        Stopped: a signal came while it waited.
    """
    place = Path(os.path.realpath(folder))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PtbLmError(f"{folder}: cannot be created: {error.strerror}") from None
    with locked(place.parent, wait=stop):
        yield place


def holder(path: Path) -> int | None:
    """Return the number of the process that holds a lock file, None if no other process does.

    Only queries. Trying the lock would hold it briefly, and a training starting just then would be
    refused; so the holder also takes a POSIX lock, which F_GETLK of fcntl(2) can query. A holder on
    another machine of a network disk has the number -1 or one of that machine. Not for the process
    that holds the lock: it would lose the POSIX one.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return None  # no lock file, no holder; or none that may be asked about
    try:
        write, whole = fcntl.F_WRLCK, (0, 0)
        asked = (write, os.SEEK_SET, *whole, 0) if _LINUX else (*whole, 0, write, os.SEEK_SET)
        answer = _QUESTION.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _QUESTION.pack(*asked)))
    except OSError:  # a disk without locks
        return None
    finally:
        os.close(descriptor)
    kind, number = (answer[0], answer[4]) if _LINUX else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else int(number)
