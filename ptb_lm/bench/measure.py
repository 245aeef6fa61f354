"""Words per second of this machine for each preset, beside the machine's own limit.

A word's step, forward and backward, takes 6 * (2 G L H^2 + H V) operations, of G = 4 gates in an
LSTM: two for each weight that it meets, as many again for the gradient of its input, and for that
of the weight.
"""

import sys
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ptb_lm.bench.timed_process import Spread, timed_process
from ptb_lm.bench.worker import WORDS, Subject
from ptb_lm.config import Config, toml_value
from ptb_lm.errors import InputError
from ptb_lm.model.network import parameter_shapes

STOCK = Path(__file__).parents[2] / "benchmarks" / "stock.py"
STOCK_DROPOUT = ("none", "non-recurrent")
PAPER_PRESETS = ("small", "medium", "large")
FLOAT_BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}


@dataclass(frozen=True)
class BenchRow:
    """One preset on this machine.

    Attributes:
        training: words per second.
        evaluation: words per second in one stream, the paper's test protocol.
        stock: words per second of the same model as PyTorch's parts make it, with PyTorch's
            defaults, which on CUDA are TF32 in the LSTM alone.
        against_stock: the ratio to it, round by round.
        stock_matched: likewise on CUDA, in the precision of the row.
        against_stock_matched: the ratio to that.
        limit: the best rate of any product of a step, operations per second.
        share_of_limit: the operations of the training, per second, as a share of that.
        memory_floor: words per second if a step did nothing but read its recurrent weights from
            memory, once forward and once backward at each time step.
        training_bytes: peak memory, resident, or on CUDA allocated there.
        evaluation_bytes: likewise.
    """

    preset: str
    device: str
    precision: str
    training: Spread
    evaluation: Spread
    stock: Spread | None
    against_stock: Spread | None
    stock_matched: Spread | None
    against_stock_matched: Spread | None
    limit: float
    share_of_limit: float
    memory_floor: float
    training_bytes: int
    evaluation_bytes: int


def recurrent_weights(config: Config) -> int:
    """Return how many weights take h to a next step: G H^2 of each layer."""
    shapes = parameter_shapes(config.model, WORDS)
    return sum(shape.numel() for name, shape in shapes.items() if "weight_hh" in name)


def operations_per_word(config: Config, words: int = WORDS) -> int:
    """Return the operations of a word's share of a training step.

    Each weight of a matrix product costs a multiplication and an addition forward, and twice as
    many backward. The embedding is looked up, not multiplied, unless the decoder has it too.
    """
    shapes = parameter_shapes(config.model, words)
    products = sum(shape.numel() for shape in shapes.values() if len(shape) == 2)
    lookup = 0 if config.model.tied else shapes["embedding.weight"].numel()
    return 6 * (products - lookup)


def bench(subject: Subject, *, against_stock: bool, rounds: int) -> BenchRow:
    """Measure a preset: limit, then training and stock by turns, then evaluation.

    Args:
        subject: what to measure.
        against_stock: beside stock too, which it has to be, see :func:`require_stock`.
        rounds: of each measurement.

    Raises:
        InputError: there is no such preset or precision.
        PtbLmError: a process that measures failed.
    """
    config = subject.config()
    limit, bytes_rate = _limits(subject, rounds)
    stocks = {"stock": _stock_command(subject)} if against_stock else {}
    if against_stock and subject.device == "cuda":
        stocks["stock_matched"] = [*stocks["stock"], "--precision", subject.precision]
    rates, training_bytes = _training(subject, stocks, rounds)
    ours = rates.pop("ours")
    training = Spread.of(ours)
    stock_rates = {name: Spread.of(others) for name, others in rates.items()}
    ratios = {
        name: Spread.of([our / other for our, other in zip(ours, others, strict=True)])
        for name, others in rates.items()
    }
    with timed_process(subject.command("evaluation")) as evaluation:
        thousands = evaluation.units_of_a_round()
        evaluated = [evaluation.work(thousands) for _ in range(rounds)]

    options = config.training
    recurrent_bytes = recurrent_weights(config) * FLOAT_BYTES[subject.precision]
    return BenchRow(
        **asdict(subject),
        training=training,
        evaluation=Spread.of([each["words"] / each["seconds"] for each in evaluated]),
        stock=stock_rates.get("stock"),
        against_stock=ratios.get("stock"),
        stock_matched=stock_rates.get("stock_matched"),
        against_stock_matched=ratios.get("stock_matched"),
        limit=limit,
        share_of_limit=training.median * operations_per_word(config) / limit,
        memory_floor=options.batch_size * bytes_rate / (2 * recurrent_bytes),
        training_bytes=training_bytes,
        evaluation_bytes=int(evaluated[-1]["peak_bytes"]),
    )


def require_stock(subject: Subject) -> None:
    """Raise InputError if a model is another than PyTorch's parts are put together to.

    Likewise if stock is not here, as in an installation without the source tree.
    """
    if not STOCK.exists():
        raise InputError("--against-stock: needs benchmarks/stock.py of the source tree")
    config = subject.config()
    model, rates = config.model, config.model.dropout_rates
    distinct = {rates.input, rates.output, *([rates.between] if model.layers > 1 else [])}
    is_stock = {
        ("model", "cell"): model.cell == "lstm",
        ("model", "dropout_on"): model.dropout_on in STOCK_DROPOUT,
        ("model", "dropout"): len(distinct) == 1,
        ("model", "tied"): not model.tied,
        ("model", "hidden_sizes"): len({*model.sizes}) == 1,
        ("optimizer", "kind"): config.optimizer.kind == "sgd",
        ("optimizer", "weight_decay"): config.optimizer.weight_decay == 0,
    }
    for (section, key), fits in is_stock.items():
        if not fits:
            value = toml_value(config.model_dump()[section][key])
            raise InputError(
                "--against-stock: stock is an untied LSTM with one rate of dropout on the "
                "non-recurrent connections and no weight decay, not one with "
                f"{section}.{key} = {value}"
            )


def _limits(subject: Subject, rounds: int) -> tuple[float, float]:
    """Return the best rate of any product of a step, and of reading memory, each a second."""
    with timed_process(subject.command("limit")) as limits:
        measured = [limits.work(1) for _ in range(rounds)]
    best = max(each["operations_rate"] for each in measured)
    return best, median(each["bytes_rate"] for each in measured)


def _training(
    subject: Subject, stocks: dict[str, list[str]], rounds: int
) -> tuple[dict[str, list[float]], int]:
    """Return words per second of each round, ``ours`` and each stock's, and our peak of memory."""
    rates: dict[str, list[float]] = {name: [] for name in ("ours", *stocks)}
    with ExitStack() as stack:
        ours = stack.enter_context(timed_process(subject.command("training")))
        others = {
            name: stack.enter_context(timed_process(command)) for name, command in stocks.items()
        }
        steps = ours.units_of_a_round()
        for other in others.values():
            other.work(steps)  # to warm up
        for _ in range(rounds):
            result = ours.work(steps)
            rates["ours"].append(result["words"] / result["seconds"])
            for name, other in others.items():
                rates[name].append(result["words"] / other.work(steps)["seconds"])
        return rates, int(result["peak_bytes"])


def bench_table(rows: list[BenchRow]) -> str:
    """Return the rows as a terminal shows them."""
    heads = [
        *("", "words/s", "spread", "limit GFLOP/s", "share", "memory floor", "eval words/s"),
        *("peak MB", "eval MB", "stock words/s", "ratio", "matched words/s", "ratio"),
    ]
    table = [heads]
    for row in rows:
        stock = [
            "" if spread is None else f"{spread.median:{form}}"
            for spread, form in (
                (row.stock, ",.0f"),
                (row.against_stock, ".2f"),
                (row.stock_matched, ",.0f"),
                (row.against_stock_matched, ".2f"),
            )
        ]
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


def _stock_command(subject: Subject) -> list[str]:
    config = subject.config()
    model, training = config.model, config.training
    options = {
        "words": WORDS,
        "hidden": model.sizes[-1],
        "layers": model.layers,
        "streams": training.batch_size,
        "steps": training.unrolled_steps,
        "dropout": model.dropout_rates.output,
        "clip": config.optimizer.clip_norm,
        "init-range": model.init_range,
        "device": subject.device,
    }
    values = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, str(STOCK), *values]
