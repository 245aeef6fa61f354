"""A captured step computes what an eager one does. Without a GPU the step itself takes the place of
the graph: everything but the replay is the same."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import changed_nll, clipped_step, objective_of, sgd_step
from test_training import corpus_folder, make_config, trained
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ptb_lm.config import resolve
from ptb_lm.errors import PtbLmError
from ptb_lm.model import cuda_graph, scoring
from ptb_lm.model.cuda_graph import Result
from ptb_lm.model.decoder import Softmax
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.padding import copy_state_, copy_weights_, padded_copy
from ptb_lm.model.state import detach
from ptb_lm.training import loop
from ptb_lm.training import step as step_module
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.open_run import open_run
from ptb_lm.training.optim import clip_factor, gradient_norm
from ptb_lm.training.run import Run
from ptb_lm.training.step import Stepper

__all__ = ["corpus_folder"]

V, T, B, H = 50, 6, 4, 10


def uncaptured(work: Callable[[], Result]) -> Callable[[], Result]:
    """Stand in for the recorder: warm up as it does, then do the work itself at each call."""
    state = torch.get_rng_state()
    for _ in range(3):
        work()
    torch.set_rng_state(state)
    return work


@pytest.fixture
def as_if_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "stepper_of", lambda run: Stepper(run, uncaptured))


def by_layer(padded: LanguageModel) -> list[tuple[Tensor, tuple[int, ...]]]:
    return [
        (torch.unflatten(p, 0, (4, -1)), (4, H, H)[: p.dim() + 1])
        for p in padded.layers.parameters()
    ]


def test_padded_units_stay_zero_and_change_nothing_in_float64() -> None:
    """30 steps of training beside the network itself, carried state, clip and all."""
    torch.manual_seed(1)
    model = resolve("small", [f"model.hidden_size={H}"]).model
    plain = LanguageModel(model, V).double()
    before = torch.get_rng_state()
    padded = padded_copy(plain, 8)
    assert torch.equal(torch.get_rng_state(), before)
    assert padded.softmax.weight.shape == (V, 16)
    words = torch.randint(V, (30 * T + 1, B))
    states = [plain.zero_state(B), padded.zero_state(B)]
    for step in range(30):
        inputs, targets = words[step * T : step * T + T], words[step * T + 1 : step * T + T + 1]
        values = []
        for which, network in enumerate((plain, padded)):
            output = network(inputs, detach(states[which]))
            states[which] = output.state
            objective = objective_of(network, output, targets)
            objective.backward()
            values.append((objective.item(), clipped_step(list(network.parameters()), 2.0)))
        assert values[0] == pytest.approx(values[1], rel=1e-12)
    for h, c in detach(states[1]):
        assert not h[:, H:].any()
        assert not c[:, H:].any()
    for weight, corner in by_layer(padded):
        outside = weight.detach().clone()
        outside[tuple(slice(size) for size in corner)] = 0
        assert not outside.any()
    assert not padded.embedding.weight[:, H:].any()
    assert not padded.softmax.weight[:, H:].any()

    back = LanguageModel(model, V).double()
    copy_weights_(back, padded)
    for name, value in back.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-10, atol=1e-12)
    narrow = plain.zero_state(B)
    copy_state_(narrow, states[1])
    torch.testing.assert_close(narrow, states[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_clipped_step_is_pytorchs(scale: float, weight_decay: float) -> None:
    torch.manual_seed(2)
    ours = [torch.nn.Parameter(torch.rand(shape)) for shape in ((5, 3), (7,), (2, 2))]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    other = torch.optim.SGD(theirs, lr=0.7)
    for our, their in zip(ours, theirs, strict=True):
        our.grad = torch.randn(our.shape) * scale
        their.grad = our.grad.clone()
    torch.nn.utils.clip_grad_norm_(theirs, 5.0)
    other.step()
    with torch.no_grad():
        for their in theirs:
            their.mul_(1 - weight_decay)
    sgd_step(ours, 0.7 * clip_factor(gradient_norm(ours), 5.0).item(), weight_decay)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)

    kept = [p.detach().clone() for p in ours]
    for our in ours:
        our.grad = torch.full_like(our, math.nan)
    assert gradient_norm(ours).isnan()
    sgd_step(ours, 0.7, weight_decay, skip=1.0)
    assert all(torch.equal(our, old) for our, old in zip(ours, kept, strict=True))


def test_rows_merged_without_a_wait_are_pytorchs_coalesced_ones() -> None:
    """Words that occur once, twice and often; the norm, the step, and the step that is not made."""
    words = torch.tensor([[7, 2, 7, 0], [2, 7, 7, 5], [9, 0, 2, 7]])
    factors = torch.randn(3, 4, 6, dtype=torch.float64)
    weights, norms = [], []
    for sparse in (True, False):
        torch.manual_seed(4)
        embedding = torch.nn.Embedding(11, 6, sparse=sparse, dtype=torch.float64)
        (weight,) = embedding.parameters()
        (embedding(words) * factors).sum().backward()
        if sparse:
            coalesced = weight.grad.coalesce().to_dense()
        norms.append(gradient_norm([weight]).item())
        torch.testing.assert_close(weight.grad.to_dense(), coalesced)
        sgd_step([weight], 0.5, 0.1)
        weights.append(weight)
    assert norms[0] == pytest.approx(norms[1], rel=1e-14)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-14, atol=1e-14)

    kept = weight.detach().clone()
    not_a_number = torch.full((1, 6), math.nan, dtype=torch.float64)
    weight.grad = torch.sparse_coo_tensor([[3]], not_a_number, (11, 6), check_invariants=True)
    assert gradient_norm([weight]).isnan()
    sgd_step([weight], 0.5, 0.1, skip=1.0)
    assert torch.equal(weight, kept)


def test_a_gradient_of_zero_has_a_factor_of_one() -> None:
    assert clip_factor(torch.zeros(()), 5.0) == 1


def figures(run: Run) -> list[dict[str, float]]:
    """What the metrics say, clocks aside."""
    clocks = ("words_per_second", "seconds")
    return [
        {key: value for key, value in line.items() if key not in clocks}
        for line in read_metrics(run.folder.metrics)
    ]


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 10, "dropout": 0.0},
        {"hidden_size": 16, "dropout": 0.0},
        {"hidden_size": 16, "dropout": 0.5},
        {"hidden_size": 16, "dropout": 0.5, "dropout_on": "variational", "tied": "true"},
        {"hidden_size": 10, "dropout": 0.0, "cell": "gru"},
        {"hidden_size": 10, "dropout": 0.0, "cell": "rnn-sigmoid"},
    ],
    ids=str,
)
@pytest.mark.parametrize("weight_decay", [0.0, 1e-3])
def test_captured_steps_train_as_eager_ones_do(
    corpus_folder: Path,
    tmp_path: Path,
    changes: dict[str, object],
    weight_decay: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three epochs; without padding under the same masks."""
    model = {f"model__{key}": value for key, value in changes.items()}
    config = make_config(
        corpus_folder, training__weight_decay=weight_decay, run__log_steps=4, **model
    )
    plain = trained(config, tmp_path / "plain")
    monkeypatch.setattr(loop, "stepper_of", lambda run: Stepper(run, uncaptured))
    captured = trained(config, tmp_path / "captured")
    for ours, theirs in zip(figures(captured), figures(plain), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(figures(plain)) == 27 // 4 + 3
    for name, value in captured.network.state_dict().items():
        torch.testing.assert_close(value, plain.network.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_nobody_looks_at_a_captured_run_between_two_lines_of_metrics(
    corpus_folder: Path, tmp_path: Path, as_if_captured: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """9 windows an epoch, a line each 5 steps: strides end at lines, epochs and the last step."""
    strides = []
    advance = Stepper.advance

    def counted(self: Stepper, rates: list[float]) -> float:
        strides.append(len(rates))
        return advance(self, rates)

    monkeypatch.setattr(Stepper, "advance", counted)
    trained(make_config(corpus_folder, run__log_steps=5), tmp_path / "run", max_steps=17)
    assert strides == [5, 4, 1, 5, 2]


def test_a_text_of_a_single_window_is_enough(
    corpus_folder: Path, tmp_path: Path, as_if_captured: None
) -> None:
    config = make_config(corpus_folder, training__unrolled_steps=40, training__epochs=2)
    captured = trained(config, tmp_path / "captured")
    assert (captured.windows, captured.step) == (1, 2)


@pytest.mark.parametrize("stop_at", [3, 9, 14])
def test_a_captured_run_resumed_is_the_run_that_was_not_stopped(
    corpus_folder: Path, tmp_path: Path, as_if_captured: None, stop_at: int
) -> None:
    config = make_config(corpus_folder, model__hidden_size=16, model__dropout=0.5)
    whole = trained(config, tmp_path / "whole")
    trained(config, tmp_path / "run", max_steps=stop_at)
    resumed = trained(config, tmp_path / "run", resume=True)
    assert figures(resumed) == figures(whole)
    for name, value in resumed.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[name])


@pytest.mark.parametrize("bad", [1, 4, 8])
def test_a_captured_step_without_a_number_is_named_and_updates_nothing(
    corpus_folder: Path,
    tmp_path: Path,
    as_if_captured: None,
    bad: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Found only at the end of the stride, with the weights as they were before that step."""
    config = make_config(corpus_folder, run__log_steps=100)
    expected: list[dict[str, Tensor]] = []
    if bad > 1:
        before = trained(config, tmp_path / "before", max_steps=bad - 1)
        expected.append({k: v.clone() for k, v in before.network.state_dict().items()})
    calls = -3  # of the warm-up

    def with_nan(nll: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nll * (math.nan if calls == bad else 1)

    monkeypatch.setattr(Softmax, "nll", changed_nll(with_nan))
    runs = []
    with pytest.raises(PtbLmError, match=rf"in step {bad} the objective is nan.* not updated"):
        trained(config, tmp_path / "run", before=runs.append)
    assert calls == 9  # the stride went on to the epoch's end
    for weights in expected:
        for name, value in runs[0].network.state_dict().items():
            assert torch.equal(value, weights[name])
    assert not (tmp_path / "run" / "last.pt").exists()


def test_a_capture_that_fails_midway_leaves_no_gradient_behind(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its backward pass has been, its update has not: the first real step must not add to it."""

    def fails_after_backward(work: Callable[[], Result]) -> Callable[[], Result]:
        state = torch.get_rng_state()

        def fail(parameters: object) -> Tensor:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

        with monkeypatch.context() as patch:
            patch.setattr(step_module, "gradient_norm", fail)
            with pytest.raises(RuntimeError):
                work()
        torch.set_rng_state(state)
        return work

    config = make_config(corpus_folder, training__epochs=1)
    plain = trained(config, tmp_path / "plain")
    monkeypatch.setattr(loop, "stepper_of", lambda run: Stepper(run, fails_after_backward))
    captured = trained(config, tmp_path / "captured")
    for name, value in captured.network.state_dict().items():
        torch.testing.assert_close(value, plain.network.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_what_cannot_be_captured_is_done_as_it_is_and_that_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def impossible(work: Callable[[], Result]) -> Callable[[], Result]:
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(cuda_graph, "capture_cuda_graph", impossible)
    for _ in range(2):
        assert cuda_graph.captured(lambda: 7)() == 7
    (line,) = [record.message for record in caplog.records]
    assert "no CUDA graph" in line
    assert "not permitted" in line


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_not_taken_for_a_recording_that_is_impossible(
    monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    def no_memory(work: Callable[[], Result]) -> Callable[[], Result]:
        raise error

    monkeypatch.setattr(cuda_graph, "capture_cuda_graph", no_memory)
    with pytest.raises(RuntimeError) as raised:
        cuda_graph.captured(lambda: 7)
    assert raised.value is error


@pytest.mark.parametrize("streams", [1, 4])
def test_captured_scoring_scores_as_plain_scoring_does(
    streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scoring, "TARGETS_PER_WINDOW", 12)
    torch.manual_seed(3)
    network = LanguageModel(resolve("small", [f"model.hidden_size={H}"]).model, V)
    tokens = torch.randint(V, (127,)).numpy().astype("int32")
    plain = scoring.target_log_probabilities(network, tokens, streams)
    monkeypatch.setattr(scoring, "capture_pays", lambda device, windows: windows == 10)
    recorded = []

    def noted(work: Callable[[], Result]) -> Callable[[], Result]:
        recorded.append(work)
        return uncaptured(work)

    monkeypatch.setattr(scoring, "captured", noted)
    captured = scoring.target_log_probabilities(network, tokens, streams)
    assert torch.equal(captured, plain)
    assert len(recorded) == 1


class Operations(TorchDispatchMode):
    """Notes the operations that are called within."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.names.add(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


READ_BACK = {"_local_scalar_dense", "nonzero", "_unique2", "masked_select", "_coalesce", "equal"}
"""Operations whose result, or its shape, the host has to wait for."""


def test_a_step_reads_nothing_back(corpus_folder: Path, tmp_path: Path) -> None:
    with open_run(make_config(corpus_folder), Path(), tmp_path / "run") as run:
        run.network.train()
        run.state.hidden = run.network.zero_state(5)
        stepper = Stepper(run, uncaptured)
        with Operations() as of_a_step:
            stepper.replay()
        with Operations() as of_a_read:
            float(stepper.nll_sum)
    assert "index" in of_a_step.names  # the window, by an index on the device
    assert not of_a_step.names & READ_BACK
    assert of_a_read.names & READ_BACK == {"_local_scalar_dense"}
