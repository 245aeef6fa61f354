"""Runs a command that the documentation shows as a reader would, in a small world.

What is not ours is not run: see ELSEWHERE. `make` is run with --dry-run, and the commands that it
would run are looked at: that their programs are there, and take the options.
"""

import glob
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager, redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_support import ptb_lm
from processes import free_port
from torch.distributed.run import get_args_parser

from ptb_lm.cli import app

ROOT = Path(__file__).parents[1]

ELSEWHERE = {"git", "rsync", "sbatch"}
"""Programs of others, which need a network or a cluster."""

SHELL = re.compile(r"[|<>;`]|\$\(")
"""What only a shell understands."""

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
SECONDS_A_COMMAND = 540

# Slurm's srun starts its command once a node; of these there is one here.
STAND_INS = {
    "ptb-lm": f'exec {shlex.quote(sys.executable)} -m ptb_lm "$@"',
    "torchrun": f'exec {shlex.join(TORCHRUN)} "$@"',
    "python": f'exec {shlex.quote(sys.executable)} "$@"',
    "scontrol": "echo localhost",
    "srun": 'exec "$@"',
}

SLURM = {
    "SLURM_NNODES": "1",
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NODELIST": "localhost",
    "SLURM_CPUS_PER_TASK": "1",
}


class WrongCommandError(Exception):
    """A command of the documentation that does not do what it says."""


@dataclass
class Reader:
    """Someone who types what a page shows, line by line, in a folder.

    Attributes:
        folder: where the commands are typed.
        environment: of processes.
        namespace: of the page's Python.
    """

    folder: Path
    environment: dict[str, str]
    namespace: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def in_world(cls, folder: Path, world: Path) -> "Reader":
        """Furnish a reader whose processes are of the small world."""
        programs = folder / ".programs"
        programs.mkdir()
        for name, body in STAND_INS.items():
            (programs / name).write_text(f"#!/bin/sh\n{body}\n")
            (programs / name).chmod(0o755)
        environment = {
            **os.environ,
            "COLUMNS": "80",
            "HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(world),
        }
        environment.pop("PTB_LM_DATA_DIR", None)
        return cls(folder, environment)

    def types(self, line: str) -> str:
        """Run a command, and return what it prints on both streams.

        Raises:
            WrongCommandError: it fails, or nobody here knows how to run it.
        """
        if line.startswith("#!"):
            return self._script(line)
        line = re.sub(r"\s+# .*", "", line)
        if SHELL.search(line):
            return self._in_shell(line)
        return "".join(self._one(each.strip()) for each in line.split("&&"))

    def runs_python(self, code: str) -> str:
        """Run a snippet after those before it, and return what it prints."""
        printed = StringIO()
        try:
            with self._inside({}), redirect_stdout(printed):
                exec(code, self.namespace)
        except Exception as error:
            raise WrongCommandError(f"{type(error).__name__}: {error}") from error
        return printed.getvalue()

    @contextmanager
    def _inside(self, variables: Mapping[str, str]) -> Iterator[None]:
        """Be in the folder, in this process, with its environment and some variables more."""
        with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            patch.delenv("PTB_LM_DATA_DIR", raising=False)
            for name, value in {**self.environment, **variables}.items():
                patch.setenv(name, value)
            yield

    def _one(self, line: str) -> str:
        words = shlex.split(line, comments=True)
        variables = {}
        while words and re.match(r"[A-Z_]+=", words[0]):
            name, _, value = words.pop(0).partition("=")
            variables[name] = value
        if not words:
            return ""
        program, *arguments = words
        match program:
            case "ptb-lm":
                return self._ptb_lm(arguments, variables)
            case "torchrun":
                return self._torchrun(arguments, variables)
            case "make":
                check_make(arguments)
            case "." | "source":
                require(arguments == [".venv/bin/activate"], f"{line}: what is that?")
            case "cd":
                require(arguments == ["ptb-lm"], f"{line}: what is there?")
            case "pip":
                check_extra(arguments)
            case _ if program not in ELSEWHERE:
                return self._in_shell(line)
        return ""

    def _ptb_lm(self, arguments: list[str], variables: dict[str, str]) -> str:
        with self._inside(variables):
            expanded = [path for word in arguments for path in _expanded(word)]
            outcome = ptb_lm(*expanded)
        require(outcome.code == 0, f"exit code {outcome.code}: {outcome.err}")
        return outcome.err + outcome.out

    def _in_shell(self, line: str) -> str:
        return self._together([["bash", "-o", "pipefail", "-c", line]])

    def _script(self, script: str) -> str:
        """Run a batch script of Slurm as if its nodes were one."""
        text = script.replace(":29400", f":{free_port()}")
        return self._together([["bash", "-e", "-o", "pipefail", "-c", text]], SLURM)

    def _torchrun(self, arguments: list[str], variables: dict[str, str]) -> str:
        """Run a training in several processes; several machines are all this one."""
        options = get_args_parser().parse_args(arguments)
        require(
            options.module and options.training_script == "ptb_lm",
            "torchrun is to run `-m ptb_lm`",
        )
        machines = int(options.nnodes.partition(":")[0])
        if machines == 1:
            return self._together([[*TORCHRUN, *arguments]], variables)
        port = str(free_port())
        here = [word.replace("node-a:29400", f"localhost:{port}") for word in arguments]
        return self._together([[*TORCHRUN, *here]] * machines, variables)

    def _together(
        self, commands: Sequence[list[str]], variables: dict[str, str] | None = None
    ) -> str:
        """Run processes side by side to their ends, and return what they print."""
        environment = {**self.environment, **(variables or {})}
        deadline = time.monotonic() + SECONDS_A_COMMAND
        printed = []
        with ExitStack() as stack:
            processes = [
                stack.enter_context(
                    subprocess.Popen(
                        command,
                        cwd=self.folder,
                        env=environment,
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.STDOUT,
                        text=True,
                    )
                )
                for command in commands
            ]
            for process in processes:
                stack.callback(process.kill)
            for process in processes:
                out, _ = process.communicate(timeout=max(1, deadline - time.monotonic()))
                printed.append(out)
        codes = [process.returncode for process in processes]
        require(not any(codes), f"exit codes {codes}: {''.join(printed)[-3000:]}")
        return "".join(printed)


def require(condition: object, complaint: str) -> None:
    if not condition:
        raise WrongCommandError(complaint)


def _expanded(word: str) -> list[str]:
    """Expand a pattern as a shell does."""
    if not re.search(r"[*?[]", word):
        return [word]
    return sorted(glob.glob(word)) or [word]  # noqa: PTH207 - a final slash stays


def check_make(arguments: list[str]) -> None:
    """Have make print what it would run, and look at each program and its options."""
    recipe = subprocess.run(
        ["make", "--dry-run", "--always-make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    require(recipe.returncode == 0, recipe.stderr)
    for line in recipe.stdout.replace("\\\n", " ").splitlines():
        for words in simple_commands(line):
            _check_printed(words)


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the commands of a line of shell, and after a ``>`` the file that one writes to."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for token in lexer:
        if set(token) <= set("();<>|&"):
            yield words
            words = [">"] if ">" in token else []
        else:
            words.append(token)
    yield words


def _check_printed(words: list[str]) -> None:
    """Check a command that make prints: its program, and its options where it is ours."""
    while words and (words[0] == "do" or re.match(r"[A-Za-z_]+=", words[0])):
        words.pop(0)
    if not words:
        return
    program = words[0].removeprefix(".venv/bin/")
    if program == "ptb-lm":
        check_usage(words[1:])
    elif program.startswith("python"):
        _check_python(words[1:])
    elif words[0].startswith(".venv/bin/"):
        require(shutil.which(program, path=str(Path(sys.executable).parent)), f"no {program}")
    else:
        known = {">", "echo", "for", "done", "mkdir", "mv", "rm", "test", "touch", "exit", "cp"}
        known |= {"{", "}"}
        require(program in known, f"make runs {words}")


def _check_python(arguments: list[str]) -> None:
    match arguments:
        case ["-m", "ptb_lm", *rest]:
            check_usage(rest)
        case ["-m", "pytest" | "pip" | "venv", *_] | ["-c", *_]:
            pass
        case [script, *rest]:
            path = ROOT / script
            require(path.is_file(), f"{script} is not there")
            source = path.read_text(encoding="utf-8")
            for module in re.findall(r"^from (\w+) import", source, flags=re.MULTILINE):
                beside = path.with_name(f"{module}.py")  # which may have its options
                source += beside.read_text(encoding="utf-8") if beside.exists() else ""
            for option in rest:
                name = option.partition("=")[0]
                if name.startswith("--"):
                    require(f'"{name}"' in source, f"{script} has no option {name}")


def check_extra(arguments: list[str]) -> None:
    """Check that what pip is to install is this package, with an extra that it has."""
    match = re.fullmatch(r"ptb-lm\[([\w,]+)\]", arguments[-1])
    require(match, f"pip {shlex.join(arguments)}: what is that?")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert match is not None
    for extra in match[1].split(","):
        require(re.search(rf"^{extra} = \[", project, flags=re.MULTILINE), f"no extra {extra}")


def commands() -> dict[str, Any]:
    """Return every command by its name, as `data fetch`."""
    found = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        subcommands = getattr(command, "commands", None)
        if subcommands is None:
            found[" ".join(path)] = command
        for name, subcommand in (subcommands or {}).items():
            walk(subcommand, (*path, name))

    walk(program(), ())
    return found


def program() -> Any:
    """Return what holds the commands, and has options of its own."""
    return typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    """Return the names of a command's options."""
    names = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
    return {name for name in names if name.startswith("-")} | {"--help", "--debug"}


def check_usage(words: Sequence[str]) -> None:
    """Check a line of usage, in which words may stand for others: the command, and its options."""
    known = commands()
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in known), None)
    if name is None:  # a group of commands by itself, or what is no command's
        is_group = len(words) == 1 and any(each.startswith(f"{words[0]} ") for each in known)
        is_option = set(words) <= options_of(program())
        require(is_group or is_option, f"ptb-lm {' '.join(words)}: no such command")
        return
    for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(words)):
        require(word in options_of(known[name]), f"ptb-lm {name} has no option {word}")
