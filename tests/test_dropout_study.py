"""The study of dropout: its members are real runs, its text the corpus's head, its table theirs."""

import hashlib
from pathlib import Path

import dropout_study
import make_table
import pytest
import reproduction_page
from cli_support import contents
from test_reproduce_average import TINY

from ptb_lm.corpus import download, ptb
from ptb_lm.corpus.synthetic import synthetic_words
from ptb_lm.errors import InputError
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.evaluation.scores import figure
from ptb_lm.training.metrics import read_metrics


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a small corpus in the published one's place, and a config of a second."""
    files = []
    (tmp_path / "data" / "ptb").mkdir(parents=True)
    for split in ("train", "valid", "test"):
        data = " ".join(synthetic_words()[split][:900]).replace("<eos>", "\n").encode()
        name = f"ptb.{split}.txt"
        (tmp_path / "data" / "ptb" / name).write_bytes(data)
        files.append(ptb.PtbFile(split, name, len(data), hashlib.sha256(data).hexdigest()))
    for module in (ptb, download, dropout_study):
        monkeypatch.setattr(module, "PTB_FILES", tuple(files))
    (tmp_path / "tiny.toml").write_text(
        TINY.partition("[run]")[0].replace("epochs = 8", "epochs = 2")
    )
    monkeypatch.setattr(dropout_study, "CONFIG", tmp_path / "tiny.toml")
    monkeypatch.setattr(dropout_study, "LINES", {"train": 30, "valid": 9, "test": 9})
    monkeypatch.setattr(dropout_study, "WAYS", ("non-recurrent", "all"))
    monkeypatch.setattr(make_table, "main", lambda: None)
    monkeypatch.setenv("PTB_LM_DATA_DIR", "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_study_leaves_evidence_of_each_member_and_its_table(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert reproduction_page.study_block(Path("results")) == "Not yet run."
    monkeypatch.setattr("sys.argv", ["dropout_study.py", "--seeds", "2"])
    assert dropout_study.main() == 0
    source = Path("data/ptb/ptb.train.txt").read_text().splitlines()
    assert Path("runs/dropout-study/text/train.txt").read_text().splitlines() == source[:30]
    folder = Path("results/dropout-study")
    assert sorted(path.name for path in folder.iterdir()) == [
        "all-seed1",
        "all-seed2",
        "non-recurrent-seed1",
        "non-recurrent-seed2",
    ]
    before = contents(folder)
    assert dropout_study.main() == 0  # nothing is made twice
    assert contents(folder) == before

    head, _, paper, everywhere, _, subject = reproduction_page.study_block(
        Path("results")
    ).splitlines()
    assert head.count("|") == paper.count("|") == everywhere.count("|")
    tests = [
        figure(load_scores(folder / f"all-seed{seed}" / "scores-test.npz").log_probabilities)
        for seed in (1, 2)
    ]
    mean = sum(each.perplexity for each in tests) / 2
    deviation = abs(tests[0].perplexity - tests[1].perplexity) / 2**0.5
    assert f"**{mean:.2f} ± {deviation:.2f}** | 2 |" in everywhere
    ends = [
        read_metrics(folder / f"all-seed{seed}" / "metrics.jsonl")[-1]["train/perplexity"]
        for seed in (1, 2)
    ]
    assert f"| {sum(ends) / 2:.2f} ±" in everywhere
    assert "fresh mask" in everywhere
    assert "2 epochs, fp32; " in subject
    assert f"{tests[0].tokens:,} predicted tokens" in subject

    config = folder / "all-seed2" / "config.toml"
    config.write_text(config.read_text().replace('precision = "fp32"', 'precision = "bf16"'))
    with pytest.raises(InputError, match=r"all-seed2: not comparable with .*all-seed1"):
        reproduction_page.study_block(Path("results"))


def test_after_a_member_that_failed_the_tables_are_rewritten_all_the_same(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written: list[None] = []
    monkeypatch.setattr(make_table, "main", lambda: written.append(None))
    monkeypatch.setattr("sys.argv", ["dropout_study.py", "--seeds", "1"])
    Path("runs/dropout-study").mkdir(parents=True)
    Path("runs/dropout-study/all-seed1").write_text("no folder")
    assert dropout_study.main() == 1
    assert len(written) == 1
    assert "the paper's) |" in capsys.readouterr().out
