"""``ptb-lm generate``."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import Device, app


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT")],
    words: Annotated[int, typer.Option(min=1, help="How many words to draw.")] = 100,
    prompt: Annotated[str, typer.Option(help="Words to go on from.")] = "",
    temperature: Annotated[float, typer.Option(min=0.01, help="1 is the model as it is.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1)] = 1,
    device: Device = None,
) -> None:
    """Sample text, a sentence a line."""
    import torch

    from ptb_lm.corpus.text import EOS, from_command_line
    from ptb_lm.evaluation.generate import generate as sample
    from ptb_lm.evaluation.trained import load

    model = load(checkpoint, device or "auto")
    generator = torch.Generator().manual_seed(seed)
    start = from_command_line(prompt).split()
    sys.stdout.write(" ".join(start))
    space = " " if start else ""
    for word in sample(model, start, words, temperature, generator):
        sys.stdout.write("\n" if word == EOS else space + word)
        sys.stdout.flush()
        space = "" if word == EOS else " "
    sys.stdout.write("\n")
