"""Two programs at work in one place: trainings keep out of each other's way, fetches agree."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import cli_support
import pytest
from cli_support import Outcome, contents, done, ptb_lm, train_arguments, write_texts
from http_server import Behaviour, Handler, Server, loopback_server, sends
from promises import Tally
from short_runs import SECONDS, Worker, ended, in_process, result, snapshot, start, workers

from ptb_lm.errors import InputError
from ptb_lm.lock import locked, place_held
from ptb_lm.stop import NEVER, StopFlag, Stopped

HALFWAY = 40
"""A step in the second of two epochs of 29."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text and a run on it that was alone."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / "text", cli_support.WORDS, seed=1)
    before = Path.cwd()
    os.chdir(folder)
    try:
        done(*train_arguments("alone"))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture(scope="module")
def team(request: pytest.FixtureRequest) -> Iterator[list[Worker]]:
    """Other processes, ready to train."""
    with workers(4 if request.config.getoption("--full") else 2) as processes:
        yield processes


def require_refusal(outcome: Outcome, run_dir: str, holder: int | None) -> None:
    """See that a training was refused in one line that names the folder and who holds it."""
    assert (outcome.code, outcome.out) == (2, "")
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {run_dir}: in use by ")
    assert holder is None or f"process {holder};" in line


@pytest.mark.promise("two at once")
def test_a_second_training_is_refused_and_the_first_not_disturbed(
    workplace: Path, team: list[Worker], tally: Tally
) -> None:
    """While one process trains, others want to resume, overwrite and begin in its folder: each is
    refused in one line, no file changes, and the first ends as if alone; eval may read."""
    holder, refusals = team[0], 0
    for options in ([], ["--resume"], ["--overwrite"]):
        shutil.rmtree("run", ignore_errors=True)
        if "--resume" in options:
            done(*train_arguments("run", "--max-steps", "7"))
        holder.tell(*train_arguments("run", *options), pause_at=HALFWAY)
        holder.expect("paused")
        before = snapshot(Path("run")), Path("run/.lock").read_bytes()
        for second in (["--resume"], ["--overwrite"], ["--resume", "--max-steps", "3"]):
            arguments = train_arguments("run", *second)
            require_refusal(ptb_lm(*arguments), "run", holder.number)
            refusals += 1
            if tally.full:
                require_refusal(in_process(workplace, *arguments), "run", holder.number)
                refusals += 1
        new = ptb_lm(*train_arguments("run"))
        assert (new.code, new.out) == (2, "")  # which is told that a run is there
        assert new.err.startswith("error: run: ")
        assert "perplexity" in done("eval", "run/last.pt").out
        assert (snapshot(Path("run")), Path("run/.lock").read_bytes()) == before
        holder.go_on()
        outcome = holder.outcome()
        assert outcome.code == 0, outcome.err
        assert result(Path("run")) == result(Path("alone"))
        # A normal end lets go, though the process lives on.
        assert "nothing to do" in done(*train_arguments("run", "--resume")).err
    tally.count("trainings refused", refusals + 3)


@pytest.mark.promise("two at once")
def test_a_new_training_is_refused_in_a_folder_that_is_held_and_empty(
    workplace: Path, tally: Tally
) -> None:
    """A folder that another process has only just taken: whoever comes is refused."""
    Path("run").mkdir()
    command = [
        "import sys; from pathlib import Path; from ptb_lm.lock import locked",
        "with locked(Path('run/.lock')): print(flush=True); sys.stdin.readline()",
    ]
    process = start(workplace, "-c", "\n".join(command), stdin=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    for options in ([], ["--resume"], ["--overwrite"]):
        require_refusal(ptb_lm(*train_arguments("run", *options)), "run", process.pid)
        assert contents(Path("run")).keys() == {".lock"}
        tally.count("trainings refused")
    assert process.communicate(b"\n", timeout=SECONDS)[1] == b""
    done(*train_arguments("run"))
    assert result(Path("run")) == result(Path("alone"))


@pytest.mark.promise("two at once")
def test_of_several_that_start_at_the_same_moment_one_wins(
    workplace: Path, team: list[Worker], tally: Tally
) -> None:
    """Processes start on one folder at the same moment, again and again: one trains to the same
    bits as alone, the others are refused."""
    rng = random.Random(8)
    for number in range(tally.amount(4, 50)):
        run_dir = f"run-{number}"
        options = [[], ["--resume"], ["--overwrite"], ["--resume"]][number % 4]
        if number % 4 > 1:  # a folder that was there before
            done(*train_arguments(run_dir, "--max-steps", "11"))
        for worker in rng.sample(team, len(team)):
            # The winner waits in its first epoch, so that it is there as long as any other.
            worker.tell(*train_arguments(run_dir, *options), pause_at=12)
        answers = [(worker, worker.answer()) for worker in team]
        (winner,) = [worker for worker, answer in answers if answer == "paused"]
        for code, out, err in (answer for _, answer in answers if answer != "paused"):
            assert (code, out) == (2, "")
            (line,) = err.splitlines()
            assert line.startswith(f"error: {run_dir}: ")
            tally.count("trainings refused")
        winner.go_on()
        outcome = winner.outcome()
        assert outcome.code == 0, outcome.err
        assert result(Path(run_dir)) == result(Path("alone"))
        shutil.rmtree(run_dir)
        tally.count("starts at the same moment")


@pytest.mark.promise("two at once")
def test_a_killed_training_lets_go_at_once(workplace: Path, tally: Tally) -> None:
    """SIGKILL takes the holder of a run folder: the next process resumes it without delay."""
    for number in range(tally.amount(1, 10)):
        run_dir = f"run-{number}"
        with workers(1) as (holder,):
            holder.tell(*train_arguments(run_dir), pause_at=HALFWAY)
            holder.expect("paused")
            require_refusal(ptb_lm(*train_arguments(run_dir, "--resume")), run_dir, holder.number)
            holder.process.kill()
            holder.process.wait(SECONDS)
            assert Path(run_dir, ".lock").exists()  # which means nothing
            done(*train_arguments(run_dir, "--resume"))
        assert result(Path(run_dir)) == result(Path("alone"))
        tally.count("holders killed")


@pytest.mark.promise("two at once")
def test_a_training_whose_folder_was_replaced_writes_nothing_into_the_new_one(
    workplace: Path, tally: Tally
) -> None:
    """Somebody removes the folder of a training at work and begins another of the same name."""
    with workers(2) as (old, new):
        old.tell(*train_arguments("run"), pause_at=HALFWAY)
        old.expect("paused")
        shutil.rmtree("run")
        new.tell(*train_arguments("run"), pause_at=12)
        new.expect("paused")
        before = snapshot(Path("run"))
        old.go_on()
        outcome = old.outcome()
        assert outcome.code == 1
        assert "another training has made a new one" in outcome.err.splitlines()[-1]
        assert snapshot(Path("run")) == before
        new.go_on()
        assert new.outcome().code == 0
    assert result(Path("run")) == result(Path("alone"))
    tally.count("folders replaced")


def test_a_signal_ends_the_wait_for_another_writer(tmp_path: Path) -> None:
    with place_held(tmp_path / "corpus", NEVER), StopFlag() as stop:
        asks_to_stop = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
        asks_to_stop.start()
        with pytest.raises(Stopped), place_held(tmp_path / "corpus", stop):
            pass
        asks_to_stop.join()
    with place_held(tmp_path / "corpus", NEVER):
        pass  # nothing is held any more
    assert list(tmp_path.iterdir()) == []


def test_a_holder_that_has_not_yet_written_its_number_is_not_misnamed(tmp_path: Path) -> None:
    """Between taking the lock and writing the number, and after a normal end, there is none."""
    path = tmp_path / ".lock"
    with locked(path):
        assert path.read_text() == f"{os.getpid()}\n"
    assert path.read_text() == ""
    with path.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError) as refused, locked(path):
            pass
    assert "()" not in str(refused.value)
    assert str(refused.value).startswith(f"{tmp_path}: in use by another process;")


# Fetches.

NAMES = ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")

FETCHING = """
import hashlib, json, os, signal, sys
from pathlib import Path
originals, mirror, data_dir, kill_at = sys.argv[1:5]
from ptb_lm.corpus import download, ptb
files = tuple(
    ptb.PtbFile(name.split(".")[1], name, len(data), hashlib.sha256(data).hexdigest())
    for name in ("ptb.train.txt", "ptb.valid.txt", "ptb.test.txt")
    for data in [(Path(originals) / name).read_bytes()]
)
ptb.PTB_FILES = download.PTB_FILES = files
download.MIRRORS = (mirror,)
events = 0

def count(event, arguments):
    global events
    if any(isinstance(each, (str, os.PathLike)) and data_dir in os.fspath(each)
           for each in arguments):
        events += 1
        if events == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

from ptb_lm.__main__ import main
if "fetch" in sys.argv:
    sys.addaudithook(count)  # of each file that is opened, renamed or removed there
try:
    main(sys.argv[5:])
finally:
    if "fetch" in sys.argv:
        print(json.dumps(events))
"""


@pytest.fixture
def originals(tmp_path: Path) -> Path:
    """What stands in for the published files; the first takes several chunks of a transfer."""
    folder = tmp_path / "originals"
    folder.mkdir()
    rng = random.Random(9)
    for name, lines in zip(NAMES, (2000, 60, 60), strict=True):
        text = "".join(f" {' '.join(rng.choices('abcdefgh', k=20))} \n" for _ in range(lines))
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def server(originals: Path) -> Iterator[Server]:
    with loopback_server() as running:
        running.serve_files("/data", {name: (originals / name).read_bytes() for name in NAMES})
        yield running


def start_fetch(
    originals: Path, source: str, data_dir: Path, kill_at: int = 0
) -> subprocess.Popen[bytes]:
    """Start a fetch that is killed before the nth time it touches a file in the data folder."""
    where = (str(originals), "http://127.0.0.1:9", str(data_dir), str(kill_at))
    command = ("data", "fetch", "--from", source, "--data-dir", str(data_dir))
    return start(originals.parent, "-c", FETCHING, *where, *command)


def require_one_good_copy(data_dir: Path, originals: Path) -> None:
    """See that a data folder holds the three files and nothing else."""
    expected = {f"ptb/{name}": (originals / name).read_bytes() for name in NAMES}
    assert contents(data_dir) == {"ptb": None, **expected}


@pytest.mark.promise("two at once")
def test_fetches_at_once_leave_one_good_copy(
    originals: Path, server: Server, tmp_path: Path, tally: Tally
) -> None:
    """Two and four processes fetch into one data folder at once, from a server and from a folder:
    all succeed, and one good copy is there."""
    sources = (f"{server.url}/data", str(originals))
    for number in range(tally.amount(1, 20)):
        data_dir = tmp_path / f"data-{number}"
        count = (4, 2)[number % 2]
        processes = [start_fetch(originals, sources[k % 2], data_dir) for k in range(count)]
        for process in processes:
            outcome = ended(process)
            assert outcome.code == 0, outcome.err
        require_one_good_copy(data_dir, originals)
        tally.count("fetches at once", count)


@pytest.mark.promise("two at once")
def test_a_fetch_killed_beside_another_leaves_one_good_copy(
    originals: Path, server: Server, tmp_path: Path, tally: Tally
) -> None:
    """A fetch is killed at random moments between its operations on files, another beside it:
    the other, and the next, leave one good copy and nothing else."""
    rng = random.Random(10)
    data_dir = tmp_path / "data"
    for number in range(tally.amount(2, 60)):
        shutil.rmtree(data_dir, ignore_errors=True)
        if number % 3 != 1:
            shutil.copytree(originals, data_dir / "ptb")
        if number % 3 == 0:  # which a fetch repairs
            (data_dir / "ptb" / NAMES[1]).write_text("damaged\n")
        killed = start_fetch(originals, str(originals), data_dir, kill_at=rng.randint(1, 25))
        outcome = ended(start_fetch(originals, f"{server.url}/data", data_dir))
        assert outcome.code == 0, outcome.err
        killed.communicate(timeout=SECONDS)
        outcome = ended(start_fetch(originals, str(originals), data_dir))
        assert outcome.code == 0, outcome.err
        require_one_good_copy(data_dir, originals)
        tally.count("fetches killed beside another", killed.returncode == -9)


@pytest.mark.promise("two at once")
@pytest.mark.parametrize("there", ["no copy", "a copy"])
def test_a_fetch_killed_at_each_moment_leaves_nothing_for_the_next(
    originals: Path, tmp_path: Path, tally: Tally, there: str
) -> None:
    """A fetch alone is killed before each of its operations on files in turn: no half of a corpus
    is ever in its place, and the next fetch leaves one good copy and nothing else."""
    data_dir = tmp_path / "data"
    kill_at, step = 1, tally.amount(15, 1)
    while True:
        shutil.rmtree(data_dir, ignore_errors=True)
        if there == "a copy":
            shutil.copytree(originals, data_dir / "ptb")
        process = start_fetch(originals, str(originals), data_dir, kill_at)
        process.communicate(timeout=SECONDS)
        if process.returncode == 0:
            break
        assert process.returncode == -9
        tally.count("fetches killed")
        if (data_dir / "ptb").exists():
            for name in NAMES:
                assert (data_dir / "ptb" / name).read_bytes() == (originals / name).read_bytes()
        outcome = ended(start_fetch(originals, str(originals), data_dir))
        assert outcome.code == 0, outcome.err
        require_one_good_copy(data_dir, originals)
        kill_at += step
    assert kill_at > 9


def sends_when_all_have_asked(body: bytes, meeting: threading.Barrier) -> Behaviour:
    def behave(handler: Handler) -> None:
        meeting.wait(SECONDS)
        sends(body)(handler)

    return behave


@pytest.mark.promise("two at once")
def test_two_trainings_that_fetch_the_corpus_at_once_both_train(
    originals: Path, server: Server, tmp_path: Path, tally: Tally
) -> None:
    """Two `train --data ptb` find no corpus and fetch it at the same moment: both train, to the
    same bits, on one good copy."""
    train = (originals / NAMES[0]).read_bytes()
    server.answer(f"/data/{NAMES[0]}", sends_when_all_have_asked(train, threading.Barrier(2)))
    data_dir = tmp_path / "data"
    where = (str(originals), f"{server.url}/data", str(data_dir), "0")
    recipe = {"training__batch_size": 40, "training__unrolled_steps": 35, "training__epochs": 1}
    processes = [
        start(
            tmp_path,
            "-c",
            FETCHING,
            *where,
            *train_arguments(name, "--data-dir", str(data_dir), data="ptb", **recipe),
        )
        for name in ("one", "two")
    ]
    for process in processes:
        outcome = ended(process)
        assert outcome.code == 0, outcome.err
        assert "fetching it" in outcome.err
        tally.count("trainings that fetched at once")
    assert result(tmp_path / "one") == result(tmp_path / "two")
    require_one_good_copy(data_dir, originals)
