"""The study of adapting at test time: tuned on valid alone, kept at once, and its page."""

import json
import math
import signal
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import adapting_page
import adapting_study as study
import make_table
import pytest
from cli_support import contents, done_json, furnish

from ptb_lm.evaluation import adaptive
from ptb_lm.evaluation.dynamic import Dynamic

EVIDENCE = Path("results/test-time/a.json")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a finished run, and small grids."""
    grids = {
        "sgd": {"rate": (0.01, 0.05, 1e30), "decay": (0.0, 1e-2)},
        "rms": {"rate": (1e-4, 1e-3), "decay": (1e-2,), "epsilon": (3e-3,)},
        "cache": {"size": (10, 30), "theta": (0.0, 0.3)},
    }
    starts = {
        "sgd": {"rate": 0.05, "decay": 1e-2},
        "rms": {"rate": 1e-4, "decay": 1e-2, "epsilon": 3e-3},
        "cache": {"size": 10, "theta": 0.3},
    }
    monkeypatch.setattr(study, "GRIDS", grids)
    monkeypatch.setattr(study, "STARTS", starts)
    monkeypatch.setattr(study, "TUNING_TARGETS", 60)
    monkeypatch.setattr(make_table, "main", lambda: None)
    monkeypatch.setattr("sys.argv", ["adapting_study.py", "a"])
    furnish(tmp_path)
    with chdir(tmp_path):
        yield tmp_path


def test_settings_are_chosen_by_the_validation_text_alone(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read, texts = study.encoded_split, []

    def recorded(model: Any, split: str, *rest: Any) -> Any:
        texts.append(split)
        return read(model, split, *rest)

    reads, read_text = [], study.Study.read

    def noted(self: Any, split: str, dynamic: Any, cache: Any, targets: Any = None) -> Any:
        reads.append((split, targets))
        return read_text(self, split, dynamic, cache, targets)

    monkeypatch.setattr(study, "encoded_split", recorded)
    monkeypatch.setattr(study.Study, "read", noted)
    assert adapting_page.adapting_block(Path("results")) == "Not yet run."
    assert study.main() == 0
    assert set(texts) == {"train", "valid", "test"}
    assert texts[-3:] == ["test"] * 3  # of fixed weights, SGD and RMS, when all else is done
    assert texts.count("test") == 3
    # Whatever is tried is tried on the head of valid; then each text is read as a whole.
    assert len(reads) > 6
    assert set(reads[:-6]) == {("valid", 60)}
    assert sorted(reads[-6:]) == [("test", None)] * 3 + [("valid", None)] * 3

    evidence = json.loads(EVIDENCE.read_text())
    figures, trials = evidence["figures"], evidence["trials"]
    assert figures.keys() == set(adapting_page.WAYS)
    for form in ("sgd", "rms"):
        best = min(trials[form], key=lambda trial: trial["perplexity"] or math.inf)
        settings = figures[form]["settings"]
        assert (settings["dynamic_rate"], settings["dynamic_decay"]) == (
            best["rate"],
            best["decay"],
        )
    best = min(trials["cache"], key=lambda trial: trial["perplexity"])
    chosen = figures["cache"]["settings"]
    assert [chosen[f"cache{key}"] for key in ("", "_theta", "_weight")] == [
        *(best["size"], best["theta"], best["weight"])
    ]
    assert {trial["rate"] for trial in trials["sgd"] if trial["perplexity"] is None} == {1e30}
    assert "| diverged | 1e+30 | 0.01 |" in adapting_page.trials_block(Path("results"))
    page = adapting_page.adapting_block(Path("results"))
    assert page in capsys.readouterr().out
    for way in adapting_page.WAYS:
        reached = figures[way]["test"]["perplexity"]
        assert f"| {figures[way]['valid']['perplexity']:.2f} | **{reached:.2f}** |" in page

    before = contents(checkout)
    assert study.main() == 0  # nothing is made twice
    assert contents(checkout) == before


def test_the_figures_are_what_eval_prints(checkout: Path) -> None:
    assert study.main() == 0
    figures = json.loads(EVIDENCE.read_text())["figures"]
    for way in ("sgd", "rms", "cache", "rms_cache"):
        settings = figures[way]["settings"]
        assert settings.get("dynamic_epsilon", 3e-3) == Dynamic.tuned("rms").epsilon
        options = [
            word
            for key, value in settings.items()
            if key not in ("dynamic_segment", "dynamic_epsilon")
            for word in (f"--{key.replace('_', '-')}", str(value))
        ]
        for split in ("valid", "test"):
            printed = done_json("eval", "runs/a/last.pt", "--split", split, *options)
            (usual,) = printed.pop("members")
            assert usual["nll"] == pytest.approx(figures["usual"][split]["nll"], rel=1e-6)
            (ours,) = printed[way.replace("sgd", "dynamic").replace("rms", "dynamic")]["members"]
            assert ours["tokens"] == figures[way][split]["tokens"]
            assert ours["nll"] == pytest.approx(figures[way][split]["nll"], rel=1e-6)


def test_a_stopped_study_goes_on_by_the_same_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert study.main() == 0
    whole = EVIDENCE.read_bytes()
    EVIDENCE.unlink()
    read, texts = adaptive.AdaptiveNetwork.read, []

    def read_and_signal(self: Any, *window: Any) -> Any:
        texts.append(1)
        if len(texts) == 30:
            signal.raise_signal(signal.SIGTERM)
        return read(self, *window)

    with monkeypatch.context() as patch:
        patch.setattr(adaptive.AdaptiveNetwork, "read", read_and_signal)
        assert study.main() == 143
    assert "stopped by SIGTERM; the same command goes on" in capsys.readouterr().err
    kept = json.loads(EVIDENCE.read_text())["trials"]
    assert len(kept["cache"]) >= 2
    assert adapting_page.adapting_block(Path("results")) == "a: not yet finished."
    assert "| cache | size | theta | weight |" in adapting_page.trials_block(Path("results"))
    assert len(kept["sgd"]) == 2  # and not the third, in which it came
    assert study.main() == 0
    assert EVIDENCE.read_bytes() == whole


def test_evidence_of_other_weights_is_not_gone_on_with(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    EVIDENCE.parent.mkdir(parents=True)
    EVIDENCE.write_text(json.dumps({"weights_sha256": "0" * 64, "tuning_targets": 60}))
    assert study.main() == 2
    assert f"error: {EVIDENCE}: of another weights_sha256" in capsys.readouterr().err


def test_climbing_ends_where_no_neighbour_is_better() -> None:
    grid = {"x": (1.0, 2.0, 3.0, 4.0, 5.0), "y": (10.0, 20.0, 30.0)}
    asked = []

    def value(point: dict[str, float]) -> float:
        asked.append(tuple(point.values()))
        return (point["x"] - 4) ** 2 + (point["y"] / 10 - point["x"] / 4) ** 2

    found = study.climb(grid, {"x": 1.0, "y": 30.0}, value)
    assert found == {"x": 4.0, "y": 10.0}
    assert all(x in grid["x"] and y in grid["y"] for x, y in asked)
    assert study.climb({"x": (1.0,)}, {"x": 1.0}, lambda point: float("nan")) == {"x": 1.0}
