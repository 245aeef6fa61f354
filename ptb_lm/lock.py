"""Locks that the system releases when their holder ends, however that happens.

A lock is a file, on which its holder has an exclusive ``flock``. What stands at its name may be a
stranger's: a link, a pipe and the like are refused, and a file that has further names, as in a copy
of a run folder made of hard links, is first replaced by one of its own.
"""

import fcntl
import logging
import os
import re
import stat
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.regular import kind_of
from ptb_lm.stop import StopFlag

logger = logging.getLogger(__name__)

# struct flock of fcntl(2): kind, whence, start, length, process; elsewhere the last three first.
_LINUX = sys.platform == "linux"
_QUESTION = struct.Struct("@hhqqi0q" if _LINUX else "@qqihh0q")

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_CONTENT = re.compile(rb"\d{0,19}\n?")
"""The number of the process that holds the lock, or nothing."""

_SILENT_SECONDS = 1.0
"""How long a wait may take before it is announced."""

_POLL_SECONDS = 0.05


@contextmanager
def locked(path: Path) -> Iterator[os.stat_result]:
    """Hold a lock file, which is made if it is missing, and stays.

    Its content is the number of the process that holds it. A call that is refused within leaves
    the file as it was.

    Yields:
        which file it is that is locked, by ``st_dev`` and ``st_ino``. The holder is not to open it:
        with a descriptor that it closes, it would lose what :func:`holder` asks about.

    Raises:
        InputError: another process holds it, or it is no lock file.
        PtbLmError: it cannot be made.
    """
    lock = _taken(path, 0o666)
    if lock is None:
        raise _in_use(path)
    try:
        _write_number(lock.descriptor)
        try:
            yield os.fstat(lock.descriptor)
        except InputError:
            lock.restore()
            raise
        except BaseException:
            _erase_number(lock.descriptor)
            raise
        _erase_number(lock.descriptor)
    finally:
        os.close(lock.descriptor)


@contextmanager
def place_held(folder: Path, stop: StopFlag) -> Iterator[Path]:
    """Keep others from making or replacing a folder while it is made; wait for them to finish.

    The lock is the file :func:`place_lock`, which is removed afterwards. After a second, one line
    on standard error names the process that is waited for.

    Args:
        folder: its parents are made if they are missing.
        stop: checked while waiting.

    Yields:
        where it is to stand: for a link, its target.

    Raises:
        InputError: what stands at the name of the lock is no lock file, or is another user's.
        PtbLmError: its parents or the lock cannot be made.
        Stopped: a signal came while it waited.
    """
    path = place_lock(folder)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PtbLmError(f"{folder}: cannot be created: {error.strerror}") from None
    stop.check()
    announce_at = time.monotonic() + _SILENT_SECONDS
    while (lock := _taken(path, 0o600, own=True)) is None:
        if time.monotonic() >= announce_at:
            logger.info("%s: waiting for %s, which is writing there", folder, _named_holder(path))
            announce_at = float("inf")
        with stop.while_waiting():
            time.sleep(_POLL_SECONDS)
    try:
        _write_number(lock.descriptor)
        yield Path(os.path.realpath(folder))
    finally:
        with suppress(OSError):
            if _is_at(path, os.fstat(lock.descriptor)):
                path.unlink()
        os.close(lock.descriptor)


def place_lock(folder: Path) -> Path:
    """Return the lock file of a folder that :func:`place_held` holds; it lies beside the folder.

    The folder itself cannot be locked, as it is made and replaced, nor can its parent, on which
    anybody may hold a lock.
    """
    place = Path(os.path.realpath(folder))
    return place.parent / f".{place.name}.lock"


def require_lock_file(path: Path) -> None:
    """Raise InputError if something other than a lock file stands at the name of one."""
    try:
        facts = path.lstat()
    except OSError:
        return  # missing, or told of when it is to be made
    if not stat.S_ISREG(facts.st_mode):
        raise InputError(
            f"{path}: {kind_of(facts)}, expected a lock file of ptb-lm; remove it, or name another "
            "folder"
        )


def holder(path: Path) -> int | None:
    """Return the number of the process that holds a lock file, None if no other process does.

    Only queries. Trying the lock would hold it briefly, and a training starting just then would be
    refused; so the holder also takes a POSIX lock, which F_GETLK of fcntl(2) can query. A holder on
    another machine of a network disk has the number -1 or one of that machine. A holder under
    another name of the file, as in a copy made of hard links, does not count. Not for the process
    that holds the lock: it would lose the POSIX one.
    """
    try:
        require_lock_file(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (InputError, OSError):
        return None  # no lock file, no holder; or none that may be asked about
    try:
        shared = os.fstat(descriptor).st_nlink > 1
        return _asked(descriptor, *(_own_byte(path) if shared else _WHOLE))
    except OSError:  # a disk without locks
        return None
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class _Lock:
    """A lock file that is held.

    Attributes:
        path: its name.
        descriptor: open for reading and writing.
        is_new: whether it was missing before.
        before: its content before.
        times: when it was read and written last before, in ns.
        folder_times: the same of its folder.
    """

    path: Path
    descriptor: int
    is_new: bool
    before: bytes
    times: tuple[int, int]
    folder_times: tuple[int, int]

    def restore(self) -> None:
        """Leave the file as it was; one that is new is removed."""
        with suppress(OSError):
            if not self.is_new:
                os.ftruncate(self.descriptor, 0)
                os.pwrite(self.descriptor, self.before, 0)
                os.utime(self.descriptor, ns=self.times)
            elif _is_at(self.path, os.fstat(self.descriptor)):
                self.path.unlink()
                os.utime(self.path.parent, ns=self.folder_times)


def _taken(path: Path, mode: int, *, own: bool = False) -> _Lock | None:
    """Take a lock without waiting; None if another process holds it.

    Args:
        path: of the file.
        mode: of the file, if it is made.
        own: whether it must be this user's.
    """
    while True:
        folder_times = _times(path.parent.stat())
        descriptor, is_new = _opened(path, mode)
        keep = False
        try:
            is_free = _flock(descriptor, path)
            facts = os.fstat(descriptor)
            if own and facts.st_uid != os.geteuid():
                raise InputError(f"{path}: a lock file of another user; name another folder")
            if facts.st_nlink > 1 and (is_free or _is_held_elsewhere(descriptor, path)):
                _detach(path, facts)
            elif not is_free:
                return None
            elif _is_at(path, facts):  # else its last holder has removed it meanwhile
                before = os.pread(descriptor, 100, 0)
                if not _CONTENT.fullmatch(before):
                    raise InputError(f"{path}: not a lock file of ptb-lm; move it away")
                start, length = _own_byte(path)
                with suppress(OSError):  # for `holder` to ask about
                    fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
                keep = True
                return _Lock(path, descriptor, is_new, before, _times(facts), folder_times)
        finally:
            if not keep:
                os.close(descriptor)


def _times(facts: os.stat_result) -> tuple[int, int]:
    return facts.st_atime_ns, facts.st_mtime_ns


def _opened(path: Path, mode: int) -> tuple[int, bool]:
    """Open a lock file, and say whether it had to be made."""
    while True:
        require_lock_file(path)
        try:
            with suppress(FileNotFoundError):
                return os.open(path, _OPEN), False
            with suppress(FileExistsError):
                return os.open(path, _OPEN | os.O_CREAT | os.O_EXCL, mode), True
        except OSError as error:
            raise PtbLmError(f"{path}: cannot be written: {error.strerror}") from None


def _flock(descriptor: int, path: Path) -> bool:
    """Take the lock if nobody holds it; on a disk without locks warn, and go on without."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems have no locks
        logger.warning("%s: no lock (%s); nothing else may write here", path, error.strerror)
    return True


def _detach(path: Path, facts: os.stat_result) -> None:
    """Put a lock file of its own in the place of one that has further names.

    One process at a time, which holds the folder meanwhile.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _in_use(path) from None
        if _is_at(path, facts):
            with durable_file(path):
                pass
    finally:
        os.close(folder)


def _is_at(path: Path, facts: os.stat_result) -> bool:
    """Whether a file is the one that stands at a path."""
    try:
        return os.path.samestat(path.lstat(), facts)
    except OSError:
        return False


def _write_number(descriptor: int) -> None:
    """Write this process's number, as a courtesy: what keeps others out is the lock."""
    with suppress(OSError):  # a full disk
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def _erase_number(descriptor: int) -> None:
    with suppress(OSError):
        os.ftruncate(descriptor, 0)


def _in_use(path: Path) -> InputError:
    return InputError(
        f"{path.parent}: in use by {_named_holder(path)}; wait for its end, or name another folder"
    )


def _named_holder(path: Path) -> str:
    """Say who holds a lock; a holder that has only just come has not written its number yet."""
    number = b""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            number = os.read(descriptor, 20).strip()
        finally:
            os.close(descriptor)
    return f"process {number.decode()}" if number.isdigit() else "another process"


_WHOLE = (0, 0)
"""Start and length of all of a file, for a POSIX lock."""


def _own_byte(path: Path) -> tuple[int, int]:
    """Return start and length of the part of a lock file on which its holder has a POSIX lock.

    The byte, far behind the end of the file, has the number of the folder: it tells apart the names
    of one file in several folders.
    """
    return path.parent.stat().st_ino % 2**62, 1


def _is_held_elsewhere(descriptor: int, path: Path) -> bool:
    """Whether the holder of a file that has several names holds it under another one."""
    try:
        is_held_here = _asked(descriptor, *_own_byte(path)) is not None
        return _asked(descriptor, *_WHOLE) is not None and not is_held_here
    except OSError:  # a disk without these locks
        return False


def _asked(descriptor: int, start: int, length: int) -> int | None:
    """Return the number of another process that has a POSIX lock on a part of a file."""
    write, part = fcntl.F_WRLCK, (start, length)
    asked = (write, os.SEEK_SET, *part, 0) if _LINUX else (*part, 0, write, os.SEEK_SET)
    answer = _QUESTION.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, _QUESTION.pack(*asked)))
    kind, number = (answer[0], answer[4]) if _LINUX else (answer[3], answer[2])
    return None if kind == fcntl.F_UNLCK else int(number)
