"""Averages of the weights: their mathematics, and what validates, saves and scores them."""

import math
import shutil
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, done, done_json, ptb_lm, train_arguments, write_texts
from short_runs import result, short_config, trained
from torch import Tensor, nn

from ptb_lm.config import Config, EmaConfig, NtAsgdConfig, TailConfig
from ptb_lm.training.averaging import Averager
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.run import Run

KINDS: dict[str, dict[str, object]] = {
    "nt-asgd": {"kind": "nt-asgd", "non_monotone_epochs": 1},
    "tail": {"kind": "tail", "from_epoch": 2},
    "ema": {"kind": "ema", "decay": 0.9},
}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("text"), WORDS, seed=1)


def config_with(kind: str, **changes: object) -> Config:
    """A short run of a rate so great that validation gets worse, so that NT-ASGD begins."""
    values = short_config("text", run__log_steps=1, **changes).model_dump(exclude_none=True)
    return Config.model_validate(values | {"averaging": KINDS[kind]})


def iterates(count: int) -> list[Tensor]:
    return list(torch.randn(count, 3, dtype=torch.float64))


def averaged(averager: Averager, values: list[Tensor], epoch: int = 1) -> Tensor:
    parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    for value in values:
        parameter.data.copy_(value)
        averager.update({"weight": parameter}, epoch)
    return averager.state.average["weight"]


def test_tail_is_the_mean_of_all_iterates_of_its_epochs() -> None:
    averager, values = Averager(TailConfig(kind="tail", from_epoch=3)), iterates(7)
    parameter = nn.Parameter(torch.ones(3, dtype=torch.float64))
    averager.update({"weight": parameter}, 2)
    assert not averager.state.average
    torch.testing.assert_close(averaged(averager, values, 3), torch.stack(values).mean(0))


def test_ema_by_hand() -> None:
    values = iterates(4)
    expected = values[0]
    for value in values[1:]:
        expected = 0.8 * expected + 0.2 * value
    ours = averaged(Averager(EmaConfig(kind="ema", decay=0.8)), values)
    torch.testing.assert_close(ours, expected)


def test_nt_asgd_averages_as_pytorchs_asgd() -> None:
    averager = Averager(NtAsgdConfig(kind="nt-asgd"))
    averager.state.is_triggered = True
    theirs, ours = (nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2))
    asgd = torch.optim.ASGD([theirs], lr=0.1, lambd=0.0, t0=0, weight_decay=0.0)
    for gradient in iterates(9):
        theirs.grad = gradient.clone()
        asgd.step()
        ours.data.sub_(gradient, alpha=0.1)
        averager.update({"weight": ours}, 1)
        expected = asgd.state[theirs]["ax"]
        torch.testing.assert_close(averager.state.average["weight"], expected)


@pytest.mark.parametrize(
    ("window", "perplexities", "triggers"),
    [
        (5, [10, 9, 8, 7, 6, 5, 9], 0),  # the best of the first only is 10
        (5, [10, 9, 8, 7, 6, 5, 11], 7),
        (5, [5, 9, 9, 9, 9, 9, 9], 7),  # not the sixth, which has no more than five before it
        (1, [5, 6, 5.5], 3),
        (1, [5, 4, 4.5, 4.2], 4),
    ],
)
def test_nt_asgd_begins_as_in_the_published_code(
    window: int, perplexities: list[float], triggers: int
) -> None:
    averager = Averager(NtAsgdConfig(kind="nt-asgd", non_monotone_epochs=window))
    begun, published = [], []
    for epoch, perplexity in enumerate(perplexities, 1):
        # awd-lstm-lm's main.py, in words: more than `nonmono` losses so far, and this one is
        # greater than the least of all but the last `nonmono` of them.
        losses = perplexities[: epoch - 1]
        published.append(len(losses) > window and perplexity > min(losses[:-window], default=0))
        averager.after_validation(perplexity)
        begun.append(averager.state.is_triggered)
    first = begun.index(True) + 1 if any(begun) else 0
    assert first == triggers == (published.index(True) + 1 if any(published) else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_run_stopped_after_any_step_ends_as_if_it_had_not(kind: str) -> None:
    """Also across the step at which the average begins."""
    config = config_with(kind, training__epochs=4, training__unrolled_steps=14)
    whole = trained(config, Path("whole"))
    count = whole.averager.state.count
    assert 0 < count < whole.step or kind == "ema"
    for step in range(1, whole.step):
        trained(config, Path("run"), max_steps=step)
        trained(config, Path("run"), resume=True)
        assert result(Path("run")) == result(Path("whole")), step
        shutil.rmtree("run")


@pytest.mark.parametrize("kind", KINDS)
def test_average_is_validated_saved_and_scored(kind: str) -> None:
    config = config_with(kind, training__epochs=5)
    run = trained(config, Path("run"))
    checkpoint = load_checkpoint(Path("run/last.pt"))
    raw, used = checkpoint.raw_weights, checkpoint.weights
    assert any(not torch.equal(raw[name], used[name]) for name in used)
    for name, weight in run.network.weights().items():
        assert torch.equal(weight, raw[name])  # in place again after validation
        assert torch.equal(run.averager.state.average[name], used[name])
    (*_, line) = read_metrics(Path("run/metrics.jsonl"))
    members = done_json("eval", "run", "--split", "valid")["members"]
    assert members[0]["perplexity"] == pytest.approx(line["valid/perplexity"], rel=1e-6)
    done("export", "run", "--out", "model")
    assert done_json("eval", "model", "--split", "valid")["members"][0]["nll"] == pytest.approx(
        members[0]["nll"], rel=1e-7
    )


def test_average_in_the_commands() -> None:
    average = {"averaging__kind": "tail", "averaging__from_epoch": 2}
    out = done(*train_arguments("run", **average)).out
    assert "), averaged weights:" in out
    scores = done_json("average", "run/scores-valid.npz")["members"][0]
    evaluated = done_json("eval", "run", "--split", "valid")["members"][0]
    assert scores["nll"] == pytest.approx(evaluated["nll"], rel=1e-6)
    outcome = ptb_lm(*train_arguments("run", "--resume"))
    assert outcome.code == 2
    assert "averaging.kind was 'tail', asked for 'none'" in outcome.err


def test_training_continues_from_its_own_weights() -> None:
    """The average changes what is validated, and nothing of the training."""

    def train_perplexities(run: Run) -> list[float]:
        return [line["train/perplexity"] for line in read_metrics(run.folder.metrics)]

    plain = trained(short_config("text", run__log_steps=1), Path("plain"))
    for kind in KINDS:
        run = trained(config_with(kind), Path(kind))
        assert train_perplexities(run) == train_perplexities(plain)
        assert math.isfinite(run.state.last_valid_perplexity)
