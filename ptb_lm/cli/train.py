"""``ptb-lm train``."""

import os
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from ptb_lm.cli import complete
from ptb_lm.cli.app import (
    Assignments,
    DataDir,
    DataName,
    Device,
    Precision,
    app,
    flag,
    say,
    summarize,
)
from ptb_lm.errors import InputError
from ptb_lm.paths import user_path
from ptb_lm.stop import StopFlag

DATA_KEY = "run.data"


@app.command()
def train(
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_FILE",
            help="A preset's name or a TOML file; see `config list`.",
            autocompletion=complete.preset,
        ),
    ] = None,
    data: DataName = None,
    run_dir: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run folder; default runs/CONFIG[-PRECISION]-seedN."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(metavar="N", help="Random seed of weights and dropout; default 1.")
    ] = None,
    device: Device = None,
    precision: Precision = None,
    deterministic: Annotated[
        bool | None,
        flag("--deterministic", help="Give the same bits each time on CUDA too."),
    ] = None,
    assignments: Assignments = None,
    max_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Stop after this many steps in all; --resume continues."
        ),
    ] = None,
    resume: Annotated[
        bool, flag("--resume", help="Continue the run in the folder, if there is one.")
    ] = False,
    overwrite: Annotated[
        bool, flag("--overwrite", help="Start over in an existing run folder.")
    ] = False,
    log: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="tensorboard: also write the metrics as its event files.",
            autocompletion=complete.log,
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Train a model and print its validation and test perplexity beside the paper's."""
    from ptb_lm.config import resolve
    from ptb_lm.corpus.load import data_directory, is_corpus
    from ptb_lm.training.event_file import events_follow_metrics, require_log

    if resume and overwrite:
        raise InputError("--resume and --overwrite: choose one: go on, or begin anew")
    if config is None and resume and run_dir is not None:
        if not os.path.exists(run_dir / "config.toml"):  # noqa: PTH110 - see load_corpus
            raise InputError(
                f"{run_dir}: no run in it to go on with; name --config to begin one, or the folder "
                "of a run"
            )
        config = str(run_dir / "config.toml")
    if config is None:
        raise InputError("--config: missing; name a preset or file; see `ptb-lm config list`")
    options = {
        "data": data,
        "seed": seed,
        "device": device,
        "precision": precision,
        "deterministic": deterministic,
    }
    given = {key: value for key, value in options.items() if value is not None}
    resolved = resolve(config, assignments, given)
    if data is None and not is_corpus(resolved.run.data):
        origin = "--set" if _is_set(DATA_KEY, assignments) else config
        raise InputError(
            f"{origin}: {DATA_KEY}: {resolved.run.data}: no such folder here; if its texts lie "
            "elsewhere by now, name their folder with --data"
        )
    if log is not None:
        require_log(log)

    with StopFlag() as stop:
        from ptb_lm.corpus.findings import announced, corpus_findings
        from ptb_lm.evaluation.evaluate import score_finished_run
        from ptb_lm.report.summary import run_summary
        from ptb_lm.training.environment import settled
        from ptb_lm.training.loop import train as train_run
        from ptb_lm.training.shared_run import open_shared_run
        from ptb_lm.training.world import joined_world

        data_folder = data_directory(data_dir)
        folder = run_dir or user_path(Path("runs", settled(resolved).run_name))
        targets = resolved.training.batch_size * resolved.training.unrolled_steps
        with (
            joined_world(resolved.run.device, stop=stop) as world,
            open_shared_run(
                resolved, data_folder, folder, world, stop, resume=resume, overwrite=overwrite
            ) as run,
        ):
            if run.finished and world.is_first:
                rest = "there is nothing to do" if run.is_scored else "scoring it"
                say(f"{folder}: finished already; {rest}.")
            if run.step == 0 and world.is_first:  # a signal waits for a step that can be saved
                announced(corpus_findings(run.corpus))
            logs = log is not None and world.is_first
            with events_follow_metrics(run.folder, targets) if logs else nullcontext():
                train_run(run, stop, max_steps)
            if run.finished and world.is_first:
                summarize(run_summary(run, score_finished_run(run, stop)))


def _is_set(key: str, assignments: list[str] | None) -> bool:
    """Whether a key is given by ``--set``."""
    return any(each.partition("=")[0].strip() == key for each in assignments or [])
