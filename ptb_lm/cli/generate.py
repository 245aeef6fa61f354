"""``ptb-lm generate``."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import CKPT, Device, app, flag, require_output, say, write
from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag

LEAST_TEMPERATURE = 0.01


@app.command()
def generate(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help=CKPT + ".")],
    words: Annotated[
        int, typer.Option(metavar="N", min=1, help="Draw at most this many words.")
    ] = 100,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="Words to continue from.")] = "",
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, help="How many texts to draw, each of --words words.")
    ] = 1,
    sentence: Annotated[
        bool, flag("--sentence", "--stop-at-eos", help="Stop each text at its first <eos>.")
    ] = False,
    temperature: Annotated[
        float,
        typer.Option(
            metavar="X", help="1 leaves the model's distribution unchanged; at least 0.01."
        ),
    ] = 1.0,
    top_k: Annotated[
        int | None,
        typer.Option(metavar="K", min=1, help="Draw only from the K likeliest words; 1 is greedy."),
    ] = None,
    top_p: Annotated[
        float,
        typer.Option(
            metavar="P", help="Draw only from the fewest words that together have probability P."
        ),
    ] = 1.0,
    allow_unk: Annotated[bool, flag("--allow-unk", help="Let <unk> be drawn too.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=2**63 - 1, help="Random seed.")] = 1,
    device: Device = None,
) -> None:
    """Sample text, one sentence per line; an empty line separates several texts."""
    require_output()
    from ptb_lm.corpus.text import from_command_line
    from ptb_lm.corpus.unknown import UnknownWords
    from ptb_lm.evaluation.generate import Sampling, sample_generator
    from ptb_lm.evaluation.generate import generate as sample
    from ptb_lm.evaluation.trained import load

    if not temperature >= LEAST_TEMPERATURE:
        raise InputError(
            f"--temperature {temperature:g}: expected {LEAST_TEMPERATURE} or more; --top-k 1 "
            "always draws the likeliest word"
        )
    sampling = Sampling(
        allow_unknown=allow_unk,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_at_eos=sentence,
    )
    model = load(checkpoint, device or "auto")
    start = from_command_line(prompt).split()
    unknown = UnknownWords(model.vocabulary)
    unknown.see(start, model.vocabulary.encode(start))
    missing = [word for word in start if word not in model.vocabulary.index]
    if warning := unknown.message("--prompt", "words", missing):
        say(warning)
    with StopFlag() as stop:
        for number in range(samples):
            generator = sample_generator(seed, number)
            drawn = sample(model, start, words, sampling, generator, stop)
            ended_line = _write_as_it_comes(start, drawn)
            if number + 1 < samples and not sentence and not ended_line:
                write("\n")
            if not (sentence and ended_line):
                write("\n")


def _write_as_it_comes(start: list[str], drawn: Iterable[str]) -> bool:
    """Write words, a sentence a line, each as it is drawn; return whether the last ended a line."""
    from ptb_lm.corpus.text import EOS

    write(" ".join(start))
    space = " " if start else ""
    for word in drawn:
        write("\n" if word == EOS else space + word)
        sys.stdout.flush()
        space = "" if word == EOS else " "
    return not space
