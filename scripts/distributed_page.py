"""The tables of docs/DISTRIBUTED.md: what a shared training sends, and how small scores are."""

from math import prod
from pathlib import Path
from typing import Any

from measured import read_json, runs_on_ptb, turns_row, where_measured

from ptb_lm.bench.worker import WORDS
from ptb_lm.config import resolve
from ptb_lm.model.network import parameter_shapes
from ptb_lm.training.run_folder import SCORED_SPLITS

FLOAT_BYTES = 4
NETWORKS = {"1 Gbit/s": 1e9 / 8, "10 Gbit/s": 10e9 / 8}
"""Bytes per second by the name of a network."""


def distributed_blocks(results: Path) -> dict[str, str]:
    """Return the tables of the page by name."""
    return {
        "sent": sent_block(read_json(results / "speed" / "bench-fp32.json")),
        "shared": shared_block(read_json(results / "speed" / "shared-training.json")),
        "scores": scores_block(results),
    }


def sent_bytes(preset: str) -> int:
    """Return the size of the gradients that are summed at each step, but for the embedding's rows.

    Of two processes each sends as much: half of its own sums, and then half of the whole ones.
    """
    shapes = parameter_shapes(resolve(preset).model, WORDS)
    return FLOAT_BYTES * sum(
        prod(shape) for name, shape in shapes.items() if name != "embedding.weight"
    )


def sent_block(bench: dict[str, Any]) -> str:
    """Return, by preset, how long a step is and how long sending its gradients takes."""
    lines = [
        "| model | words per step | seconds per step, one process | MB summed per step "
        f"| {' | '.join(f'seconds to send them, {name}' for name in NETWORKS)} |",
        f"|---|---|---|---|{'---|' * len(NETWORKS)}",
    ]
    for timed in bench["presets"]:
        training = resolve(timed["preset"]).training
        words, sent = training.batch_size * training.unrolled_steps, sent_bytes(timed["preset"])
        seconds = words / timed["training"]["median"]
        columns = [
            *(timed["preset"], str(words), f"{seconds:.2f}", f"{sent / 1e6:.0f}"),
            *(f"{sent / rate:.2f}" for rate in NETWORKS.values()),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join([*lines, "", where_measured(bench)])


def shared_block(shared: dict[str, Any]) -> str:
    """Return what a training gains or loses when the cores of a machine share it."""
    ways = ("one process on every core", "shared by one process a core")
    lines = [f"| model | {', words/s | '.join(ways)}, words/s | ratio |", "|---|---|---|---|"]
    lines += [turns_row(pair["preset"], pair, ways) for pair in shared["pairs"]]
    return "\n".join([*lines, "", where_measured(shared)])


def scores_block(results: Path) -> str:
    """Return how large the score files of a run are."""
    runs = runs_on_ptb(results)
    sizes = {
        split: max(run.folder.scores(split).stat().st_size for run in runs) / 1e3
        for split in SCORED_SPLITS
    }
    files = " and ".join(f"{size:.0f} kB ({split})" for split, size in sizes.items())
    return f"A model's scores of the Penn Treebank take at most {files}; kept rounded, less."
