"""What holds on a GPU: `make test-cuda` runs these where there is one."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import done
from networks import changed_nll
from test_step import figures
from test_training import corpus_folder, make_config, trained
from torch import Tensor

from ptb_lm.config import Config, resolve
from ptb_lm.errors import PtbLmError
from ptb_lm.evaluation.adaptive import adaptive_log_probabilities
from ptb_lm.evaluation.cache import Cache
from ptb_lm.evaluation.dynamic import Dynamic, gradient_mean_squares, rms_paces, sgd_paces
from ptb_lm.model import cuda_graph, scoring
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.cuda_graph import captured
from ptb_lm.model.decoder import Softmax
from ptb_lm.model.network import Dropout, LanguageModel
from ptb_lm.stop import NEVER
from ptb_lm.training import loop
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.open_run import open_run
from ptb_lm.training.run import Run
from ptb_lm.training.step import Stepper

__all__ = ["corpus_folder"]

pytestmark = pytest.mark.cuda


def on(device: str, config: Config, **options: object) -> Config:
    values: dict[str, Any] = config.model_dump()
    values["run"] |= {"device": device, "precision": "fp32", **options}
    return Config.model_validate(values)


@pytest.fixture(autouse=True)
def nothing_falls_back(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.WARNING)
    yield
    assert "CUDA graph" not in caplog.text


def test_a_seed_gives_the_numbers_of_the_cpu(corpus_folder: Path, tmp_path: Path) -> None:
    """The same seed draws the same weights on every device; without dropout all else follows."""
    cpu, cuda = (
        figures(trained(on(device, make_config(corpus_folder)), tmp_path / device))
        for device in ("cpu", "cuda")
    )
    for ours, theirs in zip(cuda, cpu, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize(("hidden_size", "dropout"), [(10, 0.0), (16, 0.0), (16, 0.5)])
def test_captured_and_eager_steps_give_the_same_numbers_in_float32(
    corpus_folder: Path,
    tmp_path: Path,
    hidden_size: int,
    dropout: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = on(
        "cuda", make_config(corpus_folder, model__hidden_size=hidden_size, model__dropout=dropout)
    )
    captured = trained(config, tmp_path / "captured")
    monkeypatch.setattr(loop, "stepper_of", Stepper)
    eager = trained(config, tmp_path / "eager")
    for ours, theirs in zip(figures(captured), figures(eager), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


def test_masks_change_from_replay_to_replay_and_follow_the_seed() -> None:
    drop = Dropout(0.5).train()
    ones = torch.ones(40, 50, device="cuda")
    kept = torch.zeros_like(ones)
    torch.manual_seed(1)
    replay = cuda_graph.capture_cuda_graph(lambda: kept.copy_(drop(ones)))

    def masks(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [replay().clone() for _ in range(5)]

    def plain_masks(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return [drop(ones) for _ in range(5)]

    first, again, other = masks(1), masks(1), masks(2)
    for step in range(5):
        assert torch.equal(first[step], again[step])
        assert not torch.equal(first[step], other[step])
        assert all(not torch.equal(first[step], first[later]) for later in range(step + 1, 5))
        assert first[step].mean().item() == pytest.approx(1, abs=0.15)
    assert all(map(torch.equal, first, plain_masks(1)))


def test_no_step_waits_for_the_device(corpus_folder: Path, tmp_path: Path) -> None:
    with open_run(on("cuda", make_config(corpus_folder)), Path(), tmp_path / "run") as run:
        run.network.train()
        run.state.hidden = run.network.zero_state(5)
        steps = Stepper(run, captured)
        torch.cuda.synchronize()
        with waits_are_errors():
            for _ in range(20):
                steps.replay()


@contextmanager
def waits_are_errors() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the mode is a prototype
        try:
            torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_after_work_that_cannot_be_captured_all_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """What reads a value back cannot be captured; random numbers are still to be had then."""
    ones = torch.ones(8, device="cuda")
    stream = torch.cuda.current_stream()
    work = cuda_graph.captured(lambda: ones.sum().item() + torch.rand(1, device="cuda").item())
    assert "no CUDA graph can be captured here" in caplog.text
    caplog.clear()
    assert torch.cuda.current_stream() == stream
    assert 8 <= work() < 9
    replay = cuda_graph.capture_cuda_graph(lambda: torch.rand(4, device="cuda"))
    assert not torch.equal(replay().clone(), replay())


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh"])
def test_bf16_keeps_what_float16_has_no_room_for(cell: str) -> None:
    """Inputs of 1e-7, which float16 rounds to nothing: to bfloat16 they are as good as any."""
    configure_backends("bf16")
    torch.manual_seed(1)
    config = resolve("small", [f"model.cell={cell}", "model.layers=1"]).model
    network = LanguageModel(config, 50, "bf16").cuda().eval()
    exact = LanguageModel(config, 50).double().eval()
    with torch.no_grad():
        network.embedding.weight.mul_(1e-6)
        for name, weight in network.named_parameters():
            if "bias" in name:
                weight.zero_()
        exact.load_weights({name: weight.cpu() for name, weight in network.weights().items()})
        words = torch.randint(50, (1, 4))
        ours = network(words.cuda(), network.zero_state(4)).raw
        theirs = exact(words, exact.zero_state(4)).raw
    error = float((ours.cpu().double() - theirs).norm() / theirs.norm())
    assert 1e-4 < error < 2e-2
    configure_backends("fp32")


def test_captured_scoring_scores_as_plain_scoring_does(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    configure_backends("fp32")
    network = LanguageModel(resolve("small").model, 300).cuda()
    tokens = np.random.default_rng(1).integers(300, size=25_000).astype("int32")
    for streams in (1, 20):
        captured = scoring.target_log_probabilities(network, tokens, streams)
        with monkeypatch.context() as patch:
            patch.setattr(scoring, "capture_pays", lambda device, windows: False)
            plain = scoring.target_log_probabilities(network, tokens, streams)
        torch.testing.assert_close(captured, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("error")  # as of weights that do not lie in one piece
def test_the_ways_that_adapt_give_the_numbers_of_the_cpu() -> None:
    configure_backends("fp32")
    network = LanguageModel(resolve("small").model, vocabulary_size=50)
    tokens = np.random.default_rng(1).integers(0, 50, 203).astype(np.int32)
    cache = Cache(60, theta=0.5, weight=0.2)
    found = []
    for device in ("cpu", "cuda"):
        there = network.to(device)
        mean_squares = gradient_mean_squares(there, tokens, 5, NEVER)
        for paces in (
            sgd_paces(there, Dynamic("sgd", 0.1, 1e-2)),
            rms_paces(mean_squares, Dynamic("rms", 1e-3, 1e-2)),
        ):
            options = {"paces": paces, "steps": 5, "cache": cache}
            found.append(adaptive_log_probabilities(there, tokens, **options))
    torch.testing.assert_close(found[2], found[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[3], found[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.0), ("tf32", 1e-5)])
def test_the_lstm_and_the_softmax_round_alike(precision: str, least: float) -> None:
    """Against float64 on the CPU, in the shares of their own norms."""
    configure_backends(precision)
    torch.manual_seed(1)
    x = torch.randn(35, 20, 640)
    for part in (torch.nn.LSTM(640, 640), torch.nn.Linear(640, 10_000)):
        with torch.no_grad():
            exact = part.double()(x.double())
            ours = part.float().cuda()(x.cuda())
        exact, ours = (out[0] if isinstance(out, tuple) else out for out in (exact, ours))
        error = float((ours.cpu().double() - exact).norm() / exact.norm())
        assert least < error < (1e-5 if precision == "fp32" else 1e-2)
    configure_backends("fp32")


def test_a_step_without_a_number_is_named_and_updates_nothing(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinity in the weights of the softmax, from the start: nothing is saved."""

    def spoil(run: Run) -> None:
        with torch.no_grad():
            run.network.softmax.bias[0] = math.inf

    with pytest.raises(PtbLmError, match=r"in step 1 the objective is .* not updated"):
        trained(on("cuda", make_config(corpus_folder)), tmp_path / "run", before=spoil)
    assert not (tmp_path / "run" / "last.pt").exists()


ROOT = Path(__file__).parents[1]


def train_command(data: Path, run: str, *more: str) -> list[str]:
    """For a process of its own, as cuBLAS reads its settings once."""
    command = [sys.executable, "-m", "ptb_lm", "train", "--config", "small", "--device", "cuda"]
    changes = ("model.hidden_size=64", "model.dropout=0.5", "training.batch_size=5")
    sets = [part for change in changes for part in ("--set", change)]
    return [*command, "--data", str(data), "--run-dir", run, *sets, *more]


def test_resumption_is_exact_to_the_bit_with_deterministic(
    corpus_folder: Path, tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}

    def train(run: str, *more: str) -> None:
        epochs = ("--set", "training.epochs=5", "--deterministic")
        command = train_command(corpus_folder, run, *epochs, *more)
        subprocess.run(command, cwd=tmp_path, env=environment, check=True)

    train("whole")
    train("again")
    for stop_at in ("2", "3", "8"):
        train("run", "--resume", "--max-steps", stop_at)
    train("run", "--resume")
    whole, *others = (
        load_checkpoint(tmp_path / run / "last.pt").weights for run in ("whole", "again", "run")
    )
    for other in others:
        assert all(torch.equal(whole[name], other[name]) for name in whole)


def test_sigterm_saves_and_the_same_command_goes_on(corpus_folder: Path, tmp_path: Path) -> None:
    command = train_command(corpus_folder, "run", "--resume", "--set", "training.epochs=100000")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    last = tmp_path / "run" / "last.pt"
    for _ in range(2):
        epoch = load_checkpoint(last).epoch if last.exists() else 0
        process = subprocess.Popen(command, cwd=tmp_path, env=environment)
        deadline = time.monotonic() + 120
        while not (last.exists() and load_checkpoint(last).epoch > epoch):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143


def test_the_bench_measures_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptb_lm.bench.timed_process.ROUND_SECONDS", 0.05)
    command = ("bench", "small", "--device", "cuda", "--against-stock", "--rounds", "2", "--json")
    report = json.loads(done(*command).out)
    assert report["environment"]["device"] == torch.cuda.get_device_name()
    (row,) = report["presets"]
    assert (row["device"], row["precision"]) == ("cuda", "tf32")
    for key in ("training", "evaluation", "stock", "stock_matched", "against_stock_matched"):
        assert 0 < row[key]["least"] <= row[key]["median"]
    assert 0 < row["share_of_limit"] < 1
    assert row["training_bytes"] > 4 * 4_653_200


def test_one_capture_serves_every_epoch_and_rate(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(nll: Tensor) -> Tensor:
        calls.append(1)
        return nll

    monkeypatch.setattr(Softmax, "nll", changed_nll(counted))
    trained(on("cuda", make_config(corpus_folder)), tmp_path / "run")
    assert len(calls) == cuda_graph.WARM_UP + 1  # in 27 steps
