"""What a call asks for reaches the part that does it, and what is recorded is what was done."""

import os
import re
import shutil
import signal
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import numpy as np
import pytest
import torch
from cli_support import contents, done, furnish, ptb_lm, train_arguments
from short_runs import short_config, trained

from ptb_lm.corpus.load import Corpus, load_corpus
from ptb_lm.errors import PtbLmError
from ptb_lm.evaluation import evaluate, texts
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.evaluation.trained import load
from ptb_lm.model.backends import configure_backends
from ptb_lm.report.evidence import splits_scored
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training import environment, loop, open_run, run, step
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.open_run import open_run as opened
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.state import TrainingState

LAST = "runs/a/last.pt"
CHECKPOINTS = ("last.pt", "previous.pt", "best.pt")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("template"))


pytestmark = pytest.mark.usefixtures("workplace")


# Precision and determinism


def test_a_run_in_bfloat16_trains_and_is_evaluated_in_it() -> None:
    """With a cell whose steps are taken one by one, so that no processor is short of a kernel."""
    first = {}
    for precision in ("fp32", "bf16"):
        folder = f"runs/{precision}"
        done(*train_arguments(folder, "--precision", precision, model__cell="rnn-tanh"))
        first[precision] = read_metrics(Path(folder, "metrics.jsonl"))[0]["train/perplexity"]
        assert load(f"{folder}/last.pt", "cpu").network.precision == precision
        done("eval", folder, "--save-scores", f"{precision}.npz")
        kept = load_scores(Path(folder, "scores-test.npz")).log_probabilities
        assert np.array_equal(load_scores(Path(f"{precision}.npz")).log_probabilities, kept)
    assert first["bf16"] != first["fp32"]
    assert first["bf16"] == pytest.approx(first["fp32"], rel=0.01)


def test_a_run_in_tf32_has_a_gpu_round_and_so_has_its_evaluation() -> None:
    def rounding() -> set[str]:
        backends: Any = torch.backends
        return {backends.cuda.matmul.fp32_precision, backends.cudnn.rnn.fp32_precision}

    done(*train_arguments("runs/tf32", "--precision", "tf32", "--max-steps", "1"))
    assert rounding() == {"tf32"}
    configure_backends("fp32")
    assert rounding() == {"ieee"}
    with load("runs/tf32", "cpu").at_work():
        assert rounding() == {"tf32"}
    configure_backends("fp32")


@pytest.fixture
def usual_algorithms(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    yield
    torch.use_deterministic_algorithms(False)


def test_deterministic_algorithms_are_taken_where_they_are_asked_for(
    usual_algorithms: None,
) -> None:
    for asked in (True, False):
        config = short_config("text", run__deterministic=str(asked).lower())
        with opened(config, Path(), Path(f"runs/{asked}")):
            assert torch.are_deterministic_algorithms_enabled() is asked
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_to_use_a_model_leaves_them_as_they_are(usual_algorithms: None) -> None:
    for asked in (True, False):
        torch.use_deterministic_algorithms(asked)
        with load(LAST, "cpu").at_work():
            assert torch.are_deterministic_algorithms_enabled() is asked


def test_the_option_for_them_is_recorded(usual_algorithms: None) -> None:
    done(*train_arguments("runs/new", "--deterministic", "--max-steps", "1"))
    recorded = tomllib.loads(Path("runs/new/config.toml").read_text())["run"]
    assert recorded["deterministic"] is True


# Scores


def test_scores_of_a_test_text_that_has_changed_are_made_again() -> None:
    old = load_scores(Path("runs/a/scores-test.npz"))
    Path("text/test.txt").write_text("a b c d e f g h\n" * 9)
    summary = done("train", "--resume", "--run-dir", "runs/a").out
    new = load_scores(Path("runs/a/scores-test.npz"))
    assert new.text.text_sha256 != old.text.text_sha256
    assert f"test   perplexity {new.perplexity:.2f}" in summary


def test_stopped_between_two_texts_a_run_is_not_taken_for_finished(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of own texts a run with scores of valid alone is one without a test text."""
    for split in ("valid", "test"):
        Path(f"runs/a/scores-{split}.npz").unlink()
    score_text, calls = evaluate.score_text, []

    def stopped(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise Stopped(15)
        return score_text(*arguments)

    monkeypatch.setattr(evaluate, "score_text", stopped)
    assert ptb_lm("train", "--resume", "--run-dir", "runs/a").code == 143
    assert splits_scored(RunFolder(Path("runs/a")), "text") == ()


# Checkpoints and the folder


def test_a_checkpoint_is_written_when_the_last_is_so_many_minutes_old(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A clock on which each step takes ten seconds: of a minute, that is every sixth step."""
    saved: list[int] = []
    save = run.Run.save

    def noted(self: run.Run) -> None:
        saved.append(self.step)
        save(self)

    def clock() -> float:
        return 10.0 * (at_work[0].step if at_work else 0)

    def begin(begun: run.Run) -> None:
        begun.saved_at = 0.0
        at_work.append(begun)

    at_work: list[run.Run] = []
    monkeypatch.setattr(run.Run, "save", noted)
    monkeypatch.setattr(run.time, "monotonic", clock)
    config = short_config("text", run__checkpoint_minutes=1.0, training__epochs=1)
    done_run = trained(config, Path("runs/new"), before=begin)
    within = [step for step in saved if step < done_run.windows]
    assert within == list(range(6, done_run.windows, 6)) != []


def test_a_start_anew_that_is_broken_off_leaves_a_run_with_no_checkpoint_or_a_whole_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before each file that is removed in turn."""
    remove, removed = RunFolder._remove, list[Path]()
    whole = contents(Path("runs/a"))
    whole.pop("previous.pt", None)

    def noted(self: RunFolder, file: Path) -> None:
        if len(removed) == broken_off_after:
            raise PtbLmError("broken off")
        removed.append(file)
        remove(self, file)

    monkeypatch.setattr(RunFolder, "_remove", noted)
    for broken_off_after in count():
        removed.clear()
        folder = RunFolder(Path(f"runs/{broken_off_after}"))
        shutil.copytree("runs/a", folder.path)
        try:
            folder.clear()
            break
        except PtbLmError:
            assert folder.config.exists()
            if folder.resumable:
                assert contents(folder.path).items() >= whole.items()
    assert len(removed) == broken_off_after >= 7
    assert [file.name for file in folder.path.iterdir()] == [folder.lock.name]


def test_a_previous_checkpoint_is_put_back_whole_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = RunFolder(Path("runs/a"))
    shutil.copyfile("runs/b/last.pt", folder.previous)
    last, previous = folder.last.read_bytes(), folder.previous.read_bytes()

    def half(source: BinaryIO, target: BinaryIO) -> None:
        target.write(previous[: len(previous) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(PtbLmError, match="No space left"):
        patch.setattr(shutil, "copyfileobj", half)
        folder.restore_previous()
    assert folder.last.read_bytes() == last
    folder.restore_previous()
    assert folder.last.read_bytes() == folder.previous.read_bytes() == previous


def test_a_run_asks_for_room_for_four_checkpoints_less_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    there = sum(Path("runs/a", name).stat().st_size for name in CHECKPOINTS)
    asked: list[Path] = []
    for path, needed in {"runs/a": 4 * 10**6 - there, "not/yet/there": 4 * 10**6}.items():
        for free in (needed - 1, needed):

            def usage(place: Path, free: int = free) -> SimpleNamespace:
                asked.append(place)
                return SimpleNamespace(free=free)

            monkeypatch.setattr(shutil, "disk_usage", usage)
            too_little = pytest.raises(PtbLmError, match=f"{path}: .* MB are free")
            with too_little if free < needed else nullcontext():
                RunFolder(Path(path)).require_space(10**6)
    assert asked == [Path("runs/a")] * 2 + [Path.cwd()] * 2


def test_a_run_that_came_meanwhile_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """It began and ended between the first look at the folder and the lock."""
    config = short_config("text")

    def another_first(data: str, data_dir: Path, stop: StopFlag) -> Corpus:
        monkeypatch.setattr(open_run, "load_corpus", load_corpus)
        trained(config, Path("runs/new"), max_steps=3)
        return load_corpus(data, data_dir, stop)

    monkeypatch.setattr(open_run, "load_corpus", another_first)
    outcome = ptb_lm(*train_arguments("runs/new"))
    assert outcome.code == 2
    assert "a run is there already" in outcome.err
    assert load("runs/new/last.pt", "cpu").config.model == config.model


def test_the_handlers_of_signals_are_given_back() -> None:
    kinds = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(kind) for kind in kinds]
    with StopFlag() as stop:
        assert [signal.getsignal(kind) for kind in kinds] != before
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            stop.check()
    assert [signal.getsignal(kind) for kind in kinds] == before


def test_evaluation_looks_for_the_data_where_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    def noted(name: str, data_dir: Path, stop: StopFlag) -> Corpus:
        asked.append(data_dir)
        return load_corpus(name, data_dir, stop)

    monkeypatch.setattr(texts, "load_corpus", noted)
    done("eval", LAST, "--data-dir", "here")
    evaluate.evaluate(load(LAST, "cpu"), data_dir="there")
    done("export", LAST, "--out", "new", "--data-dir", "elsewhere")
    assert asked == [Path("here"), Path("there"), Path("elsewhere")]


def test_of_several_models_none_is_at_work_before_all_are_seen_to_be_comparable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluate, "score_text", None)
    outcome = ptb_lm("eval", LAST, "runs/none/last.pt")
    assert outcome.code == 2
    assert outcome.err == "error: runs/none/last.pt: no such checkpoint\n"
    Path("damaged.pt").write_bytes(b"x")
    assert "damaged" in ptb_lm("eval", LAST, "damaged.pt").err
    shutil.copytree("text", "longer")
    with Path("longer/train.txt").open("a") as file:
        file.write("entirely new words\n")
    done(*train_arguments("runs/longer", "--max-steps", "1", data="longer"))
    assert "its vocabulary" in ptb_lm("eval", LAST, "runs/longer").err


# What is recorded


def test_a_changed_program_is_no_clean_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Changed where it lies, or in its presets; evidence and pages are no part of it."""
    program, preset, evidence = (
        "ptb_lm/training/x.py",
        "configs/small.toml",
        "results/a/config.toml",
    )
    for name in (program, preset, evidence):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("first")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / program))
    assert described()["commit"] is None
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "first")):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = described()["commit"]
    assert re.fullmatch("[0-9a-f]{40}", clean)
    for name, mark in ((evidence, ""), (program, "+changes"), (preset, "+changes")):
        (tmp_path / name).write_text("second")
        assert described()["commit"] == clean + mark
        (tmp_path / name).write_text("first")
    (tmp_path / "ptb_lm" / "new.py").write_text("new")
    assert described()["commit"] == clean + "+changes"


def test_the_machine_is_named_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: "flags : none\nmodel name\t: Zilog Z80 \n")
    assert environment._processor() == "Zilog Z80"
    monkeypatch.undo()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert described()["threads"] == 3


def described() -> dict[str, Any]:
    return environment.describe_environment(torch.device("cpu"))


def test_the_clock_of_a_run_runs_through_its_steps_and_validations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a clock that only what is to be timed moves on: 7 s a step, 100 s a validation."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def taking(seconds: float, work: Any) -> Any:
        def timed(*arguments: Any, **more: Any) -> Any:
            now[0] += seconds
            return work(*arguments, **more)

        return timed

    monkeypatch.setattr(step, "training_window", taking(1, step.training_window))
    monkeypatch.setattr(step, "window_objective", taking(2, step.window_objective))
    monkeypatch.setattr(step, "gradient_norm", taking(4, step.gradient_norm))
    monkeypatch.setattr(
        loop, "target_log_probabilities", taking(100, loop.target_log_probabilities)
    )
    timed = trained(short_config("text"), Path("runs/timed"))
    training = timed.config.training
    ends = [line for line in read_metrics(timed.folder.metrics) if "seconds" in line]
    each = 7 * timed.windows + 100
    epochs = range(1, training.epochs + 1)
    assert [line["seconds"] for line in ends] == [each * epoch for epoch in epochs]
    words = training.batch_size * training.unrolled_steps
    assert {line["words_per_second"] for line in ends} == {words / 7}


def test_the_seconds_of_an_epoch_are_of_training_and_validation() -> None:
    state = TrainingState(epoch_seconds=60.0)
    state.finish_epoch(9.0, 2.5)
    assert state.seconds == 62.5
