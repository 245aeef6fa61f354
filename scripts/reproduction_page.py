"""The tables of docs/REPRODUCTION.md: the paper's beside ours, and that of the dropout study."""

from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ptb_lm.evaluation.scores import figure
from ptb_lm.report.comparison import compare
from ptb_lm.report.evidence import Evidence, read_evidence
from ptb_lm.report.markdown import paper_table
from ptb_lm.training.run_folder import read_metrics

STUDY = "dropout-study"
"""Of the study's folders in runs/ and results/."""

TITLES = {
    "none": "none",
    "non-recurrent": "on the non-recurrent connections (the paper's)",
    "all": "on the recurrent ones too, a fresh mask each step",
    "variational": "on the recurrent ones and words too, a mask a window",
}


def reproduction_blocks(results: Path) -> dict[str, str]:
    """Return the tables of docs/REPRODUCTION.md by name."""
    table_1 = paper_table(compare(read_evidence(results)))
    cost = cost_block(read_evidence(results))
    return {"table-1": table_1, "cost": cost, "dropout-study": study_block(results)}


def cost_block(runs: list[Evidence]) -> str:
    """Return the hours that each run of a row took, and where."""
    lines = ["| row | runs | hours each | on |", "|---|---|---|---|"]
    places: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        row = f"{run.config.run.config}, {run.config.run.precision}"
        places.setdefault((row, run.machine), []).append(run.minutes / 60)
    for (row, machine), hours in places.items():
        lines.append(f"| {row} | {len(hours)} | {mean(hours):.1f} | {machine} |")
    return "\n".join(lines)


def study_block(results: Path) -> str:
    """Return perplexities by way of dropout, mean and standard deviation over the seeds."""
    folder = results / STUDY
    runs = read_evidence(folder) if folder.exists() else []
    if not runs:
        return "Not yet run."
    by_way = {way: [run for run in runs if run.config.model.dropout_on == way] for way in TITLES}
    lines = [
        "| dropout | train, last epoch | valid, last | valid, best (epoch) | test, last | seeds |",
        "|---|---|---|---|---|---|",
    ]
    lines += [_row(TITLES[way], of_way) for way, of_way in by_way.items() if of_way]
    return "\n".join([*lines, "", _subject(runs[0])])


def _row(title: str, runs: list[Evidence]) -> str:
    ends = [_ends_of_epochs(run) for run in runs]
    best = [min(epochs, key=lambda epoch: epoch["valid/perplexity"]) for epochs in ends]
    epochs = sorted({epoch["epoch"] for epoch in best})
    columns = [
        _mean([epochs_of_run[-1]["train/perplexity"] for epochs_of_run in ends]),
        _mean([_reached(run, "valid") for run in runs]),
        f"{_mean([epoch['valid/perplexity'] for epoch in best])} ({', '.join(map(str, epochs))})",
        f"**{_mean([_reached(run, 'test') for run in runs])}**",
        str(len(runs)),
    ]
    return f"| {title} | {' | '.join(columns)} |"


def _ends_of_epochs(run: Evidence) -> list[dict[str, Any]]:
    return [line for line in read_metrics(run.folder.metrics) if "valid/perplexity" in line]


def _reached(run: Evidence, split: str) -> float:
    return figure(run.scores[split].log_probabilities).perplexity


def _mean(values: list[float]) -> str:
    spread = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
    return f"{mean(values):.1f}{spread}"


def _subject(run: Evidence) -> str:
    model, training, text = run.config.model, run.config.training, run.scores["test"].text
    return (
        f"{model.layers} layers of {model.hidden_size} units, rate {model.dropout}, "
        f"{training.epochs} epochs; {text.vocabulary_size:,} words; test: {text.layout}, "
        f"{len(run.scores['test'].log_probabilities):,} predicted tokens."
    )
