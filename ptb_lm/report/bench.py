"""Words per second of this machine for each preset, beside the machine's own limit.

A word's step, forward and backward, takes 6 * (8 L H^2 + H V) operations: two for each weight that
it meets, as many again for the gradient of its input, and for that of the weight.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from ptb_lm.config import Config, resolve
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.report.bench_worker import WORDS

STOCK = Path(__file__).parents[2] / "benchmarks" / "stock.py"
ROUND_SECONDS = 2.0
FLOAT_BYTES = {"fp32": 4, "bf16": 2}


@dataclass(frozen=True)
class Spread:
    """What the rounds of a measurement gave."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        """Sum up the rounds."""
        return cls(statistics.median(values), min(values), max(values))


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
        InputError: stock is not here, as in an installation without the source tree.
        PtbLmError: a process that measures failed.
    """
    config = resolve(preset)
    if against_stock and not STOCK.exists():
        raise InputError("--against-stock: needs benchmarks/stock.py of the source tree")
    with _worker(preset, precision, "limit") as limits:
        measured = [limits.work(1) for _ in range(rounds)]
    limit = max(each["operations_rate"] for each in measured)
    bytes_rate = statistics.median(each["bytes_rate"] for each in measured)

    with ExitStack() as stack:
        ours = stack.enter_context(_worker(preset, precision, "training"))
        stock = stack.enter_context(_stock(config)) if against_stock else None
        steps = ours.units_of_a_round()
        if stock is not None:
            stock.work(steps)  # to warm up
        ours_rates, stock_rates = [], []
        for _ in range(rounds):
            result = ours.work(steps)
            ours_rates.append(result["words"] / result["seconds"])
            if stock is not None:
                stock_rates.append(result["words"] / stock.work(steps)["seconds"])
        training_bytes = int(result["peak_bytes"])

    with _worker(preset, precision, "evaluation") as evaluation:
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


class _Worker:
    """Another process that works when it is told to, and idles while another is timed."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.command = command

    def work(self, units: int) -> dict[str, float]:
        """Have it do so many units, and return its figures, ``seconds`` among them."""
        cast(IO[str], self.process.stdin).write(f"{units}\n")
        line = cast(IO[str], self.process.stdout).readline()
        if not line:
            code = self.process.wait()
            raise PtbLmError(f"{' '.join(self.command)}: ended with code {code} while it was timed")
        result = json.loads(line)
        return result if isinstance(result, dict) else {"seconds": result}

    def units_of_a_round(self) -> int:
        """Warm up, and return how many units take about as long as a round is to take."""
        self.work(1)
        return max(1, round(ROUND_SECONDS * 2 / self.work(2)["seconds"]))


@contextmanager
def _worker(preset: str, precision: str, task: str) -> Iterator[_Worker]:
    command = [sys.executable, "-m", "ptb_lm.report.bench_worker", preset, precision, task]
    with _process(command) as worker:
        yield worker


@contextmanager
def _stock(config: Config) -> Iterator[_Worker]:
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
    with _process([sys.executable, str(STOCK), *values]) as worker:
        yield worker


@contextmanager
def _process(command: list[str]) -> Iterator[_Worker]:
    worker = _Worker(command)
    try:
        yield worker
    finally:
        worker.process.kill()
        worker.process.communicate()
