"""The reproduction script: from a preset to the evidence and the table, and on after a stop."""

import errno
import hashlib
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import make_table
import pytest
import reproduce
from cli_support import contents
from measured import runs_on_ptb, where_measured
from members import Member

from ptb_lm import config
from ptb_lm.corpus import download, ptb
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.model import layers
from ptb_lm.report.table import BEGIN, END
from ptb_lm.training import progress
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.run_folder import RunFolder

EVIDENCE = {
    "config.toml",
    "environment.json",
    "metrics.jsonl",
    "scores-test.npz",
    "scores-valid.npz",
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small corpus in the place of the published one, and a tiny preset."""
    files = []
    (tmp_path / "data" / "ptb").mkdir(parents=True)
    for split, count in (("train", 3000), ("valid", 90), ("test", 90)):
        words = " ".join(synthetic_words()[split][:count])
        data = words.replace("<eos>", "\n").encode()
        name = f"ptb.{split}.txt"
        (tmp_path / "data" / "ptb" / name).write_bytes(data)
        files.append(ptb.PtbFile(split, name, len(data), hashlib.sha256(data).hexdigest()))
    monkeypatch.setattr(ptb, "PTB_FILES", tuple(files))
    monkeypatch.setattr(download, "PTB_FILES", tuple(files))
    small = (config.presets_folder() / "small.toml").read_text(encoding="utf-8")
    (tmp_path / "configs").mkdir()
    tiny = small.replace("hidden_size = 200", "hidden_size = 8").replace(
        "epochs = 13", "epochs = 2"
    )
    (tmp_path / "configs" / "small.toml").write_text(tiny, encoding="utf-8")
    monkeypatch.setattr(config, "presets_folder", lambda: tmp_path / "configs")
    page = "\n".join(
        f"{BEGIN.format(name=name)}\nold\n{END.format(name=name)}\nafter {name}"
        for name in ("demo", "example", "results")
    )
    (tmp_path / "README.md").write_text(page, encoding="utf-8")
    monkeypatch.setattr(make_table, "ROOT", tmp_path)
    monkeypatch.setenv("PTB_LM_DATA_DIR", "data")
    monkeypatch.setattr("sys.argv", ["reproduce.py", "small", "--seed", "4"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_leaves_its_evidence_and_its_line_in_the_table(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.reproduce()
    results = contents(checkout / "results" / "small-seed4")
    assert results.keys() == EVIDENCE  # and no checkpoint
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    assert "\nlast epoch (2):\n  valid  perplexity" in readme
    assert f"{END.format(name='example')}\nafter example\n" in readme
    assert f"{BEGIN.format(name='results')}\n| model |" in readme
    assert readme.endswith(f"\n{END.format(name='results')}\nafter results")
    line = readme.partition("| small, non-regularized | 120.7 / 114.5 | ")[2].partition("\n")[0]
    assert line.endswith(" % | 1 seed | fp32 |")
    assert "old" not in readme
    # From the checkpoint that was saved, as anyone else would evaluate it.
    assert "runs/small-seed4/last.pt: test perplexity" in capsys.readouterr().out
    for split in ("valid", "test"):
        kept = load_scores(checkout / "results" / "small-seed4" / f"scores-{split}.npz")
        steps = kept.log_probabilities * 1024
        assert (steps == steps.round()).all()

    reproduce.reproduce()  # finished: evaluated anew, to the same evidence
    assert contents(checkout / "results" / "small-seed4") == results


def test_a_stopped_run_goes_on_by_the_same_command(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = progress.Progress.advance

    def stop_after_three(self: progress.Progress, count: int, rate: float) -> None:
        done(self, count, rate)
        if self.run.step == 3:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(progress.Progress, "advance", stop_after_three)
    with pytest.raises(SystemExit) as stopped:
        reproduce.reproduce()
    assert stopped.value.code == 143
    assert not (checkout / "results").exists()
    assert "stopped by SIGTERM" in capsys.readouterr().err
    state = load_checkpoint(checkout / "runs" / "small-seed4" / "last.pt").state
    assert state is not None
    assert state.windows_done == 3
    reproduce.reproduce()
    assert (checkout / "results" / "small-seed4" / "scores-test.npz").exists()


def test_make_torture_starts_where_its_evidence_lies_already() -> None:
    root = Path(__file__).parents[1]
    evidence = root / "results" / "reliability" / "torture.json"
    before = evidence.read_bytes()
    recipe = subprocess.run(
        ["make", "--dry-run", "torture"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    (line,) = [line for line in recipe.splitlines() if "-m pytest" in line]
    command = [sys.executable, *shlex.split(line)[1:], "--collect-only", "--numprocesses", "0"]
    collected = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert collected.returncode == 0, collected.stderr
    assert "test_kills.py" in collected.stdout
    assert evidence.read_bytes() == before


def test_evidence_on_another_text_is_in_no_page(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reproduce.reproduce()
    readme = (checkout / "README.md").read_text(encoding="utf-8")
    (checkout / "text").mkdir()
    for split in ("train", "valid"):
        text = (checkout / "data" / "ptb" / f"ptb.{split}.txt").read_text()
        (checkout / "text" / f"{split}.txt").write_text(text)
    more = ["--seed", "5", "--data", "text", "--name", "a-text"]
    monkeypatch.setattr("sys.argv", ["reproduce.py", "small", *more])
    reproduce.reproduce()
    assert (checkout / "results" / "a-text" / "config.toml").exists()
    assert (checkout / "README.md").read_text(encoding="utf-8") == readme
    assert [run.name for run in runs_on_ptb(checkout / "results")] == ["small-seed4"]


def test_wrong_evidence_rewrites_no_page(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reproduce.reproduce()
    (checkout / "docs").mkdir()
    before = contents(checkout)
    scores = checkout / "results" / "small-seed4" / "scores-test.npz"
    scores.write_bytes(scores.read_bytes()[:-1])
    with pytest.raises(SystemExit) as ended:
        make_table.main()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.endswith(
        "scores-test.npz: not a score file of ptb-lm, or damaged; no page was rewritten\n"
    )
    assert (checkout / "README.md").read_bytes() == before["README.md"]


def test_evidence_that_is_made_again_has_nothing_of_the_old(checkout: Path) -> None:
    reproduce.reproduce()
    kept, run = checkout / "results" / "small-seed4", RunFolder(checkout / "runs" / "small-seed4")
    run.scores("test").unlink()  # as of another run, on data without a test text
    reproduce.keep_evidence(run, kept)
    assert contents(kept).keys() == EVIDENCE - {"scores-test.npz"}


def test_a_place_is_named_once_and_whole() -> None:
    def measured(commit: str | None) -> dict[str, Any]:
        place = {"system": "Linux", "processor": "Z80", "device": "cpu", "threads": 1, "torch": "2"}
        return {"environment": {"commit": commit, **place}}

    place = "Linux, Z80, 1 thread, PyTorch 2."
    digits = "0123456789ab"
    assert where_measured(measured(f"{digits}cdef"), measured(f"{digits}cdef")) == (
        f"Commit {digits}, {place}"
    )
    assert where_measured(measured(f"{digits}cdef+changes"), measured(None)) == (
        f"Commit {digits}+changes, {place} No commit recorded, {place}"
    )


def test_the_precision_asked_for_is_that_of_the_evidence(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["reproduce.py", "small", "--precision", "bf16", "--no-table"])
    monkeypatch.setattr(layers, "has_bfloat16_lstm", lambda: False)  # whatever the processor has
    reproduce.reproduce()
    recorded = (checkout / "results" / "small-bf16-seed1" / "config.toml").read_text()
    assert config.load_config(checkout / "results" / "small-bf16-seed1" / "config.toml")
    assert 'precision = "bf16"' in recorded


def test_evidence_half_copied_is_not_taken_for_whole(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the first time nor when it replaces older evidence."""
    reproduce.reproduce()
    run, member = RunFolder(checkout / "runs" / "small-seed4"), Member("small-seed4", ())
    kept = checkout / "results" / "small-seed4"
    whole = contents(kept)
    (kept / ".config.toml.1.partial").touch()  # as a kill leaves it
    assert member.finished
    write = reproduce.durable_file

    def full(path: Path) -> Any:
        if path.name == "environment.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path)

    monkeypatch.setattr(reproduce, "durable_file", full)
    with pytest.raises(OSError, match="No space"):
        reproduce.keep_evidence(run, kept)
    assert not member.finished
    monkeypatch.setattr(reproduce, "durable_file", write)
    reproduce.keep_evidence(run, kept)
    assert contents(kept) == whole


def test_the_pages_of_the_documentation_are_rewritten(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, end = BEGIN.format(name="a-table"), END.format(name="a-table")
    (checkout / "docs").mkdir()
    (checkout / "docs" / "PAGE.md").write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    monkeypatch.setattr(make_table, "PAGES", {"PAGE.md": lambda results: {"a-table": "new"}})
    monkeypatch.setattr(make_table, "write_figures", lambda results, docs: None)
    reproduce.reproduce()
    page = (checkout / "docs" / "PAGE.md").read_text()
    assert page == f"before\n{begin}\nnew\n{end}\nafter\n"
