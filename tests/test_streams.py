"""Processes whose standard streams are closed, full or broken."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path

import pytest
from cli_support import done, train_arguments, write_texts
from processes import plain_environment

from ptb_lm.training.checkpoint import load_checkpoint

CLOSED = "error: the output cannot be written: standard output is closed\n"
SCORES = ("scores-test.npz", "scores-valid.npz")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus, a text and a finished run."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / "text", [*"abcdefgh"], seed=1)
    shutil.copy(folder / "text/test.txt", folder / "own.txt")
    with chdir(folder):
        done(*train_arguments("run"))
    return folder


def call(
    redirections: str, *arguments: str, cwd: Path, before: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    """Run the program with streams that a shell has redirected or closed."""
    command = [*(before or [sys.executable]), "-m", "ptb_lm", *arguments]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {redirections}', "sh", *command],
        cwd=cwd,
        env=plain_environment() | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )


RESULTS = [
    ["--version"],
    ["--help"],
    ["config", "list"],
    ["data", "info", "--data", "text"],
    ["watch", "run"],
    ["compare", "run", "other"],
    ["average", "run/scores-test.npz"],
    ["report", "run"],
    ["eval", "run"],
    ["score", "run", "own.txt"],
    ["generate", "run"],
    ["bench", "small"],
]


@pytest.mark.parametrize("arguments", RESULTS, ids=" ".join)
def test_result_without_output(template: Path, arguments: list[str]) -> None:
    outcome = call(">&-", *arguments, cwd=template)
    assert (outcome.returncode, outcome.stderr) == (1, CLOSED)


def test_nothing_can_be_said(template: Path) -> None:
    for redirections in (">&- 2>&-", "<&- >&- 2>&-"):
        outcome = call(redirections, "score", "run", "own.txt", cwd=template)
        assert (outcome.returncode, outcome.stdout, outcome.stderr) == (1, "", "")


def test_scores_are_saved_without_output(workplace: Path) -> None:
    outcome = call(">&-", "eval", "run", "--save-scores", "mine.npz", cwd=workplace)
    assert (outcome.returncode, outcome.stderr) == (1, CLOSED)
    done("average", "mine.npz")


WORK = {
    "prepare": ["data", "prepare", "own.txt", "--out", "made"],
    "prepare as JSON": ["data", "prepare", "own.txt", "--out", "made", "--json"],
    "export": ["export", "run", "--out", "made"],
    "report": ["report", "run", "--out", "made"],
    "train": train_arguments("made"),
}


@pytest.mark.parametrize("arguments", WORK.values(), ids=WORK.keys())
def test_work_without_output(workplace: Path, arguments: list[str]) -> None:
    outcome = call("<&- >&-", *arguments, cwd=workplace)
    assert outcome.returncode == 0, outcome.stderr
    assert "error" not in outcome.stderr
    assert len(list(Path("made").iterdir())) >= 3


def test_mistake_without_output(template: Path) -> None:
    assert call(">&-", "data", "prepare", "no", "--out", "made", cwd=template).returncode == 2


@pytest.mark.parametrize("redirections", ["2>&-", "2>/dev/full", "2</dev/null", "<&- >&- 2>&-"])
def test_training_in_silence(workplace: Path, redirections: str) -> None:
    outcome = call(redirections, *train_arguments("made"), cwd=workplace)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert ("last epoch" in outcome.stdout) == (">&-" not in redirections.split())
    weights = load_checkpoint(Path("made/last.pt")).weights
    expected = load_checkpoint(Path("run/last.pt")).weights
    assert all(weights[name].equal(expected[name]) for name in expected)
    for name in SCORES:
        assert Path("made", name).read_bytes() == Path("run", name).read_bytes()


def test_reader_of_messages_goes(workplace: Path) -> None:
    command = [sys.executable, "-m", "ptb_lm", *train_arguments("made")]
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=writer, timeout=300)
    os.close(writer)
    assert process.returncode == 0
    assert Path("made/scores-valid.npz").exists()


def test_two_processes_in_silence(workplace: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    outcome = call(
        "2>&-", *train_arguments("made"), cwd=workplace, before=[*torchrun, "--standalone"]
    )
    assert outcome.returncode == 0
    assert Path("made/scores-valid.npz").exists()


def test_mistake_in_silence(template: Path) -> None:
    assert call("2>&-", "nope", cwd=template).returncode == 2
