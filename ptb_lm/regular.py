"""Reading files that may come from a stranger: regular files only, and bounded in size.

A name in a folder that somebody else has made may be a pipe, on which a reader waits for ever, or
a device, which does something when it is opened. A symbolic link to a regular file is followed, as
people keep checkpoints on another disk.
"""

import os
import stat
from io import BufferedReader, FileIO
from pathlib import Path

from ptb_lm.errors import InputError

_BUFFER_BYTES = 1 << 18

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class NotRegularError(InputError):
    """A file was expected, and something else has its name."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading, in binary mode; this never waits.

    Raises:
        NotRegularError: the name is that of something else.
        OSError: the file is missing or cannot be opened.
    """
    require_regular(path.stat(), path)  # before it is opened, which is no small thing for a device
    descriptor = os.open(path, _READ)
    try:
        require_regular(os.fstat(descriptor), path)
    except NotRegularError:
        os.close(descriptor)
        raise
    return BufferedReader(FileIO(descriptor), _BUFFER_BYTES)


def read_small(path: Path, limit: int) -> bytes:
    """Read a regular file of at most ``limit`` bytes as a whole.

    Raises:
        InputError: it is larger, or no regular file.
        OSError: it is missing or cannot be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise InputError(f"{path}: too large: {size:,} bytes, expected at most {limit:,}")
        return file.read(limit)


def require_regular(facts: os.stat_result, path: Path) -> None:
    """Raise an error unless ``facts``, which describe ``path``, are those of a regular file."""
    if not stat.S_ISREG(facts.st_mode):
        raise NotRegularError(f"{path}: {kind_of(facts)}, expected a regular file")


def kind_of(facts: os.stat_result) -> str:
    """Return what a name stands for, as a message calls it."""
    kinds = {
        stat.S_IFREG: "a regular file",
        stat.S_IFDIR: "a folder",
        stat.S_IFLNK: "a symbolic link",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
    }
    return kinds.get(stat.S_IFMT(facts.st_mode), "a device")
