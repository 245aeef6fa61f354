"""The page docs/COMMANDS.md, from the command line itself: each command, argument and option."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from config_reference import cell, config_reference

from ptb_lm.cli import app
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.stop import SIGNALS, Stopped
from ptb_lm.training.rendezvous import TOLD_BY_TORCHRUN

NAME = "COMMANDS.md"

HEAD = """\
<!-- made by `make table` from the command line itself; do not edit -->
# Commands

What `--help` says about each command, on one page. A word in capitals stands for a value, `[…]` may
be left out, `...` may be repeated.

{contents}

With every command, `--help` or `-h` prints its help, and `--debug` adds the traceback to the one
line of an error. `ptb-lm --version` prints the version. `ptb-lm --install-completion` makes the
shell complete commands, options and their values at Tab (`--show-completion` prints what that would
install).

S is `ptb` (the Penn Treebank, which `train` and `eval` fetch where it is missing), `synthetic` (the
built-in language), or a folder of your own texts. CKPT is a checkpoint, a run folder (its
`last.pt`), or the folder of an exported model. Results go to standard output, progress and warnings
to standard error.
"""

EXIT_CODES = (
    (0, "done"),
    (PtbLmError.exit_code, "it failed: a disk, a mirror, memory, a training that diverged"),
    (InputError.exit_code, "the call or its input is wrong; nothing has been changed"),
    *((Stopped(number).exit_code, f"{Stopped(number)}, after saving") for number in SIGNALS),
)

ENVIRONMENT = (
    (
        "PTB_LM_DATA_DIR",
        "the data folder, unless `--data-dir` names one; `./data` if neither does",
    ),
    (
        "OMP_NUM_THREADS",
        "PyTorch's: the threads that a process computes with; all cores by default",
    ),
    ("CUDA_VISIBLE_DEVICES", "CUDA's: which GPUs the program may use"),
    (
        f"WORLD_SIZE, {', '.join(TOLD_BY_TORCHRUN)}",
        "set by `torchrun`: which process of how many this is, and where the first one is; see "
        "[DISTRIBUTED.md](DISTRIBUTED.md)",
    ),
    (
        "TORCH_CPP_LOG_LEVEL",
        "PyTorch's: which of its C++ library's messages are shown; `ERROR` by default",
    ),
    ("CUBLAS_WORKSPACE_CONFIG", "NVIDIA's: set by `--deterministic`, unless it is set already"),
    (
        "COLUMNS, NO_COLOR",
        "the width of `--help` and of `ptb-lm watch`, and whether they are plain text",
    ),
    ("HTTPS_PROXY, HTTP_PROXY, NO_PROXY", "for the download of the corpus"),
)

DEFAULT_IN_HELP = re.compile(r"(?:^|[;,] )[Dd]efault:? ")
"""Where a help text begins to tell the default."""

BEYOND_ANY_USE = 2**31
"""A bound of this size is the number format's own."""

PLACEHOLDERS = {"int": "N", "float": "X", "str": "TEXT"}
"""What stands for a value in a usage line, by its type."""

OPEN = {"config": "NAME_OR_FILE", "data": "S"}
"""What stands for the values of options that take others than a shell offers."""


def command_reference() -> str:
    """Return the page."""
    commands = list(_commands(typer.main.get_command(app), "ptb-lm"))
    contents = ["| command | |", "|---|---|"]
    for path, command in commands:
        contents.append(f"| [`{path}`](#{path.replace(' ', '-')}) | {_summary(command)} |")
    sections = [_section(path, command) for path, command in commands]
    codes = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES]
    variables = [
        f"| {', '.join(f'`{name}`' for name in names.split(', '))} | {meaning} |"
        for names, meaning in ENVIRONMENT
    ]
    parts = [
        HEAD.format(contents="\n".join(contents)),
        *sections,
        config_reference(),
        "\n".join(["## Exit codes", "", "| code | |", "|---|---|", *codes, ""]),
        "\n".join(["## Environment variables", "", "| variable | |", "|---|---|", *variables, ""]),
    ]
    return "\n".join(parts)


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Walk the tree: each command that does something, with what calls it."""
    subcommands = getattr(command, "commands", None)
    if subcommands is None:
        if not command.hidden:
            yield path, command
        return
    for name, subcommand in subcommands.items():
        yield from _commands(subcommand, f"{path} {name}")


def _summary(command: Any) -> str:
    return _prose(command.help.partition("\n\n")[0])


def _section(path: str, command: Any) -> str:
    context = command.make_context(path, [], resilient_parsing=True)
    shown = [each for each in command.params if not each.hidden and each.name != "help"]
    arguments = [each for each in shown if each.param_type_name == "argument"]
    options = [each for each in shown if each.param_type_name == "option"]
    required = [_option(each, context) for each in options if each.required]
    optional = ["[OPTIONS]"] if len(options) > len(required) else []
    usage = [path, *map(_argument, arguments), *required, *optional]
    paragraphs = [_prose(each) for each in command.help.split("\n\n")]
    lines = [f"## {path}", "", "```text", " ".join(usage), "```", "", "\n\n".join(paragraphs), ""]
    names = {each.name: _argument(each) for each in arguments if each.help}
    names |= {each.name: _option(each, context) for each in options}
    rows = [
        f"| `{cell(names[each.name])}` | {cell(_explained(each))} | {cell(_default(each))} |"
        for each in [*arguments, *options]
        if each.name in names
    ]
    if rows:
        lines += ["| argument or option | what it is | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _argument(argument: Any) -> str:
    """Return an argument as a usage line has it."""
    name = argument.metavar or argument.name.upper()
    repeated = "..." if argument.nargs != 1 else ""
    return f"{name}{repeated}" if argument.required else f"[{name}{repeated}]"


def _option(option: Any, context: typer.Context) -> str:
    """Return an option with all its names and what stands for its value."""
    names = " / ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    kind = option.display_type(context).strip("<>").removeprefix("list[").removesuffix("]")
    kind = kind.removesuffix(" range")
    offered = [each.value for each in option.shell_complete(context, "") if each.value]
    if option.name in OPEN:
        value = OPEN[option.name]
    elif offered:
        value = "|".join(offered)
    else:
        value = option.metavar or PLACEHOLDERS.get(kind, kind.upper())
    return f"{names} {value}"


def _explained(parameter: Any) -> str:
    """Return what a parameter is: its help up to a default, and its bounds."""
    text = DEFAULT_IN_HELP.split(parameter.help or "")[0].rstrip(".;")
    bounds = ((parameter.min, "at least"), (parameter.max, "at most"))
    notes = [
        f"{word} {bound}"
        for bound, word in bounds
        if bound is not None and abs(bound) < BEYOND_ANY_USE
    ]
    if parameter.param_type_name == "option" and parameter.multiple and "repeat" not in text:
        notes.append("repeatable")
    return _prose("; ".join([*([text] if text else []), *notes]))


def _default(parameter: Any) -> str:
    """Return a parameter's default; one that is chosen by the program stands in its help."""
    default = parameter.default
    if parameter.required:
        return "none: it must be given"
    if isinstance(default, bool) or default in (None, ""):
        _, *chosen = DEFAULT_IN_HELP.split(parameter.help or "", maxsplit=1)
        return _prose(chosen[0].rstrip(".")) if chosen else ""
    return f"`{getattr(default, 'value', default)}`"


def _prose(text: str) -> str:
    """Set names of a help text as code, on one line."""
    line = " ".join(text.split())
    parts = re.split(r"(`[^`]*`)", line)
    pattern = re.compile(r"<\w+>|(?<![\w-])--[a-z][a-z-]*|\$[A-Z_]+|\.{1,2}/\w+")
    parts[::2] = [pattern.sub(lambda match: f"`{match[0]}`", part) for part in parts[::2]]
    return "".join(parts)
