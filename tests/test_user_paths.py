"""Paths as users type them: with ``~``, and with bytes that are not UTF-8, in any locale."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_support import assignments, done, done_json, ptb_lm, train_arguments, write_texts
from processes import plain_environment

from ptb_lm import evaluate, export, load, prepare
from ptb_lm.cli import app
from ptb_lm.config import load_config
from ptb_lm.paths import named_path, path_name, utf8_text

LATIN = os.fsdecode(b"caf\xe9")
FEW_STEPS = ("--max-steps", "2")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a corpus, a text and a finished run, and an empty folder beside it."""
    folder = tmp_path_factory.mktemp("template")
    home = folder / "home"
    home.mkdir()
    (folder / "here").mkdir()
    write_texts(home / "text", [*"abcdefgh"], seed=1)
    shutil.copy(home / "text/test.txt", home / "own.txt")
    with chdir(home):
        done(*train_arguments("run"))
    return folder


@pytest.fixture
def home(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The home folder; the current folder is another one, and stays empty."""
    monkeypatch.setenv("HOME", str(workplace / "home"))
    monkeypatch.chdir(workplace / "here")
    yield workplace / "home"
    assert list((workplace / "here").iterdir()) == []


def test_home_in_every_option(home: Path) -> None:
    done(*train_arguments("~/made", *FEW_STEPS, data="~/text"))
    assert load_config(home / "made/config.toml").run.data == str(home / "text")
    done("train", "--resume", "--run-dir=~/made", "--data=~/text", *FEW_STEPS)
    done("eval", "~/run", "--data=~/text", "--text=~/own.txt", "--save-scores=~/s.npz")
    done("average", "~/s.npz")
    done("score", "~/run", "~/own.txt")
    done("generate", "~/run", "--words", "2")
    done("export", "~/run", "--out=~/exported", "--data=~/text", "--data-dir=~")
    done("report", "~/run", "--out=~/report")
    done("compare", "~/run", "~/made")
    done("watch", "~/run", "--once")
    done("data", "prepare", "~/own.txt", "--out=~/prepared")
    assert done_json("data", "info", "--data=~/prepared")["place"] == str(home / "prepared")
    assert (home / "report/report.md").exists()
    assert (home / "exported/config.json").exists()


def test_home_in_configs(home: Path) -> None:
    config = (home / "run/config.toml").read_text().replace('"text"', '"~/text"')
    (home / "mine.toml").write_text(config)
    done("train", "--config=~/mine.toml", "--run-dir=~/made", *FEW_STEPS)
    assert load_config(home / "made/config.toml").run.data == str(home / "text")
    command = ["train", "--config", "small", "--run-dir=~/other", *assignments(), *FEW_STEPS]
    done(*command, "--set", "run.data=~/text")
    done(*command, "--resume", "--set", "run.data=~/text", "--data=~/text")


def test_home_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTB_LM_DATA_DIR", "~/data")
    outcome = ptb_lm("data", "info")
    assert outcome.err.startswith(f"error: {home}/data/ptb: ")
    outcome = ptb_lm("data", "fetch", "--from=~/text")
    assert outcome.err.startswith(f"error: {home}/text/train.txt: ")


def test_home_in_functions(home: Path) -> None:
    for path in ("~/run", Path("~/run")):
        model = load(path)
    scores = evaluate(model, data="~/text", data_dir="~")
    assert evaluate(model, text="~/own.txt").perplexity == scores.perplexity
    export("~/run", "~/exported", data=Path("~/text"))
    prepare(["~/own.txt"], "~/prepared")
    assert load("~/exported").vocabulary.words == model.vocabulary.words


def test_literal_tilde(home: Path, tmp_path: Path) -> None:
    with chdir(home):
        shutil.copytree("text", "~text")
        done(*train_arguments("./~", *FEW_STEPS, data="./~text"))
        assert Path("./~/config.toml").exists()
        done("train", "--resume", "--run-dir", "./~", *FEW_STEPS)
        done("generate", "./~", "--words", "2")
        done("score", "--", "./~", "./~text/test.txt")


def test_unknown_user(home: Path) -> None:
    for arguments in (
        ["score", "~nobody-here/run"],
        train_arguments("~nobody-here/x", data=str(home / "text")),
        train_arguments(str(home / "x"), data="~nobody-here/text"),
        ["data", "info", "--data", "~nobody-here/text"],
        ["data", "fetch", "--from", "~nobody-here/x"],
    ):
        outcome = ptb_lm(*arguments)
        assert (outcome.code, outcome.err.count("\n")) == (2, 1)
        assert "there is no user 'nobody-here'" in outcome.err


def commands(group: typer.Typer) -> Iterator[Any]:
    yield from (each.callback for each in group.registered_commands)
    for each in group.registered_groups:
        assert each.typer_instance is not None
        yield from commands(each.typer_instance)


def test_every_path_of_the_command_line() -> None:
    """Each parameter that is a path has the parser that expands ``~``."""
    found = 0
    for command in commands(app):
        for parameter in inspect.signature(command).parameters.values():
            if "Path" in str(parameter.annotation):
                assert parameter.annotation.__metadata__[0].parser is not None, parameter
                found += 1
    assert found > 15


@pytest.mark.parametrize("path", ["text", "/a/b c", "naïve", "~", "./~", LATIN, f"/x/{LATIN}/y%"])
def test_names_of_paths(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = path_name(path)
    name.encode()
    expected = Path.home() if path == "~" else Path(path)
    assert named_path(name) == (tmp_path / path if path == LATIN else expected)


def test_text_of_any_string() -> None:
    assert utf8_text("é caf\udce9 caf\udcc3\udca9 \ud800") == "é caf\\xe9 café \\ud800"


# What a process of another locale does with folders of both kinds.
CALLS = """
import os, shutil, sys
from ptb_lm.__main__ import main

def call(*arguments):
    print("#", arguments[0], flush=True)
    try:
        main([*arguments])
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

train, names = sys.argv[1:-2], sys.argv[-2:]
for name in names:
    run, data = f"{name}/run", f"{name}/text"
    call(*train, "--config", f"{name}/{name}.toml", "--data", data, "--run-dir", run)
    call("train", "--resume", "--run-dir", run)
    call("eval", run, "--json")
    scores = f"{name}/{name}.npz"
    call("eval", run, "--data", data, "--text", f"{data}/test.txt", "--save-scores", scores)
    call("average", scores, "--json")
    call("score", run, f"{data}/test.txt")
    call("export", run, "--out", f"{name}/exported")
    call("report", run, "--out", f"{name}/report")
    call("watch", run, "--json")
    call("watch", run, "--once")
    shutil.copytree(run, f"{name}/copy")
    call("compare", run, f"{name}/copy")
    call("data", "info", "--data", data, "--json")
    call("data", "prepare", f"{data}/train.txt", "--out", f"{name}/prepared", "--json")
"""
LOCALES: dict[str, dict[str, str]] = {
    "UTF-8": {"LC_ALL": "C.UTF-8"},
    "ASCII": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


@pytest.mark.parametrize("changes", LOCALES.values(), ids=LOCALES.keys())
def test_folders_of_any_name(template: Path, tmp_path: Path, changes: dict[str, str]) -> None:
    names = [b"caf\xe9", "naïve".encode()]
    for name in names:
        folder = tmp_path / os.fsdecode(name)
        shutil.copytree(template / "home/text", folder / "text")
        shutil.copy("configs/small.toml", folder / os.fsdecode(name + b".toml"))
    train = ["train", "--device", "cpu", *assignments()]
    process = subprocess.run(
        [sys.executable, "-c", CALLS, *train, *names],
        cwd=tmp_path,
        env=plain_environment() | {"OMP_NUM_THREADS": "1"} | changes,
        capture_output=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr.decode()
    assert b"caf\xe9/run/last.pt" in process.stdout  # a pipe gets the exact bytes
    for shown, name in (("caf\\xe9", names[0]), ("naïve", names[1])):
        folder = tmp_path / os.fsdecode(name)
        options = load_config(folder / "run/config.toml").run
        assert options.config == shown
        assert (tmp_path / named_path(options.data)).samefile(folder / "text")
        for file in (folder / "report").glob("*.[!p]*"):
            file.read_text(encoding="utf-8")
        exported = json.loads((folder / "exported/config.json").read_bytes())
        assert exported["run"]["data"] == options.data
    printed = [json.loads(line) for line in process.stdout.splitlines() if line.startswith(b"{")]
    assert len(printed) == 2 * 5
    "".join(map(str, printed)).encode()  # no surrogates


@pytest.mark.parametrize(
    "command", [["eval", ""], ["train", "--config", "small", "--run-dir", ""], ["score", "", "-"]]
)
def test_empty_path_is_refused(command: list[str]) -> None:
    """It is that of a variable of the shell that is not set, and not the current folder."""
    outcome = ptb_lm(*command)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "an empty path" in outcome.err
