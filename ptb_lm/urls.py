"""URLs without what must not be shown: user name, password, query and fragment."""

import re

HIDDEN = "the given URL"
"""Stands for a URL of which no part can be shown safely."""

_AUTHORITY_ENDS = re.compile(r"[/\\?#]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d*)?", re.IGNORECASE)
_IN_TEXT = re.compile(r"\b[a-z][a-z0-9+.-]*:/[/\\][^\s'\"<>`]*", re.IGNORECASE)
_AS_PATH = re.compile(r"\b(https?|ftps?):/(?![/\\])", re.IGNORECASE)
"""The beginning of a URL that was taken for a path, in which two slashes count as one."""


def without_secrets(url: str) -> str:
    """Return a URL, or what was given in place of one, for a message.

    User name, password, query and fragment are left out. Where it cannot be told where a password
    ends, as it holds a ``/``, say, all of the URL is hidden.
    """
    scheme, separator, rest = url.strip().partition("://")
    if not separator:
        shown = re.split(r"[?#]", url)[0]
        return HIDDEN if "@" in url or not shown else shown
    end = _AUTHORITY_ENDS.search(rest)
    authority = rest[: end.start()] if end else rest
    tail = rest[len(authority) :]
    host = authority.rpartition("@")[2]
    if "@" in tail or (host and not _HOST.fullmatch(host)):
        return HIDDEN
    return f"{scheme.lower()}://{host}{re.split(r'[?#]', tail)[0]}"


def text_without_secrets(text: str) -> str:
    """Return a text in which each URL is written as :func:`without_secrets` returns it."""
    return _IN_TEXT.sub(lambda match: without_secrets(match[0]), _AS_PATH.sub(r"\1://", text))
