"""Ctrl-C, SIGTERM and SIGHUP sent to real processes, wherever they are.

To say without a clock what "within a step" means, a process is frozen (SIGSTOP) and its log read;
the signal that is sent then reaches it before anything else happens.
"""

import os
import pty
import random
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path

import pytest
from cli_support import contents, done
from http_server import Handler, Server, loopback_server, stalls_after
from processes import (
    EPOCHS,
    SAFETY_SECONDS,
    WINDOWS,
    ChangeCount,
    Process,
    epochs_in_log,
    furnish_workplace,
    in_validation,
    log_of_run,
    only_in_full,
    partial_checkpoints,
    partial_files,
    ptb_lm_process,
    require_loadable,
    require_same_content,
    started,
    steps_in_log,
    train_command,
    write_corpus,
)
from promises import Tally

from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.run_folder import RunFolder

WORKERS = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
SECOND = "a second Ctrl-C ends at once"
# Modules that a training imports, in this order.
IMPORTED = (
    "typer",
    "ptb_lm.cli",
    "pydantic",
    "ptb_lm.config",
    "numpy",
    "torch.nn",
    "torch",
    "ptb_lm.training.loop",
)
SCRIPTS = Path(__file__).parents[2] / "scripts"


def steps_done(file: Path) -> int:
    """Return the step that a checkpoint stands at."""
    state = load_checkpoint(file).state
    assert state is not None
    return state.epochs_done * WINDOWS + state.windows_done


Aim = Callable[[Process, Path, random.Random], object]
"""Waits for the moment to signal a process that is at work in a run folder, or for its end."""


def at_its_first_line(process: Process, run: Path, rng: random.Random) -> None:
    pass


def at_a_step(process: Process, run: Path, rng: random.Random) -> None:
    changes, wanted = ChangeCount(run / "metrics.jsonl"), rng.randint(2, WINDOWS)
    process.wait_until(lambda: changes() >= wanted)
    process.linger(rng.uniform(0, 0.01))


def at_a_write(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: partial_checkpoints(run))
    process.linger(rng.uniform(0, 0.01))


def at_a_validation(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: in_validation(run))
    process.linger(rng.uniform(0, 0.1))


def at_the_end(process: Process, run: Path, rng: random.Random) -> None:
    process.wait_until(lambda: epochs_in_log(run) == EPOCHS)
    process.linger(rng.uniform(0, 0.3))


AIMS: tuple[Aim, ...] = (at_its_first_line, at_a_step, at_a_write, at_a_validation, at_the_end)


def signal_and_check(
    workplace: Path, run: Path, command: list[str], aim: Aim, number: int, rng: random.Random
) -> bool:
    """Start a training and signal it at a moment; return False if it had ended before."""
    with ptb_lm_process(*command, cwd=workplace) as process:
        assert process.wait_until(lambda: "\n" in process.err)
        aim(process, run, rng)
        bound: int | None = None
        if rng.random() < 0.5:
            process.send(number)
        else:
            with process.frozen() as alive:
                bound = steps_in_log(run) + 1
                process.send(number)
            if not alive:
                bound = None
        code, out, err = process.end(), process.out, process.err
    assert "Traceback" not in err
    assert "error" not in err, err
    assert not partial_files(run)
    require_loadable(run)
    if "run folder:" in out:  # it had all done when the signal came
        return False
    assert code == 128 + number, err
    assert err.splitlines()[-1] == f"stopped by {NAMES[signal.Signals(number)]}"
    step = steps_done(run / "last.pt")
    if bound is not None:
        assert bound - 1 <= step <= bound, "the step under way, or the one before it"
    epochs_done = load_checkpoint(run / "last.pt").epoch
    if epochs_done < EPOCHS:  # else it stood in the scoring at the end
        advice = f"Stopped after step {step:,}; the same command with --resume goes on from there."
        assert advice in err.splitlines()
    return True


def stop_again_and_again(worker: int, workplace: Path, signals: int) -> tuple[list[Path], int]:
    """Signal trainings so often, each run again and again to its end; return the runs."""
    rng = random.Random(f"signals of worker {worker}")
    runs: list[Path] = []
    stopped = 0
    while stopped < signals:
        name = f"runs/stopped-{worker}-{len(runs)}"
        run = workplace / name
        runs.append(run)
        minutes = rng.choice([1e-9, 10.0])
        command = train_command(name, "--resume", run__checkpoint_minutes=minutes)
        goes_on = True
        while goes_on and stopped < signals:
            number = rng.choice(SIGNALS)
            goes_on = signal_and_check(workplace, run, command, rng.choice(AIMS), number, rng)
            stopped += goes_on
        if goes_on:
            with ptb_lm_process(*command, cwd=workplace) as process:
                assert process.end() == 0, process.err
    return runs, stopped


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish_workplace(tmp_path_factory.mktemp("signals"))


@pytest.mark.promise("signals")
def test_a_training_stops_by_a_signal_at_any_moment_and_goes_on_to_the_same_end(
    workplace: Path, tally: Tally
) -> None:
    """Trainings are stopped at random moments by SIGINT, SIGTERM and SIGHUP and taken up again.

    Each leaves a good checkpoint of the step under way or the one before it, and nothing
    half-written; all end with bitwise the weights, and the log, of a run left alone.
    """
    uninterrupted = workplace / "runs" / "uninterrupted"
    signals = tally.amount(6, 100) // WORKERS
    with ThreadPoolExecutor(WORKERS) as workers:
        futures = [
            workers.submit(stop_again_and_again, worker, workplace, signals)
            for worker in range(WORKERS)
        ]
        parts = [future.result() for future in futures]
    runs = [run for part in parts for run in part[0]]
    for run in runs:
        require_same_content(run, uninterrupted)
        assert log_of_run(run) == log_of_run(uninterrupted)
    stopped = sum(part[1] for part in parts)
    tally.count("signals", stopped)
    tally.count("stopped runs with bitwise the weights of one left alone", len(runs))
    assert stopped >= tally.amount(6, 100)


@pytest.mark.promise("signals")
def test_a_signal_does_not_wait_for_the_end_of_a_validation(tmp_path: Path, tally: Tally) -> None:
    """A training is stopped at the beginning of a long validation, which is not waited for."""
    write_corpus(tmp_path / "text", {"train": 171, "valid": 90_000, "test": 180}, seed=1)
    run = tmp_path / "run"
    command = train_command("run", "--resume", model__hidden_size=64, training__epochs=1)
    with ptb_lm_process(*command, cwd=tmp_path) as process:
        assert process.wait_until(lambda: in_validation(run))
        process.send(signal.SIGTERM)
        assert process.end() == 143, process.err
    state = load_checkpoint(run / "last.pt").state
    assert state is not None
    assert (state.epochs_done, state.windows_done) == (0, WINDOWS)
    assert epochs_in_log(run) == 0
    tally.count("validations stopped")


@pytest.mark.promise("signals")
def test_a_signal_while_the_program_starts_does_no_damage(workplace: Path, tally: Tally) -> None:
    """Trainings are signalled at random moments of their start-up, while modules are imported.

    The interpreter is asked to name each module that it has imported, which makes the moments.
    What comes before the first of them is the interpreter's own start, and the few milliseconds to
    where `main` catches what is raised: there a Ctrl-C ends Python in its own way.
    """
    rng = random.Random("signals at start-up")
    run = workplace / "runs" / "started"
    command = train_command("runs/started", "--resume")
    for attempt in range(tally.amount(2, 40)):
        number = SIGNALS[attempt % 3]
        module = IMPORTED[attempt] if attempt < 2 else rng.choice(IMPORTED)
        with ptb_lm_process(*command, cwd=workplace, python=["-X", "importtime"]) as process:
            process.wait_for("| ptb_lm\n")
            process.wait_until(lambda: re.search(rf"\| +{module}\n", process.err))  # noqa: B023
            process.linger(rng.uniform(0, 0.05))
            process.send(number)
            code, err = process.end(), process.err
        assert "Traceback" not in err
        lines = [line for line in err.splitlines() if not line.startswith("import time:")]
        assert not any("error" in line for line in lines), err
        if lines[-1:] == [f"stopped by {NAMES[signal.Signals(number)]}"]:
            # Where a Ctrl-C struck within an exec of text, such as makes a dataclass as a module
            # is imported, `python -m` ends by the signal in the end, whatever the exit code says.
            assert code == 128 + number or (number, code) == (signal.SIGINT, -number), err
        else:  # it had not yet begun to look for signals; a shell calls both 128 + number
            assert not any("parameters, " in line for line in lines), err
            assert code == -number or (number, code) == (signal.SIGINT, 130), err
        require_loadable(run)
        tally.count("signals while it starts")
    with ptb_lm_process(*command, cwd=workplace) as process:
        assert process.end() == 0, process.err
    require_same_content(run, workplace / "runs" / "uninterrupted")


@pytest.mark.promise("signals")
def test_a_signal_as_the_program_exits_is_ignored(workplace: Path, tally: Tally) -> None:
    """A process that has done and printed everything is signalled as it exits: it exits as ever."""
    only_in_full(tally)
    rng = random.Random("signals at the exit")
    command = train_command("runs/uninterrupted", "--resume")
    for attempt in range(20):
        with ptb_lm_process(*command, cwd=workplace) as process:
            assert process.wait_until(lambda: "run folder:" in process.out)
            process.linger(rng.uniform(0, 0.02))
            process.send(SIGNALS[attempt % 3])
            assert process.end() == 0
            assert len(process.err.splitlines()) == 1, process.err  # finished already
        tally.count("signals while it exits")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workplace of a model whose steps and whose checkpoints (40 MB) take long."""
    folder = tmp_path_factory.mktemp("large")
    write_corpus(folder / "text", {"train": 2250, "valid": 90, "test": 90}, seed=1)
    with chdir(folder):
        done(*large_command("--max-steps", "1"))
    return folder


def large_command(*options: str) -> list[str]:
    return train_command(
        "run",
        *options,
        model__hidden_size=800,
        training__batch_size=20,
        training__unrolled_steps=20,
    )


@pytest.mark.promise("signals")
@pytest.mark.parametrize("moment", ["step", "save"])
def test_a_second_ctrl_c_ends_it_at_once(large: Path, moment: str, tally: Tally) -> None:
    """A second Ctrl-C within a long step, or within the save that the first asked for, kills."""
    if moment == "step":
        only_in_full(tally)
    run = large / "run"
    before = (run / "last.pt").read_bytes()
    with ptb_lm_process(*large_command("--resume"), cwd=large) as process:
        process.wait_for(" parameters, ")
        process.send(signal.SIGINT)
        process.wait_for(SECOND)
        if moment == "save":
            assert process.wait_until(lambda: partial_checkpoints(run))
        with process.frozen() as alive:
            assert alive
            assert bool(partial_checkpoints(run)) == (moment == "save")
            process.send(signal.SIGINT)
        assert process.end() == -signal.SIGINT, process.err
        assert "Traceback" not in process.err
        assert "Stopped after" not in process.err
    assert (run / "last.pt").read_bytes() == before
    require_loadable(run)
    step = steps_done_of_large(run)
    with chdir(large):
        done(*large_command("--resume", "--max-steps", str(step + 1)))
    assert steps_done_of_large(run) == step + 1
    assert not partial_files(run)
    tally.count("second Ctrl-Cs")


def steps_done_of_large(run: Path) -> int:
    state = load_checkpoint(run / "last.pt").state
    assert state is not None
    assert state.epochs_done == 0
    return state.windows_done


@pytest.mark.promise("signals")
def test_what_asks_to_stop_twice_does_not_cut_off_the_save(large: Path, tally: Tally) -> None:
    """SIGTERM and SIGHUP are often sent twice, and are no second Ctrl-C: the save is done."""
    # GNU timeout signals the process and then its group; a closed terminal hangs up on a job, and
    # so does its shell; systemd sends SIGHUP after SIGTERM.
    run = large / "run"
    step = steps_done_of_large(run)
    with ptb_lm_process(*large_command("--resume"), cwd=large) as process:
        process.wait_for(" parameters, ")
        process.send(signal.SIGTERM)
        assert process.wait_until(lambda: partial_checkpoints(run))
        with process.frozen() as alive:
            assert alive
            assert partial_checkpoints(run)
            process.send(signal.SIGTERM)
            process.send(signal.SIGHUP)
        assert process.end() == 143, process.err
    assert steps_done_of_large(run) > step
    assert not partial_files(run)
    tally.count("SIGTERMs sent twice")


@pytest.mark.promise("signals")
def test_nohup_keeps_a_training_from_being_hung_up_on(workplace: Path, tally: Tally) -> None:
    """Under nohup a training goes on after SIGHUP, and still stops by SIGTERM."""
    only_in_full(tally)
    run = workplace / "runs" / "nohup"
    command = train_command("runs/nohup", training__epochs=1000)
    with ptb_lm_process(*command, cwd=workplace, before=["nohup"]) as process:
        assert process.wait_until(lambda: steps_in_log(run) >= 1)
        with process.frozen() as alive:
            assert alive
            process.send(signal.SIGHUP)
            step = steps_in_log(run)
        assert process.wait_until(lambda: steps_in_log(run) > step + 1), process.err
        process.send(signal.SIGTERM)
        assert process.end() == 143, process.err
    assert steps_done(run / "last.pt") > step + 1
    tally.count("ignored signals")


@pytest.mark.promise("signals")
def test_a_stop_is_not_lost_when_nobody_reads_the_output_any_more(
    workplace: Path, tally: Tally
) -> None:
    """Ctrl-C in `ptb-lm train 2>&1 | tee log` ends tee as well: the run is saved, the code 130."""
    only_in_full(tally)
    run = workplace / "runs" / "piped"
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "ptb_lm", *train_command("runs/piped")]
    with subprocess.Popen(
        command, cwd=workplace, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing
    ) as process:
        os.close(writing)
        assert os.read(reading, 1)
        os.close(reading)
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130
    assert steps_done(run / "last.pt") >= 1
    assert not partial_files(run)
    tally.count("stops that nobody reads of")


@pytest.mark.promise("signals")
@pytest.mark.parametrize("what", ["Ctrl-C typed", "closed"])
def test_a_terminal(workplace: Path, what: str, tally: Tally) -> None:
    """In a real terminal Ctrl-C is typed, or its window closed: the run is saved."""
    only_in_full(tally)
    run = workplace / "runs" / what.split()[0]
    leader, follower = pty.openpty()
    # The first terminal that the leader of a session opens is its own.
    shell = ["sh", "-c", 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(follower)]
    ours = [sys.executable, "-m", "ptb_lm", *train_command(f"runs/{run.name}")]
    with subprocess.Popen([*shell, *ours], cwd=workplace, start_new_session=True) as process:
        shown = b""
        while b"epoch 2/3" not in shown:  # the bar
            assert select.select([leader], [], [], SAFETY_SECONDS)[0]
            shown += os.read(leader, 1 << 16)
        os.close(follower)
        if what == "closed":
            os.close(leader)
            assert process.wait() == 129
        else:
            os.write(leader, b"\x03")
            shown = b"".join(_until_closed(leader))
            os.close(leader)
            assert process.wait() == 130
            assert shown.split()[-3:] == [b"stopped", b"by", b"Ctrl-C"]
    assert steps_done(run / "last.pt") > WINDOWS
    assert not partial_files(run)
    tally.count(f"terminals: {what}")


def _until_closed(leader: int) -> Iterator[bytes]:
    """Read what is written to a terminal until nobody has it open any more."""
    while True:
        try:
            yield os.read(leader, 1 << 16)
        except OSError:
            return


@pytest.mark.promise("signals")
def test_an_evaluation_stops_by_a_signal(workplace: Path, tally: Tally) -> None:
    """A long evaluation is stopped by SIGTERM: nothing is half-written, nothing on stdout."""
    words = "a b c d e f g unheard-of\n" * 40_000
    (workplace / "long.txt").write_text(words)
    before = contents(workplace)
    with ptb_lm_process(
        "eval", "runs/uninterrupted/last.pt", "--text", "long.txt", "--save-scores", "long.npz",
        cwd=workplace,
    ) as process:  # fmt: skip
        process.wait_for("not in the vocabulary")  # said when the text is read
        process.send(signal.SIGTERM)
        assert process.end() == 143, process.err
        assert process.err.splitlines()[-1] == "stopped by SIGTERM"
        assert process.out == ""
    assert contents(workplace) == before
    tally.count("evaluations stopped")


def drips(handler: Handler) -> None:
    """Send a file of the right size, a byte at a time, for ever as far as anyone can wait."""
    handler.head(200, {"Content-Length": "5101618"})
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b" ")
        handler.server.sent_bytes += 1


def drips_chunks(handler: Handler) -> None:
    """Send chunks of a byte without end."""
    handler.head(200, {"Transfer-Encoding": "chunked"})
    while not handler.server.closing.wait(0.02):
        handler.wfile.write(b"1\r\n \r\n")
        handler.server.sent_bytes += 1


def stalls(handler: Handler) -> None:
    """Send some bytes and then nothing."""
    handler.server.sent_bytes += 3
    stalls_after(b"   ", declared_bytes=5_101_618)(handler)


@pytest.fixture
def server() -> Iterator[Server]:
    with loopback_server() as server:
        yield server


@pytest.mark.promise("signals")
@pytest.mark.parametrize(
    ("number", "behaviour"),
    [(signal.SIGINT, drips), (signal.SIGTERM, drips_chunks), (signal.SIGHUP, stalls)],
)
def test_a_fetch_stops_by_a_signal(
    tmp_path: Path, server: Server, number: int, behaviour: Callable[[Handler], None], tally: Tally
) -> None:
    """A fetch from a server that sends a byte at a time, or stalls, is stopped: nothing is left."""
    server.answer("/ptb.train.txt", behaviour)
    (tmp_path / "temporary").mkdir()
    with ptb_lm_process(
        "data", "fetch", "--from", server.url, "--data-dir", "data",
        cwd=tmp_path,
        environment={"TMPDIR": str(tmp_path / "temporary")},
    ) as process:  # fmt: skip
        assert process.wait_until(lambda: server.sent_bytes >= 3), process.err
        process.send(number)
        assert process.end() == 128 + number, process.err
        assert process.err.splitlines()[-1] == f"stopped by {NAMES[signal.Signals(number)]}"
        assert process.out == ""
    assert set(contents(tmp_path)) <= {"temporary", "data"}
    tally.count("fetches stopped")


@pytest.mark.promise("signals")
@pytest.mark.parametrize(
    ("number", "command"),
    [
        (signal.SIGINT, ["-m", "ptb_lm", "train", "--config", "small"]),
        (signal.SIGTERM, [str(SCRIPTS / "reproduce.py"), "small"]),
    ],
    ids=["train", "reproduce.py"],
)
def test_a_training_that_has_to_fetch_first_stops_in_the_fetch(
    tmp_path: Path, number: int, command: list[str], tally: Tally
) -> None:
    """`train` and scripts/reproduce.py, stopped while the corpus is fetched, leave nothing."""
    if number == signal.SIGINT:
        only_in_full(tally)
    (tmp_path / "temporary").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as proxy:  # through which the mirrors are silent
        environment = {
            "TMPDIR": str(tmp_path / "temporary"),
            "PTB_LM_DATA_DIR": "data",
            "https_proxy": f"http://127.0.0.1:{proxy.getsockname()[1]}",
        }
        proxy.settimeout(SAFETY_SECONDS)
        with started([sys.executable, *command], tmp_path, environment) as process:
            connection, _ = proxy.accept()
            with connection:
                assert connection.recv(7) == b"CONNECT"
                process.send(number)
                assert process.end() == 128 + number, process.err
            assert process.err.splitlines()[-1] == f"stopped by {NAMES[signal.Signals(number)]}"
    assert set(contents(tmp_path)) <= {"temporary", "data"}
    tally.count("fetches stopped")


@pytest.mark.corpus
@pytest.mark.promise("signals")
def test_the_reproduction_script_passes_on_the_code_of_a_stop(
    tmp_path: Path, data_dir: Path, tally: Tally
) -> None:
    """scripts/reproduce.py is stopped twice in its training on the Penn Treebank, and goes on."""
    only_in_full(tally)
    run = RunFolder(tmp_path / "runs" / "small-seed1")
    steps = []
    for number in (signal.SIGTERM, signal.SIGINT):
        command = [sys.executable, str(SCRIPTS / "reproduce.py"), "small"]
        with started(command, tmp_path, {"PTB_LM_DATA_DIR": str(data_dir)}) as process:
            process.wait_for(" parameters, ")
            process.send(number)
            assert process.end() == 128 + number, process.err
        state = load_checkpoint(run.last).state
        assert state is not None
        steps.append(state.windows_done)
        tally.count("reproductions stopped")
    assert steps == sorted(set(steps))
    assert not (tmp_path / "results").exists()
