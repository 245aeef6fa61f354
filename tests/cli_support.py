"""The command line in this process, and a small workplace to use it in."""

import io
import json
import logging
import random
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ptb_lm.__main__ import main

WORDS = ["<unk>", "<unk>", "<unk>", *"abcdefgh"]
SENTENCES = {"train": 60, "valid": 20, "test": 20}

RECIPE = {
    "model.hidden_size": 8,
    "model.dropout": 0.25,
    "training.batch_size": 3,
    "training.unrolled_steps": 5,
    "training.epochs": 2,
    "run.log_steps": 4,
}


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


def assignments(**changes: Any) -> list[str]:
    """The tiny recipe as --set options; a change is written section__key=value."""
    values = {**RECIPE, **{key.replace("__", "."): value for key, value in changes.items()}}
    written = {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in values.items()
    }
    return [word for key, value in written.items() for word in ("--set", f"{key}={value}")]


def train_arguments(
    run_dir: str | None, *options: str, data: str = "text", **changes: Any
) -> list[str]:
    command = ["train", "--config", "small", "--data", data, "--device", "cpu"]
    folder = [] if run_dir is None else ["--run-dir", run_dir]
    return [*command, *folder, *options, *assignments(**changes)]


class Terminal(io.StringIO):
    """A stream that says of itself that a person reads it."""

    def isatty(self) -> bool:
        return True


def ptb_lm(*arguments: str, on_terminal: bool = False) -> Outcome:
    """Run a command as a fresh process would: its own streams, no log handler set up before."""
    torch.set_num_threads(1)  # products this small only lose by a second thread
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    root.handlers = []
    out, err = Terminal() if on_terminal else io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as exit_info:
            main(list(arguments))
    finally:
        root.handlers = handlers
        root.setLevel(level)
    code = exit_info.value.code
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def done(*arguments: str, on_terminal: bool = False) -> Outcome:
    """Run a command that must succeed."""
    outcome = ptb_lm(*arguments, on_terminal=on_terminal)
    assert outcome.code == 0, outcome.err
    return outcome


def done_json(*arguments: str) -> Any:
    """Run a command with --json; anything beside the one object on standard output is an error."""
    return json.loads(done(*arguments, "--json").out)


def write_texts(folder: Path, words: list[str], seed: int) -> None:
    rng = random.Random(seed)
    folder.mkdir()
    for split, sentences in SENTENCES.items():
        lines = (" ".join(rng.choices(words, k=rng.randint(3, 9))) for _ in range(sentences))
        (folder / f"{split}.txt").write_text("".join(f" {line} \n" for line in lines))


def furnish(folder: Path) -> Path:
    """Put into a folder: two corpora, and finished runs of seeds 1 and 2, and on the other one."""
    write_texts(folder / "text", WORDS, seed=1)
    write_texts(folder / "other", [*"ijklm"], seed=2)
    with chdir(folder):
        done(*train_arguments("runs/a"))
        done(*train_arguments("runs/b", "--seed", "2"))
        done(*train_arguments("runs/other", data="other"))
    return folder


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, with the bytes of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }
