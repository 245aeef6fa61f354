"""Watching a run: what the view says, and that whatever is watched is not disturbed."""

import errno
import fcntl
import json
import math
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli_support
import numpy as np
import pytest
from cli_support import contents, done, done_json, ptb_lm, train_arguments, write_texts

from ptb_lm.config import resolve, to_toml
from ptb_lm.evaluation.score_file import save_scores
from ptb_lm.evaluation.scores import ScoredText, Scores
from ptb_lm.lock import holder, locked
from ptb_lm.training.elapsed import TrainingClock, clock
from ptb_lm.training.history import History
from ptb_lm.training.metrics import number_in
from ptb_lm.watch.braille import Line, draw, row_of
from ptb_lm.watch.status import MetricsTail, RunStatus, StatusReader
from ptb_lm.watch.view import status_view

SECONDS = 120
"""After which a test that waits for a process has failed, however slow the machine."""

EPOCHS = 13
STEPS, B, T = 2000, 20, 20
RATE = 8000.0
STEP_SECONDS = B * T / RATE  # 0.05
VALIDATION = 10.0
EPOCH_SECONDS = STEPS * STEP_SECONDS + VALIDATION  # 110


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return tmp_path


def within(step: int, epoch: int, train: float | None = 100.0) -> dict[str, Any]:
    line = {"step": step, "epoch": epoch, "train/perplexity": train, "lr": 0.5}
    return {**line, "words_per_second": RATE, "gradient_norm": 5.0}


def end(epoch: int, valid: float | None) -> dict[str, Any]:
    line = {"step": STEPS * epoch, "epoch": epoch, "train/perplexity": 300.0 / epoch, "lr": 1.0}
    figures = {"words_per_second": RATE, "valid/perplexity": valid}
    return {**line, **figures, "seconds": EPOCH_SECONDS * epoch}


def write_metrics(folder: Path, *lines: dict[str, Any], more: str = "") -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + more)


def make_run(*lines: dict[str, Any], scored: bool = False, name: str = "runs/x") -> Path:
    """Write the folder of a run of the small preset."""
    folder = Path(name)
    folder.mkdir(parents=True)
    options = {"data": "ptb", "precision": "fp32"}
    (folder / "config.toml").write_text(to_toml(resolve("small", options=options)))
    (folder / "environment.json").write_text('[{"from_step": 0, "device": "cpu"}]')
    write_metrics(folder, *lines)
    for split, streams in (("valid", 20), ("test", 1)) if scored else ():
        protocol = "columns" if streams > 1 else "stream"
        text = ScoredText(split, protocol, streams, split, 10_000)
        scores = Scores("x", text, np.full(4, -math.log(80), np.float32))
        save_scores(scores, folder / f"scores-{split}.npz")
    return folder


def status_of(folder: Path) -> RunStatus:
    """The status at the moment in which the last line was written."""
    metrics = folder / "metrics.jsonl"
    return StatusReader(folder).read(metrics.stat().st_mtime if metrics.exists() else 0.0)


def view_of(folder: Path, width: int = 80, height: float = math.inf) -> str:
    return status_view(status_of(folder), width, height).plain


HOLD = """
import sys
from pathlib import Path
from ptb_lm.lock import locked
with locked(Path(sys.argv[1])):
    print(flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(path: Path) -> Iterator[int]:
    """Have another process hold a lock; its number."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"
        yield process.pid
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0


# The numbers


def test_a_run_in_the_midst_of_an_epoch() -> None:
    run = make_run(within(200, 1), end(1, 180.0), end(2, 150.0), within(4600, 3, 117.5))
    seen = done_json("watch", str(run))
    assert seen["run"] == "runs/x"
    assert (seen["state"], seen["process"]) == ("stopped", None)
    assert (seen["epoch"], seen["epochs"], seen["epochs_done"]) == (3, EPOCHS, 2)
    assert (seen["step"], seen["step_in_epoch"], seen["steps_per_epoch"]) == (4600, 600, STEPS)
    assert (seen["train_perplexity"], seen["learning_rate"]) == (117.5, 0.5)
    assert seen["words_per_second"] == RATE
    assert seen["best_epoch"] == 2
    assert [each["valid_perplexity"] for each in seen["curve"]] == [180.0, 150.0]
    assert [each["train_perplexity"] for each in seen["curve"]] == [300.0, 150.0]
    assert seen["scores"] == {}
    assert seen["seconds"] == pytest.approx(2 * EPOCH_SECONDS + 600 * STEP_SECONDS)
    left = (EPOCHS * STEPS - 4600) * STEP_SECONDS + (EPOCHS - 2) * VALIDATION
    assert seen["seconds_left"] == pytest.approx(left)


def test_the_clock_runs_on_while_a_training_is_at_work_and_stands_while_none_is() -> None:
    run = make_run(end(1, 180.0), within(2200, 2))
    now = (run / "metrics.jsonl").stat().st_mtime + 7
    stopped = StatusReader(run).read(now)
    with held(run / ".lock"):
        at_work = StatusReader(run).read(now)
    assert at_work.seconds - stopped.seconds == pytest.approx(7)
    assert stopped.seconds_left - at_work.seconds_left == pytest.approx(7)
    assert "last line 0:00:07 ago" in status_view(at_work, 80).plain
    assert "ago" not in status_view(stopped, 80).plain


def seconds_at(records: list[dict[str, Any]]) -> list[float]:
    """How long the run had trained at each line."""
    training, seconds = TrainingClock(), []
    for record in records:
        training.add(record)
        seconds.append(training.seconds(B * T))
    return seconds


def test_seconds_at_each_line_of_the_metrics() -> None:
    lines = [within(200, 1), within(400, 1), end(1, 9.0), within(2100, 2), end(2, 9.0)]
    expected = [10.0, 20.0, EPOCH_SECONDS, EPOCH_SECONDS + 5.0, 2 * EPOCH_SECONDS]
    assert seconds_at(lines) == pytest.approx(expected)
    unknown = [{"step": 200, "epoch": 1}, {**within(300, 1), "words_per_second": None}]
    assert seconds_at(unknown) == [0.0, 0.0]
    assert clock(3723.4) == "1:02:03"


@pytest.mark.parametrize("value", [None, "9", True, math.inf, 10**400, [1]])
def test_what_is_no_figure_is_not_taken_for_one(value: Any) -> None:
    assert math.isnan(number_in({"lr": value}, "lr"))
    assert math.isnan(number_in({}, "lr"))


def test_the_steps_of_an_epoch_are_recorded_and_else_learned_from_the_first() -> None:
    run = make_run(within(200, 1))
    assert status_of(run).steps_per_epoch is None
    assert math.isnan(status_of(run).seconds_left)
    assert "step 200   train" in view_of(run)
    environment = [{"from_step": 0, "steps_per_epoch": 2323}]
    (run / "environment.json").write_text(json.dumps(environment))
    assert status_of(run).steps_per_epoch == 2323
    assert "step 200 of 2,323" in view_of(run)
    assert status_of(run).seconds_left == pytest.approx((EPOCHS * 2323 - 200) * STEP_SECONDS)
    (run / "environment.json").write_text("[{]")
    write_metrics(run, end(1, 99.0))
    assert status_of(run).steps_per_epoch == STEPS


def test_between_two_epochs_nothing_is_said_of_the_next_yet() -> None:
    status = status_of(make_run(within(1800, 1), end(1, 180.0)))
    assert (status.epoch, status.step_in_epoch) == (2, 0)
    assert math.isnan(status.train_perplexity)


def test_a_finished_run_shows_its_scores() -> None:
    run = make_run(*(end(n, 200.0 - n) for n in range(1, EPOCHS + 1)), scored=True)
    seen = done_json("watch", str(run))
    assert seen["state"] == "finished"
    assert (seen["epoch"], seen["step_in_epoch"], seen["seconds_left"]) == (EPOCHS, STEPS, 0.0)
    assert seen["scores"]["test"]["perplexity"] == pytest.approx(80, rel=1e-6)
    assert (seen["scores"]["valid"]["streams"], seen["scores"]["valid"]["tokens"]) == (20, 4)
    view = done("watch", str(run)).out
    assert "  test   perplexity 80.00 (one stream, 4 tokens); paper: 114.5 (-30.1 %)" in view
    assert " 100 %" in view
    assert "so far" not in view
    assert "left" not in view


def test_the_scores_of_a_run_that_trains_on_are_not_its_own_any_more() -> None:
    run = make_run(end(1, 180.0), scored=True)
    with held(run / ".lock"):
        assert status_of(run).scores == {}


def test_all_epochs_done_and_a_process_at_work_is_scoring() -> None:
    run = make_run(*(end(n, 200.0 - n) for n in range(1, EPOCHS + 1)))
    with held(run / ".lock") as process:
        assert (status_of(run).state, status_of(run).process) == ("scoring", process)
    assert status_of(run).state == "stopped"


def test_a_report_does_not_offer_to_go_on_with_a_run_in_training() -> None:
    run = make_run(end(1, 180.0))
    unfinished = f"{run}: unfinished, so it has a curve and no figure"
    with held(run / ".lock"):
        err = done("report", str(run)).err
        assert err == f"{unfinished} yet; a training is at work in it\n"
    err = done("report", str(run)).err
    assert err == f"{unfinished}; `ptb-lm train --resume --run-dir {run}` goes on with it\n"


def test_a_training_that_was_stopped_and_is_resumed(workplace: Path) -> None:
    write_texts(workplace / "text", cli_support.WORDS, seed=1)
    done(*train_arguments("runs/a", "--max-steps", "33"))
    seen = done_json("watch", "runs/a")
    assert (seen["steps_per_epoch"], seen["epochs_done"], seen["step"]) == (29, 1, 32)
    assert seen["state"] == "stopped"
    assert (
        "`ptb-lm train --resume --run-dir runs/a` goes on with it." in done("watch", "runs/a").out
    )
    shutil.copytree("runs/a", "runs/ü b")
    assert (
        "`ptb-lm train --resume --run-dir 'runs/ü b'` goes"
        in done("watch", "runs/ü b", "--once").out
    )
    reader = StatusReader(Path("runs/a"))
    reader.read(0.0)
    done(*train_arguments("runs/a", "--resume"))
    after = reader.read(time.time())
    assert (after.state, after.epochs_done, after.step) == ("finished", 2, 58)
    assert [record["step"] for record in after.history.ends] == [29, 58]


# What is in the folder, or not


def test_a_run_that_has_just_begun() -> None:
    run = make_run()
    for present in (True, False):
        seen = done_json("watch", str(run))
        assert (seen["epoch"], seen["step"], seen["curve"], seen["best_epoch"]) == (1, 0, [], None)
        assert seen["train_perplexity"] is seen["seconds_left"] is None
        assert "epoch 1 of 13   step 0   train - so far" in view_of(run)
        if present:
            (run / "metrics.jsonl").unlink()
    assert "no checkpoint to go on from" in view_of(run)


def test_a_diverged_epoch_is_shown_as_no_number_and_never_the_best() -> None:
    run = make_run(end(1, 180.0), end(2, None), {**end(3, None), "train/perplexity": None})
    assert done_json("watch", str(run))["best_epoch"] == 1
    assert "    3         -         -" in view_of(run)


def test_lines_that_are_none_are_passed_over_in_silence(capfd: pytest.CaptureFixture[str]) -> None:
    nonsense = 'no json\n[1]\n{"step": "x"}\n' + "[" * 20000 + "\n\xff\n"
    for step, epoch in ((-1, 1), (2**63, 1), (10**400, 1), (1, -1), (1.5, 1)):
        nonsense += json.dumps({**end(1, 9.0), "step": step, "epoch": epoch}) + "\n"
    run = make_run(end(1, 180.0))
    write_metrics(run, end(1, 180.0), more=nonsense + json.dumps(end(2, 170.0)) + "\n")
    outcome = done("watch", str(run), "--json")
    assert [each["epoch"] for each in json.loads(outcome.out)["curve"]] == [1, 2]
    assert outcome.err == ""


def steps_read(tail: MetricsTail) -> tuple[int, int]:
    """How many epochs have ended, and the step of the last line."""
    history = tail.read()
    assert history.last is not None
    return len(history.ends), history.last["step"]


def test_a_half_written_line_waits_for_its_end() -> None:
    run = make_run(end(1, 180.0))
    line = json.dumps(within(2200, 2))
    metrics = run / "metrics.jsonl"
    tail = MetricsTail(metrics)
    with metrics.open("a") as file:
        file.write(line[:40])
        file.flush()
        assert steps_read(tail) == (1, 2000)
        file.write(line[40:])
        file.flush()
        assert steps_read(tail) == (1, 2000)
        file.write("\n")
        file.flush()
        assert steps_read(tail) == (1, 2200)
        assert steps_read(tail) == (1, 2200)


@pytest.mark.parametrize("longer", [False, True])
@pytest.mark.parametrize("in_place", [False, True])
def test_metrics_that_were_written_anew_are_read_anew(longer: bool, in_place: bool) -> None:
    """As a resumption does, with the beginning kept, and --overwrite, where nothing is."""
    run = make_run(within(200, 1), within(400, 1), within(600, 1))
    tail = MetricsTail(run / "metrics.jsonl")
    assert steps_read(tail) == (0, 600)
    kept = [] if in_place else [within(200, 1)]
    new = [within(step, 1, 77.0) for step in range(300, 1500 if longer else 400, 100)]
    if not in_place:  # another file in its place
        (run / "metrics.jsonl").rename("old")
    write_metrics(run, *kept, *new)
    expected = History(tail.path)
    for record in (*kept, *new):
        expected.add(record)
    assert tail.read() == expected
    (run / "metrics.jsonl").unlink()
    assert tail.read() == History(tail.path)
    assert tail.written_at is None


def test_no_checkpoint_is_read_nothing_is_written_and_torch_not_imported() -> None:
    run = make_run(end(1, 180.0), end(2, 150.0))
    (run / ".lock").touch()
    for name in ("last.pt", "best.pt", "previous.pt"):
        (run / name).mkdir()  # which cannot be read
    before = contents(run)
    code = (
        "import sys\nfrom ptb_lm.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\nfinally:\n    assert 'torch' not in sys.modules\n"
    )
    for options in ([], ["--json"]):
        command = [sys.executable, "-c", code, "watch", str(run), *options]
        ran = subprocess.run(command, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
    assert contents(run) == before


# The lock


def test_the_holder_of_a_lock_is_known_while_it_holds_it(workplace: Path) -> None:
    lock = workplace / ".lock"
    assert holder(lock) is None
    assert not lock.exists()
    with held(lock) as process:
        assert holder(lock) == process
        assert holder(lock) == process  # asking has not let go of it
        assert lock.read_text() == f"{process}\n"
    assert lock.exists()
    assert holder(lock) is None


def test_a_training_is_seen_at_work_while_it_writes(workplace: Path) -> None:
    """It must not open its own lock file: closing it again would let go of what is asked about."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ptb_lm.training.run_folder import RunFolder\n"
        "folder = RunFolder(Path('run'))\n"
        "with folder.claimed():\n"
        "    folder.append_metrics({'step': 1, 'epoch': 1})\n"
        "    folder.flush_metrics()\n"
        "    print('written', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"written\n"
        assert holder(workplace / "run" / ".lock") == process.pid
        assert process.stdin is not None
        process.stdin.close()
    assert process.returncode == 0


def test_a_killed_holder_holds_nothing(workplace: Path) -> None:
    lock = workplace / ".lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert holder(lock) == process.pid
        process.kill()
    assert lock.read_text() == f"{process.pid}\n"  # which means nothing
    assert holder(lock) is None


def test_a_training_that_begins_while_somebody_asks_is_not_refused(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, ask = workplace / ".lock", fcntl.fcntl
    lock.touch()
    begun = []

    def meanwhile(*arguments: Any) -> Any:
        with held(lock) as process:
            begun.append(process)
        return ask(*arguments)

    monkeypatch.setattr(fcntl, "fcntl", meanwhile)
    assert holder(lock) is None
    assert len(begun) == 1


def test_asking_takes_no_lock_itself(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (workplace / ".lock").touch()

    def refuse(*arguments: Any) -> None:
        raise AssertionError("took a lock")

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(fcntl, "lockf", refuse)
    assert holder(workplace / ".lock") is None
    assert holder(workplace) is None  # a folder, as downloads hold


def test_on_a_disk_without_locks_there_is_a_warning_and_no_refusal(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def unknown(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    with locked(workplace / ".lock"):
        (line,) = [record.message for record in caplog.records]
    assert "no lock (No locks available); nothing else may write here" in line


def test_a_disk_without_the_second_kind_of_locks_keeps_the_first(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*arguments: Any) -> None:
        raise OSError("no locks available")

    monkeypatch.setattr(fcntl, "lockf", unknown)
    with locked(workplace / ".lock"):
        ran = subprocess.run([sys.executable, "-c", HOLD, ".lock"], input=b"", capture_output=True)
        assert b"in use by process" in ran.stderr
    monkeypatch.setattr(fcntl, "fcntl", unknown)
    assert holder(workplace / ".lock") is None


# The view


LONG = [end(n, 200.0 - n if n < 9 else 191.0 + n) for n in range(1, 12)]


def test_the_view_as_it_is(workplace: Path) -> None:
    run = make_run(*LONG, within(22_500, 12, 20.25))
    with held(run / ".lock") as process:
        lines = view_of(run, 60).splitlines()
    assert lines[:6] == [
        f"x   training, process {process}",
        "━" * 46 + "─" * 8 + "  86 %",
        "epoch 12 of 13   step 500 of 2,000   train 20.25 so far",
        "lr 0.5000   8,000 words/s   elapsed 0:20:35   left 0:03:15",
        "last line 0:00:00 ago",
        "",
    ]
    assert lines[6:14] == [
        "epoch     train     valid       lr   words/s",
        "    6     50.00    194.00   1.0000     8,000",
        "    7     42.86    193.00   1.0000     8,000",
        "    8     37.50    192.00   1.0000     8,000 best",
        "    9     33.33    200.00   1.0000     8,000",
        "   10     30.00    201.00   1.0000     8,000",
        "   11     27.27    202.00   1.0000     8,000",
        "",
    ]
    assert lines[14].startswith("300.0 ┤")
    assert lines[21].startswith(" 27.3 ┤")
    assert lines[21].endswith("train 27.3")
    assert any(line.endswith("valid 202.0") for line in lines[14:18])
    assert lines[22].split() == ["1", "epoch", "11"]


def test_the_best_epoch_is_shown_however_long_ago() -> None:
    run = make_run(end(1, 100.0), *(end(n, 100.0 + n) for n in range(2, 12)))
    lines = view_of(run).splitlines()
    (best,) = [number for number, line in enumerate(lines) if line.endswith("best")]
    assert lines[best].split()[0] == "1"
    assert lines[best + 1].strip() == "…"
    assert lines[best + 2].split()[0] == "7"


STATES = {
    "nothing": ([], False),
    "first epoch": ([within(200, 1)], False),
    "one epoch": ([end(1, 180.0)], False),
    "stopped": (LONG, False),
    "diverged": ([end(1, None), end(2, None)], False),
    "constant": ([{**end(n, 9.0), "train/perplexity": 9.0} for n in (1, 2)], False),
    "enormous": ([end(1, 1e300), end(2, 1e9)], False),
    "far beyond": ([{**end(2**62, 9.0), "seconds": 1e308}], False),
    "slow": ([{**within(10**9, 1), "words_per_second": 1e-300}], False),
    "no steps": ([{**end(3, 9.0), "step": 0}], False),
    "finished": ([end(n, 200.0 - n) for n in range(1, 14)], True),
}


@pytest.mark.parametrize("state", STATES)
def test_no_line_is_wider_than_the_terminal_nor_are_there_more_than_it_has(state: str) -> None:
    lines, scored = STATES[state]
    run = make_run(*lines, scored=scored, name=f"runs/{'long-' * 9}name")
    status = status_of(run)
    full = status_view(status, 80).plain.count("\n") + 1
    for width in (1, 12, 20, 32, 40, 41, 49, 50, 60, 80, 100, 200):
        for height in (10, 16, 24, 50):
            rows = status_view(status, width, height).plain.splitlines()
            assert all(len(row) <= width for row in rows)
            assert width < 40 or len(rows) <= max(height, 14)
    assert len(status_view(status, 80, 50).plain.splitlines()) == full
    least = status_view(status, 40, 10).plain
    assert f"of {EPOCHS}" in least
    assert "words/s" in least


def test_what_a_terminal_would_take_for_a_command_is_written_out() -> None:
    run = make_run(end(1, 180.0), name="runs/\x1b[31mred\nline")
    shown = done("watch", str(run)).out
    assert "\x1b" not in shown
    assert "\\x1b[31mred\\nline" in shown


def test_a_holder_on_another_machine_has_no_number_here() -> None:
    elsewhere = replace(status_of(make_run(end(1, 180.0))), process=-1)
    assert elsewhere.state == "training"
    assert status_view(elsewhere, 80).plain.startswith("x   training\n")


def test_a_pipe_gets_the_view_once_and_no_escape_codes() -> None:
    run = make_run(end(1, 180.0), within(2200, 2))
    outcome = done("watch", str(run))
    assert "\x1b" not in outcome.out
    assert outcome.out == done("watch", str(run), "--once").out
    assert outcome.out.startswith("x   stopped\n")


# Curves in Braille


def rows_of(*lines: Line, width: int, height: int) -> list[str]:
    return ["".join(cell.character for cell in row) for row in draw(lines, width, height)]


def test_a_line_is_drawn_dot_by_dot() -> None:
    assert rows_of(Line([1.0, 0.0]), width=1, height=1) == ["⢣"]  # dots 1, 2; 6, 8
    assert rows_of(Line([1.0, 1.0, 1.0]), width=3, height=1) == ["⠉⠉⠉"]
    assert rows_of(Line([0.0, 0.0]), width=2, height=2) == ["  ", "⣀⣀"]
    assert rows_of(Line([0.0, 1.0]), width=2, height=1) == ["⡠⠊"]


def test_dashes_and_gaps() -> None:
    assert rows_of(Line([0.0, 0.0], dashed=True), width=4, height=1) == ["⣀ ⣀⢀"]
    assert rows_of(Line([1.0, None, 1.0]), width=3, height=1) == ["⠁ ⠈"]
    assert rows_of(Line([]), width=2, height=1) == ["  "]
    assert rows_of(Line([0.5]), width=2, height=1) == ["⠄ "]


def test_the_later_line_owns_the_cells_it_shares() -> None:
    cells = draw([Line([1.0, 1.0]), Line([1.0, None, 0.0])], 2, 1)
    assert [cell.line for cell in cells[0]] == [1, 1]
    assert [cell.line for cell in draw([Line([1.0, 1.0])], 2, 2)[1]] == [None, None]


def test_the_row_of_a_height() -> None:
    assert [row_of(height, 4) for height in (1.0, 0.7, 0.3, 0.0)] == [0, 1, 2, 3]


# On a terminal


class Terminal:
    """``ptb-lm watch`` on a terminal of its own.

    Attributes:
        seen: what it has written so far.
    """

    def __init__(self, *arguments: str, columns: int, rows: int, **environment: str) -> None:
        self.seen = b""
        self.ended = False
        self.number, self.file = pty.fork()
        if self.number == 0:
            size = struct.pack("HHHH", rows, columns, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            variables = {**os.environ, "TERM": "xterm-256color", "PYTHONWARNINGS": "error"}
            for name in ("NO_COLOR", "COLUMNS", "LINES"):
                variables.pop(name, None)
            command = [sys.executable, "-m", "ptb_lm", "watch", *arguments]
            os.execve(sys.executable, command, variables | environment)

    def read_until(self, condition: Callable[[bytes], bool]) -> None:
        """Read until what it has written fulfils a condition, which must come true."""
        until = time.monotonic() + SECONDS
        while not condition(self.seen):
            assert time.monotonic() < until, self.seen[-2000:]
            ready, _, _ = select.select([self.file], [], [], 1.0)
            if ready:
                self.seen += os.read(self.file, 65536)

    def wait_for(self, text: str) -> None:
        """Wait for a text that is not there yet."""
        length = len(self.seen)
        self.read_until(lambda seen: text.encode() in seen[length:])

    def end(self) -> int:
        """Read to its end and return its exit code."""
        while True:
            try:
                new = os.read(self.file, 65536)
            except OSError:  # what Linux says at the end
                break
            if not new:
                break
            self.seen += new
        os.close(self.file)
        _, status = os.waitpid(self.number, 0)
        self.ended = True
        return os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """End it where a test has left it at work."""
        if not self.ended:
            os.kill(self.number, signal.SIGKILL)
            self.end()

    @property
    def after_the_view(self) -> str:
        """What it has written since the screen of its own was left."""
        _, left, rest = self.seen.partition(b"\x1b[?1049l")
        assert left, self.seen[-2000:]
        return rest.decode()


@contextmanager
def on_terminal(
    run: Path, *options: str, columns: int = 80, rows: int = 24, **environment: str
) -> Iterator[Terminal]:
    terminal = Terminal(
        str(run), "--interval", "0.1", *options, columns=columns, rows=rows, **environment
    )
    try:
        yield terminal
    finally:
        terminal.kill()


def test_a_live_view_follows_the_run_and_ctrl_c_leaves_it_quietly() -> None:
    run = make_run(end(1, 180.0), within(2200, 2))
    with on_terminal(run) as terminal:
        terminal.wait_for("step 200 of 2,000")
        assert b"\x1b[?1049h" in terminal.seen  # a screen of its own
        assert b"\x1b[3" in terminal.seen  # colours
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(within(2400, 2)) + "\n")
        terminal.wait_for("step 400 of 2,000")
        os.write(terminal.file, b"\x03")
        assert terminal.end() == 0
    left = terminal.after_the_view
    assert "\x1b[?25h" in terminal.seen.decode()[-100:]  # the cursor is there again
    assert left.replace("\x1b[?25h", "").strip() == ""


def test_a_live_view_ends_with_the_run() -> None:
    run = make_run(*(end(n, 200.0 - n) for n in range(1, EPOCHS + 1)))
    with on_terminal(run, NO_COLOR="1", columns=40) as terminal:
        terminal.wait_for("epoch 13 of 13")
        make_run(scored=True, name="other")
        for split in ("valid", "test"):
            Path(f"other/scores-{split}.npz").rename(run / f"scores-{split}.npz")
        assert terminal.end() == 0
    lines = terminal.after_the_view.replace("\x1b[?25h", "").splitlines()
    assert any(line.startswith("  test   perplexity 80.00") for line in lines)
    assert not any(f"\x1b[{code}" in terminal.seen.decode() for code in range(30, 50))
    shown = [line.replace("\x1b[0m", "").replace("\x1b[1m", "") for line in lines]
    assert max(map(len, shown)) <= 40


def test_a_run_that_is_removed_or_begun_anew_while_it_is_watched() -> None:
    run = make_run(end(1, 180.0))
    with on_terminal(run) as terminal:
        terminal.wait_for("epoch 2 of 13")
        text = (run / "config.toml").read_text()
        (run / "metrics.jsonl").unlink()
        (run / "config.toml").unlink()  # as --overwrite does
        (run / "config.toml").write_text(text)
        terminal.wait_for("epoch 1 of 13")
        shutil.rmtree(run)
        assert terminal.end() == 1
    assert "error: runs/x: removed while it was watched" in terminal.after_the_view


def test_a_signal_ends_a_live_view_as_any_command() -> None:
    with on_terminal(make_run(end(1, 180.0))) as terminal:
        terminal.wait_for("epoch 2 of 13")
        os.kill(terminal.number, signal.SIGTERM)
        assert terminal.end() == 143
    assert "stopped by SIGTERM" in terminal.after_the_view


def test_a_terminal_that_knows_no_commands_gets_the_view_once() -> None:
    with on_terminal(make_run(end(1, 180.0)), TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.seen
    assert b"epoch 2 of 13" in terminal.seen


def test_a_config_that_is_damaged_is_a_line(workplace: Path) -> None:
    run = make_run(end(1, 180.0))
    (run / "config.toml").write_text("[model")
    outcome = ptb_lm("watch", str(run))
    assert outcome.code == 2
    assert outcome.err.startswith("error: runs/x/config.toml: not valid TOML")
