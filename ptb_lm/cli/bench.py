"""``ptb-lm bench``."""

from typing import Annotated

import typer

from ptb_lm.cli import complete
from ptb_lm.cli.app import AsJson, Device, Precision, app, flag, require_output, say, show
from ptb_lm.strict_json import to_json


@app.command("bench")
def bench_command(
    presets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PRESET",
            help="Presets or TOML files; default: the paper's three.",
            autocompletion=complete.preset,
        ),
    ] = None,
    device: Device = None,
    precision: Precision = None,
    against_stock: Annotated[
        bool,
        flag(
            "--against-stock",
            help="Alternate with the same model built from stock PyTorch parts.",
        ),
    ] = False,
    rounds: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, help="Rounds of two seconds each; the median is reported."
        ),
    ] = 7,
    as_json: AsJson = False,
) -> None:
    """Time this machine: words per second of each preset beside the machine's own limit."""
    require_output()
    from ptb_lm.bench.measure import PAPER_PRESETS, bench, bench_json, bench_table, require_stock
    from ptb_lm.bench.worker import Subject
    from ptb_lm.config import resolve
    from ptb_lm.training.environment import choose_device, describe_environment, settled

    chosen = choose_device(device or "auto")
    options = {"device": chosen.type, "precision": precision or "auto"}
    subjects = []
    for preset in presets or PAPER_PRESETS:
        run = settled(resolve(preset, options=options)).run
        subjects.append(Subject(preset, run.device, run.precision))
        if against_stock:
            require_stock(subjects[-1])
    rows = []
    for subject in subjects:
        say(f"{subject.preset} on {subject.device}, {subject.precision} …")
        rows.append(bench(subject, against_stock=against_stock, rounds=rounds))
    environment = describe_environment(chosen)
    show(to_json(bench_json(rows, environment)) if as_json else bench_table(rows))
