"""A run that was stopped goes on as if it never had been, and only as what it was."""

import signal
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from pathlib import Path
from typing import Any

import cli_support
import pytest
import torch
from cli_support import contents, done, ptb_lm, train_arguments, write_texts
from promises import Tally
from short_runs import (
    WholeRun,
    checkpoints_of,
    in_process,
    result,
    short_config,
    snapshot,
    spread,
    timeless_metrics,
    trained,
    weight_bits,
    whole_run,
)

from ptb_lm.config import Config, resolve
from ptb_lm.evaluation import evaluate
from ptb_lm.model import scoring
from ptb_lm.stop import Stopped
from ptb_lm.training import progress
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.open_run import FREE_ON_RESUMPTION
from ptb_lm.training.run import Run

OFTEN = 1e-9
"""Minutes between checkpoints that are over after every step."""

SCORES = ("scores-valid.npz", "scores-test.npz")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> WholeRun:
    whole = whole_run(tmp_path_factory.mktemp("whole"))
    state = load_checkpoint(whole.path / "last.pt").state
    assert state is not None
    assert 0 < state.best_epoch < state.epochs_done  # the best so far is to be remembered
    return whole


def steps_to_try(whole: WholeRun, tally: Tally) -> list[int]:
    """Each step in full; else one within an epoch, and one with a validation still to come."""
    return [*range(1, whole.steps + 1)] if tally.full else [4, whole.windows]


def stopped_and_resumed(
    before: Config, after: Config, path: Path, stop_after: int, whole: WholeRun
) -> Run:
    stopped = trained(before, path, max_steps=stop_after)
    assert (stopped.step, stopped.finished) == (stop_after, False)
    torch.manual_seed(stop_after)  # whatever happens in between
    resumed = trained(after, path, resume=True)
    assert resumed.finished
    assert weight_bits(resumed) == whole.result["last"]["weights"]
    return resumed


@pytest.mark.promise("exact resumption")
def test_a_run_stopped_after_any_step_ends_as_if_it_had_not(
    whole: WholeRun, tmp_path: Path, tally: Tally
) -> None:
    """A run of 3 epochs with dropout is stopped after each of its steps and resumed: checkpoints
    (weights, h and c, random states, position, best so far) and metrics are bitwise the same."""
    assert whole.steps == 3 * whole.windows
    for stop_after in spread(1, whole.steps, tally.amount(8, 1), whole.windows, whole.windows + 1):
        path = tmp_path / str(stop_after)
        stopped_and_resumed(whole.config, whole.config, path, stop_after, whole)
        assert result(path) == whole.result, stop_after
        tally.count("stops, each resumed to the same bits")


@pytest.mark.promise("exact resumption")
def test_a_run_may_be_stopped_any_number_of_times(
    whole: WholeRun, tmp_path: Path, tally: Tally
) -> None:
    """One run is stopped and resumed again and again, in full after every step."""
    stops = spread(1, whole.steps, tally.amount(5, 1))
    for stop_after in stops:
        torch.manual_seed(stop_after)
        trained(whole.config, tmp_path, max_steps=stop_after, resume=True)
    trained(whole.config, tmp_path, resume=True)
    assert result(tmp_path) == whole.result
    tally.count("resumptions of one run", len(stops))


@pytest.mark.promise("exact resumption")
@pytest.mark.parametrize(("before", "after"), [(OFTEN, 10.0), (10.0, OFTEN), (OFTEN, OFTEN)])
def test_the_checkpoint_interval_changes_nothing(
    whole: WholeRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tally: Tally,
    before: float,
    after: float,
) -> None:
    """With a checkpoint after every step before the stop, after it, or both, all stays the same."""
    save, saves = Run.save, 0

    def counted(run: Run) -> None:
        nonlocal saves
        saves += 1
        save(run)

    monkeypatch.setattr(Run, "save", counted)
    for stop_after in steps_to_try(whole, tally):
        path, saves = tmp_path / str(stop_after), 0
        stopped_and_resumed(
            short_config(whole.data, run__checkpoint_minutes=before),
            short_config(whole.data, run__checkpoint_minutes=after),
            path,
            stop_after,
            whole,
        )
        assert result(path, options_too=False) == result(whole.path, options_too=False), stop_after
        often = stop_after * (before == OFTEN) + (whole.steps - stop_after) * (after == OFTEN)
        assert often <= saves <= often + 6
        tally.count("checkpoints beside those at the ends of epochs", often)
        tally.count("stops with another checkpoint interval")


@pytest.mark.promise("exact resumption")
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 100)])
def test_the_log_interval_only_chooses_the_lines(
    whole: WholeRun, tmp_path: Path, tally: Tally, before: int, after: int
) -> None:
    """With another log interval after the stop only the lines of the log are others."""
    for stop_after in steps_to_try(whole, tally):
        path = tmp_path / str(stop_after)
        stopped_and_resumed(
            short_config(whole.data, run__log_steps=before),
            short_config(whole.data, run__log_steps=after),
            path,
            stop_after,
            whole,
        )
        expected = [
            line
            for line in whole.result["metrics"]
            if "valid/perplexity" in line
            or line["step"] % (before if line["step"] <= stop_after else after) == 0
        ]
        ours = result(path, options_too=False)
        assert ours.pop("metrics") == expected, stop_after
        assert ours.items() <= result(whole.path, options_too=False).items(), stop_after
        tally.count("stops with another log interval")


@pytest.mark.promise("exact resumption")
def test_a_run_stopped_within_a_validation_validates_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A signal comes at each window of each epoch's validation: the run goes on from there."""
    monkeypatch.setattr(scoring, "TARGETS_PER_WINDOW", 20)  # several windows of so short a text
    whole = whole_run(tmp_path)
    evaluation_windows = scoring.evaluation_windows
    validated = 0

    def counted(*arguments: Any) -> Iterator[Any]:
        nonlocal validated
        for window in evaluation_windows(*arguments):
            validated += 1
            if validated == signal_at:
                signal.raise_signal(signal.SIGTERM)
            yield window

    monkeypatch.setattr(scoring, "evaluation_windows", counted)
    signal_at = 0
    trained(whole.config, tmp_path / "counted")
    assert validated % 3 == 0
    windows = validated // 3
    assert windows > 5
    for signal_at in spread(1, 3 * windows, tally.amount(windows - 1, 1)):
        validated = 0
        path = tmp_path / f"signal-{signal_at}"
        with pytest.raises(Stopped) as stopped:
            trained(whole.config, path)
        assert stopped.value.exit_code == 143
        epochs_done = (signal_at - 1) // windows
        state = load_checkpoint(path / "last.pt").state
        assert state is not None
        assert (state.epochs_done, state.windows_done) == (epochs_done, whole.windows)
        validated = -(10**9)
        trained(whole.config, path, resume=True)
        assert result(path) == whole.result, signal_at
        tally.count("signals within a validation")


@pytest.mark.promise("exact resumption")
def test_another_process_goes_on_as_the_first_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Stopped and resumed through the command line, each in a process of its own: checkpoints,
    metrics, scores and summary are those of a run in one go."""
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", cli_support.WORDS, seed=1)
    summary = done(*train_arguments("whole")).out
    steps = read_step(tmp_path / "whole" / "last.pt")

    def stop_and_resume(stop_after: int) -> None:
        name = f"stopped-{stop_after}"
        stopped = in_process(tmp_path, *train_arguments(name, "--max-steps", str(stop_after)))
        assert (stopped.code, stopped.out) == (0, "")
        assert f"Stopped after step {stop_after};" in stopped.err
        resumed = in_process(tmp_path, *train_arguments(name, "--resume"))
        assert resumed.code == 0, resumed.err
        assert f"Resuming {name} after step {stop_after}." in resumed.err
        assert resumed.out == summary.replace("whole", name)
        assert result(Path(name)) == result(Path("whole"))
        for scores in SCORES:
            assert Path(name, scores).read_bytes() == Path("whole", scores).read_bytes()

    stops = [steps // 2 + 3] if not tally.full else spread(1, steps, 9, steps // 2)
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(stop_and_resume, stops):
            tally.count("runs resumed by another process")


def read_step(checkpoint: Path) -> int:
    """The step a finished run has come to, from the log beside its checkpoint."""
    return timeless_metrics(checkpoint.parent)[-1]["step"]


# A run that is finished.


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two texts, a finished run and one that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / "text", cli_support.WORDS, seed=1)
    write_texts(folder / "other", cli_support.WORDS, seed=2)
    with chdir(folder):
        done(*train_arguments("finished"))
        done(*train_arguments("stopped", "--max-steps", "40"))
    return folder


@pytest.mark.promise("exact resumption")
def test_resuming_a_finished_run_does_nothing_and_says_so(workplace: Path, tally: Tally) -> None:
    """A finished run resumed: no file is touched, it says so, and prints the same summary."""
    before = snapshot(Path("finished"))
    assert {"last.pt", "best.pt", "metrics.jsonl", *SCORES} <= before.keys()
    summary = done(*train_arguments("again")).out.replace("again", "finished")
    variants: list[list[str]] = [
        train_arguments("finished", "--resume"),
        ["train", "--resume", "--run-dir", "finished"],
        train_arguments("finished", "--resume", "--max-steps", "1000"),
        train_arguments("finished", "--resume", "--max-steps", "1"),
        ["train", "--resume", "--run-dir", "finished", "--set", "run.log_steps=7"],
    ]
    for arguments in variants:
        outcome = done(*arguments)
        assert outcome.err == "finished: finished already; there is nothing to do.\n"
        assert outcome.out == summary
        assert snapshot(Path("finished")) == before
        tally.count("resumptions of a finished run")


@pytest.mark.promise("exact resumption")
def test_scores_that_are_missing_are_made_again(workplace: Path, tally: Tally) -> None:
    """A finished run without its score files makes them again, bitwise the same."""
    before = contents(Path("finished"))
    summary = done(*train_arguments("finished", "--resume")).out
    for missing in (SCORES, SCORES[:1], SCORES[1:]):
        for name in missing:
            Path("finished", name).unlink()
        assert done(*train_arguments("finished", "--resume")).out == summary
        assert contents(Path("finished")).keys() == before.keys()
        for name in SCORES:
            assert Path("finished", name).read_bytes() == before[name]
        tally.count("score files made again", len(missing))


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def nothing(data: bytes) -> bytes:
    return b""


def changed(data: bytes) -> bytes:
    return data[:100] + bytes(byte ^ 0xFF for byte in data[100:140]) + data[140:]


@pytest.mark.parametrize("damage", [cut, nothing, changed])
@pytest.mark.parametrize("name", SCORES)
def test_damaged_scores_are_made_again_or_refused_in_one_line(
    workplace: Path, name: str, damage: Callable[[bytes], bytes]
) -> None:
    """Never is a figure printed from them."""
    path = Path("finished", name)
    whole = path.read_bytes()
    summary = done(*train_arguments("finished", "--resume")).out
    path.write_bytes(damage(whole))
    before = snapshot(Path("finished"))
    outcome = ptb_lm(*train_arguments("finished", "--resume"))
    if outcome.code == 0:  # made again, and said so
        assert name in outcome.err
        assert outcome.out == summary
    else:
        assert (outcome.code, outcome.out) == (2, "")
        last_line = outcome.err.splitlines()[-1]
        assert last_line.startswith(f"error: finished/{name}: ")
        assert snapshot(Path("finished")) == before
        path.unlink()
        assert done(*train_arguments("finished", "--resume")).out == summary
    assert path.read_bytes() == whole


@pytest.mark.promise("changed recipe")
def test_more_epochs_go_on_to_what_so_many_would_have_been(
    whole: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """A finished run resumed with more epochs equals one of that many from the start; no score
    file of the shorter one survives."""
    longer = short_config(whole.data, training__epochs=5)
    expected = trained(longer, tmp_path / "expected")
    evaluate.score_finished_run(expected)
    for epochs in range(1, 5):
        path = tmp_path / str(epochs)
        run = trained(short_config(whole.data, training__epochs=epochs), path)
        evaluate.score_finished_run(run)
        assert {*SCORES} <= {file.name for file in path.iterdir()}
        steps_with_scores = []

        def look(
            self: progress.Progress, *done: float, steps: list[int] = steps_with_scores
        ) -> None:
            if any(self.run.folder.path.glob("scores-*")):
                steps.append(self.run.step)

        with monkeypatch.context() as patch:
            patch.setattr(progress.Progress, "advance", look)
            resumed = trained(longer, path, resume=True)
        assert steps_with_scores == []
        evaluate.score_finished_run(resumed)
        # best.pt holds the config of the run as it was when the best epoch ended.
        ours, theirs = result(path), result(tmp_path / "expected")
        for best in (ours["best"], theirs["best"]):
            del best["config"]["training"]["epochs"]
        assert ours == theirs
        for name in ("config.toml", *SCORES):
            assert (path / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()
        tally.count("runs lengthened")


class Crash(BaseException):
    """An end that nothing in the program knows of."""


@pytest.mark.promise("changed recipe")
def test_epochs_added_and_taken_back_leave_the_run_as_it_was(
    whole: WholeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """Resumed with more epochs, killed before a checkpoint, resumed as at first: config and log
    are those of the finished run."""
    trained(whole.config, tmp_path / "run")
    longer = short_config(whole.data, training__epochs=5)

    def crash(self: progress.Progress, *done: float) -> None:
        if self.run.step == whole.steps + 3:
            raise Crash

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(progress.Progress, "advance", crash)
        trained(longer, tmp_path / "run", resume=True)
    again = trained(whole.config, tmp_path / "run", resume=True)
    assert again.finished
    assert result(tmp_path / "run") == whole.result
    expected = (whole.path / "config.toml").read_text()
    assert (tmp_path / "run" / "config.toml").read_text() == expected
    tally.count("epochs added and taken back", 2)


# A recipe that is another.

OTHER_VALUES: dict[str, Any] = {
    "model.cell": "gru",
    "model.embedding_size": 9,
    "model.hidden_sizes": [5, 7, 9],
    "model.layers": 3,
    "model.hidden_size": 9,
    "model.dropout": 0.5,
    "model.dropout_on": "variational",
    "model.masks_per_gate": True,
    "model.tied": True,
    "model.init_range": 0.2,
    "training.batch_size": 4,
    "training.unrolled_steps": 6,
    "training.epochs": 1,
    "optimizer.kind": "adamw",
    "schedule.kind": "linear-to-zero",
    "averaging.kind": "nt-asgd",
    "optimizer.learning_rate": 0.5,
    "schedule.constant_epochs": 1,
    "schedule.decay": 3.0,
    "optimizer.clip_norm": 4.0,
    "optimizer.weight_decay": 0.1,
    "run.data": "other",
    "run.seed": 2,
    "run.precision": "bf16",
    "run.deterministic": True,
}
"""For each key that makes a run what it is, another value; of epochs, fewer."""

BESIDE = {
    "model.masks_per_gate": ["model.dropout_on"],
    "model.hidden_sizes": ["model.layers", "model.hidden_size"],
}
"""Keys that must change with it."""


def beside(key: str) -> list[str]:
    """A key with those that must change with it."""
    return [key, *BESIDE.get(key, [])]


def keys_of_a_recipe() -> list[str]:
    """Each key that a resumption may not change."""
    config = resolve("small")
    return [
        f"{section}.{key}"
        for section in Config.model_fields
        for key in type(getattr(config, section)).model_fields
        if (section, key) not in FREE_ON_RESUMPTION
    ]


def resume_with(run_dir: str, **changes: Any) -> list[str]:
    seed = ["--seed", str(changes.pop("run__seed"))] if "run__seed" in changes else []
    data = changes.pop("run__data", "text")
    return train_arguments(run_dir, "--resume", *seed, data=data, **changes)


def refused(arguments: list[str], run_dir: str) -> str:
    """The one line that a resumption is refused with, nothing in its folder being changed."""
    before = snapshot(Path(run_dir))
    outcome = ptb_lm(*arguments)
    assert (outcome.code, outcome.out) == (2, ""), outcome.err
    (line,) = outcome.err.splitlines()
    assert snapshot(Path(run_dir)) == before
    return line


@pytest.mark.promise("changed recipe")
@pytest.mark.parametrize("run_dir", ["stopped", "finished"])
def test_every_key_of_the_recipe_is_held_to(workplace: Path, tally: Tally, run_dir: str) -> None:
    """Each key of model and training, the seed, the data and the precision changed on --resume:
    refused in one line with key, old and new value, nothing changed."""
    config = tomllib.loads(Path(run_dir, "config.toml").read_text())
    differences = {}
    for key in keys_of_a_recipe():
        section, name = key.split(".")
        old, new = config[section].get(name), OTHER_VALUES[key]
        assert old != new
        changes = {each.replace(".", "__"): OTHER_VALUES[each] for each in beside(key)}
        line = refused(resume_with(run_dir, **changes), run_dir)
        differences[key] = f"{key} was {old!r}, asked for {new!r}"
        assert line.startswith(f"error: {run_dir}/last.pt: ")
        assert differences[key] in line
        assert line.count("asked for") == len(changes)
        tally.count("changes of one key, refused")
    assert differences.keys() == OTHER_VALUES.keys()

    kinds = {key for key in OTHER_VALUES if key.endswith(".kind")}  # which change the other keys
    everything = {k.replace(".", "__"): v for k, v in OTHER_VALUES.items() if k not in kinds}
    line = refused(resume_with(run_dir, **everything), run_dir)
    assert all(differences[key] in line for key in OTHER_VALUES.keys() - kinds)


@pytest.mark.promise("changed recipe")
def test_a_config_file_that_was_edited_is_held_to_the_checkpoint(
    workplace: Path, tally: Tally
) -> None:
    """The folder's own config.toml changed by hand is refused too, and stays as it was edited."""
    path = Path("stopped/config.toml")
    path.write_text(path.read_text().replace("dropout = 0.25", "dropout = 0.3"))
    line = refused(["train", "--resume", "--run-dir", "stopped"], "stopped")
    assert "model.dropout was 0.25, asked for 0.3" in line
    tally.count("edited configs, refused")


@pytest.mark.promise("changed recipe")
@pytest.mark.parametrize(
    "changes",
    [
        {"run__log_steps": 1},
        {"run__checkpoint_minutes": OFTEN},
        {"run__log_steps": 1000, "run__checkpoint_minutes": 1e9},
        pytest.param(
            {"run__device": "auto"},
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="auto is another device"),
        ),
        {"config": "mine.toml"},
    ],
    ids=str,
)
def test_how_a_run_is_made_may_change(
    workplace: Path, tally: Tally, changes: dict[str, Any]
) -> None:
    """Log interval, checkpoint interval, device and the config's name may change: the weights end
    as they would have."""
    arguments = train_arguments("stopped", "--resume", **changes)
    if "config" in changes:
        Path("mine.toml").write_text(done("config", "show", "small").out)
        arguments = train_arguments("stopped", "--resume")
        arguments[arguments.index("small")] = "mine.toml"
    if "run__device" in changes:
        arguments[arguments.index("--device") + 1] = "auto"
    done(*arguments)
    run = tomllib.loads(Path("stopped/config.toml").read_text())["run"]
    for key, value in changes.items():
        assert run[key.removeprefix("run__")] == (value if key != "config" else "mine")
    ours = result(Path("stopped"), options_too=False)
    theirs = result(Path("finished"), options_too=False)
    assert (ours["last"], ours["best"]) == (theirs["last"], theirs["best"])
    for name in SCORES:
        assert Path("stopped", name).read_bytes() == Path("finished", name).read_bytes()
    tally.count("changes of how a run is made, allowed")


@pytest.mark.promise("changed recipe")
@pytest.mark.parametrize("run_dir", ["stopped", "finished"])
def test_texts_that_lie_elsewhere_by_now_are_the_same_data(
    workplace: Path, tally: Tally, run_dir: str
) -> None:
    """The texts moved since are asked for in one line; with ``--data`` saying where they are, the
    run goes on to the same weights and scores."""
    Path("moved").mkdir()
    Path("text").rename("moved/text")
    line = refused(["train", "--resume", "--run-dir", run_dir], run_dir)
    assert line.startswith(f"error: {run_dir}/config.toml: run.data: text: no such folder here; ")
    assert "--data" in line
    done("train", "--resume", "--run-dir", run_dir, "--data", "moved/text")
    assert tomllib.loads(Path(run_dir, "config.toml").read_text())["run"]["data"] == "moved/text"
    ours, theirs = (result(Path(name), options_too=False) for name in (run_dir, "finished"))
    for name in ("last", "best"):
        assert ours[name]["weights"] == theirs[name]["weights"]
    for name in SCORES:
        assert Path(run_dir, name).read_bytes() == Path("finished", name).read_bytes()
    done("train", "--resume", "--run-dir", run_dir)
    tally.count("texts at another place, gone on with")


def test_a_folder_by_set_that_is_not_there_is_said_to_be_of_set(workplace: Path) -> None:
    command = ["train", "--resume", "--run-dir", "stopped", "--set", "run.data=nowhere"]
    assert refused(command, "stopped").startswith("error: --set: run.data: nowhere: no such folder")


def a_new_word(text: str) -> str:
    return text + "entirely new words\n"


def another_order(text: str) -> str:
    return "".join(reversed(text.splitlines(keepends=True)))


def one_word_fewer(text: str) -> str:
    return text.rstrip().rpartition(" ")[0] + "\n"


@pytest.mark.promise("changed recipe")
@pytest.mark.parametrize("run_dir", ["stopped", "finished"])
def test_a_text_that_has_changed_is_refused(workplace: Path, tally: Tally, run_dir: str) -> None:
    """A training or validation text that has changed since is refused; with the old one back, the
    run goes on to the same bits."""
    for split in ("train", "valid"):
        path = Path("text", f"{split}.txt")
        before = path.read_text()
        for change in (a_new_word, another_order, one_word_fewer):
            path.write_text(change(before))
            line = refused(train_arguments(run_dir, "--resume"), run_dir)
            assert line.startswith(f"error: {run_dir}/last.pt: ")
            assert "--data text" in line
            tally.count("changes of a text, refused")
        path.write_text(before)
    done(*train_arguments(run_dir, "--resume"))
    assert result(Path(run_dir)) == result(Path("finished"))


def test_the_checkpoints_stand_where_they_did_before_a_refusal(workplace: Path) -> None:
    """Whoever is refused can go on with the old recipe."""
    before = checkpoints_of(Path("stopped"))
    refused(resume_with("stopped", model__layers=1), "stopped")
    assert checkpoints_of(Path("stopped")) == before
    done(*train_arguments("stopped", "--resume"))
    assert result(Path("stopped")) == result(Path("finished"))
