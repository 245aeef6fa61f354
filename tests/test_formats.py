"""docs/FORMATS.md names every key that the files have, and the numbers of their formats."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, done, train_arguments, write_texts

from ptb_lm.evaluation import score_file
from ptb_lm.evaluation.scores import ScoredText
from ptb_lm.training import checkpoint, exported

PAGE = (Path(__file__).parent.parent / "docs" / "FORMATS.md").read_text(encoding="utf-8")


def named(heading: str) -> str:
    """The section of the page under a heading."""
    return PAGE.partition(f"## {heading}")[2].partition("\n## ")[0]


def missing(keys: object, heading: str) -> list[str]:
    text = named(heading)
    return [key for key in keys if f"`{key}`" not in text]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("text"), WORDS, seed=1)
    done(*train_arguments("run"))
    return Path("run")


def test_files_and_keys_of_a_run_are_named(run: Path) -> None:
    files = {file.name for file in run.iterdir()}
    assert missing(files, "Run folder") == []
    (environment,) = json.loads((run / "environment.json").read_text())
    assert missing(environment, "Run folder") == []
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert missing({key for line in lines for key in line}, "Run folder") == []
    assert missing(torch.load(run / "last.pt", weights_only=True), "Checkpoint") == []


def test_export_and_tables_are_named(run: Path) -> None:
    done("export", "run", "--out", "model", "--onnx")
    assert missing((file.name for file in Path("model").iterdir()), "Exported model") == []
    config = json.loads(Path("model/config.json").read_text())
    sections = {"model", "training", "optimizer", "schedule", "averaging", "run"}
    assert missing(config.keys() - sections, "Exported model") == []
    fields = [field.name for field in dataclasses.fields(ScoredText)]
    assert missing(fields, "Score file") == []
    Path("nbest").write_text("u-1 a b\nu-2 a\n")
    calls = {
        "text/test.txt": [],
        "text/valid.txt": ["--per-word"],
        "nbest": ["--nbest", "numbered"],
    }
    for file, options in calls.items():
        header = done("score", "run", file, *options).out.splitlines()[0].split("\t")
        assert ", ".join(f"`{column}`" for column in header) in named("Tables")


def test_numbers_of_formats() -> None:
    assert PAGE.count(f"## Checkpoint, format {checkpoint.FORMAT}\n") == 1
    assert PAGE.count(f"## Exported model, format {exported.FORMAT}\n") == 1
    assert PAGE.count(f"## Score file, format {score_file.FORMAT}\n") == 1
