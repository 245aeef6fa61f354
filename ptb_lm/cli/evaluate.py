"""``ptb-lm eval`` and ``ptb-lm average``: perplexities."""

import os
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli import complete
from ptb_lm.cli.app import CKPT, AsJson, DataDir, DataNow, Device, app, require_output, show
from ptb_lm.errors import InputError
from ptb_lm.stop import StopFlag
from ptb_lm.strict_json import to_json


@app.command("eval")
def evaluate(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(metavar="CKPT", help=CKPT + "; of several also their average."),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SPLIT",
            help="train, valid or test; default test.",
            autocompletion=complete.split,
        ),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text of your own instead of a split, compressed or not; - is standard input.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="PROTOCOL",
            help="stream or columns; default as in the paper: stream for test, else columns.",
            autocompletion=complete.protocol,
        ),
    ] = None,
    save_scores: Annotated[
        Path | None,
        typer.Option(
            metavar="F.npz",
            help="Save the log-probability of each target; with --mc-samples, --dynamic or --cache "
            "those of that way.",
        ),
    ] = None,
    mc_samples: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Also report the mean probability of N passes with dropout on, of units, not of "
            "words.",
        ),
    ] = 0,
    dynamic: Annotated[
        str | None,
        typer.Option(
            metavar="sgd|rms",
            help="Also report dynamic evaluation: weights keep learning from the text already "
            "scored.",
        ),
    ] = None,
    dynamic_rate: Annotated[
        float | None,
        typer.Option(
            metavar="ETA", help="Learning rate of --dynamic; default 0.07 (sgd), 0.0005 (rms)."
        ),
    ] = None,
    dynamic_decay: Annotated[
        float | None,
        typer.Option(
            metavar="LAMBDA",
            help="How far each update pulls weights back to the trained ones (0 to 1); "
            "default 0.003 (sgd), 0.001 (rms).",
        ),
    ] = None,
    cache: Annotated[
        int | None,
        typer.Option(metavar="N", help="Also report a continuous cache of the last N states."),
    ] = None,
    cache_theta: Annotated[
        float | None,
        typer.Option(
            metavar="THETA",
            help="Sharpness of the cache: 0 counts all states alike; default 0.4.",
        ),
    ] = None,
    cache_weight: Annotated[
        float | None,
        typer.Option(metavar="LAMBDA", help="Share of the cache in the probability; default 0.15."),
    ] = None,
    device: Device = None,
    data: DataNow = None,
    data_dir: DataDir = None,
    as_json: AsJson = False,
) -> None:
    """Print the perplexity of each checkpoint and, for several, of their average.

    --mc-samples, --dynamic and --cache add figures beside the standard one;
    --dynamic and --cache combine.
    """
    if save_scores is None:
        require_output()
    from ptb_lm.evaluation.cache import Cache
    from ptb_lm.evaluation.dynamic import Dynamic
    from ptb_lm.evaluation.evaluate import EvaluationRequest, evaluate_checkpoints
    from ptb_lm.evaluation.score_file import save_scores as write_scores
    from ptb_lm.evaluation.scores import evaluation_json
    from ptb_lm.evaluation.ways import AS_THE_PAPER, adaptive, monte_carlo
    from ptb_lm.report.summary import evaluation_summary

    _require("--dynamic", dynamic, rate=dynamic_rate, decay=dynamic_decay)
    _require("--cache", cache, theta=cache_theta, weight=cache_weight)
    ways = [AS_THE_PAPER]
    if mc_samples:
        ways.append(monte_carlo(mc_samples))
    if dynamic is not None or cache is not None:
        if mc_samples:
            raise InputError("--mc-samples with --dynamic or --cache: choose one")
        ways.append(
            adaptive(
                None if dynamic is None else Dynamic.tuned(dynamic, dynamic_rate, dynamic_decay),
                None if cache is None else Cache.tuned(cache, cache_theta, cache_weight),
            )
        )
    request = EvaluationRequest.of(split, text, protocol, data, data_dir, ways)
    if save_scores is not None:
        if len(checkpoints) > 1:
            raise InputError("--save-scores: takes one checkpoint at a time")
        _require_place(save_scores)
    with StopFlag() as stop:
        members, configs = evaluate_checkpoints(checkpoints, request, ways, device or "auto", stop)
        if save_scores is not None:
            write_scores(members[-1][0], save_scores)
    if as_json:
        result = evaluation_json(members[0])
        for way, scores in zip(ways[1:], members[1:], strict=True):
            result[way.key] = {**way.settings, **evaluation_json(scores)}
        show(to_json(result))
        return
    for way, scores in zip(ways, members, strict=True):
        if way is not AS_THE_PAPER:
            show(f"by {way.title}:")
        show(evaluation_summary(scores, configs, way.key))


def _require_place(save_scores: Path) -> None:
    """Raise InputError if a file cannot be put there, before what it is to hold is computed.

    An older score file is replaced; no other file is, and none that a run keeps.
    """
    from ptb_lm.evaluation.score_file import load_scores
    from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder

    folder = save_scores.parent
    # Not Path's, which raise of a name that is too long.
    if not os.path.isdir(folder):  # noqa: PTH112
        there = "not a folder" if os.path.lexists(folder) else "no such folder"
        raise InputError(
            f"--save-scores {save_scores}: {folder}: {there}; make it, or name another place"
        )
    if os.path.isdir(save_scores):  # noqa: PTH112
        raise InputError(f"--save-scores {save_scores}: a folder; name a file, as in F.npz")
    run = RunFolder(folder)
    if run.config.is_file() and save_scores in map(run.scores, SCORED_SPLITS):
        raise InputError(
            f"--save-scores {save_scores}: the scores that its run keeps; name another file"
        )
    if save_scores.exists():
        try:
            load_scores(save_scores)
        except InputError as error:
            raise InputError(
                f"--save-scores: {error}; it is not replaced: name another file"
            ) from None


def _require(option: str, value: object, **settings: object) -> None:
    """Raise InputError if a setting is given without the option that it belongs to."""
    for name, setting in settings.items():
        if setting is not None and value is None:
            raise InputError(f"{option}-{name}: has a meaning only with {option}")


@app.command()
def average(
    score_files: Annotated[
        list[Path],
        typer.Argument(
            metavar="SCORES.npz",
            help="Files of `eval --save-scores`, or scores-test.npz of a run.",
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Print the exact perplexity of an average of models from their saved scores."""
    require_output()
    from ptb_lm.evaluation.score_file import load_scores
    from ptb_lm.evaluation.scores import evaluation_json, require_each_once, require_figure
    from ptb_lm.report.summary import average_summary

    require_each_once((path, path) for path in score_files)
    members = [require_figure(load_scores(path)) for path in score_files]
    show(to_json(evaluation_json(members)) if as_json else average_summary(members))
