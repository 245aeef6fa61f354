"""``ptb-lm score``."""

import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ptb_lm.cli.app import CKPT, Device, app, flag, require_output, say, show
from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag, Stopped

if TYPE_CHECKING:  # they import numpy
    from ptb_lm.corpus.oddities import Oddities
    from ptb_lm.corpus.unknown import UnknownWords


@app.command()
def score(
    checkpoint: Annotated[Path, typer.Argument(metavar="CKPT", help=CKPT + ".")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Texts, compressed or not, in turn; - is standard input; default: standard input.",
        ),
    ] = None,
    per_word: Annotated[
        bool, flag("--per-word", help="Print a row for each word: its surprisal in bits.")
    ] = False,
    continuous: Annotated[
        bool,
        flag("--continuous", help="Read one stream: the state is carried from line to line."),
    ] = False,
    nbest: Annotated[
        str | None,
        typer.Option(
            metavar="CONVENTION",
            help="Lines are `id text`; rank those of each utterance, whose ids are "
            "utterance-1, utterance-2, … (numbered), or all the same (repeated).",
        ),
    ] = None,
    json_lines: Annotated[
        bool, flag("--json-lines", help="Print a JSON object per line instead of TSV.")
    ] = False,
    line_buffered: Annotated[
        bool, flag("--line-buffered", help="Answer each line as it arrives; slower.")
    ] = False,
    device: Device = None,
) -> None:
    """Print the log-probability and perplexity of each line of a text.

    Each line is read as one sentence. The table is tab-separated, in the
    dialect excel-tab of Python's csv. To read it with pandas:
    `pandas.read_csv(FILE, sep="\\t", keep_default_na=False, dtype=str)`
    """
    require_output()
    from ptb_lm.corpus.oddities import Oddities
    from ptb_lm.corpus.reading import (
        STANDARD_INPUT,
        name_of,
        opened,
        read_lines,
        require_readable,
    )
    from ptb_lm.corpus.unknown import UnknownWords
    from ptb_lm.evaluation.nbest import rank, read_hypotheses, require_convention
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
    if nbest is not None:
        require_convention(nbest)
    paths = files or [STANDARD_INPUT]
    _require_no_models(checkpoint, [path for path in paths if path != STANDARD_INPUT])
    is_typed = STANDARD_INPUT in paths and sys.stdin is not None and sys.stdin.isatty()
    require_readable(path for path in paths if path != STANDARD_INPUT)
    with StopFlag() as stop:
        oddities = {path: Oddities() for path in paths}

        def lines_of_files() -> Iterator[str]:
            for path in paths:
                with opened(path, stop) as file:
                    yield from read_lines(file, name_of(path), stop, oddities[path].see)

        lines = _after_what_is_written(lines_of_files())
        answers_at_once = line_buffered or is_typed
        at_once = 1 if answers_at_once else LINES_AT_ONCE
        model = load(checkpoint, device or "auto")
        unknown = UnknownWords(model.vocabulary)
        rows: Iterable[Row]
        kind: type[Row]
        if nbest is not None:
            hypotheses = read_hypotheses(lines, nbest, model.vocabulary.index)
            ranked = rank(model, hypotheses, lines_at_once=at_once, stop=stop)
            ranked = unknown.seen_in(ranked, lambda each: each.score)
            kind, rows = HypothesisRow, hypothesis_rows(ranked)
        else:
            scores = score_lines(
                model, lines, continuous=continuous, lines_at_once=at_once, stop=stop
            )
            scores = unknown.seen_in(scores, lambda each: each)
            kind, rows = (WordRow, word_rows(scores)) if per_word else (LineRow, line_rows(scores))
        try:
            for text in as_json_lines(rows) if json_lines else as_tsv(rows, kind):
                show(text)
        except (Stopped, BrokenPipeError):  # what has been read is reported all the same
            _report(unknown, paths, oddities)
            raise
        _report(unknown, paths, oddities)


def _report(
    unknown: "UnknownWords", paths: Sequence[Path], oddities: Mapping[Path, "Oddities"]
) -> None:
    """Warn of unknown words and other line ends in the texts scored so far."""
    from ptb_lm.corpus.findings import announced, file_findings
    from ptb_lm.corpus.reading import name_of

    for path, found in oddities.items():
        announced(file_findings(name_of(path), found))
    name = name_of(paths[0]) if len(paths) == 1 else f"{len(paths)} files"
    if warning := unknown.message(name):
        say(warning)


def _require_no_models(checkpoint: Path, files: Iterable[Path]) -> None:
    """Raise InputError if a model stands among the texts, after the one to score with."""
    from ptb_lm.evaluation.trained import file_kind

    kinds = {path: kind for path in files if (kind := file_kind(path)) is not None}
    if file_kind(checkpoint) is not None:
        for path, kind in kinds.items():
            raise InputError(
                f"{path}: {kind}, and not a text; score takes one model, before the texts: score "
                "with each model in a call of its own"
            )
    elif kinds and checkpoint.is_file():
        raise InputError(
            f"{checkpoint}: not a checkpoint; the model comes first: ptb-lm score "
            f"{shlex.quote(str(next(iter(kinds))))} {shlex.quote(str(checkpoint))}"
        )


def _after_what_is_written(lines: Iterable[str]) -> Iterator[str]:
    """Flush the results so far to whoever reads them, before waiting for another line."""
    sys.stdout.flush()
    for line in lines:
        yield line
        sys.stdout.flush()
