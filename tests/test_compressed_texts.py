"""Texts compressed by gzip, bzip2 or xz are read as they are, in every command that reads texts."""

import bz2
import gzip
import io
import lzma
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import done, done_json, ptb_lm, train_arguments
from short_runs import ended, start

from ptb_lm.corpus import unpack
from ptb_lm.corpus.reading import read_words
from ptb_lm.errors import InputError

Compress = Callable[[bytes], bytes]
FORMATS: dict[str, Compress] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
RNG = random.Random(1)
LINES = [" ".join(RNG.choices("abcdefgh", k=RNG.randint(3, 9))) for _ in range(300)]
TEXT = "".join(f"{line}\n" for line in LINES).encode()
each_format = pytest.mark.parametrize("compress", FORMATS.values(), ids=FORMATS.keys())


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words_in(data: bytes) -> list[str]:
    Path("text").write_bytes(data)
    return [word for words in read_words(Path("text")) for word in words]


@each_format
def test_text_is_read_as_if_it_were_plain(compress: Compress) -> None:
    plain = words_in(TEXT)
    assert words_in(compress(TEXT)) == plain
    assert words_in(compress(TEXT[:777]) + compress(b"") + compress(TEXT[777:])) == plain
    assert words_in(compress(TEXT) + b"\0" * 1024) == plain  # padding, as of tapes
    long = b"word " * 300_000  # many times what is read at once
    assert words_in(compress(long)) == words_in(long)


def test_format_is_recognized_by_content_alone() -> None:
    Path("text.gz").write_bytes(TEXT)
    assert [*read_words(Path("text.gz"))] == [*read_words(Path("text.gz"))]
    for text in (b"BZh91 is a word\n", b"P\n", b"B", b"BZh", b"7z\n", b"BZh9"):
        assert words_in(text) == [*text.decode().split(), "<eos>"]


@each_format
def test_every_command_reads_it(compress: Compress) -> None:
    for folder, change in (("plain", bytes), ("packed", compress)):
        Path(folder).mkdir()
        for split, part in (("train", TEXT), ("valid", TEXT[:2000]), ("test", TEXT[-2000:])):
            text = part[part.index(b"\n") + 1 :] if split != "train" else part
            Path(folder, f"{split}.txt").write_bytes(change(b"<unk> " + text))
    described = [done_json("data", "info", "--data", name) for name in ("plain", "packed")]
    assert described[0]["vocabulary_sha256"] == described[1]["vocabulary_sha256"]
    done(*train_arguments("run", data="packed", training__epochs=1))
    for command in (["eval", "run", "--text"], ["score", "run"], ["data", "prepare"]):
        printed = []
        for folder in ("plain", "packed"):
            out = ["--out", f"{folder}-out"] if "prepare" in command else []
            result = done(*command, f"{folder}/test.txt", *out).out
            printed.append(result.replace(folder, ""))
        assert printed[0] == printed[1]
    for name in ("train.txt", "valid.txt", "test.txt"):
        assert Path("plain-out", name).read_bytes() == Path("packed-out", name).read_bytes()


@each_format
@pytest.mark.parametrize("at_once", [1, 5, 100_000])
def test_standard_input_comes_in_any_pieces(
    compress: Compress, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pipe(io.BytesIO):
        def read1(self, size: int | None = -1, /) -> bytes:
            return self.read(min(at_once, size or at_once))

    read = io.BufferedReader(unpack.unpacked(Pipe(compress(TEXT)), "pipe"))  # type: ignore[arg-type]
    assert read.read() == TEXT


def test_line_of_a_pipe_is_answered_before_the_next(workplace: Path) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom ptb_lm.corpus.reading import *\n"
        "with opened(Path('-')) as file:\n"
        "    for line in read_lines(file, 'x'):\n        print(line, flush=True)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        for line in (b"B\n", b"BZ\n", b"a b\n"):
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline() == line


# Damage


@each_format
@pytest.mark.parametrize("command", [["data", "prepare", "--out", "out"], ["data", "info"]])
def test_truncated_file_is_one_line(compress: Compress, command: list[str]) -> None:
    packed = compress(TEXT)
    Path("text").mkdir()
    Path("text/valid.txt").write_bytes(TEXT)
    for length in (12, 20, len(packed) // 2, len(packed) - 1):
        Path("text/train.txt").write_bytes(packed[:length])
        source = ["text/train.txt"] if "prepare" in command else ["--data", "text"]
        outcome = ptb_lm(*command, *source)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert outcome.err.startswith("error: text/train.txt: damaged: its ")
        assert "too early; copy or fetch the file again" in outcome.err
        assert not Path("out").exists()


@each_format
def test_damaged_file_is_an_input_error(compress: Compress) -> None:
    packed = compress(TEXT)
    for place in range(12, len(packed), 41):
        damaged = bytearray(packed)
        damaged[place] ^= 0x55
        with pytest.raises(InputError, match=r"^text: (damaged|line \d+, byte|unpacking)"):
            words_in(bytes(damaged))
    with pytest.raises(InputError, match=r"^text: damaged: not valid \w+ data"):
        words_in(packed + b"something else")


def test_other_archives_are_named() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("text.txt", TEXT)
    for data, what in (
        (content.getvalue(), "a zip archive"),
        (b"\x28\xb5\x2f\xfd\x00\x00", "compressed by zstd"),
        (b"7z\xbc\xaf\x27\x1c\x00", "a 7z archive"),
        (lzma.compress(TEXT, lzma.FORMAT_ALONE), "compressed by lzma"),
    ):
        with pytest.raises(InputError, match=rf"^text: {what}, not a text; unpack it first$"):
            words_in(data)
    with tarfile.open("t.tgz", "w:gz") as tar:
        tar.add("text")
    for tar in (Path("t.tgz").read_bytes(), gzip.decompress(Path("t.tgz").read_bytes())):
        with pytest.raises(InputError, match=r"^text: a tar archive, not a text; unpack it first$"):
            words_in(tar)
    with pytest.raises(
        InputError, match=r"^text: compressed twice, or an archive; unpack it first$"
    ):
        words_in(gzip.compress(gzip.compress(TEXT)))


PEAK = """
import re, sys
from pathlib import Path
from ptb_lm.corpus.reading import read_words
from ptb_lm.errors import InputError
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    for words in read_words(Path(sys.argv[1])):
        pass
except InputError as error:
    print(peak() - before, error)
"""


def packed_zeros(compressor: Compress, unit: bytes, megabytes: int) -> bytes:
    return compressor(unit * ((megabytes << 20) // len(unit)))


@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("lines.gz", "unpacks to more than 100 times its size"),
        ("word.bz2", "characters without white space"),
        ("lines.xz", "unpacks to more than 100 times its size"),
        ("dictionary.xz", "unpacking it needs more than 256 MiB; unpack it first"),
    ],
)
def test_bomb_takes_little_memory(workplace: Path, name: str, refusal: str) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 30}]
    bombs: dict[str, Callable[[], bytes]] = {
        "lines.gz": lambda: packed_zeros(gzip.compress, b"a\n", 80),
        "word.bz2": lambda: packed_zeros(bz2.compress, b"a", 60),
        "lines.xz": lambda: packed_zeros(lambda data: lzma.compress(data, preset=0), b"a\n", 80),
        "dictionary.xz": lambda: lzma.compress(b"a b\n", filters=filters),
    }
    Path(name).write_bytes(bombs[name]())
    outcome = ended(start(workplace, "-c", PEAK, name))
    assert outcome.code == 0, outcome.err
    kilobytes, message = outcome.out.split(" ", 1)
    assert message.startswith(f"{name}: ")
    assert refusal in message
    assert int(kilobytes) < 90_000


def test_repetitive_text_is_no_bomb() -> None:
    data = b"the same line again\n" * 100_000
    assert len(data) > 200 * len(gzip.compress(data))
    assert len(words_in(gzip.compress(data))) == 500_000


def test_progress_bar_of_a_pipe_needs_no_size(workplace: Path) -> None:
    os.mkfifo("pipe")
    writer = subprocess.Popen(["sh", "-c", "gzip -c > pipe"], stdin=subprocess.PIPE)
    assert writer.stdin is not None
    Path("text.txt").write_bytes(TEXT)
    process = start(workplace, "-m", "ptb_lm", "data", "prepare", "pipe", "--out", "out")
    writer.stdin.write(TEXT)
    writer.stdin.close()
    outcome = ended(process)
    writer.wait(30)
    assert outcome.code == 0, outcome.err
    assert re.search(r"^train +270 ", outcome.out, re.MULTILINE)
