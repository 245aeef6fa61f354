"""Whatever a URL holds beside its host and path is shown nowhere."""

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import http_server
import pooch
import pytest
from cli_support import Outcome, ptb_lm
from http_server import Server, loopback_server
from processes import ptb_lm_process

from ptb_lm.corpus import download
from ptb_lm.urls import HIDDEN, text_without_secrets, without_secrets

SECRETS = ("tok3n", "s3cret", "h1dden", "fr4gment")
USER = "tok3n:s3cret@"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(pooch.core.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(download, "RETRIES", 0)


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback_server() as running:
        yield running


@pytest.fixture
def port() -> Iterator[int]:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def fetch(source: str, tmp_path: Path, *options: str) -> Outcome:
    arguments = ["data", "fetch", "--from", source, "--data-dir", str(tmp_path / "D")]
    outcome = ptb_lm(*options, *arguments)
    for secret in SECRETS:
        assert secret not in outcome.out + outcome.err
    return outcome


def failed(outcome: Outcome, code: int) -> str:
    assert (outcome.code, outcome.out) == (code, ""), outcome.err
    return outcome.err.splitlines()[-1]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://tok3n:s3cret@host/data", "http://host/data"),
        ("HTTP://tok3n:s3cret@host:80/data", "http://host:80/data"),
        ("hTTps://tok3n@host", "https://host"),
        ("ftp://tok3n:s3cret@host/x", "ftp://host/x"),
        ("http://host/a.tgz?key=h1dden#fr4gment", "http://host/a.tgz"),
        ("http://tok3n:s3cret@[::1]:8080/x?h1dden", "http://[::1]:8080/x"),
        ("http://tok3n%40a:s3c%2Fret@host/x", "http://host/x"),
        ("http://tok3n:s3@cret@host/x", "http://host/x"),
        ("http://tok3n:s3/cret@host/x", HIDDEN),
        ("http://tok3n:12#s3cret@host/x", HIDDEN),
        ("http://tok3n:12?s3cret@host/x", HIDDEN),
        ("http://tok3n%3As3cret%40host/x", HIDDEN),
        ("http://tok3n:s3cret", HIDDEN),
        ("http:/tok3n:s3cret@host/x", HIDDEN),
        ("tok3n:s3cret@host/x", HIDDEN),
        ("//tok3n:s3cret@host/x", HIDDEN),
        ("tok3n@host/x", HIDDEN),
        ("host/a.zip?token=h1dden", "host/a.zip"),
        ("?h1dden", HIDDEN),
        ("my/folder", "my/folder"),
    ],
)
def test_what_is_shown(url: str, shown: str) -> None:
    assert without_secrets(url) == shown


def test_urls_within_a_text() -> None:
    text = "got HTTP://tok3n:s3cret@host/x?h1dden and 'ftp://tok3n@host' (a://b/c)"
    assert text_without_secrets(text) == "got http://host/x and 'ftp://host' (a://b/c)"


@pytest.mark.parametrize("scheme", ["http", "HTTP", "hTtP"])
def test_unreachable_server(tmp_path: Path, port: int, scheme: str) -> None:
    url = f"{scheme}://{USER}127.0.0.1:{port}/data?key=h1dden#fr4gment"
    outcome = fetch(url, tmp_path)
    assert outcome.code == 1
    assert f"http://127.0.0.1:{port}/data: no connection" in outcome.err


def test_debug_shows_none(tmp_path: Path, port: int) -> None:
    url = f"HTTP://{USER}127.0.0.1:{port}/data?key=h1dden#fr4gment"
    arguments = ["--debug", "data", "fetch", "--from", url, "--data-dir", "D"]
    with ptb_lm_process(*arguments, cwd=tmp_path) as process:
        assert process.end() == 1
        assert "Traceback" in process.err
        for secret in SECRETS:
            assert secret not in process.err


@pytest.mark.parametrize(
    "source",
    [
        f"ftp://{USER}host/data",
        f"FTP://{USER}host/data?h1dden",
        f"{USER}host/data",
        f"//{USER}host/data",
        "tok3n@host/data",
        f"http:/{USER}host/data",
        f" http://{USER}host/data",
        "host/data.zip?token=h1dden",
        f"https;//{USER}host/x",
    ],
)
def test_no_url_of_ours(tmp_path: Path, source: str) -> None:
    assert "not an http(s) URL" in failed(fetch(source, tmp_path), 2)


@pytest.mark.parametrize(
    "rest", ["[half", "", "ho st/x", "a:b:c/x", "host:99999999/x", "s3/cret@host/x", "a" * 300]
)
def test_no_url_at_all(tmp_path: Path, rest: str) -> None:
    failed(fetch(f"http://{USER}{rest}", tmp_path), 1)


@pytest.mark.parametrize(
    "location",
    [
        f"ftp://{USER}host/x?h1dden",
        f"file://{USER}host/etc/passwd?h1dden",
        f"http://{USER}[half",
        f"http://{USER}127.0.0.1:1/x?h1dden#fr4gment",
        f"HTTP://{USER}nowhere.invalid/x?h1dden",
        f"https://{USER}127.0.0.1:1/x?h1dden",
        f"http://{USER}{'a' * 300}/x",
        f"//{USER}127.0.0.1:1/x",
        f"http://{USER}127.0.0.1:99999999/",
        f"http://{USER}",
    ],
    ids=lambda location: str(
        len(location)
    ),  # else the URL would be a part of the path that a message shows
)
def test_redirect(tmp_path: Path, server: Server, location: str) -> None:
    server.answer("/data/ptb.train.txt", http_server.redirects(location))
    line = failed(fetch(f"{server.url}/data", tmp_path), 1)
    assert f"{server.url}/data: " in line


def test_redirect_in_circles_and_errors_after_one(tmp_path: Path, server: Server) -> None:
    with_user = server.url.replace("//", f"//{USER}")
    circle = http_server.redirects(f"{with_user}/data/ptb.train.txt?h1dden")
    server.answer("/data/ptb.train.txt", circle)
    server.answer("/data/ptb.train.txt?h1dden", circle)
    assert "more than 30 redirects" in failed(fetch(f"{with_user}/data", tmp_path), 1)
    server.answer("/data/ptb.train.txt", http_server.redirects(f"{with_user}/gone?h1dden"))
    assert "HTTP status 404" in failed(fetch(f"{with_user}/data", tmp_path), 1)


@pytest.mark.parametrize(
    "proxy", ["http://{}127.0.0.1:1", "http://{}[half", "socks5://{}127.0.0.1:1"]
)
def test_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("http_proxy", proxy.format(USER))
    failed(fetch("http://example.invalid/data", tmp_path), 1)


def test_broken_headers_are_not_logged(
    tmp_path: Path, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    def behave(handler: http_server.Handler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 0\r\n\r\n")

    server.answer("/data/ptb.train.txt?key=h1dden", behave)
    with caplog.at_level(logging.WARNING):
        fetch(f"{server.url}/data?key=h1dden", tmp_path)
    assert server.requested[0] == "/data/ptb.train.txt?key=h1dden"
    assert "h1dden" not in caplog.text


def test_archive_with_a_query(tmp_path: Path, server: Server) -> None:
    server.answer("/a.tgz?key=h1dden", http_server.sends(b"no archive"))
    url = f"HTTP{server.url[4:]}/a.tgz?key=h1dden"
    line = failed(fetch(url, tmp_path), 1)
    assert f"{server.url}/a.tgz: a.tgz: not a readable archive" in line
    assert server.requested == ["/a.tgz?key=h1dden"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "fetch", f"http://{USER}host/data?h1dden"),
        ("data", "info", "--data", f"HTTP://{USER}host/data?h1dden"),
        ("data", "fetch", f"--form=http://{USER}host/data"),
    ],
)
def test_url_in_the_wrong_place(arguments: tuple[str, ...]) -> None:
    outcome = ptb_lm(*arguments)
    assert outcome.code == 2
    for secret in SECRETS:
        assert secret not in outcome.err
