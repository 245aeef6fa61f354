"""Words per second of this machine for each preset, beside the machine's own limit.

A word's step, forward and backward, takes 6 * (8 L H^2 + H V) operations: two for each weight that
it meets, as many again for the gradient of its input, and for that of the weight.
"""

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ptb_lm.config import Config, resolve
from ptb_lm.errors import InputError
from ptb_lm.report.bench_worker import WORDS
from ptb_lm.report.timed_process import Spread, timed_process
from ptb_lm.training.environment import settled

STOCK = Path(__file__).parents[2] / "benchmarks" / "stock.py"
PAPER_PRESETS = ("small", "medium", "large")
FLOAT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}


@dataclass(frozen=True)
class BenchRow:
    """One preset on this machine.

    Attributes:
        training: words per second.
        evaluation: words per second in one stream, the paper's test protocol.
        stock: words per second of the same model as PyTorch's parts make it.
        against_stock: the ratio, round by round.
        limit: the best rate of any product of a step, operations per second.
        share_of_limit: the operations of the training, per second, as a share of that.
        memory_floor: words per second if a step did nothing but read its recurrent weights from
            memory, once forward and once backward at each time step.
        training_bytes: peak resident memory.
        evaluation_bytes: likewise.
    """

    preset: str
    precision: str
    training: Spread
    evaluation: Spread
    stock: Spread | None
    against_stock: Spread | None
    limit: float
    share_of_limit: float
    memory_floor: float
    training_bytes: int
    evaluation_bytes: int


def operations_per_word(config: Config, words: int = WORDS) -> int:
    """Return the operations of a word's share of a training step."""
    hidden = config.model.hidden_size
    return 6 * (8 * config.model.layers * hidden**2 + hidden * words)


def bench(preset: str, precision: str, *, against_stock: bool, rounds: int) -> BenchRow:
    """Measure a preset: limit, then training and stock by turns, then evaluation.

    Raises:
        InputError: there is no such preset or precision, or stock is not here, as in an
            installation without the source tree.
        PtbLmError: a process that measures failed.
    """
    config = settled(resolve(preset, options={"device": "cpu", "precision": precision}))
    precision = config.run.precision
    if against_stock and not STOCK.exists():
        raise InputError("--against-stock: needs benchmarks/stock.py of the source tree")
    limit, bytes_rate = _limits(preset, precision, rounds)
    ours_rates, stock_rates, training_bytes = _training(
        preset, precision, _stock_command(config) if against_stock else None, rounds
    )
    with timed_process(worker_command(preset, precision, "evaluation")) as evaluation:
        thousands = evaluation.units_of_a_round()
        evaluated = [evaluation.work(thousands) for _ in range(rounds)]

    training = Spread.of(ours_rates)
    model, options = config.model, config.training
    recurrent_bytes = 4 * model.hidden_size**2 * model.layers * FLOAT_BYTES[precision]
    return BenchRow(
        preset=preset,
        precision=precision,
        training=training,
        evaluation=Spread.of([each["words"] / each["seconds"] for each in evaluated]),
        stock=Spread.of(stock_rates) if stock_rates else None,
        against_stock=(
            Spread.of([our / other for our, other in zip(ours_rates, stock_rates, strict=True)])
            if stock_rates
            else None
        ),
        limit=limit,
        share_of_limit=training.median * operations_per_word(config) / limit,
        memory_floor=options.batch_size * bytes_rate / (2 * recurrent_bytes),
        training_bytes=training_bytes,
        evaluation_bytes=int(evaluated[-1]["peak_bytes"]),
    )


def _limits(preset: str, precision: str, rounds: int) -> tuple[float, float]:
    """Return the best rate of any product of a step, and of reading memory, each a second."""
    with timed_process(worker_command(preset, precision, "limit")) as limits:
        measured = [limits.work(1) for _ in range(rounds)]
    best = max(each["operations_rate"] for each in measured)
    return best, median(each["bytes_rate"] for each in measured)


def _training(
    preset: str, precision: str, stock_command: list[str] | None, rounds: int
) -> tuple[list[float], list[float], int]:
    """Return words per second of each round, stock's beside them, and the peak of memory."""
    ours_rates, stock_rates = [], []
    with ExitStack() as stack:
        ours = stack.enter_context(timed_process(worker_command(preset, precision, "training")))
        stock = stack.enter_context(timed_process(stock_command)) if stock_command else None
        steps = ours.units_of_a_round()
        if stock is not None:
            stock.work(steps)  # to warm up
        for _ in range(rounds):
            result = ours.work(steps)
            ours_rates.append(result["words"] / result["seconds"])
            if stock is not None:
                stock_rates.append(result["words"] / stock.work(steps)["seconds"])
        return ours_rates, stock_rates, int(result["peak_bytes"])


def bench_table(rows: list[BenchRow]) -> str:
    """Return the rows as a terminal shows them."""
    heads = [
        *("", "words/s", "spread", "limit GFLOP/s", "share", "memory floor", "eval words/s"),
        *("peak MB", "eval MB", "stock words/s", "ratio"),
    ]
    table = [heads]
    for row in rows:
        stock = ["", ""]
        if row.stock is not None and row.against_stock is not None:
            stock = [f"{row.stock.median:,.0f}", f"{row.against_stock.median:.2f}"]
        table.append(
            [
                f"{row.preset} {row.precision}",
                f"{row.training.median:,.0f}",
                f"{row.training.least:,.0f}-{row.training.greatest:,.0f}",
                f"{row.limit / 1e9:,.0f}",
                f"{row.share_of_limit:.0%}",
                f"{row.memory_floor:,.0f}",
                f"{row.evaluation.median:,.0f}",
                f"{row.training_bytes / 1e6:,.0f}",
                f"{row.evaluation_bytes / 1e6:,.0f}",
                *stock,
            ]
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)) for line in table)
    return "\n".join(lines)


def bench_json(rows: list[BenchRow], environment: dict[str, Any]) -> dict[str, Any]:
    """Return the object that ``bench --json`` prints."""
    return {"environment": environment, "presets": [asdict(row) for row in rows]}


def worker_command(preset: str, precision: str, task: str) -> list[str]:
    """Return the command of a process that does one of the worker's tasks."""
    return [sys.executable, "-m", "ptb_lm.report.bench_worker", preset, precision, task]


def _stock_command(config: Config) -> list[str]:
    model, training = config.model, config.training
    options = {
        "words": WORDS,
        "hidden": model.hidden_size,
        "layers": model.layers,
        "streams": training.batch_size,
        "steps": training.unrolled_steps,
        "dropout": model.dropout,
        "clip": training.clip_norm,
        "init-range": model.init_range,
    }
    values = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, str(STOCK), *values]
