"""Copies of the published files: other names, line ends and places, recognised by their content."""

import codecs
import gzip
import hashlib
import io
import os
import random
import shlex
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cli_support import Outcome, contents, done, ptb_lm
from http_server import Server, loopback_server

from ptb_lm.corpus import copies, download, ptb
from ptb_lm.corpus.ptb import PtbFile

SPLITS = {"train": 400, "valid": 60, "test": 50}
NAMES = {split: f"ptb.{split}.txt" for split in SPLITS}
OTHER_NAMES = [
    ("train.txt", "valid.txt", "test.txt"),
    ("train.txt", "val.txt", "test.txt"),
    ("train", "dev", "test"),
    ("PTB.TRAIN.TXT", "PTB.VALID.TXT", "PTB.TEST.TXT"),
    ("a", "b", "c"),
]


def text(seed: int, lines: int) -> bytes:
    rng = random.Random(seed)
    words = ["<unk>", "N", *"abcdefgh"]
    return "".join(f" {' '.join(rng.choices(words, k=20))} \n" for _ in range(lines)).encode()


TEXTS = {split: text(seed, lines) for seed, (split, lines) in enumerate(SPLITS.items())}
PUBLISHED = {NAMES[split]: data for split, data in TEXTS.items()}

CONVERSIONS: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda data: data.replace(b"\n", b"\r\n"),
    "CR": lambda data: data.replace(b"\n", b"\r"),
    "BOM": lambda data: codecs.BOM_UTF8 + data,
    "CRLF and BOM": lambda data: codecs.BOM_UTF8 + data.replace(b"\n", b"\r\n"),
    "UTF-16": lambda data: data.decode().replace("\n", "\r\n").encode("utf-16"),
    "no final newline": lambda data: data[:-1],
    "blank line at the end": lambda data: data + b"\n",
    "stripped": lambda data: b"\n".join(line.strip() for line in data.splitlines()) + b"\n",
    "eos": lambda data: data.replace(b" \n", b" <eos>\n"),
    "one line": lambda data: data.replace(b" \n", b" <eos>"),
}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the texts of this file the published ones."""
    files = tuple(
        PtbFile(split, NAMES[split], len(data), hashlib.sha256(data).hexdigest())
        for split, data in TEXTS.items()
    )
    for module in (ptb, download):
        monkeypatch.setattr(module, "PTB_FILES", files)


@pytest.fixture(autouse=True)
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The only mirror; it has nothing, and records what it is asked for."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("PTB_LM_DATA_DIR", raising=False)
    with loopback_server() as server:
        monkeypatch.setattr(download, "MIRRORS", (server.url,))
        yield server


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def named(names: tuple[str, ...], prefix: str = "", ending: str = "") -> dict[str, bytes]:
    return dict(zip((f"{prefix}{name}{ending}" for name in names), TEXTS.values(), strict=True))


def converted(convert: Callable[[bytes], bytes], *splits: str) -> dict[str, bytes]:
    return {
        NAMES[split]: convert(data) if split in splits else data for split, data in TEXTS.items()
    }


def fetched(source: Path, target: Path) -> None:
    done("data", "fetch", "--from", str(source), "--data-dir", str(target))
    assert contents(target) == {"ptb": None} | {
        f"ptb/{name}": PUBLISHED[name] for name in PUBLISHED
    }


def refused(*arguments: str) -> str:
    outcome: Outcome = ptb_lm(*arguments)
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    return line


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def tgz_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


# data fetch --from


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("splits", [("train",), tuple(SPLITS)], ids=["one", "all"])
def test_converted_copy_is_taken(tmp_path: Path, conversion: str, splits: tuple[str, ...]) -> None:
    given = write(tmp_path / "given", converted(CONVERSIONS[conversion], *splits))
    fetched(given, tmp_path / "target")


@pytest.mark.parametrize("names", OTHER_NAMES, ids="-".join)
@pytest.mark.parametrize("place", ["", "ptb/", "data/penn/", "simple-examples/data/"])
def test_other_names_in_folder(tmp_path: Path, names: tuple[str, ...], place: str) -> None:
    fetched(write(tmp_path / "given", named(names, place)), tmp_path / "target")


@pytest.mark.parametrize("pack", [zip_of, tgz_of])
@pytest.mark.parametrize("names", OTHER_NAMES, ids="-".join)
def test_other_names_in_archive(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path], names: tuple[str, ...]
) -> None:
    junk = {f"__MACOSX/data/ptb/._{name}": b"\0\5\x16\7" * 40 for name in names}
    members = junk | {"data/wikitext/train.txt": b"no copy"} | named(names, "data/ptb/")
    fetched(pack(tmp_path / "archive", members), tmp_path / "target")


@pytest.mark.parametrize("pack", [zip_of, tgz_of])
def test_converted_copy_in_archive(
    tmp_path: Path, pack: Callable[[Path, dict[str, bytes]], Path]
) -> None:
    fetched(
        pack(tmp_path / "archive", converted(CONVERSIONS["CRLF"], *SPLITS)), tmp_path / "target"
    )


def test_gzipped_files(tmp_path: Path) -> None:
    packed = {
        name: gzip.compress(data) for name, data in named(OTHER_NAMES[0], ending=".gz").items()
    }
    fetched(write(tmp_path / "given", packed), tmp_path / "target")


def test_converted_copies_come_from_a_url(tmp_path: Path, mirror: Server) -> None:
    mirror.serve_files("/data", converted(CONVERSIONS["CRLF"], *SPLITS))
    done("data", "fetch", "--from", f"{mirror.url}/data", "--data-dir", str(tmp_path / "target"))
    assert contents(tmp_path / "target/ptb") == PUBLISHED


def test_other_difference_is_named(tmp_path: Path) -> None:
    damaged = TEXTS["valid"].replace(b"\n", b"\r\n").replace(b"a", b"z", 1)
    given = write(tmp_path / "given", PUBLISHED | {"ptb.valid.txt": damaged})
    line = refused("data", "fetch", "--from", str(given), "--data-dir", str(tmp_path / "target"))
    assert f"{given / 'ptb.valid.txt'}: {len(damaged):,} bytes where ptb.valid.txt has" in line
    assert "it has CRLF line ends and other differences" in line
    assert not (tmp_path / "target").exists()


def test_one_of_the_files_is_no_source(tmp_path: Path) -> None:
    given = write(tmp_path / "given", PUBLISHED)
    line = refused("data", "fetch", "--from", str(given / "ptb.train.txt"))
    assert line.endswith("one of the three files; name their folder")


def test_unrelated_text_of_the_name_is_refused(tmp_path: Path) -> None:
    given = write(tmp_path / "given", named(("a", "b", "c")) | {"c": b"", "test.txt": b"a b\n"})
    line = refused("data", "fetch", "--from", str(given), "--data-dir", str(tmp_path / "target"))
    assert f"{given / 'test.txt'}: 4 bytes where ptb.test.txt has" in line


def test_search_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = write(tmp_path / "given/1/2/3/4", PUBLISHED)
    assert "expected ptb.train.txt" in refused("data", "fetch", "--from", str(tmp_path / "given"))
    (deep / "more").symlink_to(tmp_path / "given")
    monkeypatch.setattr(copies, "MEMBERS", 2)
    assert "expected ptb.train.txt" in refused("data", "fetch", "--from", str(deep))


# The data folder


def train(*arguments: str) -> Outcome:
    options = ["--config", "small", "--set", "model.hidden_size=4", "--max-steps", "1"]
    return ptb_lm("train", *options, "--device", "cpu", *arguments)


@pytest.mark.parametrize("folder", ["ptb", "penn", "simple-examples/data"])
def test_data_dir_may_be_the_folder_itself(tmp_path: Path, mirror: Server, folder: str) -> None:
    place = write(tmp_path / "D" / folder, PUBLISHED)
    before = contents(tmp_path / "D")
    told = done("data", "info", "--data-dir", str(place))
    assert f"{place}" in told.out
    assert train("--data-dir", str(place), "--run-dir", str(tmp_path / "run")).code == 0
    assert mirror.requested == []
    assert contents(tmp_path / "D") == before


def test_environment_may_name_the_folder_itself(
    tmp_path: Path, mirror: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "D/ptb", PUBLISHED)
    monkeypatch.setenv("PTB_LM_DATA_DIR", str(tmp_path / "D/ptb"))
    done("data", "info")
    monkeypatch.chdir(tmp_path / "D/ptb")
    monkeypatch.setenv("PTB_LM_DATA_DIR", ".")
    done("data", "info")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PTB_LM_DATA_DIR", "~/D")
    done("data", "info")
    assert mirror.requested == []


def test_some_files_of_the_folder_itself(tmp_path: Path, mirror: Server) -> None:
    place = write(tmp_path / "D/ptb", {"ptb.train.txt": TEXTS["train"]})
    outcome = train("--data-dir", str(place), "--run-dir", str(tmp_path / "run"))
    assert (outcome.code, mirror.requested) == (2, [])
    assert f"{place / 'ptb.valid.txt'}: missing" in outcome.err
    mirror.serve_files("", PUBLISHED)
    done("data", "fetch", "--data-dir", str(place))
    assert contents(tmp_path / "D/ptb") == PUBLISHED


@pytest.mark.parametrize("conversion", CONVERSIONS)
@pytest.mark.parametrize("in_itself", [False, True])
def test_installed_copy_is_refused_with_its_repair(
    tmp_path: Path, mirror: Server, conversion: str, in_itself: bool
) -> None:
    place = write(tmp_path / "my D/ptb", converted(CONVERSIONS[conversion], "valid"))
    data_dir = place if in_itself else place.parent
    outcome = train("--data-dir", str(data_dir), "--run-dir", str(tmp_path / "run"))
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {place / 'ptb.valid.txt'}: ptb.valid.txt with ")
    program, *repair = shlex.split(line.split("`")[1])
    assert program == "ptb-lm"
    done(*repair)
    assert contents(place) == PUBLISHED
    assert train("--data-dir", str(data_dir), "--run-dir", str(tmp_path / "run")).code == 0
    assert mirror.requested == []


def test_damaged_file_is_named_before_a_converted_one(tmp_path: Path) -> None:
    files = converted(CONVERSIONS["CRLF"], "train") | {"ptb.test.txt": b"a b\n"}
    place = write(tmp_path / "D/ptb", files)
    outcome = train("--data-dir", str(tmp_path / "D"), "--run-dir", str(tmp_path / "run"))
    assert f"{place / 'ptb.test.txt'}: 4 bytes where" in outcome.err


@pytest.mark.parametrize("names", OTHER_NAMES, ids="-".join)
@pytest.mark.parametrize("place", ["", "ptb/", "simple-examples/data/"])
def test_data_folder_is_searched_before_the_network(
    tmp_path: Path, mirror: Server, names: tuple[str, ...], place: str
) -> None:
    given = {name: CONVERSIONS["CRLF"](data) for name, data in named(names, place).items()}
    data_dir = write(tmp_path / "D", given)
    outcome = train("--data-dir", str(data_dir), "--run-dir", str(tmp_path / "run"))
    if any((data_dir / place / name).exists() for name in PUBLISHED):
        return  # a file system that ignores case
    assert outcome.code == 0, outcome.err
    assert mirror.requested == []
    assert f"{data_dir} holds the three files" in outcome.err
    for name, data in PUBLISHED.items():
        assert (data_dir / "ptb" / name).read_bytes() == data
    for name, data in given.items():
        assert (data_dir / name).read_bytes() == data


def test_hostile_white_space_is_not_split() -> None:
    assert ptb.restored(b"\n" * 3_000_000) == b"\n" * 3_000_000


def test_other_files_of_the_folder_stay(tmp_path: Path) -> None:
    """A data folder that is also the corpus's may be any folder, such as the home folder."""
    place = write(tmp_path / "D", converted(CONVERSIONS["CRLF"], "test") | {".x.partial": b"mine"})
    done("data", "fetch", "--from", str(place), "--data-dir", str(place))
    assert contents(place) == PUBLISHED | {".x.partial": b"mine"}


@pytest.mark.corpus
def test_real_corpus_converts(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    for file in ptb.PTB_FILES:
        data = (ptb.ptb_folder(data_dir) / file.name).read_bytes()
        assert ptb.recognized(CONVERSIONS["UTF-16"](data)) == (file, data)
        assert len(CONVERSIONS["UTF-16"](data)) <= file.most_bytes
    assert os.environ  # the environment is as it was
