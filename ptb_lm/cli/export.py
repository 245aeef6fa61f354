"""``ptb-lm export``."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import CKPT, DataDir, DataNow, Device, app, flag, summarize
from ptb_lm.stop import StopFlag


@app.command("export")
def export_command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help=CKPT + ".")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder to write; new or empty.")],
    onnx: Annotated[bool, flag("--onnx", help="Also write model.onnx.")] = False,
    overwrite: Annotated[
        bool, flag("--overwrite", help="Replace an existing exported model.")
    ] = False,
    device: Device = None,
    data: DataNow = None,
    data_dir: DataDir = None,
) -> None:
    """Write a model for use without ptb-lm: weights, config, words, perplexity, loading code."""
    from ptb_lm.evaluation.export import export
    from ptb_lm.report.summary import average_summary

    with StopFlag() as stop:
        made = export(
            checkpoint,
            out,
            onnx=onnx,
            overwrite=overwrite,
            device=device or "auto",
            data=data,
            data_dir=data_dir,
            stop=stop,
        )
    for scores in made.measured:
        summarize(average_summary([scores]))
    summarize(f"{out}: {', '.join(file.name for file in made.files)}")
