"""What a token is: by examples, by an independent definition, and whatever the locale."""

import codecs
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from contextlib import chdir
from pathlib import Path

import pytest
from cli_support import contents, done, done_json, ptb_lm, train_arguments, write_texts
from hypothesis import given, settings
from hypothesis import strategies as st
from promises import Tally
from short_runs import SECONDS, environment, result, start

from ptb_lm.corpus.reading import read_words
from ptb_lm.corpus.text import EOS, decoded, words_of
from ptb_lm.errors import InputError
from ptb_lm.training.checkpoint import load_checkpoint

SPACES = [chr(code) for code in range(sys.maxunicode + 1) if chr(code).isspace() and code != 0x0A]
"""Every white space of Unicode but the line feed."""

BOM = codecs.BOM_UTF8

EXAMPLES = {
    "nothing": (b"", []),
    "a line": (b"a b\n", ["a", "b", EOS]),
    "no last line feed": (b"a b", ["a", "b", EOS]),
    "lines, the last unended": (b"a\nb", ["a", EOS, "b", EOS]),
    "empty lines": (b"\n\na\n\n", [EOS, EOS, "a", EOS, EOS]),
    "a line of white space": (b" \t \na\n", [EOS, "a", EOS]),
    "spaces around": (b"  a   b  \n", ["a", "b", EOS]),
    "CRLF": (b"a b\r\nc\r\n", ["a", "b", EOS, "c", EOS]),
    "CRLF, the last unended": (b"a\r\nb", ["a", EOS, "b", EOS]),
    "a carriage return within": (b"a\rb\n", ["a", "b", EOS]),
    "carriage returns alone": (b"a\rb\r", ["a", "b", EOS]),
    "tab, VT, FF": (b"a\tb\vc\fd\n", ["a", "b", "c", "d", EOS]),
    "FS, GS, RS, US": (b"a\x1cb\x1dc\x1ed\x1fe\n", ["a", "b", "c", "d", "e", EOS]),
    "NEL": ("a\u0085b\n".encode(), ["a", "b", EOS]),
    "no-break space": ("a\u00a0b\n".encode(), ["a", "b", EOS]),
    "ideographic space": ("語\u3000語\n".encode(), ["語", "語", EOS]),
    "U+2028 and U+2029": ("a\u2028b\u2029c\n".encode(), ["a", "b", "c", EOS]),
    "zero-width space": ("a\u200bb c\u200d\n".encode(), ["a\u200bb", "c\u200d", EOS]),
    "combining marks": ("e\u0301 é\n".encode(), ["e\u0301", "\u00e9", EOS]),
    "case": ("A a İ \u0131 I ß SS\n".encode(), ["A", "a", "İ", "\u0131", "I", "ß", "SS", EOS]),
    "beyond the first plane": ("😀 \U0001d4b3\n".encode(), ["😀", "\U0001d4b3", EOS]),
    "control characters": (b"a\x01b \x7f\n", ["a\x01b", "\x7f", EOS]),
    "a byte order mark": (BOM + b"a\n", ["a", EOS]),
    "a byte order mark alone": (BOM, []),
    "two byte order marks": (BOM + BOM + b"a\n", ["\ufeffa", EOS]),
    "a byte order mark within": (b"a\n" + BOM + b"b\n", ["a", EOS, "\ufeffb", EOS]),
    "the marks of the corpus": (b"<unk> N <eos>\n", ["<unk>", "N", EOS, EOS]),
}


def words_in(data: bytes, part_bytes: int = 1 << 16) -> list[str]:
    """The words of a text that comes in parts of so many bytes."""
    parts = (data[start : start + part_bytes] for start in range(0, len(data), part_bytes))
    return [word for words in words_of(decoded(parts, "text")) for word in words]


@pytest.mark.parametrize("part_bytes", [1, 2, 3, 100])
@pytest.mark.parametrize(("data", "words"), EXAMPLES.values(), ids=EXAMPLES.keys())
def test_tokens_by_example(data: bytes, words: list[str], part_bytes: int) -> None:
    assert words_in(data, part_bytes) == words


@pytest.mark.promise("odd text")
def test_each_white_space_separates_words_and_ends_no_line(tally: Tally) -> None:
    """Each white space of Unicode stands between words and ends no line; all else is part of a
    word."""
    assert {"\r", "\t", "\u00a0", "\u2028", "\u2029", "\u0085", "\u3000"} <= {*SPACES}
    for space in SPACES:
        assert words_in(f"a{space}b\n".encode()) == ["a", "b", EOS]
        assert words_in(f"{space}\n{space}a{space}".encode()) == [EOS, "a", EOS]
        tally.count("kinds of white space")
    others = (chr(code) for code in range(1, sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    for other in others:
        if not other.isspace():
            assert words_in(f"a{other}b".encode()) == [f"a{other}b", EOS]
            tally.count("characters that are part of a word")


def words_by_definition(text: str) -> list[str]:
    """The definition once more: lines end at a line feed, words are runs of no white space."""
    if not text:
        return []
    lines = re.findall(r"[^\n]*\n|[^\n]+\Z", text)
    assert "".join(lines) == text
    words: list[str] = []
    for line in lines:
        marks = "".join(" " if character.isspace() else "x" for character in line)
        words += [line[run.start() : run.end()] for run in re.finditer("x+", marks)]
        words.append(EOS)
    return words


TEXTS = st.text(
    st.one_of(
        st.sampled_from(["\n", "\r", " ", "\ufeff", "\u200b", *SPACES]),
        st.sampled_from("abé<>語"),
        st.characters(exclude_categories=("Cs",), exclude_characters="\0"),
    )
)


@pytest.mark.promise("odd text")
def test_tokens_are_what_the_definition_says(tally: Tally) -> None:
    """Generated texts, rich in white space: the words are those of a second implementation of the
    definition, with and without a byte order mark, with LF and with CRLF, wherever a read ends."""

    @settings(max_examples=tally.amount(200, 20_000), deadline=None, database=None)
    @given(TEXTS, st.integers(1, 40))
    def check(text: str, part_bytes: int) -> None:
        data = text.encode()
        expected = words_by_definition(text.removeprefix("\ufeff"))
        assert words_in(data, part_bytes) == expected
        assert words_in(BOM + data, part_bytes) == words_by_definition(text)
        assert words_in(data.replace(b"\n", b"\r\n"), part_bytes) == expected
        if expected and not text.endswith("\n"):
            assert words_in(data + b"\n", part_bytes) == expected
        tally.count("generated texts")

    check()


WRONG = {
    "a NUL": (b"a b\nc\0d\n", 2, 5, "NUL"),
    "a NUL at the start": (b"\0a\n", 1, 0, "NUL"),
    "UTF-16, little end first": ("a b\nc\n".encode("utf-16-le"), 1, 1, "NUL"),
    "UTF-16 with its mark": (codecs.BOM_UTF16_LE + "a\n".encode("utf-16-le"), 1, 0, "UTF-8"),
    "UTF-32": ("a\n".encode("utf-32-be"), 1, 0, "NUL"),
    "Latin-1": ("a\nb\ncaf\u00e9\n".encode("latin-1"), 3, 7, "UTF-8"),
    "cut within a character": ("é".encode()[:1], 1, 0, "UTF-8"),
    "a surrogate": (b"a\n\xed\xa0\x80\n", 2, 2, "UTF-8"),
    "an overlong slash": (b"a \xc0\xaf\n", 1, 2, "UTF-8"),
    "beyond Unicode": (b"\xf4\x90\x80\x80\n", 1, 0, "UTF-8"),
    "after a byte order mark": (BOM + b"a\n\xff\n", 2, 5, "UTF-8"),
    "after U+2028, which ends no line": ("\u2028\u2028".encode() + b"\n\0", 2, 7, "NUL"),
    "a NUL before what is not UTF-8": (b"a\n\0\n\xff\n", 2, 2, "NUL"),
    "a NUL after what is not UTF-8": (b"a\n\xff\n\0\n", 2, 2, "UTF-8"),
    "a NUL within a character": (b"a\n\xe2\x82\0", 2, 2, "UTF-8"),
    "far into the file": (b"a word\n" * 30_000 + "é".encode()[:1], 30_001, 210_000, "UTF-8"),
}


@pytest.mark.parametrize("part_bytes", [1, 2, 3, 7])
@pytest.mark.parametrize(("data", "line", "byte", "what"), WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_found_where_it_is_wherever_a_read_ends(
    data: bytes, line: int, byte: int, what: str, part_bytes: int
) -> None:
    with pytest.raises(InputError, match=rf"^text: line {line}, byte {byte}: .*{what}"):
        words_in(data, part_bytes)


COMPOSED, DECOMPOSED = "été", "e\u0301té"
TURKISH = ["\u0131", "İ", "I", "i"]
WORDS = [COMPOSED, DECOMPOSED, *TURKISH, "Straße", "北京", "слово", "a\u200bb", "<unk>", *"abc"]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text, a run on it, and the same run stopped."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / "text", WORDS, seed=1)
    with chdir(folder):
        done(*train_arguments("whole"))
        done(*train_arguments("stopped", "--max-steps", "40"))
    return folder


@pytest.mark.promise("odd text")
def test_what_is_no_utf8_text_is_refused_with_line_and_byte(workplace: Path, tally: Tally) -> None:
    """NUL bytes, UTF-16, Latin-1, surrogates and cut characters are refused in one line with line
    and byte, in a corpus and in a text to evaluate; nothing is written."""
    Path("bad").mkdir()
    for split in ("valid", "test"):
        shutil.copy(f"text/{split}.txt", "bad")
    for data, line, byte, what in WRONG.values():
        Path("bad/train.txt").write_bytes(data)
        before = contents(Path())
        for arguments in (
            ["data", "info", "--data", "bad"],
            train_arguments("run", data="bad"),
            ["eval", "whole/last.pt", "--text", "bad/train.txt"],
        ):
            outcome = ptb_lm(*arguments)
            assert (outcome.code, outcome.out) == (2, "")
            (message,) = outcome.err.splitlines()
            assert message.startswith(f"error: bad/train.txt: line {line}, byte {byte}: ")
            assert what in message
            assert contents(Path()) == before
            tally.count("texts refused")


def with_bom(data: bytes) -> bytes:
    return BOM + data


def with_crlf(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def without_last_line_feed(data: bytes) -> bytes:
    return data.rstrip(b" \n")


def with_other_spaces(data: bytes) -> bytes:
    text, pieces = data.decode(), []
    for number, character in enumerate(text):
        pieces.append(SPACES[number % len(SPACES)] if character == " " else character)
    return "".join(pieces).encode()


def all_of_them(data: bytes) -> bytes:
    return with_bom(with_crlf(without_last_line_feed(with_other_spaces(data))))


@pytest.mark.promise("odd text")
def test_line_ends_and_marks_change_no_figure(workplace: Path, tally: Tally) -> None:
    """The same text with a byte order mark, CRLF, no last line feed or other white space: a run
    that was begun on the one goes on on the other to the same bits."""
    described = done_json("data", "info", "--data", "text")
    del described["warnings"]  # which name other line ends
    scored = done_json("eval", "whole/last.pt", "--text", "text/test.txt")
    originals = {path: path.read_bytes() for path in Path("text").iterdir()}
    assert len(originals) == 3
    for change in (with_bom, with_crlf, without_last_line_feed, with_other_spaces, all_of_them):
        for path, original in originals.items():
            path.write_bytes(change(original))
            assert path.read_bytes() != original
        ours = done_json("data", "info", "--data", "text")
        del ours["warnings"]
        for split in ours["splits"].values():
            del split["sha256"]  # of the file
        for split in described["splits"].values():
            split.pop("sha256", None)
        assert ours == described
        assert done_json("eval", "whole/last.pt", "--text", "text/test.txt") == scored
        shutil.rmtree("run", ignore_errors=True)
        shutil.copytree("stopped", "run")
        done(*train_arguments("run", "--resume"))
        assert result(Path("run")) == result(Path("whole"))
        for name in ("scores-valid.npz", "scores-test.npz"):
            assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()
        tally.count("ways to write a text")


def test_words_are_neither_normalised_nor_folded(workplace: Path) -> None:
    assert set(load_checkpoint(Path("whole/last.pt")).vocabulary.words) == {*WORDS, EOS}
    assert unicodedata.normalize("NFC", DECOMPOSED) == COMPOSED
    assert len({word.lower() for word in TURKISH}) < len(TURKISH)


@pytest.mark.parametrize("data", [b"", b"\n\n", b" \t\r\n", BOM, b"<eos>\n"])
def test_a_text_of_no_word_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "text.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match="no word in it"):
        list(read_words(path))


# Not ru_maxrss: a new process inherits that of the one that started it.
PEAK = """
import re, sys
from pathlib import Path
from ptb_lm.corpus.reading import read_words
words = lines = 0
for batch in read_words(Path(sys.argv[1])):
    words, lines = words + len(batch), lines + batch.count("<eos>")
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(words, lines, peak[1])
"""


@pytest.mark.promise("odd text")
def test_a_line_of_ten_megabytes_takes_no_more_memory_than_short_ones(
    tmp_path: Path, tally: Tally
) -> None:
    """10 MB in one line take no more memory than in short lines, and in one word a few times the
    word."""
    word, count = "wort ", 2_000_000
    texts = {
        "lines": ("wort " * 9 + "wort\n") * (count // 10),
        "one line": word * count,
        "one word": "w" * len(word) * count,
    }
    processes = {}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        processes[name] = start(tmp_path, "-c", PEAK, name)
    answers = {}
    for name, process in processes.items():
        out, err = process.communicate(timeout=SECONDS)
        assert (process.returncode, err) == (0, b"")
        answers[name] = [int(number) for number in out.split()]
    assert answers["lines"][:2] == [count + count // 10, count // 10]
    assert answers["one line"][:2] == [count + 1, 1]
    assert answers["one word"][:2] == [2, 1]
    usual = answers["lines"][2]  # kB
    for name, limit in (("one line", 1.1 * usual), ("one word", usual + 45_000)):
        assert answers[name][2] < limit
        tally.count("texts of 10 MB in one line")


# The locale.

COMMANDS = """
import sys
from ptb_lm.__main__ import main
command = []
for word in [*sys.argv[1:], "THEN"]:
    if word != "THEN":
        command.append(word)
        continue
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, end.code
    sys.stdout.flush()
    command = []
"""

ENVIRONMENTS: list[dict[str, str]] = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "PYTHONHASHSEED": "1"},
    {"LC_ALL": "C"},
    {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo"},
    {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "1", "PYTHONHASHSEED": "0"},
    {"LC_ALL": "tr_TR.UTF-8", "PYTHONUTF8": "0"},
    {"LC_ALL": "tr_TR.ISO-8859-9", "PYTHONUTF8": "0"},
    {"LANG": "no_such_locale", "PYTHONIOENCODING": "utf-16"},
]
"""The first is the most hostile; a locale that is not installed is C's."""


def commands() -> bytes:
    """All that reads or writes words, in one process."""
    return b"\0THEN\0".join(
        "\0".join(command).encode()
        for command in (
            train_arguments("run"),
            ["data", "info", "--data", "text"],
            ["data", "info", "--data", "text", "--json"],
            ["generate", "run/last.pt", "--words", "60", "--seed", "7"],
            [
                "generate",
                "run/last.pt",
                "--words",
                "20",
                "--prompt",
                f"{COMPOSED} 北京 {DECOMPOSED}",
            ],
            ["eval", "run/last.pt", "--text", "nöte.txt", "--save-scores", "nöte.npz"],
            ["eval", "run/last.pt", "run/best.pt", "--json"],
            ["average", "nöte.npz"],
            ["score", "run/last.pt", "nöte.txt", "--per-word"],
        )
    )


def outputs(folder: Path, changes: dict[str, str]) -> subprocess.Popen[bytes]:
    shutil.copytree(Path("text"), folder / "text")
    (folder / "nöte.txt").write_text("été 北京\r\nunbekanntes Straße\n", encoding="utf-8")
    return start(folder, "-c", COMMANDS, *commands().split(b"\0"), env=environment(**changes))


@pytest.mark.promise("odd text")
def test_nothing_depends_on_the_locale(workplace: Path, tally: Tally) -> None:
    """Trained, described, sampled, evaluated and scored in processes of other locales, encodings,
    hash seeds and time zones: what is printed and what is written is the same to the byte."""
    chosen = ENVIRONMENTS if tally.full else ENVIRONMENTS[:1]
    answers = []
    for number, changes in enumerate([{"LC_ALL": "C.UTF-8"}, *chosen]):
        folder = workplace / str(number)
        answers.append((folder, changes, outputs(folder, changes)))
        if len(answers) % 2 == 0:  # two at a time
            for _, _, process in answers[-2:]:
                process.wait(SECONDS)
    (first, _, process), *others = answers
    expected, error = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, error
    assert "北京".encode() in expected
    assert "nöte.txt".encode() in expected
    for folder, changes, process in others:
        out, error = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, (changes, error)
        assert out == expected, changes
        assert result(folder / "run") == result(first / "run")
        for path in ("run/config.toml", "run/scores-valid.npz", "run/scores-test.npz", "nöte.npz"):
            assert (folder / path).read_bytes() == (first / path).read_bytes(), (changes, path)
        tally.count("environments")
    described = expected.split(b"\n{", 1)[1].split(b"\n", 1)[0]
    assert json.loads(b"{" + described)["name"] == "text"
    assert result(first / "run") == result(Path("whole"))
