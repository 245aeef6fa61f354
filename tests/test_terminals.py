"""Output on terminals of any size: no escape sequence of a name or a word reaches them."""

import json
import os
import pty
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from contextlib import chdir
from fcntl import ioctl
from pathlib import Path

import pytest
from cli_support import done, ptb_lm, train_arguments, write_texts
from processes import plain_environment

from ptb_lm.compare.side_by_side import read_for_comparison, side_by_side
from ptb_lm.compare.text import side_by_side_text
from ptb_lm.terminal import drop_unusable_sizes, printable, usable_width

EVIL = "\x1b]0;title\x07\x9b31m\u202e"
CONTROLS = {*"\x1b\x07\x9b\u202e"}
SHOWN = printable(EVIL)
WORDS = [f"a{EVIL}b", *"cdefg"]
FOLDER, DATA = f"run{EVIL}", f"data{EVIL}"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and two finished runs, all of which have names and words like that."""
    folder = tmp_path_factory.mktemp("template")
    write_texts(folder / DATA, WORDS, seed=1)
    with chdir(folder):
        done(*train_arguments(FOLDER, data=DATA))
        shutil.copytree(FOLDER, "other")
        config = Path(FOLDER, "config.toml")
        evil = json.dumps(f"small{EVIL}")
        config.write_text(config.read_text().replace('config = "small"', f"config = {evil}"))
        environment = Path(FOLDER, "environment.json")
        environment.write_text(environment.read_text().replace('"cpu"', json.dumps(EVIL)))
    return folder


COMMANDS = {
    "generate": ["generate", FOLDER, "--words", "40", "--prompt", WORDS[0]],
    "score": ["score", FOLDER, f"{DATA}/test.txt", "--per-word"],
    "eval": ["eval", FOLDER, "--text", f"{DATA}/test.txt"],
    "report": ["report", FOLDER],
    "compare": ["compare", FOLDER, "other"],
    "data info": ["data", "info", "--data", DATA],
    "prepare": ["data", "prepare", f"{DATA}/train.txt", "--out", f"made{EVIL}"],
    "export": ["export", FOLDER, "--out", f"made{EVIL}"],
    "config show": ["config", "show", "other/config.toml", "--set", "model.cell=lstm"],
    "train": ["train", "--resume", "--run-dir", FOLDER],
    "watch": ["watch", FOLDER, "--once"],
}


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS.keys())
def test_names_on_a_terminal(workplace: Path, arguments: list[str]) -> None:
    shown = done(*arguments, on_terminal=True).out
    assert not CONTROLS & {*shown.replace("\x1b[", "")}  # rich's own colours
    assert SHOWN in shown or arguments[0] == "config"


@pytest.mark.parametrize(
    "arguments", [COMMANDS["generate"], COMMANDS["score"], COMMANDS["compare"]], ids=" ".join
)
def test_names_in_a_pipe(workplace: Path, arguments: list[str]) -> None:
    outcome = done(*arguments)
    assert EVIL in outcome.out
    assert SHOWN not in outcome.out


def test_columns_of_escaped_names(workplace: Path) -> None:
    compared = side_by_side(read_for_comparison([Path(FOLDER), Path("other")]))
    lines = side_by_side_text(compared, on_terminal=True).splitlines()
    heads, rows = lines[0], [line for line in lines[1:] if line.startswith("  test perplexity")]
    assert printable(FOLDER) in heads
    assert {len(line) for line in rows} == {len(heads)}


def on_terminal(
    *arguments: str,
    cwd: Path,
    size: tuple[int, int] = (24, 80),
    environment: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """Run the program on a terminal of these rows and columns; return its code and output."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    variables = plain_environment() | {"OMP_NUM_THREADS": "1", "TERM": "xterm"}
    for name in ("COLUMNS", "LINES"):
        variables.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "ptb_lm", *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env=variables | (environment or {}),
    )
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # the end, on Linux
        pass
    os.close(ours)
    return process.wait(300), seen


def test_training_on_a_terminal(workplace: Path) -> None:
    code, seen = on_terminal(*train_arguments(f"new{EVIL}", data=DATA), cwd=workplace)
    assert code == 0
    assert f"new{SHOWN}".encode() in seen
    assert b"\x1b" not in seen
    assert b"\x07" not in seen
    assert "\x9b" not in seen.decode()


def test_traceback_on_a_terminal(workplace: Path) -> None:
    code, seen = on_terminal("--debug", "data", "info", "--data", f"no{EVIL}", cwd=workplace)
    assert code == 1
    assert b"Traceback" in seen
    assert b"\x1b" not in seen


SIZES = ["0", "-1", "abc", "", "1", "19", "1000000000", "80.5", "²", "9" * 5000]


@pytest.mark.parametrize("size", SIZES)
def test_unusable_sizes_are_dropped(size: str) -> None:
    environment = {"COLUMNS": size, "TERMINAL_WIDTH": size, "OTHER": "0"}
    drop_unusable_sizes(environment)
    assert environment == {"OTHER": "0"}


def test_usable_sizes_stay() -> None:
    environment = {"COLUMNS": "20", "LINES": "1", "TERMINAL_WIDTH": "132"}
    drop_unusable_sizes(environment)
    assert environment == {"COLUMNS": "20", "LINES": "1", "TERMINAL_WIDTH": "132"}
    assert [usable_width(columns) for columns in (0, 1, 19, 20, 200)] == [80, 80, 80, 20, 200]


@pytest.mark.parametrize("name", ["COLUMNS", "LINES", "TERMINAL_WIDTH"])
def test_size_of_zero(template: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(template)
    monkeypatch.setenv(name, "0")
    assert "epoch 2 of 2" in done("watch", "other", "--once").out
    assert "epoch 2 of 2" in done("watch", "other", "--once", on_terminal=True).out


@pytest.mark.parametrize("variables", [{"COLUMNS": "0"}, {"TERMINAL_WIDTH": "abc"}])
def test_help_at_a_size_of_zero(template: Path, variables: dict[str, str]) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "ptb_lm", "--help"],
        env=plain_environment() | variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "Train and evaluate recurrent language models" in process.stdout


@pytest.mark.parametrize("size", [(0, 0), (24, 1), (1, 12)])
def test_terminals_without_room(template: Path, size: tuple[int, int]) -> None:
    code, seen = on_terminal("watch", "other", "--once", cwd=template, size=size)
    assert code == 0
    assert b"epoch 2 of 2" in seen
    code, seen = on_terminal("--help", cwd=template, size=size)
    assert code == 0
    assert b"Train and evaluate recurrent language models" in seen


def test_error_line_in_a_pipe(empty_workplace: Path) -> None:
    assert f"missing{SHOWN}" in ptb_lm("score", f"missing{EVIL}").err
