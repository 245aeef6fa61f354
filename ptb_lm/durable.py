"""The one way in which this program writes a file, or a folder of files, that matters."""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ptb_lm.errors import InputError, PtbLmError

PARTIAL = ".partial"
"""How the name of a file ends that is not yet in its place."""


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
    try:
        with temporary.open("wb") as file:
            yield file
            _flush(file)
        if prove is not None:
            _prove(prove, temporary, path)
        if previous is not None and path.exists():
            _keep(path, previous)
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise PtbLmError(
            f"{path}: cannot be written: {error.strerror}; what stood there before still stands"
        ) from None
    finally:
        with suppress(OSError):  # it is in place already, or its folder is none
            temporary.unlink()


@contextmanager
def durable_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Open a folder for writing that stands in its place whole or not at all.

    The files go into a temporary folder beside it, which is flushed to disk and then renamed. A
    process that is killed between the two renamings that replace a folder leaves both, the old one
    under a name that ends in ``.old.partial``.

    Args:
        path: where it is to stand. Folders above it are made where they are missing.
        replace: what stands there; otherwise only an empty folder may.

    Yields:
        the temporary folder, empty.

    Raises:
        PtbLmError: it could not be written; what stood there is as it was, and nothing is left
            over.
    """
    place = Path(os.path.realpath(path))  # a link to a folder stays one
    name = f".{place.name}.{secrets.token_hex(4)}"
    temporary, old = (place.with_name(f"{name}{end}{PARTIAL}") for end in ("", ".old"))
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        _sync_folder(temporary)
        if replace and place.exists():
            _take_the_place(temporary, place, old)
        else:
            temporary.rename(place)
        _sync_folder(place.parent)
    except OSError as error:
        raise PtbLmError(
            f"{path}: cannot be written: {error.strerror}; what stood there before still stands"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_the_place(new: Path, place: Path, old: Path) -> None:
    """Put a folder in the place of another, which is put aside and then removed."""
    place.rename(old)
    try:
        new.rename(place)
    except BaseException:
        old.rename(place)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _flush(file: IO[bytes]) -> None:
    """Bring what was written to disk."""
    file.flush()
    os.fsync(file.fileno())


def _prove(prove: Callable[[Path], object], temporary: Path, path: Path) -> None:
    try:
        prove(temporary)
    except InputError as error:
        raise PtbLmError(
            f"{path}: cannot be written: its bytes do not come back as they were written; what "
            "stood there before still stands; check the disk"
        ) from error


def remove_partial_files(folder: Path) -> None:
    """Remove what writers that were killed have left; no other may be at work in the folder."""
    for leftover in folder.glob(f".*{PARTIAL}"):
        leftover.unlink(missing_ok=True)


def _keep(path: Path, previous: Path) -> None:
    """Give a file a second name, so that it stands under the first without interruption."""
    temporary = previous.with_name(f".{previous.name}.{os.getpid()}{PARTIAL}")
    try:
        temporary.unlink(missing_ok=True)
        try:
            temporary.hardlink_to(path)
        except OSError:  # a file system without hard links
            with path.open("rb") as source, temporary.open("wb") as copy:
                shutil.copyfileobj(source, copy)
                _flush(copy)
        temporary.replace(previous)
    finally:
        with suppress(OSError):
            temporary.unlink()


def _sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where the file system knows how."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)
