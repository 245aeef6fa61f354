"""``ptb-lm score``."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli.app import Device, app, show
from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag


@app.command()
def score(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE...]", help="Read one after another; - is standard input."),
    ] = None,
    per_word: Annotated[
        bool, typer.Option("--per-word", help="A row for each word: its surprisal in bits.")
    ] = False,
    continuous: Annotated[
        bool,
        typer.Option("--continuous", help="One stream: the state goes on from line to line."),
    ] = False,
    nbest: Annotated[
        str | None,
        typer.Option(
            metavar="CONVENTION",
            help="Lines are `id text`; rank each utterance's: its lines have the ids "
            "utterance-1, utterance-2, … (numbered), or all the same id (repeated).",
        ),
    ] = None,
    json_lines: Annotated[
        bool, typer.Option("--json-lines", help="A JSON object a line instead of TSV.")
    ] = False,
    line_buffered: Annotated[
        bool, typer.Option("--line-buffered", help="Answer each line as it comes; slower.")
    ] = False,
    device: Device = None,
) -> None:
    """Print the log-probability and perplexity of each line of a text."""
    from ptb_lm.corpus.reading import STANDARD_INPUT, name_of, opened, read_lines
    from ptb_lm.evaluation.nbest import rank, read_hypotheses
    from ptb_lm.evaluation.score import LINES_AT_ONCE
    from ptb_lm.evaluation.score import score as score_lines
    from ptb_lm.evaluation.trained import load
    from ptb_lm.report.score_rows import (
        HypothesisRow,
        LineRow,
        Row,
        WordRow,
        as_json_lines,
        as_tsv,
        hypothesis_rows,
        line_rows,
        word_rows,
    )

    if nbest is not None and (per_word or continuous):
        raise InputError(f"--nbest and --{'per-word' if per_word else 'continuous'}: choose one")
    with StopFlag() as stop, ExitStack() as stack:
        paths = files or [STANDARD_INPUT]
        sources = [stack.enter_context(opened(path, stop)) for path in paths]
        names = [name_of(path) for path in paths]
        lines = _after_what_is_written(
            line
            for file, name in zip(sources, names, strict=True)
            for line in read_lines(file, name, stop)
        )
        answers_at_once = line_buffered or any(file.isatty() for file in sources)
        at_once = 1 if answers_at_once else LINES_AT_ONCE
        hypotheses = None if nbest is None else read_hypotheses(lines, nbest)
        model = load(checkpoint, device or "auto")
        rows: Iterable[Row]
        kind: type[Row]
        if hypotheses is not None:
            ranked = rank(model, hypotheses, lines_at_once=at_once, stop=stop)
            kind, rows = HypothesisRow, hypothesis_rows(ranked)
        else:
            scores = score_lines(
                model, lines, continuous=continuous, lines_at_once=at_once, stop=stop
            )
            kind, rows = (WordRow, word_rows(scores)) if per_word else (LineRow, line_rows(scores))
        for text in as_json_lines(rows) if json_lines else as_tsv(rows, kind):
            show(text)


def _after_what_is_written(lines: Iterable[str]) -> Iterator[str]:
    """Have whoever reads the results get those there are, before another line is waited for."""
    sys.stdout.flush()
    for line in lines:
        yield line
        sys.stdout.flush()
