"""A NaN or an infinity ends a run before it reaches a weight or a checkpoint."""

import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import cli_support
import numpy as np
import pytest
import torch
from cli_support import done, ptb_lm, train_arguments, write_texts
from networks import changed_nll
from promises import Tally
from short_runs import (
    Snapshot,
    WholeRun,
    checkpoints_of,
    in_process,
    result,
    short_config,
    snapshot,
    spread,
    strict_json,
    trained,
    weight_bits,
    whole_run,
)
from torch import Tensor

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.score_file import load_scores, save_scores
from ptb_lm.model.decoder import Softmax
from ptb_lm.model.perplexity import perplexity
from ptb_lm.training import loop
from ptb_lm.training.checkpoint import load_checkpoint, save_checkpoint
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder
from ptb_lm.training.schedule import Moment, learning_rate

VALUES = (math.nan, math.inf, -math.inf)
OBJECTIVE, OBJECTIVE_AND_GRADIENT = "the objective alone", "the objective and its gradient"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    return whole_run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def parameters(whole: WholeRun) -> list[str]:
    return list(load_checkpoint(whole.path / "last.pt").weights)


class Injection:
    """Puts a value into one step of a run, and keeps what was there when that step began.

    Attributes:
        weights: of the run at the beginning of that step, by the hash of their bits.
        files: the checkpoints at that moment.
    """

    def __init__(self, place: str, step: int, value: float) -> None:
        self.place, self.step, self.value = place, step, value
        self.steps = 0
        self.weights: Any = None
        self.files: Snapshot = {}

    def into(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def nll_with_value(nll: Tensor) -> Tensor:
            self.steps += 1
            if self.steps != self.step:
                return nll
            self.weights = weight_bits(run)
            self.files = checkpoints_of(run.folder.path)
            if self.place == OBJECTIVE:
                return nll + self.value  # whose gradient is as it was
            if self.place == OBJECTIVE_AND_GRADIENT:
                return nll * self.value
            return nll

        def gradient_with_value(gradient: Tensor) -> Tensor:
            if self.steps != self.step:
                return gradient
            changed = gradient.clone()
            values = changed._values() if changed.is_sparse else changed  # of the embedding
            values.view(-1)[self.step % values.numel()] = self.value  # one number of them all
            return changed

        monkeypatch.setattr(Softmax, "nll", changed_nll(nll_with_value))
        for name, parameter in run.network.named_parameters():
            if name == self.place:
                parameter.register_hook(gradient_with_value)


def what_is_good(step: int, run_dir: Path | str) -> str:
    """What a message is to say of the last good checkpoint, of this step or of none."""
    if not step:
        return "there is no checkpoint yet"
    return f"the last good checkpoint is {run_dir}/last.pt, of step {step}"


def require_strict_log(path: Path) -> None:
    lines = (path / "metrics.jsonl").read_text() if (path / "metrics.jsonl").exists() else ""
    assert not lines or lines.endswith("\n")
    for line in lines.splitlines():
        strict_json(line)


def inject(
    whole: WholeRun,
    path: Path,
    injection: Injection,
    monkeypatch: pytest.MonkeyPatch,
    minutes: float,
) -> None:
    """Train with an injection and without; see that nothing bad came of it."""
    config = short_config(whole.data, run__checkpoint_minutes=minutes)
    opened: list[Run] = []
    with monkeypatch.context() as patch, pytest.raises(PtbLmError) as stopped:

        def before(run: Run) -> None:
            opened.append(run)
            injection.into(run, patch)

        trained(config, path, before=before)
    step = injection.step
    (run,) = opened
    assert run.step == step - 1
    assert weight_bits(run) == injection.weights
    assert checkpoints_of(path) == injection.files
    message = str(stopped.value)
    assert not isinstance(stopped.value, InputError)
    assert "\n" not in message
    rate = learning_rate(config, Moment(step - 1, whole.windows, config.training.epochs))
    for part in (f"step {step} ", "objective", "gradient norm", f"learning rate {rate:.6g};"):
        assert part in message
    good = step - 1 if minutes < 1 else (step - 1) // whole.windows * whole.windows
    assert what_is_good(good, path) in message
    require_strict_log(path)
    trained(config, path, resume=True)
    theirs = result(whole.path, options_too=False)
    assert result(path, options_too=False) == theirs, (injection.place, step, injection.value)


@pytest.mark.promise("not a number")
def test_a_value_that_is_no_number_stops_the_run_before_the_update(
    whole: WholeRun,
    parameters: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Tally,
) -> None:
    """NaN or an infinity is put into the objective and into the gradient of each parameter at each
    step: weights and checkpoint files stay as they were, one line says where the run stands, and
    it resumes to the same bits."""
    rng = random.Random(6)
    places = [OBJECTIVE, OBJECTIVE_AND_GRADIENT, *parameters]
    few = [OBJECTIVE, OBJECTIVE_AND_GRADIENT, *rng.sample(parameters, 3)]
    steps = spread(1, whole.steps, whole.windows, whole.windows + 1, whole.windows // 2)
    tries = [(place, rng.choice(VALUES), rng.choice(steps)) for place in few]
    if tally.full:
        tries = [
            (place, VALUES[(step + index) % len(VALUES)], step)
            for step in range(1, whole.steps + 1)
            for index, place in enumerate(places)
        ]
    for number, (place, value, step) in enumerate(tries):
        path = tmp_path / "run"
        minutes = (10.0, 1e-9)[number % 2]
        inject(whole, path, Injection(place, step, value), monkeypatch, minutes)
        shutil.rmtree(path)
        tally.count("values injected")
        tally.count("of them into a gradient", place in parameters)


@pytest.mark.promise("not a number")
def test_the_command_line_ends_with_one_line_and_code_1(
    whole: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Through the command line: exit code 1, one line; the same command with --resume finishes."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", cli_support.WORDS, seed=1)
    done(*train_arguments("whole"))
    for step in spread(1, 58, tally.amount(45, 5), 29, 30):
        calls = 0

        def with_nan(nll: Tensor, at: int = step) -> Tensor:
            nonlocal calls
            calls += 1
            return nll * math.nan if calls == at else nll

        with monkeypatch.context() as patch:
            patch.setattr(Softmax, "nll", changed_nll(with_nan))
            outcome = ptb_lm(*train_arguments(f"run-{step}"))
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert outcome.err.endswith(f"{line}\n")
        for part in (f"step {step}", "nan", "learning rate", "optimizer.learning_rate"):
            assert part in line
        assert what_is_good((step - 1) // 29 * 29, f"run-{step}") in line
        require_strict_log(Path(f"run-{step}"))
        done(*train_arguments(f"run-{step}", "--resume"))
        assert result(Path(f"run-{step}")) == result(Path("whole"))
        tally.count("commands that ended with code 1")


@pytest.mark.promise("not a number")
def test_a_training_that_truly_diverges_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A rate that overflows in the second epoch, in a process of its own: code 1, one line, and
    the first epoch's checkpoints stand as that epoch left them."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", cli_support.WORDS, seed=1)
    done(*train_arguments("short", training__epochs=1))
    diverging = {"training__constant_epochs": 1, "training__decay": 1e-38}
    outcome = in_process(tmp_path, *train_arguments("run", **diverging))
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.count("error: ") == 1
    line = outcome.err.splitlines()[-1]
    assert line.startswith("error: ")
    assert "step 3" in line  # 30 or a few later
    assert what_is_good(29, "run") in line
    ours, theirs = result(Path("run")), result(Path("short"))
    for part in ("weights", "state", "random_states", "valid_perplexity"):
        assert ours["last"][part] == theirs["last"][part]
        assert ours["best"][part] == theirs["best"][part]
    require_strict_log(Path("run"))
    done("eval", "run/last.pt")
    tally.count("trainings that diverged")


OVERFLOWING = {
    "training__learning_rate": 1.0,
    "training__constant_epochs": 1,
    "training__decay": 1 / 3.3e38,
    "training__clip_norm": 1000.0,
    "training__epochs": 2,
}
"""A recipe whose updates of the second epoch are beyond float32 where a gradient is above 1."""


@pytest.mark.promise("not a number")
@pytest.mark.parametrize("way", ["end of epoch", "checkpoint due", "count of steps"])
def test_an_update_that_overflows_is_in_no_checkpoint(
    whole: WholeRun, tmp_path: Path, way: str, tally: Tally
) -> None:
    """An update that takes finite gradients beyond float32 is seen before the next checkpoint,
    however that comes about."""
    unrolled_steps = 80 if way == "end of epoch" else 40  # one window an epoch, or two
    minutes = 1e-9 if way == "checkpoint due" else 10.0
    config = short_config(
        whole.data,
        **OVERFLOWING,
        training__unrolled_steps=unrolled_steps,
        run__checkpoint_minutes=minutes,
    )
    windows = 80 // unrolled_steps
    trained(config, tmp_path, max_steps=windows)
    trained(
        short_config(
            whole.data,
            **OVERFLOWING | {"training__epochs": 1},
            training__unrolled_steps=unrolled_steps,
        ),
        tmp_path / "good",
    )
    max_steps = windows + 1 if way == "count of steps" else None
    with pytest.raises(PtbLmError) as stopped:
        trained(config, tmp_path, resume=True, max_steps=max_steps)
    assert not isinstance(stopped.value, InputError)
    assert what_is_good(windows, tmp_path) in str(stopped.value)
    for name in ("last.pt", "best.pt"):
        ours = load_checkpoint(tmp_path / name)
        theirs = load_checkpoint(tmp_path / "good" / name)
        for parameter, weight in ours.weights.items():
            assert torch.equal(weight, theirs.weights[parameter])
    require_strict_log(tmp_path)
    tally.count("updates that overflowed")


@pytest.mark.promise("not a number")
@pytest.mark.parametrize("value", VALUES)
def test_a_validation_that_is_not_a_number_replaces_no_checkpoint(
    whole: WholeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Tally,
    value: float,
) -> None:
    """A score of the validation text that is no number ends the run as one in a step does."""
    target_log_probabilities = loop.target_log_probabilities
    for epoch in range(1, 4):
        path = tmp_path / str(epoch)
        epochs = 0
        files: Snapshot = {}

        def with_value(*arguments: Any, at: int = epoch, folder: Path = path) -> Tensor:
            nonlocal epochs, files
            epochs += 1
            scores = target_log_probabilities(*arguments)
            if epochs == at:
                files = checkpoints_of(folder)
                scores[3] = value
            return scores

        with monkeypatch.context() as patch, pytest.raises(PtbLmError) as stopped:
            patch.setattr(loop, "target_log_probabilities", with_value)
            trained(whole.config, path)
        assert epochs == epoch
        assert not isinstance(stopped.value, InputError)
        assert what_is_good(whole.windows * (epoch - 1), path) in str(stopped.value)
        assert checkpoints_of(path) == files
        require_strict_log(path)
        trained(whole.config, path, resume=True)
        assert result(path) == whole.result
        tally.count("validations spoilt")


def diverge(folder: RunFolder) -> None:
    """Give a finished run the figures of a diverged one, as earlier versions kept them."""
    for path in map(folder.scores, SCORED_SPLITS):
        scores = load_scores(path)
        worse = scores.log_probabilities * np.float32(1e4)
        save_scores(replace(scores, log_probabilities=worse), path)
    ends = [{**line, "valid/perplexity": math.inf} for line in read_metrics(folder.metrics)]
    folder.metrics.unlink()
    for line in ends:
        folder.append_metrics(line)


def larger(weights: dict[str, Tensor], factor: float) -> dict[str, Tensor]:
    return {name: weight * factor for name, weight in weights.items()}


@pytest.mark.promise("not a number")
def test_everything_that_is_printed_as_json_is_json(
    whole: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A model so bad that its perplexity overflows: metrics, environment and every --json are
    strict JSON with null for it."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", cli_support.WORDS, seed=1)
    done(*train_arguments("run"))
    diverge(RunFolder(Path("run")))
    lines = [strict_json(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    texts = [Path("run/environment.json").read_text()]
    reported = done("report", "run", "--json", "--out", "report").out
    assert strict_json(reported)["others"][0]["valid"]["mean"] is None
    texts.append(done("data", "info", "--data", "text", "--json").out)
    shutil.copytree("run", "again")
    compared = done("compare", "run", "again", "--json").out
    texts += [reported, Path("report/report.json").read_text(), compared]
    texts.append(done("watch", "run", "--json").out)
    for text in texts:
        assert strict_json(text)
    tally.count("JSON texts of an overflow read strictly", len(texts) + len(lines))


@pytest.mark.parametrize("factor", [1e4, 1e20, 1e38])
def test_a_checkpoint_of_huge_weights_is_evaluated_in_strict_json(
    whole: WholeRun, tmp_path: Path, factor: float
) -> None:
    """Whether the scores are finite or not, eval ends with an object or with one line."""
    checkpoint = load_checkpoint(whole.path / "last.pt")
    checkpoint.weights = larger(dict(checkpoint.weights), factor)
    save_checkpoint(checkpoint, tmp_path / "huge.pt")
    note = tmp_path / "note.txt"
    note.write_text("a b c d e f g h\n" * 20)
    before = snapshot(tmp_path)
    outcome = ptb_lm("eval", str(tmp_path / "huge.pt"), "--text", str(note), "--json")
    if outcome.code == 0:
        (member,) = strict_json(outcome.out)["members"]
        nll = member["nll"]
        expected = None if nll is None else perplexity(nll, member["tokens"])
        finite = expected is not None and math.isfinite(expected)
        assert member["perplexity"] == (expected if finite else None)
    else:
        assert (outcome.code, outcome.out) == (1, "")
        assert len(outcome.err.splitlines()) == 1
    assert snapshot(tmp_path) == before


def test_strict_json_is_what_the_tests_think() -> None:
    """The reader used here refuses what Python's own would let pass."""
    for text in (json.dumps(value) for value in VALUES):
        with pytest.raises(ValueError, match="is not JSON"):
            strict_json(f'{{"a": {text}}}')
