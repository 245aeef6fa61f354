"""The tables of docs/REPRODUCTION.md: the paper's beside ours, and those of the studies."""

from collections.abc import Hashable
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from measured import read_json, runs_on_ptb

from ptb_lm.bench.worker import TRAINING_TOKENS
from ptb_lm.config import recipe_of, resolve
from ptb_lm.errors import InputError
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.report.averages import Estimate, reached_by
from ptb_lm.report.comparison import Comparison, beside_papers
from ptb_lm.report.curves import curves_title
from ptb_lm.report.evidence import Evidence, read_evidence
from ptb_lm.report.groups import all_but_seed
from ptb_lm.report.markdown import elsewhere_table, paper_table
from ptb_lm.report.published import AVERAGED, TABLE_1, published_for

STUDY = "dropout-study"
"""Of the study's folders in runs/ and results/."""

SCHEDULE = "schedule-study"
"""Of the folders of small by the schedule of the authors' code, likewise."""

MONTE_CARLO = "monte-carlo"
"""Of the folder of results/ with the scores of variational models by passes with dropout."""

TITLES = {
    "none": "none",
    "non-recurrent": "on the non-recurrent connections (the paper's)",
    "all": "on the recurrent ones too, a fresh mask each step",
    "variational": "on the recurrent ones and words too, a mask a window",
}


def reproduction_blocks(results: Path) -> dict[str, str]:
    """Return the tables of docs/REPRODUCTION.md by name."""
    runs = runs_on_ptb(results)
    comparison = beside_papers(runs)
    bench = read_json(results / "speed" / "bench-fp32.json")
    return {
        "table-1": paper_table(comparison),
        "elsewhere": elsewhere_table(comparison),
        "curves": curves_block(comparison),
        "schedule-study": schedule_block(results),
        "cost": cost_block([run for group in comparison.groups for run in group.runs], bench),
        "dropout-study": study_block(results),
        "monte-carlo": monte_carlo_block(results, runs),
    }


def curves_block(comparison: Comparison) -> str:
    """Return the learning curves of the paper's models, which ``figures.py`` draws."""
    groups = [group for group in comparison.groups if group.published]
    return "\n\n".join(f"![{curves_title(group)}](curves-{group.name}.svg)" for group in groups)


def cost_block(runs: list[Evidence], bench: dict[str, Any]) -> str:
    """Return the hours that each run of a row took, and where; of a CPU also what the bench says.

    Of several runs it is the mean, with the least and the most.
    """
    lines = ["| row | runs | hours each | on |", "|---|---|---|---|"]
    places: dict[tuple[str, str], list[float]] = {}
    for run in runs:
        row = f"{run.config.run.config}, {run.config.run.precision}"
        places.setdefault((row, run.machine), []).append(run.minutes / 60)
    for (row, machine), hours in places.items():
        each = _hours(mean(hours))
        if len(hours) > 1:
            each += f" ({_hours(min(hours))} to {_hours(max(hours))})"
        lines.append(f"| {row} | {len(hours)} | {each} | {machine} |")
    made = {run.config.run.config for run in runs if run.on_cpu}
    for timed in bench["presets"]:
        if timed["preset"] not in made:
            words = resolve(timed["preset"]).training.epochs * TRAINING_TOKENS
            hours_of_training = words / timed["training"]["median"] / 3600
            where = f"{bench['environment']['threads']} threads, at the rate of the bench"
            lines.append(f"| {timed['preset']}, fp32 | 0 | {_hours(hours_of_training)} | {where} |")
    return "\n".join(lines)


def _hours(hours: float) -> str:
    """Write hours to a tenth, and what is less than one to two digits."""
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def schedule_block(results: Path) -> str:
    """Return small by the schedule of the paper's text and by that of its authors' code."""
    published = TABLE_1["small"]
    sizes = (1, *(size for size in AVERAGED if size in published.averages))
    theirs = [published.of_members(size) for size in sizes]
    lines = [
        f"| rate 1 for | {' | '.join(_members_title(size) for size in sizes)} | seeds |",
        f"|---|{'---|' * len(sizes)}---|",
        _line("the paper", [f"{each.valid} / {each.test}" for each in theirs if each], ""),
    ]
    by_text = [run for run in runs_on_ptb(results) if _is_small(run, constant_epochs=4)]
    by_code = runs_on_ptb(results / SCHEDULE)
    for run in by_code:
        if not _is_small(run, constant_epochs=5):
            raise InputError(f"{run.folder.path}: expected small, schedule.constant_epochs=5, fp32")
    for title, runs in (
        ("4 epochs, as its text says", by_text),
        ("5 epochs, as its authors' code does", by_code),
    ):
        reached = [reached_by(runs, size) if len(runs) >= size else None for size in sizes]
        cells = [
            f"{each.perplexity['valid']} / {each.perplexity['test']}" if each else "not yet run"
            for each in reached
        ]
        lines.append(_line(title, cells, str(len(runs))))
    return "\n".join(lines)


def _members_title(size: int) -> str:
    return "one model" if size == 1 else f"average of {size}"


def _line(title: str, cells: list[str], seeds: str) -> str:
    return f"| {title} | {' | '.join(cells)} | {seeds} |"


def _is_small(run: Evidence, *, constant_epochs: int) -> bool:
    """Whether a run is small in float32, its rate at 1 for so many epochs and all else as it is."""
    recipe = recipe_of(resolve("small", [f"schedule.constant_epochs={constant_epochs}"]))
    return recipe_of(run.config) == recipe and run.config.run.precision == "fp32"


def monte_carlo_block(results: Path, runs: list[Evidence]) -> str:
    """Return the test perplexities of variational models by weight scaling and by Monte Carlo.

    Raises:
        InputError: a score file has the name of no run of a model whose paper has such a figure, or
            is of another text.
    """
    by_name = {run.name: run for run in runs}
    lines = [
        "| model | run | paper: weight scaling / Monte Carlo | ours | Monte Carlo here |",
        "|---|---|---|---|---|",
    ]
    for path in sorted((results / MONTE_CARLO).glob("*.npz")):
        run = by_name.get(path.stem)
        published = published_for(run.config) if run else None
        if run is None or published is None or published.monte_carlo is None:
            raise InputError(f"{path}: expected the name of a run of a variational model")
        scaled, sampled = run.scores["test"], load_scores(path)
        if sampled.text != replace(scaled.text, way=sampled.text.way):
            raise InputError(f"{path}: expected scores of the text that {run.name} scored")
        ours = f"{scaled.perplexity:.2f} / {sampled.perplexity:.2f}"
        paper = f"{published.test} / {published.monte_carlo}"
        lines.append(f"| {published.title} | {run.name} | {paper} | {ours} | {sampled.text.way} |")
    return "\n".join(lines)


def study_runs(results: Path) -> list[Evidence]:
    """Return the runs of the dropout study.

    Raises:
        InputError: two of them differ in more than where dropout acts and in their seed.
    """
    runs = read_evidence(results / STUDY) if (results / STUDY).exists() else []
    for run in runs[1:]:
        if _but_for_dropout(run) != _but_for_dropout(runs[0]):
            raise InputError(
                f"{run.folder.path}: not comparable with {runs[0].folder.path}: expected the same "
                "model but for dropout_on, the same training, precision and text; remove one of "
                "them and start the study again"
            )
    return runs


def _but_for_dropout(run: Evidence) -> tuple[Hashable, ...]:
    """Return what all runs of the study share."""
    model = run.config.model.model_copy(update={"dropout_on": "none"})
    texts = [(split, scores.text) for split, scores in run.scores.items()]
    return all_but_seed(run.config.model_copy(update={"model": model})), *texts


def study_block(results: Path) -> str:
    """Return perplexities by way of dropout, mean and standard deviation over the seeds."""
    runs = study_runs(results)
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
    best = [min(run.epochs, key=lambda epoch: float(epoch["valid/perplexity"])) for run in runs]
    epochs = sorted({epoch["epoch"] for epoch in best})
    reached = reached_by(runs, 1)
    columns = [
        str(Estimate.of([run.epochs[-1]["train/perplexity"] for run in runs])),
        str(reached.perplexity["valid"]),
        f"{Estimate.of([epoch['valid/perplexity'] for epoch in best])} "
        f"({', '.join(map(str, epochs))})",
        f"**{reached.perplexity['test']}**",
        str(len(runs)),
    ]
    return f"| {title} | {' | '.join(columns)} |"


def _subject(run: Evidence) -> str:
    model, training, text = run.config.model, run.config.training, run.scores["test"].text
    return (
        f"{model.sizes_text}, rate {model.dropout}, "
        f"{training.epochs} epochs, {run.config.run.precision}; {text.vocabulary_size:,} words; "
        f"test: {text.layout}, {len(run.scores['test'].log_probabilities):,} predicted tokens."
    )
