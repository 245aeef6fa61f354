"""Runs side by side: what differs in their configs and environments, and in what they reach."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isfinite, nan
from pathlib import Path
from typing import Any

from ptb_lm.compare.paired import PairedComparison
from ptb_lm.compare.seed_spread import Pair, SeedSpread, siblings_of
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import figure
from ptb_lm.report.averages import Scored
from ptb_lm.report.evidence import Evidence, read_run, run_folder_at
from ptb_lm.report.groups import data_of
from ptb_lm.report.published import percent_above
from ptb_lm.training.metrics import number_in
from ptb_lm.training.run_folder import SCORED_SPLITS

OF_THE_RUN = ("from_step", "steps_per_epoch")
"""What an environment holds that is not the machine's or the program's."""


@dataclass(frozen=True)
class ReachedPerplexity:
    """A perplexity that a run has reached.

    Attributes:
        perplexity: NaN where there is none.
        scored: on what, if it comes from a score file; else it is from the metrics.
    """

    perplexity: float
    scored: Scored | None


@dataclass(frozen=True)
class Results:
    """What a run has reached so far.

    Attributes:
        epochs_done: trained and validated.
        epochs: that it is to have.
        reached: by split; the last epoch's.
        best_epoch: with the lowest validation perplexity; None while there is none.
        best_valid_perplexity: that perplexity.
        words_per_second: over all epochs done; NaN before the first.
        minutes: of training and validation, up to the last epoch done.
    """

    epochs_done: int
    epochs: int
    reached: dict[str, ReachedPerplexity]
    best_epoch: int | None
    best_valid_perplexity: float
    words_per_second: float
    minutes: float

    @classmethod
    def of(cls, run: Evidence) -> "Results":
        """Read them from the score files where they are there, else from the metrics."""
        ends = run.epochs
        valid = {end["epoch"]: number_in(end, "valid/perplexity") for end in ends}
        finite = {epoch: value for epoch, value in valid.items() if isfinite(value)}
        best = min(finite, key=lambda epoch: finite[epoch], default=None)
        rates = [rate for end in ends if (rate := number_in(end, "words_per_second")) > 0]
        reached = {split: ReachedPerplexity(nan, None) for split in SCORED_SPLITS}
        if ends:
            reached["valid"] = ReachedPerplexity(number_in(ends[-1], "valid/perplexity"), None)
        for split, scores in run.scores.items():
            whole = figure(scores.log_probabilities)
            reached[split] = ReachedPerplexity(whole.perplexity, Scored(scores.text, whole.tokens))
        return cls(
            epochs_done=ends[-1]["epoch"] if ends else 0,
            epochs=run.config.training.epochs,
            reached=reached,
            best_epoch=best,
            best_valid_perplexity=nan if best is None else finite[best],
            words_per_second=statistics.harmonic_mean(rates) if rates else nan,
            minutes=number_in(ends[-1], "seconds") / 60 if ends else nan,
        )


@dataclass(frozen=True)
class Difference:
    """A run's figure of a split beside the first run's.

    Attributes:
        split: of the figures.
        obstacle: why the two cannot be compared as numbers; empty where they can, or where one of
            them is missing.
        remark: what one must know of the comparison.
        perplexity: this run's minus the first's; NaN where there is none.
        percent: the same in percent of the first's.
        seed_spread: None where too few seeds are there to know it.
        paired: None where the two have not both scored the same text.
    """

    split: str
    obstacle: str
    remark: str
    perplexity: float
    percent: float
    seed_spread: SeedSpread | None
    paired: PairedComparison | None


@dataclass(frozen=True)
class SideBySide:
    """Several runs.

    Attributes:
        names: of the runs, each unlike the others.
        config: the keys that differ, dotted, each with a value for each run, None for none.
        environment: the same of where they were made.
        results: of each run.
        common_epoch: the last that all runs have, where their last ones differ.
        valid_at_common_epoch: of each run.
        differences: of each run but the first, of each split.
    """

    names: list[str]
    config: dict[str, list[Any]]
    environment: dict[str, list[Any]]
    results: list[Results]
    common_epoch: int | None
    valid_at_common_epoch: list[float]
    differences: list[list[Difference]]


def read_for_comparison(paths: Sequence[Path]) -> list[Evidence]:
    """Read the runs of at least two folders.

    Raises:
        InputError: there are fewer, one is named twice, or one is not a run's or damaged.
    """
    if len(paths) < 2:
        raise InputError("compare: takes two runs or more, as in `ptb-lm compare runs/a runs/b`")
    seen: dict[Path, Path] = {}
    for path in paths:
        run_folder_at(path, "compare runs/a runs/b")
        if path.resolve() in seen:
            raise InputError(f"{path}: named twice, as {seen[path.resolve()]}; name another run")
        seen[path.resolve()] = path
    return [read_run(path) for path in paths]


def side_by_side(runs: Sequence[Evidence]) -> SideBySide:
    """Set runs side by side; the differences are from the first.

    Raises:
        InputError: the metrics or the environment of one cannot be read.
    """
    results = [Results.of(run) for run in runs]
    last = {each.epochs_done for each in results}
    common = min(last) if len(last) > 1 and min(last) > 0 else None
    siblings = siblings_of(runs)
    return SideBySide(
        names=_names(runs),
        config=_differing([_flat(run.config.model_dump()) for run in runs]),
        environment=_differing([_environment(run) for run in runs]),
        results=results,
        common_epoch=common,
        valid_at_common_epoch=[_valid_at(run, common) for run in runs] if common else [],
        differences=[
            [
                _difference(split, (runs[0], run), (results[0], result), siblings)
                for split in SCORED_SPLITS
            ]
            for run, result in zip(runs[1:], results[1:], strict=True)
        ],
    )


def _names(runs: Sequence[Evidence]) -> list[str]:
    """Return the folders' names, or their paths where two have one name."""
    names = [run.name for run in runs]
    return names if len(set(names)) == len(names) else [str(run.folder.path) for run in runs]


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _environment(run: Evidence) -> dict[str, Any]:
    """Return where a run was made; of one that went on elsewhere, lists of what it had in turn."""
    parts = [part for part in run.folder.read_environments() if isinstance(part, dict)]
    # What older runs do not say.
    values: dict[str, Any] = {"precision": run.config.run.precision, "processes": 1}
    for key in {key: None for part in parts for key in part if key not in OF_THE_RUN}:
        distinct = list({str(part[key]): part[key] for part in parts if key in part}.values())
        values[key] = distinct[0] if len(distinct) == 1 else distinct
    return values


def _differing(tables: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    keys = {key: None for table in tables for key in table}
    columns = {key: [table.get(key) for table in tables] for key in keys}
    return {
        key: values
        for key, values in columns.items()
        if any(value != values[0] for value in values)
    }


def _valid_at(run: Evidence, epoch: int) -> float:
    ends = {end["epoch"]: end for end in run.epochs}
    return number_in(ends[epoch], "valid/perplexity") if epoch in ends else nan


def _difference(
    split: str, runs: Pair, results: tuple[Results, Results], siblings: Sequence[Evidence]
) -> Difference:
    first, other = (result.reached[split] for result in results)
    remark = _remark(first, other)
    epochs = {result.epochs_done for result in results}
    if split == "valid" and not (first.scored and other.scored) and len(epochs) > 1:
        common = min(epochs)
        first, other = (ReachedPerplexity(_valid_at(run, common), None) for run in runs)
        remark = f"after epoch {common} of both"
    obstacle = _obstacle(runs, first, other)
    perplexity = percent = nan
    spread = paired = None
    if isfinite(first.perplexity) and isfinite(other.perplexity) and not obstacle:
        perplexity = other.perplexity - first.perplexity
        percent = percent_above(other.perplexity, first.perplexity)
    if first.scored and other.scored and not obstacle:
        paired = PairedComparison.of(*(run.scores[split] for run in runs))
        spread = SeedSpread.of(split, runs, siblings)
    return Difference(split, obstacle, remark, perplexity, percent, spread, paired)


def _obstacle(runs: Pair, first: ReachedPerplexity, other: ReachedPerplexity) -> str:
    """Say why two perplexities are not of the same thing; nothing, where they are."""
    if first.scored and other.scored:
        mine, theirs = first.scored.text, other.scored.text
        if mine.vocabulary_size != theirs.vocabulary_size:
            return f"vocabularies of {mine.vocabulary_size:,} and {theirs.vocabulary_size:,} words"
        return "" if mine.text_sha256 == theirs.text_sha256 else "two texts"
    if data_of(runs[0].config) == data_of(runs[1].config):
        return ""
    names = (run.config.run.data for run in runs)
    return f"the vocabularies of {' and of '.join(names)}"


def _remark(first: ReachedPerplexity, other: ReachedPerplexity) -> str:
    """Say in which way one text was scored otherwise by the two."""
    if not (first.scored and other.scored):
        return ""
    mine, theirs = first.scored.text.layout, other.scored.text.layout
    return "" if mine == theirs else f"in {theirs} against {mine}"


def side_by_side_json(compared: SideBySide) -> dict[str, Any]:
    """Return what ``compare --json`` prints; what is not known is null."""
    return {
        "runs": compared.names,
        "config": compared.config,
        "environment": compared.environment,
        "results": [asdict(each) for each in compared.results],
        "common_epoch": compared.common_epoch,
        "valid_at_common_epoch": compared.valid_at_common_epoch,
        "differences_from_first": [
            {"run": name, **{each.split: _difference_record(each) for each in differences}}
            for name, differences in zip(compared.names[1:], compared.differences, strict=True)
        ],
    }


def _difference_record(difference: Difference) -> dict[str, Any]:
    record = asdict(difference)
    del record["split"]
    spread = difference.seed_spread
    record["comparable"] = not difference.obstacle
    record["within_seed_spread"] = spread.explains(difference.perplexity) if spread else None
    return record
