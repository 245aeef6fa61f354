"""What a person sees of a training: on a terminal a bar, in a log lines, of one width."""

import io
import logging
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cli_support
import pytest
from cli_support import WORDS, done, train_arguments, write_texts
from tqdm import tqdm

from ptb_lm.config import resolve
from ptb_lm.training import progress
from ptb_lm.training.progress import Progress
from ptb_lm.training.run import Run
from ptb_lm.training.state import TrainingState
from ptb_lm.training.world import SINGLE_PROCESS

STEPS = 29  # of an epoch


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_texts(tmp_path / "text", WORDS, seed=1)
    monkeypatch.chdir(tmp_path)


def test_the_line_of_an_epoch_fits_80_columns(caplog: pytest.LogCaptureFixture) -> None:
    """With figures as long as they usually are; epochs are as long as the last one was."""
    caplog.set_level(logging.INFO)
    state = TrainingState(epochs_done=8, seconds=50 * 3600.0)
    corpus = SimpleNamespace(vocabulary=range(10_000))
    run = SimpleNamespace(
        state=state, config=resolve("small"), windows=2323, world=SINGLE_PROCESS, corpus=corpus
    )
    record = {"train/perplexity": 639.114, "valid/perplexity": 558.561, "lr": 0.001953}
    with Progress(cast(Run, run)) as bar:
        bar.start_epoch()
        state.finish_epoch(558.561, validation_seconds=3600.0)
        bar.finish_epoch({**record, "words_per_second": 19_726.4})
    (line,) = caplog.messages
    assert line == (
        "epoch  9/13  train 639.11  valid 558.56  lr 0.00195  19,726 words/s  eta 4:00:00"
    )
    assert len(line) == 80


def log_of(run: str) -> list[str]:
    """Return the log of a training, without the warning that its text has much <unk>."""
    lines = done(*train_arguments(run)).err.splitlines()
    return [line for line in lines if not line.startswith("<unk> is more than a tenth")]


@pytest.mark.usefixtures("text")
def test_a_log_is_not_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.SECONDS_OF_SILENCE == 300
    lines = log_of("quick")
    assert [line.split()[1] for line in lines[1:]] == ["1/2", "2/2"]
    monkeypatch.setattr(progress, "SECONDS_OF_SILENCE", 0.0)
    lines = log_of("slow")
    assert len(lines) == 1 + 2 * (STEPS + 1)
    assert re.fullmatch(r"epoch 1/2  step 1/29  train [\d.]+  lr 1  [\d,]+ words/s", lines[1])


@pytest.mark.usefixtures("text")
def test_the_bar_of_a_run_that_is_taken_up_shows_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """And does not wait for as many as there were before."""
    done(*train_arguments("run", "--max-steps", "20"))
    monkeypatch.setattr(cli_support.io, "StringIO", Terminal)
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, mininterval=0))
    shown = done(*train_arguments("run", "--resume", "--max-steps", "27")).err
    steps = [int(step) for step in re.findall(r"\| (\d+)/29 ", shown)]
    assert sorted({*steps} - {0}) == list(range(20, 28))
    assert re.search(r"epoch 1/2: .*, train [\d.]+, lr 1]", shown)
