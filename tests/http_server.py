"""A real HTTP server on the loopback interface whose answer to each path the test chooses."""

import gzip
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Behaviour = Callable[["Handler"], None]

BLOCK = b"\0" * (1 << 16)
ENDLESS_BYTES = 64_000_000  # what an "endless" body ends at when nobody hangs up
HELD_SECONDS = 20.0  # how long a silent server holds a connection when nobody hangs up


class Server(ThreadingHTTPServer):
    """Answers a GET by the behaviour set for its path, else 404.

    Attributes:
        url: the base URL, without a final slash.
        behaviours: from path to the behaviours of the first, second, ... request for it; the last
            of them is that of all later requests too.
        requested: the paths asked for, in order.
        sent_bytes: how much of endless bodies was sent, over all requests.
        closing: set when the test is over.
    """

    daemon_threads = False  # all are joined when the server closes

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.behaviours: dict[str, list[Behaviour]] = {}
        self.requested: list[str] = []
        self.sent_bytes = 0
        self.closing = threading.Event()
        self.connections: list[socket.socket] = []

    def hang_up(self) -> None:
        """End every answer that is still being given, so that none outlives the test."""
        self.closing.set()
        for connection in self.connections:
            with suppress(OSError):  # most have ended by themselves
                connection.shutdown(socket.SHUT_RDWR)

    def answer(self, path: str, *behaviours: Behaviour) -> None:
        self.behaviours[path] = list(behaviours)

    def serve_files(self, base: str, contents: dict[str, bytes]) -> None:
        for name, data in contents.items():
            self.answer(f"{base}/{name}", sends(data))


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.server.connections.append(self.connection)

    def do_GET(self) -> None:  # the name that http.server looks for
        count = self.server.requested.count(self.path)
        self.server.requested.append(self.path)
        behaviours = self.server.behaviours.get(self.path, [sends(b"not here", status=404)])
        self.close_connection = True
        with suppress(ConnectionError):  # the client hung up
            behaviours[min(count, len(behaviours) - 1)](self)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def loopback_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.hang_up()


def sends(
    body: bytes, status: int = 200, declared_bytes: int | None = None, **headers: str
) -> Behaviour:
    """Send a body; with another length declared than it has, the connection closes after it."""
    length = len(body) if declared_bytes is None else declared_bytes
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def behave(handler: Handler) -> None:
        handler.head(status, {"Content-Length": str(length)} | named)
        handler.wfile.write(body)

    return behave


def sends_without_length(body: bytes) -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.head(200, {})
        handler.wfile.write(body)

    return behave


def sends_in_chunks(body: bytes, chunk_bytes: int) -> Behaviour:
    def behave(handler: Handler) -> None:
        handler.head(200, {"Transfer-Encoding": "chunked"})
        for start in range(0, len(body), chunk_bytes):
            chunk = body[start : start + chunk_bytes]
            handler.wfile.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
        handler.wfile.write(b"0\r\n\r\n")

    return behave


def sends_gzipped(body: bytes, name: str = "gzip") -> Behaviour:
    return sends(gzip.compress(body, 1), Content_Encoding=name)


def redirects(path: str) -> Behaviour:
    return sends(b"", status=302, Location=path)


def stalls_after(body: bytes, declared_bytes: int) -> Behaviour:
    """Send a part of a body and then nothing, with the connection open."""

    def behave(handler: Handler) -> None:
        sends(body, declared_bytes=declared_bytes)(handler)
        handler.server.closing.wait(HELD_SECONDS)

    return behave


def hangs(handler: Handler) -> None:
    """Take the request and never answer."""
    handler.server.closing.wait(HELD_SECONDS)


def hangs_up(handler: Handler) -> None:
    """Take the request and close the connection without an answer."""


def sends_endlessly(handler: Handler) -> None:
    """Send zeros that only the end of the connection would end."""
    handler.head(200, {})
    _send_zeros(handler, b"", b"")


def sends_endlessly_in_chunks(handler: Handler) -> None:
    handler.head(200, {"Transfer-Encoding": "chunked"})
    _send_zeros(handler, f"{len(BLOCK):x}\r\n".encode(), b"\r\n")


def sends_endlessly_with_length(handler: Handler) -> None:
    handler.head(200, {"Content-Length": str(1 << 40)})
    _send_zeros(handler, b"", b"")


def _send_zeros(handler: Handler, before: bytes, after: bytes) -> None:
    for _ in range(ENDLESS_BYTES // len(BLOCK)):
        handler.wfile.write(before + BLOCK + after)
        handler.server.sent_bytes += len(BLOCK)
