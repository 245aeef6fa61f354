"""A training that waits for other processes says so, and ends at the first signal."""

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from cli_support import assignments
from processes import Process, free_port, started, steps_in_log, write_corpus

from ptb_lm.errors import InputError
from ptb_lm.training.rendezvous import Place, place_from

TOLD = {
    "WORLD_SIZE": "2",
    "RANK": "0",
    "LOCAL_RANK": "0",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}
LINES = {
    signal.SIGINT: "stopped by Ctrl-C",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("waiting")
    write_corpus(folder / "text", {"train": 900, "valid": 180, "test": 180}, seed=1)
    return folder


def process(
    workplace: Path, rank: int, port: int, *, run: str = "run", **environment: str
) -> AbstractContextManager[Process]:
    """Start one process of a training, as a scheduler does that is not torchrun."""
    command = ["train", "--config", "small", "--device", "cpu", "--data", "text", "--run-dir", run]
    recipe = assignments(training__epochs=1000, training__batch_size=4, run__log_steps=1)
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
    program = [sys.executable, "-m", "ptb_lm", *command, *recipe]
    return started(program, workplace, TOLD | place | environment)


@contextmanager
def listener(backlog: int = 5) -> Iterator[socket.socket]:
    """A program that takes connections and never says a word."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(backlog)
        yield server


def require_stopped(waiting: Process, number: signal.Signals) -> None:
    """Send a signal, and hold the process to end at it with its one line."""
    before = waiting.err
    waiting.send(number)
    sent_at = time.monotonic()
    assert waiting.end() == 128 + number
    assert time.monotonic() - sent_at < 15
    assert waiting.err.removeprefix(before).splitlines() == [LINES[number]]
    assert waiting.out == ""


def test_wait_is_announced_and_ends_at_a_signal(workplace: Path) -> None:
    """Four trainings, each without its other process."""
    cases = [(0, signal.SIGTERM), (0, signal.SIGINT), (1, signal.SIGTERM), (1, signal.SIGHUP)]
    with ExitStack() as stack:
        waits = []
        for rank, number in cases:
            port = free_port()
            waits.append((stack.enter_context(process(workplace, rank, port)), rank, number, port))
        for waiting, rank, number, port in waits:
            waiting.wait_for("\n")
            (line,) = waiting.err.splitlines()
            assert line.startswith(
                f"process {rank} waits for 1 other process at 127.0.0.1:{port} (MASTER_ADDR, "
            )
            require_stopped(waiting, number)
    assert not (workplace / "run").exists()


def test_wait_in_native_code_ends_at_a_signal(workplace: Path) -> None:
    """Where another program has process 0's port, PyTorch waits for its answer."""
    with listener() as server, process(workplace, 1, server.getsockname()[1]) as waiting:
        waiting.wait_for("process 1 waits for 1 other process")
        require_stopped(waiting, signal.SIGHUP)


def test_program_that_greets_is_no_flood(workplace: Path) -> None:
    """A server that speaks first, as sshd does, makes PyTorch try again and again."""

    def greet() -> None:
        with suppress(OSError):  # the server is closed
            while True:
                connection, _ = server.accept()
                connection.sendall(b"SSH-2.0-OpenSSH_9.2p1\r\n")
                connection.close()

    with listener() as server, process(workplace, 1, server.getsockname()[1]) as waiting:
        threading.Thread(target=greet, daemon=True).start()
        waiting.wait_for("process 1 waits for 1 other process")
        assert waiting.err.count("\n") == 1
        require_stopped(waiting, signal.SIGTERM)
        server.shutdown(socket.SHUT_RDWR)


def test_number_of_missing_processes(workplace: Path) -> None:
    port = free_port()
    with (
        process(workplace, 0, port, WORLD_SIZE="4") as first,
        process(workplace, 2, port, WORLD_SIZE="4") as second,
    ):
        first.wait_for("process 0 waits for ")
        second.wait_for("process 2 waits for 2 of 3 other processes")
        require_stopped(first, signal.SIGTERM)
        assert second.end() == 1
        assert second.err.splitlines()[-1].startswith("error: process 2 has lost the others")


def test_second_process_of_a_rank_is_refused(workplace: Path) -> None:
    port = free_port()
    with (
        process(workplace, 0, port, WORLD_SIZE="3"),
        process(workplace, 1, port, WORLD_SIZE="3") as one,
        process(workplace, 1, port, WORLD_SIZE="3") as other,
    ):
        one.wait_until(lambda: other.ended)
        refused = one if one.ended else other
        assert refused.end() == 2
        assert "error: RANK=1: another process" in refused.err


def test_port_in_use(workplace: Path) -> None:
    with listener() as server:
        port = server.getsockname()[1]
        with process(workplace, 0, port) as refused:
            assert refused.end() == 1
            (line,) = refused.err.splitlines()
            assert line.startswith(
                f"error: port {port} on this machine is in use by another program; set MASTER_PORT"
            )


def test_process_that_no_longer_answers(workplace: Path) -> None:
    """In a training a signal first waits for the step after which all processes stop."""
    port = free_port()
    with (
        process(workplace, 0, port, run="frozen") as first,
        process(workplace, 1, port, run="frozen") as second,
    ):
        assert first.wait_until(lambda: steps_in_log(workplace / "frozen") >= 2)
        with second.frozen():
            first.send(signal.SIGTERM)
            first.linger(0.5)
            assert not first.ended
            first.send(signal.SIGINT)
            first.linger(0.5)
            if not first.ended:
                first.send(signal.SIGINT)
            assert first.end() == 143
        assert (
            first.err.splitlines()[-1] == "stopped by SIGTERM; the other processes did not answer"
        )


WAIT_IN_NATIVE_CODE = """
from datetime import timedelta
from torch.distributed import TCPStore
from ptb_lm.stop import StopFlag
from ptb_lm.training import signal_watch

signal_watch.GRACE_SECONDS = 0.5
store = TCPStore("127.0.0.1", 0, 1, True, timedelta(minutes=5), wait_for_workers=False)
watch = signal_watch.SignalWatch("")
with StopFlag(), watch.watching(), watch.waiting():
    print("waits", flush=True)
    store.get("nothing")
"""


def test_wait_after_a_signal_is_limited(workplace: Path) -> None:
    with started([sys.executable, "-c", WAIT_IN_NATIVE_CODE], workplace) as waiting:
        assert waiting.wait_until(lambda: "waits" in waiting.out)
        waiting.send(signal.SIGTERM)
        assert waiting.end() == 143
        assert waiting.err.endswith("stopped by SIGTERM; the other processes did not answer\n")


def test_ctrl_c_in_a_wait_that_begins_after_a_signal(workplace: Path) -> None:
    """The first signal has been handled before it, so that a Ctrl-C has its default effect."""
    program = WAIT_IN_NATIVE_CODE.replace(
        "with StopFlag(), watch.watching(), watch.waiting():",
        "with StopFlag() as stop, watch.watching():\n"
        "  print('runs', flush=True)\n"
        "  while not stop: pass\n"
        "  with watch.waiting():",
    ).replace("GRACE_SECONDS = 0.5", "GRACE_SECONDS = 60")
    with started([sys.executable, "-c", program], workplace) as waiting:
        assert waiting.wait_until(lambda: "runs" in waiting.out)
        waiting.send(signal.SIGTERM)
        assert waiting.wait_until(lambda: "waits" in waiting.out)
        waiting.send(signal.SIGINT)
        assert waiting.end() == 143
        assert waiting.err.endswith("stopped by SIGTERM; the other processes did not answer\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WORLD_SIZE", value) for value in ("abc", "-1", "0", "", "1.5", "2x", "9" * 30, "²")),
        *(("RANK", value) for value in ("2", "5", "x", "-1", "")),
        *(("LOCAL_RANK", value) for value in ("x", "2", "")),
        *(("MASTER_PORT", value) for value in ("99999", "abc", "0", "-1", "")),
        *(("MASTER_ADDR", value) for value in ("", " ")),
    ],
)
def test_malformed_environment_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(InputError) as error:
        place_from(TOLD | {name: value})
    assert str(error.value).startswith(f"{name}")
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("told", [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "x"}])
def test_one_process_needs_nothing_else(told: dict[str, str]) -> None:
    assert place_from(told) is None


def test_unknown_host_is_refused(workplace: Path) -> None:
    with process(workplace, 1, free_port(), MASTER_ADDR="no host at all") as refused:
        assert refused.end() == 2
        assert refused.err.splitlines()[-1].startswith("error: MASTER_ADDR=no host at all: ")


def test_address_of_ipv6_is_shown_in_brackets() -> None:
    place = Place(0, 2, 0, "::1", 29500, agent_hosts=False)
    assert "at [::1]:29500 " in place.notice(1)
