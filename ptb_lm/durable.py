"""The one way in which this program writes a file that matters, or a folder of such files."""

import errno
import glob
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.regular import open_regular, require_regular

PARTIAL = ".partial"
"""The end of the name of a file that is not yet in its place."""


@contextmanager
def durable_file(
    path: Path, *, prove: Callable[[Path], object] | None = None, previous: Path | None = None
) -> Iterator[IO[bytes]]:
    """Open a file for writing that is at every moment the whole old one or the whole new one.

    The bytes go to a temporary file in the same folder, which is flushed to disk and then put in
    the place of the old one.

    Args:
        path: where the file is to stand.
        prove: called with the temporary file when it is on disk; raises if it is not readable.
        previous: where the file that was at ``path`` is kept once the new one is proven.

    Raises:
        PtbLmError: it could not be written, or not be proven; the old file is as it was, and
            nothing is left over.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    assurance = still_stands(path)
    try:
        with _new_file(temporary) as file:
            yield file
            _flush(file)
        if prove is not None:
            _prove(prove, temporary, path, assurance)
        if previous is not None and path.exists():
            _keep(path, previous)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be written: {error.strerror}{assurance}") from None
    finally:
        with suppress(OSError):  # it is in place already, or its folder is none
            temporary.unlink()


@contextmanager
def added_to(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write at its end, and nowhere else; it is made if it is missing.

    A symbolic link is not followed, and a file that has further names, as in a copy of a folder
    made of hard links, is first replaced by a copy of its own.

    Raises:
        InputError: it is no regular file.
        PtbLmError: it could not be copied.
        OSError: it could not be opened.
    """
    with _opened_at_end(path) as file:
        if os.fstat(file.fileno()).st_nlink <= 1:
            yield file
            return
    with open_regular(path) as shared, durable_file(path) as copy:
        shutil.copyfileobj(shared, copy)
    with _opened_at_end(path) as file:
        yield file


@contextmanager
def _opened_at_end(path: Path) -> Iterator[IO[bytes]]:
    with open(path, "ab", opener=_open_no_link) as file:
        require_regular(os.fstat(file.fileno()), path)
        yield file


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)


@contextmanager
def durable_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty temporary folder, then move it to ``path`` as a whole.

    For one writer at a time. The folder is flushed to disk before it is moved. Replacing takes two
    renames; if killed between them, the next call restores the old folder.

    Args:
        path: where it is to stand; its parent exists.
        replace: whether to replace a folder that stands there; otherwise only an empty one may.

    Yields:
        the temporary folder.

    Raises:
        PtbLmError: it could not be written; what stood there is as it was, and nothing is left
            over.
    """
    place = Path(os.path.realpath(path))  # a link to a folder stays one
    assurance = still_stands(place)
    try:
        put_right(place)
        assurance = still_stands(place)
        with tempfile.TemporaryDirectory(PARTIAL, f".{place.name}.", place.parent) as aside:
            new, replaced = Path(aside, "new"), Path(aside, _REPLACED)
            new.mkdir()
            yield new
            for file in new.iterdir():
                _sync(file)
            _sync(new)
            if replace and place.exists():
                place.rename(replaced)
            try:
                new.rename(place)
            except BaseException:
                if replaced.exists():
                    replaced.rename(place)
                raise
            _sync(place.parent)
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be written: {error.strerror}{assurance}") from None


def leftovers(place: Path) -> list[Path]:
    """Return what killed calls of :func:`durable_folder` have left of a folder.

    A link, or what another user has put there, is nothing of ours.
    """
    found = place.parent.glob(f".{glob.escape(place.name)}.{_RANDOM}{PARTIAL}")
    return [path for path in found if _is_own_folder(path)]


def _is_own_folder(path: Path) -> bool:
    try:
        facts = path.lstat()
    except OSError:  # removed meanwhile
        return False
    return stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid()


def put_right(place: Path) -> None:
    """Restore a folder that was being replaced, and remove all else that is left over of it.

    For one writer at a time.
    """
    for leftover in leftovers(place):
        if (leftover / _REPLACED).exists() and not place.exists():
            (leftover / _REPLACED).rename(place)
        shutil.rmtree(leftover, ignore_errors=True)


def still_stands(path: Path) -> str:
    """Return what a message of a failed write adds, if there is something at its place before."""
    return "; what stood there before still stands" if os.path.lexists(path) else ""


def current_folder_is_in(folder: Path) -> bool:
    """Whether replacing a folder would leave the shell that called us in a folder that is gone.

    True of the current folder and of its parents.
    """
    return folder.resolve() in (Path.cwd(), *Path.cwd().parents)


_RANDOM = "[a-z0-9_]" * 8
"""What ``tempfile`` puts into a name; it has no dot, so ``text`` is not taken for ``text.v2``."""

_REPLACED = "replaced"
"""The temporary name of a folder that is being replaced."""


def _new_file(path: Path) -> IO[bytes]:
    """Open a new file for writing; whatever has its name, a link perhaps, is removed."""
    path.unlink(missing_ok=True)
    return path.open("xb")


def _flush(file: IO[bytes]) -> None:
    """Bring what was written to disk."""
    file.flush()
    os.fsync(file.fileno())


def _prove(prove: Callable[[Path], object], temporary: Path, path: Path, assurance: str) -> None:
    try:
        prove(temporary)
    except InputError as error:
        raise PtbLmError(
            f"{path}: cannot be written: its bytes do not come back as they were written"
            f"{assurance}; check the disk"
        ) from error


def partial_files(folder: Path) -> list[Path]:
    """Return the files that killed writers have left in a folder.

    A folder that is left is none, as what it was to replace may be in it; see
    :func:`durable_folder`.
    """
    return [path for path in folder.glob(f".*{PARTIAL}") if path.is_symlink() or not path.is_dir()]


def remove_partial_files(folder: Path) -> None:
    """Remove the files that killed writers have left; no other may be at work in the folder."""
    for leftover in partial_files(folder):
        leftover.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that it stands under the first without interruption."""
    temporary = previous.with_name(f".{previous.name}.{os.getpid()}{PARTIAL}")
    try:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            with open_regular(path) as source, _new_file(temporary) as copy:
                shutil.copyfileobj(source, copy)
                _flush(copy)
        temporary.replace(previous)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync(path: Path) -> None:
    """Flush the names in a folder, or the bytes of a file, where the file system knows how."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
