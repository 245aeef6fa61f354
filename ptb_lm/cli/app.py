"""What every command shares: the program, the options of several commands, the two streams."""

import errno
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import typer
from typer.models import ParameterInfo

from ptb_lm.cli import complete
from ptb_lm.paths import user_path
from ptb_lm.streams import ClosedOutput
from ptb_lm.terminal import for_stream
from ptb_lm.version import __version__


class App(typer.Typer):
    """Commands whose parameters of the type Path have a leading ``~`` expanded."""

    def command(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Register a command."""
        register = super().command(*args, **kwargs)

        def registered(function: Any) -> Any:
            for hint in get_type_hints(function, include_extras=True).values():
                annotated, *details = get_args(hint) or [None]
                for detail in details:
                    if _has_paths(annotated) and isinstance(detail, ParameterInfo):
                        detail.parser = _path_argument
            return register(function)

        return registered


def _has_paths(annotated: Any) -> bool:
    """Whether a type is Path, or has it as a part, as ``list[Path] | None``."""
    return annotated is Path or any(map(_has_paths, get_args(annotated)))


def _path_argument(text: str) -> Path:
    """Return the path that an argument names."""
    if not text:
        raise typer.BadParameter("an empty path, as of a variable of the shell that is not set")
    path = user_path(text)
    # What is relative and begins with ~ was written as ./~, and is not to be expanded later on.
    return path.absolute() if str(path).startswith("~") else path


app = App(
    name="ptb-lm",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # of every command below it too
    help="Train and evaluate recurrent language models; reproduce arXiv 1409.2329 on PTB.",
)


def flag(*names: str, help: str) -> Any:
    """Return an option that takes no value; typer alone would show that it takes a boolean."""
    return typer.Option(*names, metavar="", help=help)


CKPT = "A checkpoint, run folder or exported model"
"""What the argument of that name is."""
DataDir = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Data folder; default $PTB_LM_DATA_DIR, else ./data."),
]
DataName = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help="ptb, synthetic, or a folder of train.txt, valid.txt and maybe test.txt; default ptb.",
        autocompletion=complete.corpus,
    ),
]
DataNow = Annotated[
    str | None,
    typer.Option(
        metavar="S",
        help="Where the data it was trained on lies now; default: where its config says.",
        autocompletion=complete.corpus,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE", help="auto, cpu or cuda; default auto.", autocompletion=complete.device
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="PRECISION",
        help="fp32, tf32 or bf16; default auto: depends on the device.",
        autocompletion=complete.precision,
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="SECTION.KEY=VALUE",
        help="Change a key of the config; repeatable: for the same key the last one counts.",
    ),
]
AsJson = Annotated[bool, flag("--json", help="Print one JSON object and nothing else.")]


def _show_version(asked: bool) -> None:
    if asked:
        show(f"ptb-lm {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            metavar="",
            help="Print the version.",
            callback=_show_version,
            is_eager=True,
        ),
    ] = False,
    debug: Annotated[bool, flag("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Options of every command; --debug is read where errors are printed."""


def on_terminal() -> bool:
    """Whether results are read by a person as they come, and not by a file or another program."""
    return sys.stdout.isatty()


def require_output() -> None:
    """Raise OSError if standard output is closed; to be called before a result is computed."""
    if isinstance(sys.stdout, ClosedOutput):
        raise OSError(errno.EBADF, "standard output is closed")


def write(text: str) -> None:
    """Write a part of a result to standard output."""
    sys.stdout.write(for_stream(text, sys.stdout))


def show(result: str) -> None:
    """Write a result to standard output."""
    write(result + "\n")


def summarize(summary: str) -> None:
    """Write to standard output, unless it is closed, what was done to files."""
    if not isinstance(sys.stdout, ClosedOutput):
        show(summary)


def say(message: str) -> None:
    """Write a message on progress to standard error."""
    sys.stderr.write(for_stream(message, sys.stderr) + "\n")
