"""Several seeds at once, in processes of their own: kept, gone on with, averaged, or failed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import make_table
import numpy as np
import pytest
import reproduce_average
from cli_support import WORDS, contents, write_texts
from members import Member, make_members
from processes import SAFETY_SECONDS

from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.lock import locked
from ptb_lm.stop import NEVER
from ptb_lm.training.run_folder import RunFolder

SCRIPT = Path(reproduce_average.__file__)

TINY = """
[model]
cell = "lstm"
layers = 1
hidden_size = 8
dropout = 0.5
init_range = 0.1

[training]
batch_size = 2
unrolled_steps = 5
epochs = 8
learning_rate = 1.0
constant_epochs = 1
decay = 2.0
clip_norm = 5.0

[run]
config = "tiny"
data = "text"
checkpoint_minutes = 0.0001
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config that takes a second, whose table is not the real one."""
    (tmp_path / "tiny.toml").write_text(TINY)
    write_texts(tmp_path / "text", WORDS, seed=1)
    monkeypatch.setattr(make_table, "main", lambda: None)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def average_of(seeds: int, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", command(seeds)[1:])
    return reproduce_average.main()


def command(seeds: int) -> list[str]:
    """What makes so many members, two at once on any machine."""
    options = ["--seeds", str(seeds), "--processes", "2"]
    return [sys.executable, str(SCRIPT), "tiny.toml", *options]


def wait_for_checkpoints(process: "subprocess.Popen[Any]", runs: list[Path]) -> None:
    give_up_at = time.monotonic() + SAFETY_SECONDS
    while not all((run / "last.pt").exists() for run in runs):
        assert process.poll() is None
        assert time.monotonic() < give_up_at
        time.sleep(0.05)


def test_the_members_are_made_and_averaged_and_only_what_is_missing_is_made_later(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert average_of(2, monkeypatch) == 0
    first = contents(checkout / "results")
    printed = capsys.readouterr()
    assert "average of 2: test perplexity" in printed.out
    assert "average of 2: valid perplexity" in printed.out
    assert "tiny-seed1: done" in printed.err

    assert average_of(3, monkeypatch) == 0
    printed = capsys.readouterr()
    assert "average of 3: test perplexity" in printed.out
    assert "tiny-seed1: under way" not in printed.err
    assert "tiny-seed3: done" in printed.err
    later = contents(checkout / "results")
    assert {path: later[path] for path in first} == first
    scores = [load_scores(Path(f"results/tiny-seed{seed}/scores-test.npz")) for seed in (1, 2, 3)]
    assert not np.array_equal(scores[0].log_probabilities, scores[1].log_probabilities)


def test_stopped_it_has_saved_each_member_and_goes_on_to_the_same_scores(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert average_of(2, monkeypatch) == 0
    scores = {
        path: text for path, text in contents(checkout / "results").items() if "scores" in path
    }
    for folder in ("results", "runs"):
        shutil.rmtree(checkout / folder)
    with subprocess.Popen(command(2), stderr=subprocess.PIPE, text=True) as process:
        runs = [checkout / "runs" / f"tiny-seed{seed}" for seed in (1, 2)]
        wait_for_checkpoints(process, runs)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate()
    assert process.returncode == 143
    assert "the same command goes on" in errors
    for run in runs:
        assert "stopped by SIGTERM" in run.with_suffix(".log").read_text()
    assert not (checkout / "results").exists()
    assert average_of(2, monkeypatch) == 0
    assert scores.items() <= contents(checkout / "results").items()


def test_killed_it_takes_its_members_along(checkout: Path) -> None:
    """After SIGKILL too, or a lack of memory: a member at work would hold its run's lock."""
    tiny = checkout / "tiny.toml"
    tiny.write_text(TINY.replace("epochs = 8", "epochs = 100000"))
    runs = [checkout / "runs" / f"tiny-seed{seed}" for seed in (1, 2)]
    with subprocess.Popen(command(2)) as process:
        wait_for_checkpoints(process, runs)
        process.kill()
    give_up_at = time.monotonic() + SAFETY_SECONDS
    for run in runs:
        # The last word of the member, which has let go of its folder by then.
        while "stopped by SIGTERM" not in run.with_suffix(".log").read_text():
            assert time.monotonic() < give_up_at
            time.sleep(0.05)
        with locked(RunFolder(run).lock):
            pass


def test_a_member_that_fails_does_not_take_the_others_along(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkout / "runs").mkdir()
    (checkout / "runs" / "tiny-seed1").write_text("no folder")
    assert average_of(2, monkeypatch) == 1
    printed = capsys.readouterr()
    assert "tiny-seed1: failed" in printed.err
    assert "runs/tiny-seed1" in printed.err.splitlines()[-1]
    assert "tiny-seed2: done" in printed.err
    assert "results/tiny-seed2/scores-test.npz: test perplexity" in printed.out


def test_no_more_run_at_once_than_asked_and_they_share_the_cores(checkout: Path) -> None:
    """Each member here notes when it began and ended, and with how many threads."""
    note = (
        "import os, sys, time; began = time.time(); time.sleep(0.5); "
        "print(began, time.time(), os.environ['OMP_NUM_THREADS'])"
    )
    members = [Member(f"m{number}", (sys.executable, "-c", note)) for number in range(5)]
    assert make_members(members, 2, NEVER) == []
    lines = [member.log.read_text().split() for member in members]
    spans = [(float(began), float(ended)) for began, ended, _ in lines]
    for moment, _ in spans:
        assert sum(began <= moment < ended for began, ended in spans) <= 2
    cores = os.cpu_count() or 1
    assert {threads for *_, threads in lines[:4]} == {str(max(1, cores // 2))}


def test_a_member_is_of_the_precision_asked_for(checkout: Path) -> None:
    member = Member.of("tiny.toml", 3, "bf16")
    assert member.name == "tiny-bf16-seed3"
    words = " ".join(member.command)
    assert "--precision bf16" in words
    assert "--seed 3" in words


def test_a_ctrl_c_in_the_terminal_reaches_a_member_once(checkout: Path) -> None:
    """It goes to every process of the terminal's group, so a member is in a group of its own."""
    note = "import os; print(os.getpgid(0) == os.getpid())"
    member = Member("m", (sys.executable, "-c", note))
    assert make_members([member], 1, NEVER) == []
    assert member.log.read_text().strip() == "True"


def test_a_single_member_has_every_core(checkout: Path) -> None:
    note = "import os; print(os.environ['OMP_NUM_THREADS'])"
    member = Member("m", (sys.executable, "-c", note))
    assert make_members([member], 2, NEVER) == []
    assert member.log.read_text().strip() == str(os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["samll", "--seeds", "2"], "did you mean 'small'?"),
        (["small", "--seeds", "0"], "--seeds and --processes: expected 1 or more"),
        (["small", "--seeds", "2", "--processes", "0"], "expected 1 or more"),
    ],
)
def test_a_mistake_is_said_before_anything_is_made(
    checkout: Path,
    arguments: list[str],
    fragment: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce_average.py", *arguments])
    with pytest.raises(SystemExit) as end:
        reproduce_average.main()
    assert end.value.code == 2
    assert fragment in capsys.readouterr().err
    assert not (checkout / "runs").exists()
