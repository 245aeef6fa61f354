"""Paths that a user typed, and their names as text."""

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote_from_bytes, unquote_to_bytes

from ptb_lm.errors import InputError

URI = "file:///"
"""How the name of a path begins whose bytes are not UTF-8."""

_OF_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that do not stand for a byte of a file name."""


def user_path(path: Path | str) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home folder.

    A shell expands ``~`` only at the beginning of a word, so it reaches the program in
    ``--run-dir=~/x``, in environment variables and in config files.

    Raises:
        InputError: there is no such user, and no file of that very name either.
    """
    text = _encodable(os.fspath(path))
    if not text.startswith("~"):
        return Path(text)
    expanded = text
    with suppress(ValueError):  # a NUL
        # Not Path.expanduser, which raises where there is no such user.
        expanded = os.path.expanduser(text)  # noqa: PTH111
    if expanded == text and not os.path.lexists(text):
        user = text.partition("/")[0]
        missing = f"there is no user {user[1:]!r}" if user != "~" else "no home folder is known"
        raise InputError(f"{text}: {missing}; write ./{text} for a file of that name")
    return Path(expanded)


def path_text(path: Path | str) -> str:
    """Return a path as text, the same in every locale.

    Bytes that are not UTF-8 are written as ``\\xe9``, so that the text fits any file.
    """
    text = os.fspath(path)
    try:
        return os.fsencode(text).decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:
        return utf8_text(text)


def utf8_text(text: str) -> str:
    """Return a text that contains names of files as text that UTF-8 can encode.

    Bytes of a name that the locale could not decode are read as UTF-8 where they are UTF-8, and
    written as ``\\xe9`` where they are not.
    """
    if text.isascii():
        return text
    text = _OF_NO_BYTE.sub(lambda found: ascii(found[0])[1:-1], text)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def path_name(path: Path | str) -> str:
    """Return the name by which a config records a path that was given on the command line.

    A config is UTF-8, a path is any bytes. A path whose bytes are UTF-8 is its own name; another
    one is named by its absolute ``file:`` URI. A leading ``~`` is expanded.

    Raises:
        InputError: as :func:`user_path` does.
    """
    text = _encodable(os.fspath(path))
    if text.startswith("~"):
        text = str(user_path(text))
    try:
        data = os.fsencode(text)
    except UnicodeEncodeError:
        return text  # no path at all
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "file://" + quote_from_bytes(os.path.abspath(data))  # noqa: PTH100 - bytes


def named_path(name: str) -> Path:
    """Return the path that a name from :func:`path_name` stands for, in any locale."""
    return Path(_path_of(name))


def named_user_path(name: str) -> Path:
    """Return the path that a name in a config stands for, with a leading ``~`` expanded.

    Raises:
        InputError: as :func:`user_path` does.
    """
    return user_path(_path_of(name))


def _path_of(name: str) -> str:
    if name.startswith(URI):
        return os.fsdecode(unquote_to_bytes(name.removeprefix("file://")))
    with suppress(UnicodeEncodeError):  # no path at all
        return os.fsdecode(name.encode("utf-8", "surrogateescape"))
    return name


def _encodable(path: str) -> str:
    """Return a path as the locale encodes it, also where it has no such characters."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return _path_of(path)
    return path
