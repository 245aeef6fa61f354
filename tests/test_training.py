"""The trainer: schedule, clip, a second implementation beside it, golden losses, resumption."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import sgd_step
from numpy_lstm import NumpyLanguageModel
from torch import nn

from ptb_lm.config import Config, resolve
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.stop import StopFlag
from ptb_lm.training.loop import train
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.open_run import open_run
from ptb_lm.training.optim import clip_factor, gradient_norm
from ptb_lm.training.run import Run
from ptb_lm.training.schedule import Moment, learning_rate

GOLDEN = Path(__file__).parent / "golden_losses.json"


@pytest.fixture
def corpus_folder(tmp_path: Path) -> Path:
    """A thousand sentences' head of the built-in language, as a folder of a user's."""
    folder = tmp_path / "text"
    folder.mkdir()
    words = synthetic_words()
    for split, count in (("train", 330), ("valid", 60), ("test", 60)):
        lines = " ".join(words[split][:count]).replace("<eos>", "\n")
        (folder / f"{split}.txt").write_text(lines + "\n")
    return folder


def make_config(data: Path | str, **changes: object) -> Config:
    values = {
        "model.layers": 2,
        "model.hidden_size": 10,
        "model.dropout": 0.0,
        "training.batch_size": 5,
        "training.unrolled_steps": 7,
        "training.epochs": 3,
        "training.constant_epochs": 1,
        "training.clip_norm": 1.5,
        "run.log_steps": 1,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    assignments = [f"{key}={value}" for key, value in values.items()]
    return resolve("small", assignments, {"data": str(data), "device": "cpu"})


def trained(
    config: Config,
    path: Path,
    *,
    data_dir: Path = Path(),
    max_steps: int | None = None,
    resume: bool = False,
    before: Callable[[Run], object] = lambda run: None,
) -> Run:
    """Open a run, do what is to be done before it, train it, close it."""
    with open_run(config, data_dir, path, resume=resume) as run:
        before(run)
        train(run, StopFlag(), max_steps)
    return run


def in_float64(run: Run) -> None:
    run.network.double()


@pytest.mark.parametrize(
    ("preset", "rates"),
    [
        ("small", {1: 1, 4: 1, 5: 0.5, 6: 0.25, 7: 0.125, 13: 2**-9}),
        ("medium", {1: 1, 6: 1, 7: 1 / 1.2, 8: 1 / 1.44, 39: 1.2**-33}),
        ("large", {1: 1, 14: 1, 15: 1 / 1.15, 16: 1 / 1.3225, 55: 1.15**-41}),
    ],
)
def test_the_learning_rate_of_each_preset_is_the_papers(
    preset: str, rates: dict[int, float]
) -> None:
    config = resolve(preset)
    for epoch, rate in rates.items():
        for step in (10 * (epoch - 1), 10 * epoch - 1):
            moment = Moment(step, 10, config.training.epochs)
            assert learning_rate(config, moment) == pytest.approx(rate, rel=1e-12)


def test_a_rate_that_shrinks_below_all_numbers_is_zero() -> None:
    config = resolve("small", ["training.epochs=100000"])
    assert learning_rate(config, Moment(999_999, 10, 100_000)) == 0.0


@pytest.mark.parametrize(("clip_norm", "factor"), [(6.5, 0.5), (13.0, 1.0), (20.0, 1.0)])
def test_the_clip_is_one_global_norm_over_all_parameters(clip_norm: float, factor: float) -> None:
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1, 1))]
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([[12.0]])]  # together of norm 13
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = gradient_norm(parameters)
    assert norm.item() == pytest.approx(13)
    assert clip_factor(norm, clip_norm).item() == pytest.approx(factor)
    sgd_step(parameters, 0.5 * clip_factor(norm, clip_norm).item())
    for parameter, gradient in zip(parameters, gradients, strict=True):
        torch.testing.assert_close(parameter.data, -0.5 * factor * gradient)
        assert parameter.grad is None


def test_the_norm_loses_none_of_the_small_values() -> None:
    """Of which a softmax over 10,000 words has millions: in one sum, float32 forgets 0.02 %."""
    gradient = torch.randn(10_000, 650, generator=torch.Generator().manual_seed(1))
    weight, rows = nn.Parameter(torch.zeros_like(gradient)), nn.Parameter(torch.zeros(10_000, 650))
    weight.grad = gradient
    words = torch.arange(0, 10_000, 3)
    rows.grad = torch.sparse_coo_tensor(
        words[None], gradient[words], rows.shape, check_invariants=True
    )
    exact = torch.cat([gradient, gradient[words]]).double().norm()
    assert gradient_norm([weight, rows]).item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_numpy_implementation_follows_the_trainer_step_by_step(
    corpus_folder: Path, tmp_path: Path, dropout: float
) -> None:
    """20 steps over two ends of epochs: state carried and reset, rate decayed, clip and dropout."""
    config = make_config(corpus_folder, model__dropout=dropout)
    start: dict[str, torch.Tensor] = {}
    masks: list[torch.Tensor] = []  # what the trainer drew, for the other to apply

    def record(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        if module.training:
            masks.append((output / inputs[0]).detach())

    def prepare(run: Run) -> None:
        run.network.double()
        start.update({name: value.clone() for name, value in run.network.state_dict().items()})
        for place in run.network.drop.values():
            place.register_forward_hook(record)

    run = trained(config, tmp_path / "run", max_steps=20, before=prepare)
    ours = [line for line in read_metrics(run.folder.metrics) if "gradient_norm" in line]
    assert [line["step"] for line in ours] == list(range(1, 21))
    norms = [line["gradient_norm"] for line in ours]
    assert min(norms) < 1.5 < max(norms)  # the clip acts in some steps and not in others
    assert {line["lr"] for line in ours} == {1.0, 0.5, 0.25}

    other = NumpyLanguageModel(start, layers=2)
    stream = run.corpus.splits["train"].astype(int)
    columns = stream[: len(stream) // 5 * 5].reshape(5, -1).T
    windows = (len(columns) - 1) // 7
    assert windows == 9
    nll_of_epoch = 0.0
    for step in range(20):
        epoch, window = divmod(step, windows)
        if window == 0:
            state, nll_of_epoch = other.zero_state(5), 0.0
        inputs = columns[window * 7 : window * 7 + 7]
        targets = columns[window * 7 + 1 : window * 7 + 8]
        step_masks = np.stack([mask.numpy() for mask in masks[3 * step : 3 * step + 3]])
        nll, norm, state = other.step(inputs, targets, state, step_masks, 0.5**epoch, 1.5)
        nll_of_epoch += nll
        assert norm == pytest.approx(ours[step]["gradient_norm"], rel=1e-9)
        per_token = nll_of_epoch / (35 * (window + 1))
        assert per_token == pytest.approx(np.log(ours[step]["train/perplexity"]), rel=1e-9)
    for name, value in run.network.state_dict().items():
        np.testing.assert_allclose(value.numpy(), other.p[name], rtol=0, atol=1e-9)
        assert not np.allclose(value.numpy(), start[name].numpy(), rtol=0, atol=1e-5)


@pytest.mark.corpus
def test_the_numpy_implementation_follows_the_small_model_on_the_penn_treebank(
    data_dir: Path, tmp_path: Path
) -> None:
    """The preset as it is but for the width, on the real data: the trainer's first 20 steps."""
    config = resolve("small", ["model.hidden_size=12", "run.log_steps=1"], {"device": "cpu"})
    start: dict[str, torch.Tensor] = {}

    def prepare(run: Run) -> None:
        start.update(run.network.double().state_dict())
        start.update({name: value.clone() for name, value in start.items()})

    run = trained(config, tmp_path / "run", data_dir=data_dir, max_steps=20, before=prepare)
    other = NumpyLanguageModel(start, layers=2)
    stream = run.corpus.splits["train"]
    columns = stream[: len(stream) // 20 * 20].reshape(20, -1).T
    state, no_masks = other.zero_state(20), np.ones((3, 1, 1, 1))
    for step, line in enumerate(read_metrics(run.folder.metrics)):
        inputs, targets = (columns[20 * step + k : 20 * step + 20 + k] for k in (0, 1))
        _, norm, state = other.step(inputs, targets, state, no_masks, 1.0, 5.0)
        assert norm == pytest.approx(line["gradient_norm"], rel=1e-9)
    for name, value in run.network.state_dict().items():
        np.testing.assert_allclose(value.numpy(), other.p[name], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["without dropout", "with dropout"])
def test_the_losses_are_the_golden_ones(
    corpus_folder: Path, tmp_path: Path, name: str, request: pytest.FixtureRequest
) -> None:
    """A refactoring leaves these alone: the same seed gives the same perplexities as ever.

    Weights and masks come from PyTorch's CPU generator; the figures are in float64, so that
    another processor's summation order does not show.
    """
    if name == "with dropout" and not torch.backends.mkl.is_available():
        pytest.skip("without MKL PyTorch draws other dropout masks from the same seed")
    config = make_config(corpus_folder, model__dropout=0.5 if name == "with dropout" else 0.0)
    run = trained(config, tmp_path / "run", before=in_float64)
    epochs = [line for line in read_metrics(run.folder.metrics) if "valid/perplexity" in line]
    losses = [[line["train/perplexity"], line["valid/perplexity"]] for line in epochs]
    golden = json.loads(GOLDEN.read_text())
    if request.config.getoption("--write-golden-losses"):
        golden[name] = losses
        GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")
    np.testing.assert_allclose(losses, golden[name], rtol=1e-9)


@pytest.mark.parametrize("stop_after", [1, 4, 9, 10, 17, 18, 26])
def test_resuming_after_any_step_gives_bitwise_the_same_weights(
    corpus_folder: Path, tmp_path: Path, stop_after: int
) -> None:
    """Weights, state, random numbers, position, rate, best so far: all go on; dropout is on."""
    config = make_config(corpus_folder, model__dropout=0.5)
    whole = trained(config, tmp_path / "whole")
    stopped = trained(config, tmp_path / "stopped", max_steps=stop_after)
    assert stopped.step == stop_after
    torch.rand(1000)  # whatever happens in between
    resumed = trained(config, tmp_path / "stopped", resume=True)
    for name, value in whole.network.state_dict().items():
        assert torch.equal(value, resumed.network.state_dict()[name]), name
    timeless = [
        [
            {key: line[key] for key in line if key not in ("words_per_second", "seconds")}
            for line in read_metrics(run.folder.metrics)
        ]
        for run in (whole, resumed)
    ]
    assert timeless[0] == timeless[1]
    assert resumed.state.best_valid_perplexity == whole.state.best_valid_perplexity


def test_no_state_leaks_from_validation_into_training(corpus_folder: Path, tmp_path: Path) -> None:
    """With another validation text the trained weights are bitwise the same."""
    weights = []
    for valid in ("these zapas gopen", "a bini norut the lanic lakus"):
        (corpus_folder / "valid.txt").write_text(f"{valid}\n" * 30)
        run = trained(make_config(corpus_folder, model__dropout=0.5), tmp_path / valid[:5])
        weights.append(run.network.state_dict())
    for name, value in weights[0].items():
        assert torch.equal(value, weights[1][name]), name


def test_a_trained_model_comes_near_the_optimum_and_beats_it_by_no_more_than_chance(
    tmp_path: Path,
) -> None:
    """The summed NLL is over d nats below the source's with probability below exp(-d): d = 14."""
    from ptb_lm.corpus.synthetic import optimal_nll
    from ptb_lm.evaluation.evaluate import score_finished_run
    from ptb_lm.evaluation.scores import figure

    config = resolve(
        "synthetic", ["training.epochs=3", "training.constant_epochs=1"], {"data": "synthetic"}
    )
    run = trained(config, tmp_path / "run")
    reached = figure(score_finished_run(run)["test"].log_probabilities)
    best = optimal_nll(synthetic_words()["test"])
    assert reached.nll > best - 14
    assert np.exp((reached.nll - best) / reached.tokens) < 1.15


# Schedules other than the paper's


def shares(kind: str, *keys: str) -> list[float]:
    """The learning rate before each of 40 steps of 4 epochs, and at their end."""
    sets = ["training.epochs=4", f"schedule.kind={kind}", *(f"schedule.{key}" for key in keys)]
    config = resolve("small", sets)
    return [learning_rate(config, Moment(step, 10, 4)) for step in range(41)]


def test_constant_schedule() -> None:
    assert shares("constant") == [1.0] * 41


def test_linear_schedule_ends_at_zero() -> None:
    rates = shares("linear-to-zero", "constant_epochs=1")
    assert rates[:11] == [1.0] * 11
    assert rates[10:] == pytest.approx([1 - step / 30 for step in range(31)])


def test_cosine_schedule() -> None:
    rates = shares("cosine", "warmup_epochs=0.5", "final_share=0.2")
    assert rates[:6] == pytest.approx([step / 5 for step in range(6)])
    fall = [(1 + math.cos(math.pi * step / 35)) / 2 for step in range(36)]
    assert rates[5:] == pytest.approx([0.2 + 0.8 * share for share in fall])


def test_one_cycle_schedule() -> None:
    rates = shares("one-cycle", "initial_share=0.2", "final_phase=0.25")
    assert rates[:31:5] == pytest.approx(
        [0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1, 11 / 15, 7 / 15, 0.2]
    )
    assert rates[30:] == pytest.approx([0.2 * (1 - step / 10) for step in range(11)])


@pytest.mark.parametrize("kind", ["constant", "linear-to-zero", "cosine", "one-cycle"])
def test_each_schedule_trains_and_resumes(corpus_folder: Path, tmp_path: Path, kind: str) -> None:
    values = make_config(corpus_folder).model_dump(exclude_none=True) | {"schedule": {"kind": kind}}
    config = Config.model_validate(values)
    whole = trained(config, tmp_path / "whole")
    for steps in (1, 13, None):
        run = trained(config, tmp_path / "parts", max_steps=steps, resume=steps != 1)
    rates = [line["lr"] for line in read_metrics(whole.folder.metrics)]
    assert rates == [line["lr"] for line in read_metrics(run.folder.metrics)]
    assert (len({*rates}) == 1) == (kind == "constant")
    for name, weight in whole.network.weights().items():
        assert torch.equal(weight, run.network.weights()[name])
