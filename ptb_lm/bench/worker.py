"""What the bench times, in a process of its own: the trainer, the evaluation, the machine's limit.

Each task prepares itself, and then does, for each line on standard input, as many units of work as
the line says, and writes what that took as a line of JSON. A process of its own has its own peak of
memory, and settings of libraries that no other task feels.
"""

import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch

from ptb_lm.config import Config, resolve
from ptb_lm.corpus.splits import SPLITS
from ptb_lm.errors import PtbLmError
from ptb_lm.model.backends import configure_backends, matmul_routes
from ptb_lm.model.layers import LAYERS
from ptb_lm.model.scoring import target_log_probabilities
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.loop import train
from ptb_lm.training.run import Run
from ptb_lm.training.shared_run import open_shared_run
from ptb_lm.training.world import joined_world

WORDS = 10_000
"""V, as on the Penn Treebank."""

TRAINING_TOKENS = 929_589
EVALUATED_TOKENS = 82_430


@dataclass(frozen=True)
class Subject:
    """What is timed: a preset or a config's file, on a device, in a precision; neither is auto."""

    preset: str
    device: str
    precision: str

    def config(self, data: str = "ptb", *assignments: str) -> Config:
        """Return its config."""
        options = {"data": data, "device": self.device, "precision": self.precision}
        return resolve(self.preset, list(assignments), options)

    def command(self, task: str) -> list[str]:
        """Return the command of a process that does one of :data:`TASKS`."""
        return [sys.executable, "-m", "ptb_lm.bench.worker", task, *astuple(self)]


Task = Callable[[int], dict[str, float]]
"""Does so many units of work, and returns figures, ``seconds`` among them."""


def main() -> None:
    """Do one task of one preset, as often as standard input asks for it."""
    task_name, *words = sys.argv[1:]
    subject = Subject(*words)
    # Not of progress, and not of the perplexity of a text that is drawn at random.
    logging.getLogger("ptb_lm").setLevel(logging.ERROR)
    try:
        with TASKS[task_name](subject) as task:
            for line in sys.stdin:
                result = task(int(line))
                result["peak_bytes"] = peak_bytes(subject.device)
                sys.stdout.write(json.dumps(result) + "\n")
                sys.stdout.flush()
    except (PtbLmError, Stopped) as error:
        sys.exit(str(error))  # on standard error; the process that measures says the rest


def peak_bytes(device: str) -> int:
    """Return the most memory that this process has had: resident, or allocated on the GPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextmanager
def training(subject: Subject) -> Iterator[Task]:
    """Steps of the real trainer; a unit is a step."""
    with _run(subject, TRAINING_TOKENS) as run, StopFlag() as stop:

        def steps(count: int) -> dict[str, float]:
            state = run.state
            before, targets = state.epoch_seconds, state.targets
            while count:
                if state.windows_done == run.windows:
                    state.windows_done = 0  # no epoch ends here: a validation is no step
                part = min(count, run.windows - state.windows_done)
                train(run, stop, max_steps=run.step + part)
                count -= part
            return {
                "seconds": state.epoch_seconds - before,
                "words": state.targets - targets,
            }

        yield steps


@contextmanager
def evaluation(subject: Subject) -> Iterator[Task]:
    """The paper's test protocol, one stream; a unit is a thousand words."""
    with _run(subject, EVALUATED_TOKENS) as run:
        tokens = run.corpus.splits["train"]

        def thousands(count: int) -> dict[str, float]:
            began = time.perf_counter()
            scored = target_log_probabilities(run.network, tokens[: 1000 * count + 1], streams=1)
            return {"seconds": time.perf_counter() - began, "words": len(scored)}

        yield thousands


@contextmanager
def _run(subject: Subject, tokens: int) -> Iterator[Run]:
    """A run of a preset on a text of words as frequent as those of a language (Zipf's law).

    Processes that are told of each other as by ``torchrun`` share it.
    """
    with tempfile.TemporaryDirectory(prefix="ptb-lm-bench-") as folder:
        frequencies = 1 / torch.arange(1, WORDS - 1)
        drawn = torch.multinomial(
            frequencies, tokens, replacement=True, generator=torch.Generator().manual_seed(1)
        )
        types = [f"w{rank}" for rank in range(WORDS - 2)]  # beside <eos> and <unk>
        text = " ".join([*types, *(types[rank] for rank in drawn.tolist())])
        for split in SPLITS:
            (Path(folder) / f"{split}.txt").write_text(text if split == "train" else text[:10_000])
        config = subject.config(folder, "run.checkpoint_minutes=1e6", "run.log_steps=1000000")
        with (
            joined_world(subject.device) as world,
            open_shared_run(config, Path(), Path(folder) / "run", world) as run,
        ):
            yield run


@contextmanager
def limit(subject: Subject) -> Iterator[Task]:
    """The products of a training step one by one, by each route there is; a unit is one of each.

    The figures are the best rate of any, in operations a second, and that of reading memory, in
    bytes a second.
    """
    config, device = subject.config(), subject.device
    hidden, streams = config.model.sizes[-1], config.training.batch_size
    window, gates = config.training.unrolled_steps * streams, LAYERS[config.model.cell].gates
    configure_backends(subject.precision)
    routes, backends = matmul_routes(), cast(Any, torch.backends)
    if device == "cuda":
        routes = routes[:1]  # they are the CPU's
    kind: Any = {
        "device": device,
        "dtype": torch.bfloat16 if subject.precision == "bf16" else torch.float32,
    }
    shapes = [
        (window, hidden, WORDS),  # the softmax forward, then its two gradients
        (window, WORDS, hidden),
        (WORDS, window, hidden),
        (window, hidden, gates * hidden),  # a layer's input, and its gradient
        (gates * hidden, window, hidden),
        (streams, hidden, gates * hidden),  # a step's recurrent product
    ]
    factors = [(torch.rand(m, k, **kind), torch.rand(k, n, **kind)) for m, k, n in shapes]
    memory = torch.ones(2**26, device=device)  # 256 MB, more than any cache holds

    def each_product(count: int) -> dict[str, float]:
        began = time.perf_counter()
        best = 0.0
        for _ in range(count):
            for route in routes:
                backends.mkldnn.matmul.fp32_precision = route
                for a, b in factors:
                    operations = 2 * a.shape[0] * a.shape[1] * b.shape[1]
                    best = max(best, operations / _seconds(partial(torch.matmul, a, b), device))
        bytes_a_second = memory.nbytes / _seconds(memory.sum, device)
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "operations_rate": best, "bytes_rate": bytes_a_second}

    yield each_product


def _seconds(work: Callable[[], Any], device: str, repetitions: int = 5) -> float:
    """Return the median of some repetitions, after one to warm up.

    On a GPU each is of many in a row: to launch one may take longer than to do it.
    """
    in_a_row = 50 if device == "cuda" else 1
    taken = []
    for _ in range(1 + repetitions):
        began = time.perf_counter()
        for _ in range(in_a_row):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - began) / in_a_row)
    return median(taken[1:])


TASKS = {"training": training, "evaluation": evaluation, "limit": limit}

if __name__ == "__main__":
    main()
