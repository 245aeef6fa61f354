"""Shell completion, by the protocol of each shell: in a process, as a shell asks for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ptb_lm.config import preset_names

PRESETS = preset_names()
COMMAND = [sys.executable, "-m", "ptb_lm"]

# A site module that python imports before anything else: it fails where torch is imported.
NO_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise RuntimeError("torch is imported")

sys.meta_path.insert(0, NoTorch())
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment in which the import of torch fails."""
    (tmp_path / "sitecustomize.py").write_text(NO_TORCH)
    return {**os.environ, "PYTHONPATH": str(tmp_path), "COLUMNS": "30", "HOME": str(tmp_path)}


def ask(environment: dict[str, str], shell: str, **question: str) -> str:
    variables = {"_PTB_LM_COMPLETE": f"complete_{shell}", **question}
    ran = subprocess.run(COMMAND, env=environment | variables, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def in_bash(environment: dict[str, str], line: str) -> list[str]:
    """What bash is offered at the end of a line."""
    words = line.split()
    number = len(words) - (not line.endswith(" "))
    return ask(environment, "bash", COMP_WORDS=line, COMP_CWORD=str(number)).split()


def in_fish(environment: dict[str, str], line: str) -> dict[str, str]:
    """What fish is offered, with the descriptions."""
    question = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    lines = ask(environment, "fish", **question).splitlines()
    return dict(line.split("\t") for line in lines)


def test_the_environment_of_these_tests_would_notice_torch(environment: dict[str, str]) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import torch"], env=environment, capture_output=True, text=True
    )
    assert "torch is imported" in ran.stderr


def test_bash_is_offered_commands_and_options(environment: dict[str, str]) -> None:
    commands = in_bash(environment, "ptb-lm ")
    assert {"train", "watch", "eval", "average", "compare", "report", "data"} <= set(commands)
    assert in_bash(environment, "ptb-lm data ") == ["fetch", "prepare", "info"]
    assert in_bash(environment, "ptb-lm co") == ["compare", "config"]
    options = in_bash(environment, "ptb-lm train --")
    assert {"--config", "--resume", "--max-steps", "--log", "--set"} <= set(options)
    assert in_bash(environment, "ptb-lm watch runs/x --int") == ["--interval"]


VALUES = {
    "train --config": PRESETS,
    "train --data": ["ptb", "synthetic"],
    "train --device": ["auto", "cpu", "cuda"],
    "train --precision": ["auto", "fp32", "tf32", "bf16"],
    "train --log": ["tensorboard"],
    "eval runs/x/last.pt --split": ["train", "valid", "test"],
    "eval runs/x/last.pt --protocol": ["stream", "columns"],
    "bench": PRESETS,
    "config show": PRESETS,
}


@pytest.mark.parametrize("line", VALUES)
def test_bash_is_offered_the_values_of_an_option(line: str, environment: dict[str, str]) -> None:
    values = VALUES[line]
    assert in_bash(environment, f"ptb-lm {line} ") == values
    first = values[0][0]
    begun = [value for value in values if value.startswith(first)]
    assert in_bash(environment, f"ptb-lm {line} {first}") == begun


def test_where_nothing_fits_the_shell_completes_files(environment: dict[str, str]) -> None:
    assert in_bash(environment, "ptb-lm train --config ./") == []
    assert "_files" in ask(environment, "zsh", _TYPER_COMPLETE_ARGS="ptb-lm train --config ./")


def test_zsh_is_offered_values_with_what_they_are(environment: dict[str, str]) -> None:
    offered = ask(environment, "zsh", _TYPER_COMPLETE_ARGS="ptb-lm config show m")
    assert offered.startswith("""_arguments '*: :(("medium":"Zaremba, Sutskever""")
    assert len(offered.splitlines()) == 1
    commands = ask(environment, "zsh", _TYPER_COMPLETE_ARGS="ptb-lm ")
    assert '"watch":"' in commands
    devices = ask(environment, "zsh", _TYPER_COMPLETE_ARGS="ptb-lm train --device ")
    assert all(f'"{device}"' in devices for device in ("auto", "cpu", "cuda"))


def test_fish_is_offered_a_line_for_each_value(environment: dict[str, str]) -> None:
    """However narrow the terminal: a description broken into lines would be words of its own."""
    presets = in_fish(environment, "ptb-lm train --config ")
    assert list(presets) == PRESETS
    assert presets["medium"].endswith('"medium regularized LSTM".')
    assert {"train", "watch", "eval"} <= set(in_fish(environment, "ptb-lm "))
    assert in_fish(environment, "ptb-lm eval --pr").keys() == {"--protocol"}


def test_bash_itself_completes_with_the_script_that_is_installed(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "ptb-lm").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m ptb_lm "$@"\n')
    (tmp_path / "ptb-lm").chmod(0o755)
    variables = environment | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}

    def run_bash(script: str) -> str:
        ran = subprocess.run(
            ["bash", "--norc", "-c", script], env=variables, capture_output=True, text=True
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        return ran.stdout

    shown = run_bash(
        "ptb-lm --show-completion; :"
    )  # a process of its own, so that its parent is bash
    assert "installed in" in run_bash("ptb-lm --install-completion; :")
    (installed,) = (tmp_path / ".bash_completions").iterdir()
    assert installed.read_text().strip() == shown.strip()
    assert str(installed) in (tmp_path / ".bashrc").read_text()
    press_tab = (
        'source "$HOME/.bashrc"; COMP_WORDS=(ptb-lm train --config s); COMP_CWORD=3\n'
        'function=$(complete -p ptb-lm | sed "s/.*-F \\([^ ]*\\).*/\\1/")\n'
        '$function ptb-lm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert run_bash(press_tab).splitlines() == ["small", "synthetic"]
