"""What runs leave behind for others to recompute their figures from: read, no model loaded."""

import logging
import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ptb_lm.config import BUILT_IN, Config, load_config
from ptb_lm.errors import InputError
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.evaluation.scores import PAPER_PROTOCOL, USUAL, Scores
from ptb_lm.lock import holder
from ptb_lm.training.history import read_history
from ptb_lm.training.metrics import Record, number_in
from ptb_lm.training.run_folder import SCORED_SPLITS, RunFolder

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evidence:
    """A run, as its folder or the evidence committed of it shows it.

    Attributes:
        folder: the run folder, with or without its checkpoints.
        config: the resolved config.
        scores: per-token scores of the last epoch's weights, by split, of which there may be no
            test; empty while the run is unfinished.
    """

    folder: RunFolder
    config: Config
    scores: dict[str, Scores]

    @property
    def finished(self) -> bool:
        """Whether its last weights are scored."""
        return bool(self.scores)

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.path.absolute().name

    @property
    def progress(self) -> str:
        """How far it is."""
        done = self.epochs[-1]["epoch"] if self.epochs else 0
        return f"epoch {done} of {self.config.training.epochs}"

    @cached_property
    def epochs(self) -> list[Record]:
        """The lines of the metrics that end an epoch, in order.

        Raises:
            InputError: the metrics cannot be read.
        """
        return read_history(self.folder.metrics).ends

    @property
    def minutes(self) -> float:
        """Minutes of training and validation; NaN where the metrics do not say."""
        return number_in(self.epochs[-1], "seconds") / 60 if self.epochs else math.nan

    @property
    def on_cpu(self) -> bool:
        """Whether the run was begun without a GPU."""
        return bool(self._first_environment.get("device") == "cpu")

    @property
    def machine(self) -> str:
        """Where the run was begun, as far as that is recorded."""
        environment = self._first_environment
        processes = environment.get("processes")  # older runs do not say: one
        many = isinstance(processes, int) and processes > 1
        shared = f"{processes} processes, " if many else ""
        if not self.on_cpu:
            return f"{shared}{environment.get('device') or 'unknown device'}"
        threads = environment.get("threads")
        plural = "" if threads == 1 else "s"
        each = " each" if many else ""
        return f"{shared}{threads} thread{plural}{each}, {environment.get('processor')}"

    @property
    def _first_environment(self) -> Record:
        return next(iter(self.folder.read_environments()), {})


def read_run(path: Path) -> Evidence:
    """Read a run's folder; one whose scores are not all there yet is taken as unfinished.

    Raises:
        InputError: it is not there or not a run's, or a file in it is damaged.
    """
    folder = run_folder_at(path)
    config = load_config(folder.config)
    return Evidence(folder, config, read_scores(folder, config.run.data))


def read_scores(folder: RunFolder, data: str) -> dict[str, Scores]:
    """Read a run's scores by split; none while they are not all there.

    Raises:
        InputError: a file is damaged, or holds what its name does not say: the scores of another
            split, or those of another way or protocol than the paper's.
    """
    scores = {split: load_scores(folder.scores(split)) for split in splits_scored(folder, data)}
    for split, each in scores.items():
        text = each.text
        if (text.split, text.protocol, text.way) != (split, PAPER_PROTOCOL[split], USUAL):
            raise InputError(
                f"{each.name}: holds scores of {text.split}, {text.layout}, way {text.way!r}, not "
                f"a run's of {split}; remove it, and `ptb-lm train --resume` makes it anew"
            )
    return scores


def splits_scored(folder: RunFolder, data: str) -> tuple[str, ...]:
    """Return the splits that a run has its figures of: none, unless it has all of them.

    A folder of texts need not have a test text. Where the validation text's scores are there, so
    are all: they are made last.
    """
    there = tuple(split for split in SCORED_SPLITS if folder.scores(split).exists())
    is_whole = there == SCORED_SPLITS or (there == ("valid",) and data not in BUILT_IN)
    return there if is_whole else ()


def run_folder_at(path: Path, usage: str = "report runs/*/") -> RunFolder:
    """Return the run folder of this path.

    Args:
        path: of a run.
        usage: what to show of a command if it is none.

    Raises:
        InputError: it is not there or not a run's.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - Path's raises of a name that is too long
        missing = "not a folder" if os.path.exists(path) else "no such folder"  # noqa: PTH110
        raise InputError(f"{path}: {missing}; name run folders, as in `ptb-lm {usage}`")
    folder = RunFolder(path)
    if not folder.config.is_file():
        advice = (
            f"the runs in it: {shlex.quote(str(path))}/*/"
            if runs_in(path)
            else "what `ptb-lm train` has made"
        )
        raise InputError(f"{path}: not a run folder: it has no config.toml; name {advice}")
    return folder


def read_runs(paths: Sequence[Path], results: Path) -> list[Evidence]:
    """Read the runs of these folders, or where none is named every run under ``results``.

    A folder that is named twice is read once. Of a run that is unfinished, a warning says so.

    Raises:
        InputError: as :func:`read_run` does, or there is no run under ``results``.
    """
    named = {path.resolve(): path for path in _only_runs(paths) or runs_in(results)}
    if not named:
        raise InputError(
            f"{results}: no run in it; name run folders, as in `ptb-lm report runs/*/`"
        )
    runs = sorted((read_run(path) for path in named.values()), key=_order)
    for run in runs:
        if not run.finished:
            path, process = run.folder.path, holder(run.folder.lock)
            resume = f"`ptb-lm train --resume --run-dir {shlex.quote(str(path))}` goes on with it"
            logger.warning(
                "%s: unfinished, so it has a curve and no figure%s",
                path,
                f"; {resume}" if process is None else " yet; a training is at work in it",
            )
    return runs


def _only_runs(paths: Sequence[Path]) -> list[Path]:
    """Leave out, with a warning, the folders of other things that ``runs/*/`` names too."""
    runs = [path for path in paths if RunFolder(path).config.is_file()]
    others = [path for path in paths if path not in runs]
    if not runs or not all(path.is_dir() for path in others):
        return list(paths)  # a mistake, which is told of when they are read
    for path in others:
        logger.warning("%s: no run folder, as it has no config.toml; left out", path)
    return runs


def read_evidence(results: Path) -> list[Evidence]:
    """Read every run under a folder, ordered by config, precision and seed.

    Raises:
        InputError: a run lacks a file, or one is not what its name says.
    """
    runs = [read_run(path) for path in runs_in(results)]
    for run in runs:
        if not run.finished:
            raise InputError(f"{run.folder.path}: unfinished: its score files are not there")
    return sorted(runs, key=_order)


def runs_in(folder: Path) -> list[Path]:
    """Return the folders of runs that lie in a folder."""
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if RunFolder(path).config.is_file()]


def _order(run: Evidence) -> tuple[str, bool, str, int, str]:
    """By config, float32 first, and seed; those of the same by their folders' names."""
    options = run.config.run
    precision = options.precision
    return options.config, precision != "fp32", precision, options.seed, run.name
