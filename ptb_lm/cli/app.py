"""What every command shares: the program, the options of several commands, the two streams."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ptb_lm.cli import complete
from ptb_lm.version import __version__

app = typer.Typer(
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
        "--set", metavar="SECTION.KEY=VALUE", help="Change a key of the config; repeatable."
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


def show(result: str) -> None:
    """Write a result to standard output."""
    sys.stdout.write(result + "\n")


def say(message: str) -> None:
    """Write a message on progress to standard error."""
    sys.stderr.write(message + "\n")
