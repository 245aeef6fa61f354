"""The reproduction script: from a preset to the evidence and the table, and on after a stop."""

import hashlib
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import make_table
import pytest
import reproduce
from cli_support import contents

from ptb_lm import config
from ptb_lm.corpus import download, ptb
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.report.table import BEGIN, END
from ptb_lm.training import progress
from ptb_lm.training.checkpoint import load_checkpoint

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
    assert "| [fp32, 4](results/small-seed4) |" in readme
    assert "old" not in readme
    assert "paper: 114.5" in capsys.readouterr().out

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
