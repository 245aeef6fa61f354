"""Paths that a user typed, and text made harmless for a terminal."""

from pathlib import Path

import pytest

from ptb_lm.errors import InputError
from ptb_lm.paths import path_text, user_path
from ptb_lm.terminal import printable


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    assert user_path(Path("~")) == tmp_path
    assert user_path("a/~/x") == Path("a/~/x")
    assert user_path("./~") == Path("./~")


def test_tilde_of_unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"there is no user 'nobody-here'; write \./~nobody-here/x"
    ):
        user_path("~nobody-here/x")
    Path("~backup.txt").touch()
    assert user_path("~backup.txt") == Path("~backup.txt")


def test_path_as_text() -> None:
    assert path_text("café") == "café"
    assert path_text("caf\udce9") == "caf\\xe9"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, naïve, 你好, a\u00a0b, \u0645\u06cc\u200c\u062e", None),
        ("\x1b[31mred\x07\x9b1m\x7f", "\\x1b[31mred\\x07\\x9b1m\\x7f"),
        ("a\u202eb\u2066c\u2028d", "a\\u202eb\\u2066c\\u2028d"),
        ("caf\udcc3\udca9 caf\udce9 \ud800", "caf\\xc3\\xa9 caf\\xe9 \\ud800"),
        ("caf\udcc3\udca9 caf\udce9", "café caf\\xe9"),
        ("a\tb\nc", "a\\tb\\nc"),
    ],
)
def test_printable(text: str, shown: str | None) -> None:
    assert printable(text) == (text if shown is None else shown)


def test_printable_keeps_what_is_named() -> None:
    assert printable("a\tb\nc\r", keep="\n\t") == "a\tb\nc\\r"
