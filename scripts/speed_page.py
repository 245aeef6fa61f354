"""The tables of docs/SPEED.md from what ``make bench`` measured."""

from pathlib import Path
from typing import Any

from measured import ratio, read_json, spread, turns_row, where_measured

from ptb_lm.bench.measure import PAPER_PRESETS
from ptb_lm.bench.worker import TRAINING_TOKENS

PRECISIONS = ("tf32", "fp32", "bf16")
"""What ``make bench-cuda`` measures, in this order."""


def speed_blocks(results: Path) -> dict[str, str]:
    """Return the tables of the page by name."""
    folder = results / "speed"
    bench = [read_json(folder / f"bench-{precision}.json") for precision in ("fp32", "bf16")]
    without = [read_json(folder / f"without-{preset}.json") for preset in ("small", "medium")]
    return {
        "bench": bench_block(bench),
        "steps": steps_block(without),
        "around": around_block(read_json(folder / "around.json"), bench[0]),
        "processes": processes_block(read_json(folder / "processes.json")),
        "cuda": cuda_block(folder),
    }


def bench_block(parts: list[dict[str, Any]]) -> str:
    """Return words per second beside the limit and beside stock."""
    lines = [
        "| model, precision | words/s | limit, GFLOP/s | share of it | words/s if only memory "
        "counted | evaluation, words/s | peak MB: training, evaluation | stock, words/s | ratio |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [_bench_row(row) for part in parts for row in part["presets"]]
    return "\n".join([*lines, "", where_measured(*parts)])


def _bench_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['preset']}, {row['precision']} | {spread(row['training'])} "
        f"| {row['limit'] / 1e9:.0f} | {row['share_of_limit']:.0%} "
        f"| {row['memory_floor']:,.0f} | {spread(row['evaluation'])} "
        f"| {row['training_bytes'] / 1e6:,.0f}, {row['evaluation_bytes'] / 1e6:,.0f} "
        f"| {spread(row['stock'])} | {ratio(row['against_stock'])} |"
    )


def steps_block(parts: list[dict[str, Any]]) -> str:
    """Return what is lost without each step towards speed."""
    names = [name for name in parts[0]["without"] if name != "nothing"]
    heads = [f"{part['command'].split()[2]}, {part['precision']}" for part in parts]
    lines = [f"| without | {' | '.join(heads)} |", f"|---|{'---|' * len(parts)}"]
    for name in names:
        ratios = (ratio(part["without"][name]["ratio"]) for part in parts)
        lines.append(f"| {name} | {' | '.join(ratios)} |")
    return "\n".join([*lines, "", where_measured(*parts)])


def around_block(around: dict[str, Any], bench: dict[str, Any]) -> str:
    """Return what is around the step, in seconds."""
    names = ("help", "reading the Penn Treebank", "small's test figure, one stream")
    lines = ["| what | seconds |", "|---|---|"]
    lines += [f"| {name} | {spread(around[name], 2)} |" for name in names]
    (small,) = [row for row in bench["presets"] if row["preset"] == "small"]
    epoch = TRAINING_TOKENS / small["training"]["median"]
    lines.append(f"| an epoch of small, at the rate above | {epoch:.0f} |")
    return "\n".join([*lines, "", where_measured(around)])


def processes_block(processes: dict[str, Any]) -> str:
    """Return one training on every core beside one a core."""
    names = ("one process on every core", "one process a core")
    lines = [f"| model, precision | {' | '.join(names)}, in all | ratio |", "|---|---|---|---|"]
    lines += [
        turns_row(f"{pair['preset']}, {pair['precision']}", pair, names)
        for pair in processes["pairs"]
    ]
    return "\n".join([*lines, "", where_measured(processes)])


def cuda_block(folder: Path) -> str:
    """Return the figures of a GPU, as far as there are any."""
    bench = [
        read_json(folder / f"bench-cuda-{precision}.json")
        for precision in PRECISIONS
        if (folder / f"bench-cuda-{precision}.json").exists()
    ]
    if not bench:
        return "Not yet measured."
    lines = [
        "| model, precision | words/s | an epoch, s | limit, GFLOP/s | share of it | evaluation, "
        "words/s | peak MB | PyTorch's defaults, words/s | ratio | in the same precision, words/s "
        "| ratio |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [row for part in bench for row in part["presets"]]
    lines += [_cuda_row(row) for row in rows]
    parts = ["\n".join(lines), where_measured(*bench)]
    measured = {(row["preset"], row["precision"]) for row in rows}
    missing = [
        f"{preset}, {precision}"
        for precision in PRECISIONS
        for preset in PAPER_PRESETS
        if (preset, precision) not in measured
    ]
    if missing:
        parts.append(f"Not yet measured: {'; '.join(missing)}.")
    without = [read_json(path) for path in sorted(folder.glob("without-cuda-*.json"))]
    if without:
        parts.append(steps_block(without))
    return "\n\n".join(parts)


def _cuda_row(row: dict[str, Any]) -> str:
    return (
        f"| {row['preset']}, {row['precision']} | {spread(row['training'])} "
        f"| {TRAINING_TOKENS / row['training']['median']:.2f} | {row['limit'] / 1e9:,.0f} "
        f"| {row['share_of_limit']:.0%} | {spread(row['evaluation'])} "
        f"| {row['training_bytes'] / 1e6:,.0f} "
        f"| {spread(row['stock'])} | {ratio(row['against_stock'])} "
        f"| {spread(row['stock_matched'])} | {ratio(row['against_stock_matched'])} |"
    )
