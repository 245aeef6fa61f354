"""Figures that are no numbers are refused, and very large ones stay narrow."""

import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cli_support import WORDS, contents, done, done_json, ptb_lm, train_arguments, write_texts
from torch import Tensor

from ptb_lm import evaluate, load
from ptb_lm.config import resolve
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.score_file import load_scores, save_scores
from ptb_lm.model.perplexity import figure_text, perplexity
from ptb_lm.training.checkpoint import load_checkpoint, save_checkpoint
from ptb_lm.training.event_file import events_follow_metrics
from ptb_lm.training.progress import Progress, rate_advice
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder
from ptb_lm.training.state import TrainingState
from ptb_lm.training.world import SINGLE_PROCESS

LAST = "runs/a/last.pt"
MANY_DIGITS = re.compile(r"\d{10}")


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("figures")
    write_texts(folder / "text", WORDS, seed=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        done(*train_arguments("runs/a"))
    yield folder


@pytest.fixture
def workplace(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(furnished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only_error(*arguments: str) -> str:
    """Run a command that must end with exit code 1, no result and one line of error."""
    outcome = ptb_lm(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    *before, line = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert not any("error" in each for each in before)
    return line


# How a figure is written


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (3.14159, "3.14"),
        (99_999.99, "99999.99"),
        (99_999.996, "100000.0"),
        (123_456.78, "123456.8"),
        (12_345_678.9, "12345679"),
        (123_456_789.0, "1.23e+08"),
        (1.2345e15, "1.23e+15"),
        (1.2345e300, "1.2e+300"),
        (-1.2345e15, "-1.23e+15"),
        (math.inf, "-"),
        (math.nan, "-"),
    ],
)
def test_figure_text(value: float, shown: str) -> None:
    assert figure_text(value) == shown


@pytest.mark.parametrize("width", [6, 7, 8])
def test_figures_keep_their_width(width: int) -> None:
    for exponent in range(-300, 308):
        for factor in (1.0, 9.994, 9.9996):
            text = figure_text(factor * 10.0**exponent, width=width)
            assert len(text) <= width
            assert float(text) == pytest.approx(factor * 10.0**exponent, rel=0.5, abs=0.01)


@pytest.mark.parametrize("nll", [math.nan, math.inf, -math.inf, 1e6])
def test_no_nll_no_perplexity(nll: float) -> None:
    assert perplexity(nll, 10) == math.inf


# Training


def test_overflow_ends_training(workplace: Path) -> None:
    """The validation NLL is finite, its exponential is not: exit code 1 and no checkpoint."""
    changes = {"training__learning_rate": 300, "training__clip_norm": 1e6, "run__log_steps": 1}
    line = only_error(*train_arguments("runs/bad", **changes))
    for part in ("the training diverged", "after step 29", "nats", "no checkpoint yet"):
        assert part in line
    assert not list(Path("runs/bad").glob("*.pt"))
    assert not list(Path("runs/bad").glob("scores*"))
    metrics = Path("runs/bad/metrics.jsonl").read_text()
    assert "null" in metrics  # the training perplexity, which overflows too
    assert "Infinity" not in metrics


def test_overflow_leaves_last_epoch(workplace: Path) -> None:
    """A rate that grows: what the first epoch saved stays, and the message names it."""
    changes = {"training__constant_epochs": 1, "training__clip_norm": 1e6}
    done(*train_arguments("runs/good", training__epochs=1, **changes))
    line = only_error(*train_arguments("runs/bad", training__decay=1e-4, **changes))
    assert "the last good checkpoint is runs/bad/last.pt, of step 29" in line
    for name in ("last.pt", "best.pt"):
        ours, theirs = (load_checkpoint(Path(f"runs/{run}/{name}")) for run in ("bad", "good"))
        assert all(torch.equal(ours.weights[key], theirs.weights[key]) for key in ours.weights)


def test_diverged_run_is_not_scored_again(workplace: Path) -> None:
    """A finished run of an earlier version, its scores kept: no figure is printed of it."""
    spoil_weights(Path(LAST), Path(LAST), larger(1e4))
    spoil_scores(Path("runs/a"), lambda scores: scores * np.float32(1e4))
    before = contents(Path("runs/a"))
    line = only_error(*train_arguments("runs/a", "--resume"))
    assert line.startswith("error: runs/a/last.pt: test: the perplexity is not a number")
    assert contents(Path("runs/a")) == before


def test_damaged_weights_are_not_resumed(workplace: Path) -> None:
    done(*train_arguments("runs/part", "--max-steps", "20"))
    spoil_weights(Path("runs/part/last.pt"), Path("runs/part/last.pt"), one(math.nan))
    line = only_error(*train_arguments("runs/part", "--resume"))
    assert "runs/part/last.pt: softmax.bias has a weight that is NaN or infinite" in line


def epoch_lines(
    caplog: pytest.LogCaptureFixture, train: float, valid: float, *sets: str, rate: float = 30.0
) -> list[str]:
    """The lines that end an epoch of a run on 10,000 words."""
    caplog.set_level(logging.INFO)
    state = TrainingState(epochs_done=8, seconds=3600.0)
    run = SimpleNamespace(
        state=state,
        config=resolve("medium", [f"training.learning_rate={rate}", *sets]),
        windows=2323,
        world=SINGLE_PROCESS,
        corpus=SimpleNamespace(vocabulary=range(10_000)),
    )
    record = {"train/perplexity": train, "valid/perplexity": valid, "lr": rate}
    with Progress(cast(Run, run)) as bar:
        bar.start_epoch()
        state.finish_epoch(valid, validation_seconds=3600.0)
        bar.finish_epoch({**record, "words_per_second": 119_726.4})
    return caplog.messages


@pytest.mark.parametrize("rate", [30.0, 1e20, 0.000123])
@pytest.mark.parametrize("valid", [1e300, 1.5e15, 12345.678])
@pytest.mark.parametrize("train", [math.inf, 1e303, 2.5e9])
def test_epoch_line_fits(
    caplog: pytest.LogCaptureFixture, train: float, valid: float, rate: float
) -> None:
    line = epoch_lines(caplog, train, valid, rate=rate)[0]
    assert len(line) <= 80
    assert "inf" not in line
    assert re.search(r"train +\S+  ?valid +\S+  ?lr \S+ ", line)


def test_warning_says_what_to_change(caplog: pytest.LogCaptureFixture) -> None:
    _, warning = epoch_lines(caplog, 3e15, 2e15, rate=20.0)
    for part in (
        "validation",
        "10,000 words",
        "optimizer.learning_rate",
        "20 / 35 = 0.571",
        "8.75",
    ):
        assert part in warning
    assert "\n" not in warning


@pytest.mark.parametrize(
    ("rate", "clip_norm", "names_clip"), [(1.0, 1e9, True), (1e6, 5.0, False), (4.0, 5.0, False)]
)
def test_advice_is_plausible(rate: float, clip_norm: float, names_clip: bool) -> None:
    sets = [f"training.learning_rate={rate}", f"training.clip_norm={clip_norm}"]
    advice = rate_advice(resolve("small", sets))
    assert ("optimizer.clip_norm, now 1e+09" in advice) == names_clip
    assert "0.25" not in advice


@pytest.mark.parametrize(
    ("train", "valid"), [(300.0, 1e6), (9000.0, 11_000.0), (12_000.0, 13_000.0), (1e6, 300.0)]
)
def test_ordinary_epochs_give_no_warning(
    caplog: pytest.LogCaptureFixture, train: float, valid: float
) -> None:
    """One that has overfitted, for which a lower rate is no remedy, is among them."""
    assert len(epoch_lines(caplog, train, valid)) == 1


def test_warning_comes_within_the_epoch(workplace: Path) -> None:
    """And once, however long the training stays bad."""
    arguments = train_arguments("runs/bad", training__learning_rate=20, training__epochs=4)
    errors = ptb_lm(*arguments).err.splitlines()
    (place,) = [at for at, line in enumerate(errors) if "optimizer.learning_rate" in line]
    (first, *_) = [at for at, line in enumerate(errors) if line.startswith("epoch 1/4")]
    assert place < first
    assert not any(MANY_DIGITS.search(line) or len(line) > 80 for line in errors[first:])


def test_usual_rate_gives_no_warning(workplace: Path) -> None:
    assert "optimizer.learning_rate" not in done(*train_arguments("runs/b")).err


# Models that give no figure

Spoil = Callable[[dict[str, Tensor]], object]


def one(value: float) -> Spoil:
    return lambda weights: weights["softmax.bias"][3].fill_(value)


def larger(factor: float) -> Spoil:
    return lambda weights: [weight.mul_(factor) for weight in weights.values()]


def spoil_weights(source: Path, path: Path, spoil: Spoil) -> None:
    checkpoint = load_checkpoint(source)
    checkpoint.weights = {name: weight.clone() for name, weight in checkpoint.weights.items()}
    spoil(cast(dict[str, Tensor], checkpoint.weights))
    save_checkpoint(checkpoint, path)


BAD_MODELS = {
    "NaN": one(math.nan),
    "infinite": one(-math.inf),
    "finite weights, no probabilities": larger(1e37),
    "finite probabilities, no perplexity": larger(1e4),
}
FIGURE_COMMANDS = [
    ["eval", "bad.pt"],
    ["eval", "bad.pt", "--json"],
    ["eval", "bad.pt", "--text", "text/test.txt"],
    ["eval", "bad.pt", "--save-scores", "new.npz"],
    ["eval", "bad.pt", "--mc-samples", "2"],
    ["eval", "bad.pt", "--dynamic", "sgd", "--cache", "9"],
    ["eval", LAST, "bad.pt"],
    ["score", "bad.pt", "text/test.txt"],
    ["score", "bad.pt", "text/test.txt", "--json-lines"],
    ["score", "bad.pt", "text/test.txt", "--per-word"],
    ["score", "bad.pt", "text/test.txt", "--continuous"],
    ["export", "bad.pt", "--out", "new"],
]


@pytest.mark.parametrize("spoil", BAD_MODELS.values(), ids=BAD_MODELS.keys())
def test_bad_model_gives_no_figure(workplace: Path, spoil: Spoil) -> None:
    """Every command that measures ends with exit code 1 and a line that names the checkpoint."""
    spoil_weights(Path(LAST), Path("bad.pt"), spoil)
    before = contents(workplace)
    for command in FIGURE_COMMANDS:
        line = only_error(*command)
        assert line.startswith("error: bad.pt: ")
        assert "lower optimizer.learning_rate" in line
    assert contents(workplace) == before


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_weight_gives_no_text(workplace: Path, value: float) -> None:
    """Also where the weight is one that this text would not have met."""
    spoil_weights(
        Path(LAST), Path("bad.pt"), lambda weights: weights["embedding.weight"][3].fill_(value)
    )
    assert "bad.pt: embedding.weight" in only_error("generate", "bad.pt", "--words", "1")


def test_notebook_gets_an_error(workplace: Path) -> None:
    spoil_weights(Path(LAST), Path("bad.pt"), larger(1e4))
    with pytest.raises(PtbLmError, match="not a number") as raised:
        evaluate(load("bad.pt", "cpu"))
    assert not isinstance(raised.value, InputError)


@pytest.mark.parametrize("rate", ["1e4", "1e37"])
def test_dynamic_evaluation_names_its_rate(workplace: Path, rate: str) -> None:
    """The model itself is fine: it is not to be trained again."""
    line = only_error("eval", LAST, "--dynamic", "sgd", "--dynamic-rate", rate)
    assert line.startswith(f"error: {LAST}: test: ")
    assert line.endswith("; lower --dynamic-rate")


# Scores of earlier versions


def spoil_scores(folder: Path, spoil: Callable[[Any], Any]) -> None:
    for path in map(RunFolder(folder).scores, SCORED_SPLITS):
        scores = load_scores(path)
        save_scores(replace(scores, log_probabilities=spoil(scores.log_probabilities)), path)


def one_of_them(value: float) -> Callable[[Any], Any]:
    def spoil(scores: Any) -> Any:
        spoilt = scores.copy()
        spoilt[2] = value
        return spoilt

    return spoil


@pytest.mark.parametrize("spoil", [one_of_them(-math.inf), lambda scores: scores * 1000])
def test_average_gives_no_figure(workplace: Path, spoil: Callable[[Any], Any]) -> None:
    shutil.copytree("runs/a", "runs/b")
    spoil_scores(Path("runs/b"), spoil)
    good, bad = (f"runs/{run}/scores-test.npz" for run in "ab")
    for arguments in ([bad], [good, bad], [bad, good], [good, bad, "--json"]):
        assert only_error("average", *arguments).startswith(f"error: {bad}: test: the perplexity")


def set_metrics(folder: Path, value: object) -> None:
    """Put a value into the place of every perplexity of a run's metrics."""
    metrics = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    changed = [{k: value if "perplexity" in k else v for k, v in line.items()} for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in changed))


def printed_about(*runs: str) -> str:
    """Output and files of report, compare and watch about runs."""
    shown = [
        done("report", *runs, on_terminal=True).out,
        done("report", *runs, "--out", "page").out,
    ]
    shown += [Path("page", name).read_text() for name in ("report.md", "report.json")]
    page = Path("page/report.html").read_text()
    shown.append(re.sub(r"(?s)<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", page))
    for run in runs:
        shown += [done("watch", run).out, json.dumps(done_json("watch", run))]
    if len(runs) > 1:
        shown += [done("compare", *runs).out, json.dumps(done_json("compare", *runs))]
    return "\n".join(shown)


def a_seed(seed: int) -> str:
    """A run folder like that of the first seed."""
    folder = Path(f"runs/seed{seed}")
    shutil.copytree("runs/a", folder)
    config = folder / "config.toml"
    config.write_text(config.read_text().replace("seed = 1\n", f"seed = {seed}\n"))
    return str(folder)


def test_diverged_run_is_shown_as_diverged(workplace: Path) -> None:
    run = a_seed(2)
    spoil_scores(Path(run), lambda scores: scores * 1000)
    set_metrics(Path(run), None)
    for runs in ([run], ["runs/a", run]):
        shown = printed_about(*runs)
        assert not re.search(r"\b(inf|nan|Infinity|NaN)\b", shown)
        assert "diverged" in shown
        shutil.rmtree("page")
    (row,) = done_json("report", run)["others"]
    assert (row["status"], row["valid"]["mean"]) == ("diverged", None)
    assert "valid  diverged (3 columns" in done("watch", run).out


@pytest.mark.parametrize("value", [None, math.nan, math.inf, 10**400, "9", True])
def test_metrics_without_a_number(workplace: Path, value: object) -> None:
    """A perplexity in the metrics that is no number is shown as one that is not there."""
    run = a_seed(2)
    set_metrics(Path(run), value)
    shown = printed_about("runs/a", run)
    assert not re.search(r"\b(inf|nan|Infinity|NaN)\b", shown)
    assert not MANY_DIGITS.search(re.sub(r"\b[0-9a-f]{40,}\b|\d\.\d+", "", shown))
    assert done_json("watch", run)["best_epoch"] is None


@pytest.mark.parametrize("rate", ["0", "-1", "1e308", '"x"', "null"])
def test_report_without_a_positive_rate(workplace: Path, rate: str) -> None:
    """Learning rates that no logarithmic axis can show leave their panel empty."""
    run = a_seed(2)
    metrics = Path(run, "metrics.jsonl")
    metrics.write_text(re.sub(r'"lr": [^,}]+', f'"lr": {rate}', metrics.read_text()))
    assert "report.html" in done("report", run, "--out", "page").out


def test_huge_figures_stay_narrow(workplace: Path) -> None:
    """Perplexities up to 1e282 in all of several seeds, compared too: squares would overflow."""
    runs = []
    for seed, nats in ((2, 300.0), (3, 460.0), (4, 640.0), (5, 650.0)):
        runs.append(a_seed(seed))
        spoil_scores(Path(runs[-1]), lambda scores, nats=nats: 0 * scores - np.float32(nats))
        set_metrics(Path(runs[-1]), math.exp(nats))
    for command in (["report", *runs], ["compare", *runs], *(["watch", run] for run in runs)):
        text = done(*command, on_terminal=command[0] == "report").out
        assert re.search(r"\de\+\d\d\d", text)
        assert not MANY_DIGITS.search(text)
        assert command[0] == "compare" or max(map(len, text.splitlines())) <= 80
    done("report", "runs/a", *runs, "--out", "page")
    assert not MANY_DIGITS.search(Path("page/report.md").read_text())
    (difference,) = done_json("compare", *runs[2:])["differences_from_first"]
    assert difference["test"]["within_seed_spread"] is not None


def test_huge_figures_of_a_model(workplace: Path) -> None:
    """A bad model with a finite perplexity: eval, average and the model card keep it short."""
    spoil_weights(Path(LAST), Path("bad.pt"), larger(300.0))
    shown = done("eval", "bad.pt", "--save-scores", "bad.npz").out
    assert re.search(r"perplexity \d\.\d+e\+\d+ \(", shown)
    shown += done("average", "bad.npz").out + done("export", "bad.pt", "--out", "model").out
    table = Path("model/README.md").read_text().partition("## Perplexity")[2].partition("##")[0]
    assert not MANY_DIGITS.search(shown + table)
    assert re.search(r"\| test \| \d\.\d+e\+\d+ \|", table)


def test_tensorboard_gets_numbers_only(workplace: Path) -> None:
    """It holds float32, in which a perplexity of 1e300 would be infinite."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = RunFolder(Path("runs/a"))
    with events_follow_metrics(folder, 15):
        for step, value in ((1000, 1e300), (1001, 7.5)):
            folder.append_metrics({"step": step, "epoch": 9, "train/perplexity": value})
    events = EventAccumulator("runs/a")
    events.Reload()
    values = [event.value for event in events.Scalars("train/perplexity")]
    assert values[-1] == 7.5
    assert all(map(math.isfinite, values))
