"""Fetching the corpus: all three files or none, whatever the server, folder or archive holds.

Three small stand-in files take the place of the published ones, and a server on the loopback
interface that of the mirrors.
"""

import bz2
import errno
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import random
import re
import shutil
import socket
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import http_server
import pooch
import pytest
from cli_support import Outcome, Terminal, contents, ptb_lm
from http_server import Behaviour, Server, loopback_server

from ptb_lm.corpus import download, ptb
from ptb_lm.corpus.download import fetch_ptb
from ptb_lm.corpus.load import load_corpus
from ptb_lm.corpus.ptb import PtbFile
from ptb_lm.errors import InputError, PtbLmError

TRAIN, VALID, TEST = NAMES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
LINES = {TRAIN: 2000, VALID: 300, TEST: 200}  # the first takes several chunks of a transfer
SHORT_TIMEOUT_SECONDS = 0.5  # where a server says nothing; elsewhere a busy machine may be slow

ZEROS_BYTES = 50_000_000  # of a member that is small only in its archive
HTML = b"<!DOCTYPE html><html><body>This page has moved.</body></html>"


def made_up_text(seed: int, lines: int) -> bytes:
    rng = random.Random(seed)
    words = ["<unk>", "N", *"abcdefgh"]
    return "".join(f" {' '.join(rng.choices(words, k=20))} \n" for _ in range(lines)).encode()


FILES = {name: made_up_text(seed, LINES[name]) for seed, name in enumerate(NAMES)}
RIGHT = FILES[TRAIN]
DAMAGED = RIGHT[:1000] + b"X" + RIGHT[1001:]

Pack = Callable[[Path, dict[str, bytes]], Path]


@pytest.fixture(autouse=True)
def stand_ins(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the made-up texts the published ones, except where the real ones are asked for."""
    if request.node.get_closest_marker("corpus"):
        return
    files = tuple(
        PtbFile(name.split(".")[1], name, len(data), hashlib.sha256(data).hexdigest())
        for name, data in FILES.items()
    )
    monkeypatch.setattr(ptb, "PTB_FILES", files)
    monkeypatch.setattr(download, "PTB_FILES", files)


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where temporary folders go; each test ends by looking that none is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that pooch would have paused before each retry."""
    monkeypatch.setenv("NO_PROXY", "*")
    slept: list[float] = []
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=slept.append))
    return slept


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback_server() as running:
        yield running


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A data folder that is not there yet."""
    return tmp_path / "target"


@pytest.fixture
def refused_url() -> Iterator[str]:
    """A URL that nobody answers: the port is taken, and nobody listens on it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def be_impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "READ_TIMEOUT_SECONDS", SHORT_TIMEOUT_SECONDS)


def use_mirrors(monkeypatch: pytest.MonkeyPatch, *urls: str) -> None:
    monkeypatch.setattr(download, "MIRRORS", urls)


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def installed(files: dict[str, bytes]) -> dict[str, bytes | None]:
    """What a data folder holds, as :func:`contents` says it, that has these files and no other."""
    return {"ptb": None} | {f"ptb/{name}": data for name, data in files.items()}


def one_line(error: pytest.ExceptionInfo[PtbLmError]) -> str:
    message = str(error.value)
    assert len(message.splitlines()) == 1
    return message


def fails_to_fetch(data_dir: Path, source: str | None = None) -> str:
    """Fetch from mirrors that do not deliver; return the message."""
    with pytest.raises(PtbLmError) as error:
        fetch_ptb(data_dir, source)
    assert error.value.exit_code == 1
    assert not data_dir.exists()
    message = one_line(error)
    assert "`ptb-lm data fetch --from" in message
    assert "`make demo`" in message
    return message


def refuses(data_dir: Path, source: Path) -> str:
    """Fetch from a folder or archive that is not right; return the message."""
    with pytest.raises(InputError) as error:
        fetch_ptb(data_dir, str(source))
    assert error.value.exit_code == 2
    assert not data_dir.exists()
    message = one_line(error)
    assert str(source) in message
    return message


# Servers


@pytest.mark.parametrize("ending", ["", "/"])
def test_the_three_files_come_from_a_base_url(server: Server, target: Path, ending: str) -> None:
    server.serve_files("/data", FILES)
    assert fetch_ptb(target, f"{server.url}/data{ending}") == target / "ptb"
    assert contents(target) == installed(FILES)
    assert server.requested == [f"/data/{name}" for name in NAMES]


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(http_server.sends_without_length(RIGHT), id="without length"),
        pytest.param(http_server.sends_in_chunks(RIGHT, 100_000), id="in long chunks"),
        pytest.param(http_server.sends_in_chunks(RIGHT, 100), id="in short chunks"),
        pytest.param(http_server.sends_gzipped(RIGHT), id="compressed on the way"),
        pytest.param(http_server.redirects("/elsewhere"), id="redirected"),
    ],
)
def test_the_right_bytes_are_taken_however_they_are_sent(
    server: Server, target: Path, behaviour: Behaviour
) -> None:
    server.serve_files("", FILES)
    server.answer(f"/{TRAIN}", behaviour)
    server.answer("/elsewhere", http_server.sends(RIGHT))
    fetch_ptb(target, server.url)
    assert contents(target) == installed(FILES)


BROKEN = [
    pytest.param(
        http_server.sends(RIGHT[:-100], declared_bytes=len(RIGHT)), "broke off", id="truncated"
    ),
    pytest.param(http_server.sends(DAMAGED), "other bytes", id="another byte"),
    pytest.param(http_server.sends(RIGHT[:-9]), "other bytes", id="too short"),
    pytest.param(http_server.sends(b""), "other bytes", id="empty"),
    pytest.param(http_server.sends(RIGHT * 3), "more than the expected", id="too long"),
    pytest.param(http_server.sends_endlessly, "more than the expected", id="endless"),
    pytest.param(
        http_server.sends_endlessly_in_chunks, "more than the expected", id="endless in chunks"
    ),
    pytest.param(
        http_server.sends_endlessly_with_length,
        "more than the expected",
        id="a terabyte announced",
    ),
    pytest.param(
        http_server.sends_gzipped(bytes(20_000_000)), "more than the expected", id="gzip bomb"
    ),
    pytest.param(
        http_server.sends(b"no gzip", Content_Encoding="gzip"), "failed to decode", id="no gzip"
    ),
    pytest.param(http_server.sends(HTML, Content_Type="text/html"), "other bytes", id="HTML page"),
    pytest.param(http_server.sends(HTML, status=404), "HTTP status 404", id="404"),
    pytest.param(http_server.sends(HTML, status=500), "HTTP status 500", id="500"),
    pytest.param(
        http_server.redirects(f"/bad/{TRAIN}"), "30 redirects", id="redirected in circles"
    ),
    pytest.param(http_server.hangs, "timed out", id="no answer"),
    pytest.param(
        http_server.stalls_after(RIGHT[:-100], len(RIGHT)), "timed out", id="stalled half-way"
    ),
    pytest.param(http_server.hangs_up, "no connection", id="hung up"),
]


@pytest.mark.parametrize(("behaviour", "reason"), BROKEN)
def test_after_a_broken_mirror_the_next_one_delivers(
    server: Server,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    behaviour: Behaviour,
    reason: str,
) -> None:
    server.serve_files("/good", FILES)
    server.serve_files("/bad", FILES)
    server.answer(f"/bad/{TRAIN}", behaviour)
    use_mirrors(monkeypatch, f"{server.url}/bad", f"{server.url}/good")
    if reason == "timed out":
        be_impatient(monkeypatch)
    with caplog.at_level(logging.INFO, "ptb_lm"):
        fetch_ptb(target)
    assert contents(target) == installed(FILES)
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert record.getMessage().startswith(f"{server.url}/bad: ")
    assert reason in record.getMessage()


@pytest.mark.parametrize(("behaviour", "reason"), BROKEN)
def test_of_a_broken_url_nothing_is_installed(
    server: Server,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Behaviour,
    reason: str,
) -> None:
    server.serve_files("/bad", FILES)
    server.answer(f"/bad/{TRAIN}", behaviour)
    if reason == "timed out":
        be_impatient(monkeypatch)
    message = fails_to_fetch(target, f"{server.url}/bad")
    assert f"{server.url}/bad: " in message
    assert reason in message
    assert set(server.requested) == {f"/bad/{TRAIN}"}
    assert server.sent_bytes < http_server.ENDLESS_BYTES / 2


@pytest.mark.parametrize("name", [VALID, TEST])
def test_a_later_file_that_fails_leaves_none_of_the_earlier(
    server: Server, target: Path, name: str
) -> None:
    server.serve_files("", {**FILES, name: HTML})
    fails_to_fetch(target, server.url)
    assert f"/{TRAIN}" in server.requested


def test_files_of_two_mirrors_are_not_mixed(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve_files("/one", {TRAIN: RIGHT})
    server.serve_files("/two", {VALID: FILES[VALID], TEST: FILES[TEST]})
    use_mirrors(monkeypatch, f"{server.url}/one", f"{server.url}/two")
    message = fails_to_fetch(target)
    assert f"{server.url}/one: HTTP status 404; {server.url}/two: HTTP status 404" in message


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(http_server.sends(HTML, status=500), id="500"),
        pytest.param(http_server.sends(b"a", declared_bytes=9), id="truncated"),
        pytest.param(http_server.sends(DAMAGED[:100]), id="other bytes"),
        pytest.param(http_server.hangs_up, id="hung up"),
    ],
)
def test_a_passing_failure_is_retried_once_after_a_pause(
    server: Server, target: Path, pauses: list[float], behaviour: Behaviour
) -> None:
    server.serve_files("", FILES)
    server.answer(f"/{VALID}", behaviour, http_server.sends(FILES[VALID]))
    fetch_ptb(target, server.url)
    assert contents(target) == installed(FILES)
    assert server.requested == [f"/{name}" for name in (TRAIN, VALID, VALID, TEST)]
    assert pauses == [1]


def test_a_lasting_failure_is_retried_only_once(
    server: Server, target: Path, pauses: list[float]
) -> None:
    server.answer(f"/{TRAIN}", http_server.sends(HTML, status=500))
    fails_to_fetch(target, server.url)
    assert server.requested == [f"/{TRAIN}"] * 2
    assert pauses == [1]


def test_when_the_time_is_over_no_further_mirror_is_tried(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_impatient(monkeypatch)
    monkeypatch.setattr(download, "BUDGET_SECONDS", SHORT_TIMEOUT_SECONDS)
    server.answer(f"/slow/{TRAIN}", http_server.hangs)
    server.serve_files("/good", FILES)
    use_mirrors(monkeypatch, f"{server.url}/slow", f"{server.url}/good")
    message = fails_to_fetch(target)
    assert f"{server.url}/slow: timed out; {server.url}/good: not tried" in message
    assert set(server.requested) == {f"/slow/{TRAIN}"}


@pytest.mark.parametrize("ending", ["", "/simple-examples.tgz"])
def test_a_refused_connection_is_reported(refused_url: str, target: Path, ending: str) -> None:
    assert f"{refused_url}{ending}: no connection" in fails_to_fetch(target, refused_url + ending)


@pytest.mark.parametrize("url", ["http://", "http://[half", "https://two words/"])
def test_a_url_that_is_none_is_reported_as_such(target: Path, url: str) -> None:
    message = fails_to_fetch(target, url)
    assert "Invalid URL" in message or "Failed to parse" in message


# Folders


@pytest.mark.parametrize("place", ["", "ptb", "data"])
def test_the_files_are_taken_from_a_folder(tmp_path: Path, target: Path, place: str) -> None:
    write_files(tmp_path / "given" / place, FILES | {"ptb.char.txt": b"not asked for"})
    before = contents(tmp_path / "given")
    fetch_ptb(target, str(tmp_path / "given"))
    assert contents(target) == installed(FILES)
    assert contents(tmp_path / "given") == before


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_that_lacks_a_file_is_refused(tmp_path: Path, target: Path, name: str) -> None:
    given = write_files(tmp_path / "given", FILES)
    (given / name).unlink()
    assert f"expected {', '.join(NAMES)} in it" in refuses(target, given)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(DAMAGED, "sha256 differs"), (RIGHT[:-9], "bytes where"), (b"", "0 bytes where")],
)
def test_a_folder_with_a_damaged_file_is_refused(
    tmp_path: Path, target: Path, data: bytes, complaint: str
) -> None:
    given = write_files(tmp_path / "given", FILES | {TRAIN: data})
    message = refuses(target, given)
    assert complaint in message
    assert str(given / TRAIN) in message


def test_a_path_that_is_not_there_is_refused(tmp_path: Path, target: Path) -> None:
    assert "no such folder or archive" in refuses(target, tmp_path / "nowhere")


# Archives


def pack_tar(mode: str) -> Pack:
    def pack(path: Path, members: dict[str, bytes]) -> Path:
        with tarfile.open(path, mode) as archive:
            for name, data in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    return pack


def pack_zip(compression: int) -> Pack:
    def pack(path: Path, members: dict[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return path

    return pack


pack_tgz, pack_deflated = pack_tar("w:gz"), pack_zip(zipfile.ZIP_DEFLATED)

KINDS = [
    pytest.param("simple-examples.tgz", pack_tgz, id="tgz"),
    pytest.param("simple-examples.zip", pack_deflated, id="zip"),
]
MORE_KINDS = [
    *KINDS,
    pytest.param("a.tar.gz", pack_tgz, id="tar.gz"),
    pytest.param("a.tar", pack_tar("w"), id="tar"),
    pytest.param("a.zip", pack_zip(zipfile.ZIP_STORED), id="zip stored"),
]
# Of these a few bytes can unpack to hundreds of megabytes at once.
OTHER_KINDS = [
    pytest.param("a.tar.bz2", pack_tar("w:bz2"), id="tar.bz2"),
    pytest.param("a.tar.xz", pack_tar("w:xz"), id="tar.xz"),
    pytest.param("a.zip", pack_zip(zipfile.ZIP_BZIP2), id="zip bzip2"),
    pytest.param("a.zip", pack_zip(zipfile.ZIP_LZMA), id="zip lzma"),
]


def deep(files: dict[str, bytes], folder: str = "./simple-examples/data/") -> dict[str, bytes]:
    return {folder + name: data for name, data in files.items()}


@pytest.mark.parametrize(("name", "pack"), MORE_KINDS)
@pytest.mark.parametrize("folder", ["", "./simple-examples/data/"])
def test_the_files_are_taken_out_of_an_archive(
    tmp_path: Path, target: Path, name: str, pack: Pack, folder: str
) -> None:
    others = {f"{folder}README": b"hello", f"{folder}ptb.char.train.txt": RIGHT}
    fetch_ptb(target, str(pack(tmp_path / name, others | deep(FILES, folder))))
    assert contents(target) == installed(FILES)


@pytest.mark.parametrize(("name", "pack"), OTHER_KINDS)
def test_an_archive_of_another_kind_is_refused(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    with pytest.raises(InputError, match="not a readable archive"):
        fetch_ptb(target, str(pack(tmp_path / name, FILES)))
    assert not target.exists()


@pytest.mark.parametrize(
    ("name", "pack"), [*KINDS, ("a.tar.gz", pack_tgz), ("SIMPLE.TGZ", pack_tgz)]
)
def test_an_archive_comes_from_a_url(
    tmp_path: Path, server: Server, target: Path, name: str, pack: Pack
) -> None:
    path = pack(tmp_path / name, deep(FILES))
    server.answer(f"/~someone/{name}", http_server.sends(path.read_bytes()))
    fetch_ptb(target, f"{server.url}/~someone/{name}")
    assert contents(target) == installed(FILES)
    assert server.requested == [f"/~someone/{name}"]


def test_an_archive_that_the_server_declares_compressed_is_taken(
    tmp_path: Path, server: Server, target: Path
) -> None:
    """Web servers send .tgz files so, and what arrives is then the .tar inside."""
    packed = pack_tgz(tmp_path / "a.tgz", deep(FILES)).read_bytes()
    server.answer("/a.tgz", http_server.sends(packed, Content_Encoding="x-gzip"))
    fetch_ptb(target, f"{server.url}/a.tgz")
    assert contents(target) == installed(FILES)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (http_server.sends(HTML), "not a readable archive"),
        (http_server.sends(b""), "not a readable archive"),
        (http_server.sends(b"", status=404), "HTTP status 404"),
        (http_server.sends(gzip.compress(RIGHT)[:-9], declared_bytes=9999999), "broke off"),
        (http_server.sends_endlessly, "more than the expected"),
        (http_server.hangs, "timed out"),
    ],
)
def test_of_a_broken_archive_url_nothing_is_installed(
    server: Server,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Behaviour,
    reason: str,
) -> None:
    monkeypatch.setattr(download, "ARCHIVE_BYTES", 1_000_000)
    server.answer("/a.tgz", behaviour)
    if reason == "timed out":
        be_impatient(monkeypatch)
    message = fails_to_fetch(target, f"{server.url}/a.tgz")
    assert f"{server.url}/a.tgz: " in message
    assert reason in message
    assert server.sent_bytes < http_server.ENDLESS_BYTES / 2


@pytest.mark.parametrize(("name", "pack"), KINDS)
@pytest.mark.parametrize("missing", NAMES)
def test_an_archive_that_lacks_a_file_is_refused(
    tmp_path: Path, target: Path, name: str, pack: Pack, missing: str
) -> None:
    rest = {other: data for other, data in FILES.items() if other != missing}
    path = pack(tmp_path / name, deep(rest | {"notes": FILES[missing][:-9]}))
    assert f"no {missing} in the archive" in refuses(target, path)


@pytest.mark.parametrize(("name", "pack"), KINDS)
def test_an_archive_with_a_damaged_file_is_refused(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    path = pack(tmp_path / name, deep(FILES | {TRAIN: DAMAGED}))
    message = refuses(target, path)
    assert f"simple-examples/data/{TRAIN}" in message
    assert "sha256 differs" in message


@pytest.mark.parametrize(("name", "pack"), KINDS)
def test_among_members_of_the_same_name_the_right_one_is_taken(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    members = deep({TRAIN: DAMAGED}, "old/") | deep(FILES) | deep({TRAIN: b"too short"}, "new/")
    fetch_ptb(target, str(pack(tmp_path / name, members)))
    assert contents(target) == installed(FILES)


@pytest.mark.parametrize(("name", "pack"), KINDS)
def test_no_member_is_written_where_its_path_says(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, name: str, pack: Pack
) -> None:
    """Every place that such a path could mean lies within the test's folder."""
    for folder in ("archives/a/b", "here/a/b", "temporary/a/b"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here/a/b")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary/a/b"))
    evil = {"../../evil": b"evil", f"{tmp_path}/evil": b"evil", f"../../{TRAIN}": b"evil"}
    path = pack(tmp_path / "archives/a/b" / name, evil | deep(FILES, "../../"))
    before = contents(tmp_path)
    fetch_ptb(target, str(path))
    assert contents(target) == installed(FILES)
    shutil.rmtree(target)
    assert contents(tmp_path) == before
    shutil.rmtree(tmp_path / "temporary/a")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic link", "hard link"]
)
@pytest.mark.parametrize("aim", ["outside", "a member"])
def test_a_link_is_not_taken_for_a_file(
    tmp_path: Path, target: Path, kind: bytes, aim: str
) -> None:
    outside = write_files(tmp_path / "outside", {TRAIN: RIGHT}) / TRAIN
    path = tmp_path / "a.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("real", VALID, TEST):
            data = DAMAGED if name == "real" else FILES[name]
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo(TRAIN)
        link.type = kind
        link.linkname = str(outside) if aim == "outside" else "real"
        archive.addfile(link)
    assert f"no {TRAIN} in the archive" in refuses(target, path)
    assert outside.read_bytes() == RIGHT


def test_a_link_in_a_zip_is_not_followed(tmp_path: Path, target: Path) -> None:
    outside = write_files(tmp_path / "outside", {TRAIN: RIGHT}) / TRAIN
    path = pack_deflated(tmp_path / "a.zip", {name: FILES[name] for name in (VALID, TEST)})
    with zipfile.ZipFile(path, "a") as archive:
        link = zipfile.ZipInfo(TRAIN)
        link.external_attr = 0o120777 << 16
        archive.writestr(link, str(outside))
    assert "bytes where" in refuses(target, path)


@pytest.mark.parametrize(("name", "pack"), KINDS)
def test_a_member_that_unpacks_to_too_much_is_never_in_memory(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    """A part of it is: tarfile unpacks ten kilobytes at once, which zeros make ten megabytes."""
    path = pack(tmp_path / name, deep(FILES | {TRAIN: bytes(ZEROS_BYTES)}))
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        message = refuses(target, path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{len(RIGHT) + 1:,} bytes where" in message
    assert peak_bytes < ZEROS_BYTES


@pytest.mark.parametrize(("name", "pack"), MORE_KINDS)
def test_an_archive_cut_short_is_refused(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    whole = pack(tmp_path / name, deep(FILES)).read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6, 0.85):
        (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
        refuses(target, tmp_path / name)


@pytest.mark.parametrize(("name", "pack"), MORE_KINDS)
def test_an_archive_with_damaged_bytes_is_refused(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    whole = pack(tmp_path / name, deep(FILES)).read_bytes()
    for share in (0.05, 0.2, 0.5, 0.7):  # each within the content of the first file
        start = int(share * len(whole))
        (tmp_path / name).write_bytes(whole[:start] + b"damaged!" * 8 + whole[start + 64 :])
        refuses(target, tmp_path / name)


def flagged(archive: bytes, local_offset: int, central_offset: int, value: int) -> bytes:
    """Overwrite a byte in both headers of each member of a zip."""
    changed = bytearray(archive)
    for signature, offset in ((b"PK\3\4", local_offset), (b"PK\1\2", central_offset)):
        at = archive.find(signature)
        while at >= 0:
            changed[at + offset] = value
            at = archive.find(signature, at + 1)
    return bytes(changed)


@pytest.mark.parametrize(
    ("local_offset", "central_offset", "value"),
    [
        pytest.param(6, 8, 0b0000_0001, id="encrypted"),
        pytest.param(6, 8, 0b0100_0001, id="strongly encrypted"),
        pytest.param(8, 10, 97, id="compressed in an unknown way"),
    ],
)
def test_a_zip_that_cannot_be_unpacked_here_is_refused(
    tmp_path: Path, target: Path, local_offset: int, central_offset: int, value: int
) -> None:
    path = pack_deflated(tmp_path / "a.zip", FILES)
    path.write_bytes(flagged(path.read_bytes(), local_offset, central_offset, value))
    assert "not a readable archive" in refuses(target, path)


def test_a_zip_with_names_in_no_encoding_is_refused(tmp_path: Path, target: Path) -> None:
    path = pack_deflated(tmp_path / "a.zip", deep(FILES, "é/"))
    path.write_bytes(path.read_bytes().replace("é/".encode(), b"\xff\xff/"))
    assert "not a readable archive" in refuses(target, path)


@pytest.mark.parametrize(("name", "pack"), KINDS)
def test_a_line_feed_in_the_name_of_a_member_stays_out_of_the_message(
    tmp_path: Path, target: Path, name: str, pack: Pack
) -> None:
    refuses(target, pack(tmp_path / name, deep(FILES | {TRAIN: DAMAGED}, "a\nb/")))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(RIGHT, id="text"),
        pytest.param(HTML, id="HTML"),
        pytest.param(bytes(20_000), id="zeros"),
        pytest.param(random.Random(0).randbytes(20_000), id="noise"),
        pytest.param(gzip.compress(RIGHT), id="gzip of a text"),
        pytest.param(bz2.compress(RIGHT), id="bzip2 of a text"),
        pytest.param(lzma.compress(RIGHT), id="xz of a text"),
        pytest.param(b"PK\5\6" + bytes(18), id="zip of nothing"),
    ],
)
@pytest.mark.parametrize("name", ["a.tgz", "a.zip", "ptb.train.txt"])
def test_a_file_that_is_no_archive_is_refused(
    tmp_path: Path, target: Path, data: bytes, name: str
) -> None:
    write_files(tmp_path, {name: data})
    refuses(target, tmp_path / name)


# The data folder


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder that has the three files."""
    return write_files(tmp_path / "given", FILES)


@pytest.mark.parametrize(
    "there",
    [
        pytest.param({}, id="nothing"),
        pytest.param(FILES, id="all"),
        pytest.param({**FILES, VALID: b"damaged"}, id="a damaged one"),
        pytest.param({TEST: FILES[TEST]}, id="one"),
    ],
)
def test_a_fetch_puts_existing_files_right_and_leaves_others_alone(
    given: Path, target: Path, there: dict[str, bytes]
) -> None:
    write_files(target / "ptb", there | {"notes": b"mine"})
    fetch_ptb(target, str(given))
    assert contents(target) == installed(FILES | {"notes": b"mine"})


def test_a_failing_fetch_leaves_existing_files_as_they_were(server: Server, target: Path) -> None:
    write_files(target / "ptb", FILES | {VALID: b"damaged"})
    server.serve_files("", FILES | {TEST: HTML})
    before = contents(target)
    with pytest.raises(PtbLmError):
        fetch_ptb(target, server.url)
    assert contents(target) == before


@pytest.mark.parametrize(
    ("obstacle", "complaint"),
    [
        pytest.param("target", "cannot be created: ", id="data folder"),
        pytest.param("target/ptb", "cannot be written: ", id="its ptb"),
        pytest.param(".", "cannot be created: ", id="its parent"),
    ],
)
def test_a_file_in_place_of_a_folder_is_reported(
    given: Path, tmp_path: Path, obstacle: str, complaint: str
) -> None:
    data_dir = tmp_path / "place" / "target"
    path = tmp_path / "place" / obstacle
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"in the way")
    with pytest.raises(PtbLmError, match=complaint) as error:
        fetch_ptb(data_dir, str(given))
    assert error.value.exit_code == 1
    assert str(data_dir / "ptb") in one_line(error)
    assert path.read_bytes() == b"in the way"
    assert [entry for entry in tmp_path.rglob("*") if entry.name.startswith(".")] == []


def test_a_full_disk_leaves_nothing_behind(
    given: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(PtbLmError, match="cannot be written: No space left on device"):
        fetch_ptb(target, str(given))
    assert contents(target) == {}


def test_a_corpus_that_is_asked_for_and_not_there_is_fetched(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve_files("", FILES)
    use_mirrors(monkeypatch, server.url)
    corpus = load_corpus("ptb", target)
    assert {split: len(ids) for split, ids in corpus.splits.items()} == {
        "train": 21 * LINES[TRAIN],
        "valid": 21 * LINES[VALID],
        "test": 21 * LINES[TEST],
    }
    assert contents(target) == installed(FILES)
    load_corpus("ptb", target)
    assert len(server.requested) == len(NAMES)


# The command line


def failed(outcome: Outcome, code: int) -> str:
    """Check that a command failed with one line of error at the end; return that line."""
    *others, line = outcome.err.splitlines()
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert line.startswith("error: ")
    assert not any(other.startswith(("error", "Traceback")) for other in others)
    return line


def test_data_fetch_installs_and_data_info_describes(given: Path, target: Path) -> None:
    fetched = ptb_lm("data", "fetch", "--from", str(given), "--data-dir", str(target))
    assert (fetched.code, fetched.err) == (0, "")
    assert (
        fetched.out == f"The Penn Treebank is in {target / 'ptb'}, all three files as published.\n"
    )

    told = ptb_lm("data", "info", "--data-dir", str(target), "--json")
    assert (told.code, told.err) == (0, "")
    splits = json.loads(told.out)["splits"]
    for name, data in FILES.items():
        split = splits[name.split(".")[1]]
        assert split["sha256"] == hashlib.sha256(data).hexdigest()
        assert split["sentences"] == LINES[name]

    table = ptb_lm("data", "info", "--data-dir", str(target))
    assert (table.code, table.err) == (0, "")
    assert splits["train"]["sha256"] in table.out


def test_data_fetch_asks_nobody_for_a_corpus_that_is_there_as_published(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, server.url)
    write_files(target / "ptb", FILES)
    fetched = ptb_lm("data", "fetch", "--data-dir", str(target))
    assert (fetched.code, fetched.err) == (0, "")
    assert (
        fetched.out == f"The Penn Treebank is in {target / 'ptb'}, all three files as published.\n"
    )
    assert server.requested == []


def test_data_fetch_puts_a_damaged_corpus_right(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve_files("", FILES)
    use_mirrors(monkeypatch, server.url)
    write_files(target / "ptb", FILES | {TRAIN: DAMAGED})
    assert ptb_lm("data", "fetch", "--data-dir", str(target)).code == 0
    assert contents(target) == installed(FILES)


def test_data_fetch_goes_to_the_data_folder_of_the_environment(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve_files("", FILES)
    monkeypatch.setenv("PTB_LM_DATA_DIR", str(target))
    outcome = ptb_lm("data", "fetch", "--from", server.url)
    assert (outcome.code, outcome.err) == (0, "")  # no bar where there is no terminal
    assert contents(target) == installed(FILES)


def test_data_fetch_shows_a_bar_on_a_terminal(server: Server, target: Path) -> None:
    server.serve_files("", FILES)
    server.answer(f"/{VALID}", http_server.sends_in_chunks(FILES[VALID], 100))
    with redirect_stderr(Terminal()) as terminal:
        fetch_ptb(target, server.url)
    assert all(name in terminal.getvalue() for name in NAMES)
    assert "\n" not in terminal.getvalue()  # it is gone when the file is there


def test_data_fetch_tells_of_each_broken_mirror(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.serve_files("/html", dict.fromkeys(NAMES, HTML))
    use_mirrors(monkeypatch, f"{server.url}/none", f"{server.url}/html")
    outcome = ptb_lm("data", "fetch", "--data-dir", str(target))
    line = failed(outcome, 1)
    assert "`ptb-lm data fetch --from" in line
    assert "`make demo`" in line
    none, html, _ = outcome.err.splitlines()
    assert none == f"{server.url}/none: HTTP status 404"
    assert html == f"{server.url}/html: other bytes than the published file's"
    assert not target.exists()


@pytest.mark.parametrize("source", [None, "url"])
def test_what_a_fetch_killed_at_its_very_end_has_left_goes(
    server: Server, target: Path, source: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The corpus is in place already; what is left is an empty folder."""
    server.serve_files("", FILES)
    use_mirrors(monkeypatch, server.url)
    write_files(target / "ptb", FILES)
    (target / ".ptb.abcd_123.partial").mkdir()
    fetch_ptb(target, server.url if source else None)
    assert contents(target) == installed(FILES)


def test_what_a_url_keeps_secret_is_not_shown(server: Server, target: Path) -> None:
    host = server.url.removeprefix("http://")
    url = f"http://alice:s3cret@{host}/none?token=t0ken"
    outcome = ptb_lm("data", "fetch", "--from", url, "--data-dir", str(target))
    assert f"{server.url}/none" in failed(outcome, 1)
    assert not {"alice", "s3cret", "t0ken"} & set(re.findall(r"\w+", outcome.err + outcome.out))


@pytest.mark.parametrize(
    ("prepare", "complaint"),
    [
        pytest.param(lambda path: None, "no such folder", id="nothing there"),
        pytest.param(lambda path: write_files(path, {}), "expected ptb.train.txt", id="empty"),
        pytest.param(
            lambda path: write_files(path, FILES | {TEST: DAMAGED}), "bytes where", id="damaged"
        ),
        pytest.param(lambda path: path.write_bytes(HTML), "not a readable archive", id="a page"),
    ],
)
def test_data_fetch_from_a_wrong_place_is_the_callers_mistake(
    tmp_path: Path, target: Path, prepare: Callable[[Path], object], complaint: str
) -> None:
    prepare(tmp_path / "wrong")
    outcome = ptb_lm("data", "fetch", "--from", str(tmp_path / "wrong"), "--data-dir", str(target))
    assert complaint in failed(outcome, 2)
    assert len(outcome.err.splitlines()) == 1
    assert not target.exists()


def test_data_info_fetches_nothing(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, server.url)
    outcome = ptb_lm("data", "info", "--data-dir", str(target))
    assert "`ptb-lm data fetch` gets it" in failed(outcome, 2)
    assert len(outcome.err.splitlines()) == 1
    assert server.requested == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [({TRAIN: RIGHT}, f"{VALID}: missing"), (FILES | {VALID: b"x"}, "1 bytes where")],
    ids=["a file missing", "a file damaged"],
)
@pytest.mark.parametrize("command", ["data info", "train --config small --device cpu --data ptb"])
def test_files_that_are_not_right_are_never_used(
    tmp_path: Path, target: Path, files: dict[str, bytes], complaint: str, command: str
) -> None:
    write_files(target / "ptb", files)
    options = ["--run-dir", str(tmp_path / "run")] if command.startswith("train") else []
    line = failed(ptb_lm(*command.split(), "--data-dir", str(target), *options), 2)
    assert complaint in line
    assert "`ptb-lm data fetch`" in line
    assert not (tmp_path / "run").exists()


def test_train_without_corpus_and_mirrors_ends_before_it_begins(
    server: Server, refused_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_mirrors(monkeypatch, server.url, refused_url)
    places = ("--data-dir", str(tmp_path / "target"), "--run-dir", str(tmp_path / "run"))
    before = contents(tmp_path)
    outcome = ptb_lm("train", "--config", "small", "--device", "cpu", "--data", "ptb", *places)
    assert "`ptb-lm data fetch --from" in failed(outcome, 1)
    assert contents(tmp_path) == before


# The real corpus


@pytest.fixture
def real_files(data_dir: Path) -> dict[str, bytes]:
    return {name: (data_dir / "ptb" / name).read_bytes() for name in NAMES}


@pytest.mark.corpus
def test_the_published_files_come_from_a_base_url(
    server: Server, target: Path, real_files: dict[str, bytes]
) -> None:
    server.serve_files("/data", real_files)
    fetch_ptb(target, f"{server.url}/data")
    assert contents(target) == installed(real_files)


@pytest.mark.corpus
def test_the_published_files_come_from_an_archive_by_path_and_by_url(
    tmp_path: Path, server: Server, target: Path, real_files: dict[str, bytes]
) -> None:
    def pack(path: Path) -> Path:
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, data in deep(real_files).items():
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return path

    path = pack(tmp_path / "simple-examples.tgz")
    server.answer("/simple-examples.tgz", http_server.sends(path.read_bytes()))
    fetch_ptb(target / "by path", str(path))
    fetch_ptb(target / "by url", f"{server.url}/simple-examples.tgz")
    assert contents(target / "by path") == installed(real_files)
    assert contents(target / "by url") == installed(real_files)
