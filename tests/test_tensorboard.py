"""--log tensorboard: what TensorBoard reads is what metrics.jsonl says, once each."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import cli_support
import numpy as np
import pytest
from cli_support import contents, done, ptb_lm, train_arguments, write_texts
from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from ptb_lm.training.event_file import events_follow_metrics
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.run_folder import RunFolder

LOG = ("--log", "tensorboard")


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", cli_support.WORDS, seed=1)
    return tmp_path


def read_events(run_dir: str) -> EventAccumulator:
    events = EventAccumulator(run_dir, size_guidance={SCALARS: 0})  # all of them
    events.Reload()
    return events


def points(run_dir: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows of a run: step and value of each scalar."""
    return points_of(read_events(run_dir))


def points_of(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    return {
        tag: [(point.step, point.value) for point in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def points_in_metrics(run_dir: str) -> dict[str, list[tuple[int, float]]]:
    """What the metrics hold, as float32; of two lines of one step, a name once."""
    found: dict[str, dict[int, float]] = {}
    for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines():
        record: dict[str, Any] = json.loads(line)
        for key, value in record.items():
            if key != "step" and value is not None:
                found.setdefault(key, {}).setdefault(record["step"], float(np.float32(value)))
    return {key: sorted(values.items()) for key, values in found.items()}


def test_the_events_are_the_metrics() -> None:
    done(*train_arguments("runs/a", *LOG))
    expected = points_in_metrics("runs/a")
    assert expected.keys() == {
        *("epoch", "lr", "train/perplexity", "words_per_second"),
        *("gradient_norm", "valid/perplexity", "seconds"),
    }
    assert len(expected["train/perplexity"]) == 16
    assert [step for step, _ in expected["valid/perplexity"]] == [29, 58]
    assert points("runs/a") == expected


@pytest.mark.parametrize("first", [LOG, ()], ids=["from the start", "from the resumption"])
def test_a_resumption_doubles_no_point_and_lacks_none(first: tuple[str, ...]) -> None:
    done(*train_arguments("runs/a", *first, "--max-steps", "33"))
    before = read_events("runs/a") if first else None
    metrics = Path("runs/a/metrics.jsonl")
    lost = {"step": 36, "epoch": 2, "train/perplexity": 1e9, "lr": 1.0}  # after the checkpoint
    with metrics.open("a") as file:
        file.write(json.dumps(lost) + "\n" + '{"step": 40, "ep')
    done(*train_arguments("runs/a", *LOG, "--resume"))
    assert points("runs/a") == points_in_metrics("runs/a")
    assert sum(file.stat().st_size > 0 for file in RunFolder(Path("runs/a")).event_files) == 1
    if before is not None:  # a TensorBoard that was there all the time
        before.Reload()
        assert points_of(before) == points_in_metrics("runs/a")


def test_of_many_resumptions_no_more_than_two_files_are_left() -> None:
    for steps in range(3, 60, 8):
        done(*train_arguments("runs/a", *LOG, "--resume", "--max-steps", str(steps)))
    names = [file.name for file in RunFolder(Path("runs/a")).event_files]
    assert names == [f"events.out.tfevents.{number:010}.ptb-lm" for number in (7, 8)]
    assert points("runs/a") == points_in_metrics("runs/a")


def test_a_finished_run_is_written_too_and_changes_in_nothing_else() -> None:
    done(*train_arguments("runs/a"))
    before = contents(Path("runs/a"))
    done(*train_arguments("runs/a", *LOG, "--resume"))
    (events,) = RunFolder(Path("runs/a")).event_files
    assert points("runs/a") == points_in_metrics("runs/a")
    events.unlink()
    assert contents(Path("runs/a")) == before


def test_the_log_is_no_part_of_the_run() -> None:
    done(*train_arguments("runs/a", *LOG))
    done(*train_arguments("runs/b"))
    configs = [Path("runs", name, "config.toml").read_bytes() for name in "ab"]
    assert configs[0] == configs[1]
    files = [{path.name for path in Path("runs", name).iterdir()} for name in "ab"]
    assert files[0] - files[1] == {path.name for path in RunFolder(Path("runs/a")).event_files}


def test_overwrite_removes_the_events() -> None:
    done(*train_arguments("runs/a", *LOG))
    done(*train_arguments("runs/a", "--overwrite", "--max-steps", "3"))
    assert RunFolder(Path("runs/a")).event_files == []


def test_two_lines_of_one_step_are_one_point() -> None:
    done(*train_arguments("runs/a", *LOG, run__log_steps=29))
    metrics = read_metrics(Path("runs/a/metrics.jsonl"))
    assert [record["step"] for record in metrics] == [29, 29, 58, 58]
    shown = points("runs/a")
    assert shown == points_in_metrics("runs/a")
    assert [step for step, _ in shown["train/perplexity"]] == [29, 58]
    assert [step for step, _ in shown["gradient_norm"]] == [29, 58]
    assert [step for step, _ in shown["valid/perplexity"]] == [29, 58]


def write_run(*records: dict[str, Any]) -> RunFolder:
    folder = RunFolder(Path("runs/x"))
    folder.path.mkdir(parents=True)
    for record in records:
        folder.append_metrics(record)
    return folder


def test_what_is_no_number_is_left_out_as_the_metrics_have_it_as_null() -> None:
    folder = write_run({"step": 1, "epoch": 1, "train/perplexity": math.inf})
    with events_follow_metrics(folder, 6):
        folder.append_metrics({"step": 2, "epoch": 1, "train/perplexity": math.inf})
        folder.append_metrics({"step": 3, "epoch": 1, "train/perplexity": 9.5})
    folder.append_metrics({"step": 4, "epoch": 1, "train/perplexity": 9.0})  # no longer followed
    assert points("runs/x")["train/perplexity"] == [(3, 9.5)]
    assert points("runs/x")["epoch"] == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_a_point_is_there_for_others_at_once() -> None:
    folder = write_run()
    with events_follow_metrics(folder, 6):
        folder.append_metrics({"step": 1, "epoch": 1, "lr": 0.5})
        assert points("runs/x")["lr"] == [(1, 0.5)]


def test_times_are_those_of_a_run_that_was_never_stopped() -> None:
    lines = [{"step": step, "epoch": 1, "words_per_second": 60.0} for step in (10, 30)]
    end = {"step": 40, "epoch": 1, "words_per_second": 60.0, "seconds": 7.5}
    with events_follow_metrics(write_run(*lines, end), 6):
        pass
    times = [point.wall_time for point in read_events("runs/x").Scalars("words_per_second")]
    assert np.diff(times) == pytest.approx([2.0, 4.5], abs=1e-5)


def test_a_full_disk_ends_the_events_and_not_the_training(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run()
    with events_follow_metrics(folder, 6):
        folder.append_metrics({"step": 1, "epoch": 1, "lr": 0.5})

        def full(*arguments: Any) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr("ptb_lm.training.event_file.EventFile.add", full)
            folder.append_metrics({"step": 2, "epoch": 1, "lr": 0.5})
        folder.append_metrics({"step": 3, "epoch": 1, "lr": 0.5})
    assert len(read_metrics(folder.metrics)) == 3
    (warning,) = caplog.messages
    assert "No space left on device; the training goes on without it" in warning
    assert points("runs/x")["lr"] == [(1, 0.5)]


def test_without_tensorboard_a_line_says_how_to_get_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # makes its import fail
    before = contents(workplace)
    outcome = ptb_lm(*train_arguments("runs/a", *LOG))
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith("error: --log tensorboard: TensorBoard cannot be imported")
    assert outcome.err.endswith("pip install 'ptb-lm[tensorboard]'\n")
    assert contents(workplace) == before
    done(*train_arguments("runs/a"))


def test_neither_tensorflow_nor_its_server_is_imported() -> None:
    code = (
        "import sys, ptb_lm.training.event_file as it\n"
        "assert 'tensorboard' not in sys.modules\n"
        "it.require_log('tensorboard')\n"
        "sys.exit(bool({'tensorflow', 'grpc', 'torch'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
