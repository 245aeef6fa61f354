"""Checks of what callers of the Python functions pass; each error is one line that names it."""

import os
from collections.abc import Iterable, Mapping, Set
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar

from ptb_lm.errors import InputError
from ptb_lm.paths import user_path

T = TypeVar("T")


def kind_of(value: object) -> str:
    """Return what a message calls a value: its type, or ``None``."""
    return "None" if value is None else type(value).__name__


def require_type(value: object, kind: type[T], name: str, advice: str = "") -> T:
    """Return a value if it is of a type.

    Args:
        value: of any type.
        kind: the type.
        name: of the argument.
        advice: how to make such a value.

    Raises:
        TypeError: it is not.
    """
    if isinstance(value, kind):
        return value
    advice = f"; {advice}" if advice else ""
    raise TypeError(f"{name}: expected {kind.__name__}, got {kind_of(value)}{advice}")


def require_integer(value: object, name: str) -> int:
    """Return a whole number, of Python's or NumPy's types, as an int.

    Raises:
        TypeError: it is a value of another type, such as a float or a bool.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected a whole number (int), got {kind_of(value)}")
    return int(value)


def require_number(value: object, name: str) -> float:
    """Return a number, of Python's or NumPy's types, as a float.

    Raises:
        TypeError: it is a value of another type, such as a str or a bool.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: expected a number, got {kind_of(value)}")
    return float(value)


def require_path(value: object, name: str, advice: str = "") -> Path:
    """Return a path, with a leading ``~`` expanded.

    Args:
        value: a ``str`` or an object such as :class:`~pathlib.Path`.
        name: of the argument.
        advice: what to do instead.

    Raises:
        TypeError: it is neither, or a path of bytes.
        InputError: it is empty, or begins with ``~`` and there is no such user.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        advice = f"; {advice}" if advice else ""
        raise TypeError(f"{name}: expected a path (str or Path), got {kind_of(value)}{advice}")
    if not path:
        raise InputError(f"{name}: an empty path")
    return user_path(path)


def require_paths(value: object, name: str) -> list[Path]:
    """Return one path, or several, as a list.

    Raises:
        TypeError: it is no path and no iterable of paths.
    """
    if isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable):
        return [require_path(value, name)]
    return [require_path(each, f"{name}: item {number}") for number, each in enumerate(value, 1)]


def require_ordered(value: object, name: str, expected: str) -> Iterable[Any]:
    """Return an iterable whose items have an order.

    Args:
        value: a list, a generator, a NumPy array, a column of a data frame, ….
        name: of the argument.
        expected: what the items are to be.

    Raises:
        TypeError: it is text, bytes, a set, a mapping or a whole data frame, or no iterable.
    """
    is_unordered = isinstance(value, str | bytes | bytearray | Mapping | Set)
    is_single = getattr(value, "shape", None) == ()  # NumPy's scalars and arrays of one
    if is_unordered or is_single or not isinstance(value, Iterable):
        raise TypeError(f"{name}: expected {expected}, got {kind_of(value)}")
    if hasattr(value, "columns"):
        raise TypeError(f"{name}: expected {expected}, got {kind_of(value)}; give one column of it")
    return value


def require_words(value: object, name: str) -> list[str]:
    """Return the words of a text, or of several pieces of text, each split at white space.

    Raises:
        TypeError: it is neither a text nor an ordered iterable of texts.
    """
    if isinstance(value, str):
        return value.split()
    words = []
    for number, piece in enumerate(require_ordered(value, name, "a text or a list of words"), 1):
        if not isinstance(piece, str):
            raise TypeError(f"{name}: word {number}: expected a str, got {kind_of(piece)}")
        words += piece.split()
    return words
