"""What each step towards speed brings: the trainer with one of them undone, by turns with it whole.

``python benchmarks/without.py small`` prints, for each, words per second and the ratio to the
whole, round by round; ``--write`` keeps them in results/speed/. For a machine that is quiet.
"""

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import torch
from evidence import show
from torch import Tensor, nn

from ptb_lm.bench import worker
from ptb_lm.bench.timed_process import Spread, timed_process
from ptb_lm.model import backends, cuda_graph, network
from ptb_lm.model.decoder import Softmax
from ptb_lm.training import loop, step
from ptb_lm.training.environment import describe_environment


def default_products() -> None:
    """Leave the products to PyTorch's default, MKL."""
    backends._is_amd = lambda: False


def fresh_buffers() -> None:
    """Leave large buffers to glibc's own ways."""
    backends._keep_large_buffers = lambda: None  # type: ignore[assignment]


def dense_embedding() -> None:
    """Update all rows of the embedding, most by zero."""
    sparse = network.Embedding
    network.Embedding = lambda words, width, **_: sparse(words, width)  # type: ignore


def cross_entropy() -> None:
    """Compute the objective by PyTorch's cross entropy, in buffers of its own."""

    def nll(self: Softmax, h: Tensor, targets: Tensor) -> Tensor:
        logits = self._logits(h).flatten(0, 1)
        nll = nn.functional.cross_entropy(logits, targets.flatten(), reduction="none")
        return nll.view_as(targets)

    Softmax.nll = nll  # type: ignore[method-assign]


def pytorchs_dropout() -> None:
    """Draw the masks by PyTorch's dropout."""
    network.Dropout.forward = lambda self, x: nn.functional.dropout(x, self.p, self.training)  # type: ignore


def launched_one_by_one() -> None:
    """Launch each operation of a step by itself, in the same step."""
    cuda_graph.capture_cuda_graph = lambda work: work


def plain_widths() -> None:
    """Leave the widths as they are."""
    step.WIDTH_MULTIPLE = 1


def plain_steps() -> None:
    """Make the steps as on a CPU, one after the other, each read back."""
    loop.stepper_of = step.Stepper  # type: ignore


ON_CPU: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "oneDNN's products": default_products,
    "kept buffers": fresh_buffers,
    "sparse embedding": dense_embedding,
    "softmax in place": cross_entropy,
    "masks from uniform numbers": pytorchs_dropout,
}
ON_CUDA: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "one launch a step": launched_one_by_one,
    "one launch and no wait a step": plain_steps,
    "padded widths": plain_widths,
    "softmax in place": cross_entropy,
    "masks from uniform numbers": pytorchs_dropout,
}
UNDONE = {"cpu": ON_CPU, "cuda": ON_CUDA}


def main() -> None:
    """Time the whole and each variant by turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset")
    parser.add_argument("--device", choices=UNDONE, default="cpu")
    parser.add_argument("--precision", help="default fp32, on cuda tf32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true", help="keep the figures in results/speed/")
    parser.add_argument("--undone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    device = options.device
    precision = options.precision or ("tf32" if device == "cuda" else "fp32")
    if options.undone:
        UNDONE[device][options.undone]()
        sys.argv[1:] = ["training", options.preset, device, precision]
        worker.main()
        return
    result = {
        "command": " ".join(["python", "benchmarks/without.py", *sys.argv[1:]]),
        "environment": describe_environment(torch.device(device)),
        "precision": precision,
        "without": measure(options.preset, device, precision, options.rounds),
    }
    parts = ["without", *(["cuda"] if device == "cuda" else []), options.preset]
    if options.precision:
        parts.append(precision)
    name = f"{'-'.join(parts)}.json"
    show(result, f"speed/{name}", keep=options.write)


def measure(preset: str, device: str, precision: str, rounds: int) -> dict[str, Any]:
    """Return words per second without each step, and the ratio to the whole."""
    rates: dict[str, list[float]] = {name: [] for name in UNDONE[device]}
    with ExitStack() as stack:
        command = [sys.executable, __file__, preset, "--device", device, "--precision", precision]
        variants = {
            name: stack.enter_context(timed_process([*command, "--undone", name])) for name in rates
        }
        units = {name: variant.units_of_a_round() for name, variant in variants.items()}
        for _ in range(rounds):
            for name, variant in variants.items():
                figures = variant.work(units["nothing"])
                rates[name].append(figures["words"] / figures["seconds"])
    whole = rates["nothing"]
    return {
        name: {
            "words_per_second": asdict(Spread.of(values)),
            "ratio": asdict(Spread.of([a / b for a, b in zip(values, whole, strict=True)])),
        }
        for name, values in rates.items()
    }


if __name__ == "__main__":
    main()
