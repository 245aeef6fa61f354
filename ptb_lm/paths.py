"""Paths that a user typed, and their names as text."""

import os
from pathlib import Path

from ptb_lm.errors import InputError


def user_path(path: Path | str) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced by that home folder.

    A shell expands ``~`` only at the beginning of a word, so it reaches the program in
    ``--run-dir=~/x``, in environment variables and in config files.

    Raises:
        InputError: there is no such user, and no file of that very name either.
    """
    text = os.fspath(path)
    if not text.startswith("~"):
        return Path(path)
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path's raises where there is no such user
    if expanded == text and not os.path.lexists(text):
        user = text.partition("/")[0]
        raise InputError(
            f"{text}: there is no user {user[1:]!r}; write ./{text} for a file of that name"
        )
    return Path(expanded)


def path_text(path: Path | str) -> str:
    """Return a path as text, the same in every locale.

    Bytes that are not UTF-8 are written as ``\\xe9``, so that the text fits any file.
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
