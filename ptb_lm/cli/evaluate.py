"""``ptb-lm eval`` and ``ptb-lm average``: perplexities."""

from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli import complete
from ptb_lm.cli.app import AsJson, DataDir, Device, app, show
from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json


@app.command("eval")
def evaluate(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CKPT...")],
    split: Annotated[
        str | None,
        typer.Option(help="train, valid or test (default).", autocompletion=complete.split),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Another text instead of a split.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="stream or columns; default as the paper: test stream, others columns.",
            autocompletion=complete.protocol,
        ),
    ] = None,
    save_scores: Annotated[
        Path | None,
        typer.Option(metavar="F.npz", help="Keep the log-probability of each target."),
    ] = None,
    mc_samples: Annotated[
        int,
        typer.Option(min=0, help="And the mean probability of N passes with dropout."),
    ] = 0,
    device: Device = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the perplexity of each checkpoint and, for several, of their average."""
    from ptb_lm.evaluation.evaluate import EvaluationRequest, evaluate_checkpoints
    from ptb_lm.evaluation.scores import result_table
    from ptb_lm.evaluation.scores import save_scores as write_scores
    from ptb_lm.evaluation.ways import USUAL, monte_carlo
    from ptb_lm.report.summary import evaluation_summary

    request = EvaluationRequest.of(split, text, protocol, data_dir)
    if save_scores is not None and len(checkpoints) > 1:
        raise InputError("--save-scores: takes one checkpoint at a time")
    ways = [USUAL, *([monte_carlo(mc_samples)] if mc_samples else [])]
    with StopFlag() as stop:
        members, configs = evaluate_checkpoints(checkpoints, request, ways, device or "auto", stop)
        if save_scores is not None:
            write_scores(members[-1][0], save_scores)
    if as_json:
        result = result_table(members[0])
        for way, scores in zip(ways[1:], members[1:], strict=True):
            result[way.key] = {**way.settings, **result_table(scores)}
        show(to_json(result))
        return
    show(evaluation_summary(members[0], configs))
    for way, scores in zip(ways[1:], members[1:], strict=True):
        show(f"{way.title}:")
        show(evaluation_summary(scores, configs))


@app.command()
def average(
    score_files: Annotated[list[Path], typer.Argument(metavar="SCORES.npz...")],
    as_json: AsJson = False,
) -> None:
    """Print the exact perplexity of the average of models from their saved scores."""
    from ptb_lm.evaluation.scores import load_scores, result_table
    from ptb_lm.report.summary import average_summary

    members = [load_scores(path) for path in score_files]
    show(to_json(result_table(members)) if as_json else average_summary(members))
