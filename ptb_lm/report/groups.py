"""Runs put together that differ in nothing but their seed."""

import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import chain, count, pairwise

from ptb_lm.config import BUILT_IN, Config, preset_names, recipe_of, resolve, toml_value
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import ScoredText
from ptb_lm.paths import named_path, path_text
from ptb_lm.report.evidence import Evidence
from ptb_lm.report.published import PUBLISHED, Published, published_for
from ptb_lm.training.run_folder import SCORED_SPLITS


@dataclass(frozen=True)
class Group:
    """Runs of one recipe on the same data in the same precision, in the order of their seeds.

    Attributes:
        name: what it is called, unlike any other group of a report, and fit for a file's name.
        runs: finished and unfinished ones, at least one.
        changes: by what its recipe is another than its preset, ``key=value``; where its config is
            no preset, than those of the same name in the report.
    """

    name: str
    runs: tuple[Evidence, ...]
    changes: tuple[str, ...]

    @property
    def config(self) -> Config:
        """The config of the first; the others' differ in how they were run alone."""
        return self.runs[0].config

    @property
    def published(self) -> Published | None:
        """The paper's figures for its runs, if they are the paper's model on its data."""
        return published_for(self.config)

    @property
    def title(self) -> str:
        """The paper's name of the model; else the config's, and what was changed of it."""
        return self.published.title if self.published else _title(self.config, self.changes)

    @property
    def data(self) -> str:
        """The data's name, without the folders above it where it was named by an absolute path."""
        path = named_path(self.config.run.data)
        return path_text(path.name) if path.is_absolute() else self.config.run.data

    @property
    def finished(self) -> list[Evidence]:
        """Those with figures."""
        return [run for run in self.runs if run.finished]

    @property
    def unfinished(self) -> list[Evidence]:
        """Those that have a learning curve only."""
        return [run for run in self.runs if not run.finished]


def grouped(runs: Sequence[Evidence]) -> list[Group]:
    """Put runs into groups: the paper's first, in its order, then others in the order given.

    Raises:
        InputError: a seed of a group is there twice, which would count it twice; or two runs of a
            group did not score the same text in the same way.
    """
    by_key: dict[Hashable, list[Evidence]] = {}
    for run in runs:
        by_key.setdefault(all_but_seed(run.config), []).append(run)
    order = list(PUBLISHED.values())

    def place(members: list[Evidence]) -> int:
        published = published_for(members[0].config)
        return len(order) if published is None else order.index(published)

    groups: list[Group] = []
    for members in sorted(by_key.values(), key=place):
        members.sort(key=lambda run: run.config.run.seed)
        _require_comparable(members)
        config = members[0].config
        changes = _changes(config, [run.config for run in runs])
        taken = {group.name.lower() for group in groups}
        name = _free_name(_title(config, changes), config.run.precision, taken)
        groups.append(Group(name, tuple(members), changes))
    return groups


def all_but_seed(config: Config) -> Hashable:
    """Return what runs share that differ in nothing but their seed."""
    options = config.run
    return options.config, recipe_of(config), data_of(config), options.precision


def data_of(config: Config) -> str:
    """Return what a run was made of, the same of a folder however its path was written."""
    data = config.run.data
    return data if data in BUILT_IN else os.path.abspath(named_path(data))  # noqa: PTH100 - not to resolve it


def _require_comparable(members: list[Evidence]) -> None:
    """Raise InputError if a seed is there twice, or another text was scored."""
    for run, following in pairwise(members):
        if run.config.run.seed == following.config.run.seed:
            raise InputError(
                f"{following.folder.path}: the same run as {run.folder.path}, seed "
                f"{run.config.run.seed} of {run.config.run.config} in "
                f"{run.config.run.precision}; name one of them"
            )
    finished = [run for run in members if run.finished]
    for run in finished[1:]:
        for split in SCORED_SPLITS:
            if _text(run, split) != _text(finished[0], split):
                raise InputError(
                    f"{run.folder.path}: its {split} text is not what {finished[0].folder.path} "
                    f"scored, as where data {run.config.run.data} has changed between them; report "
                    "them one at a time"
                )


def _text(run: Evidence, split: str) -> ScoredText | None:
    """Return what a run was scored on; None where its data has no such text."""
    return run.scores[split].text if split in run.scores else None


CHANGES_SHOWN = 3
"""How many of them a title names."""


def _title(config: Config, changes: Sequence[str]) -> str:
    """Return a config's name with what tells its recipe from others of the name."""
    more = ["…"] if len(changes) > CHANGES_SHOWN else []
    return ", ".join([config.run.config, *changes[:CHANGES_SHOWN], *more])


def _changes(config: Config, configs: Sequence[Config]) -> tuple[str, ...]:
    """Return what a recipe has that its preset, or else others of its name, have not."""
    name = config.run.config
    if name in preset_names():
        others = [recipe_of(resolve(name))]
    else:
        others = [recipe_of(other) for other in configs if other.run.config == name]
    return tuple(
        f"{key}={toml_value(value)}"
        for section, values in recipe_of(config).model_dump().items()
        for key, value in values.items()
        if any(value != other.model_dump()[section].get(key) for other in others)
    )


def _free_name(title: str, precision: str, taken: set[str]) -> str:
    """Return a name for a group's files that no other has, also where disks know no capitals.

    A config's name is a user's: what may not stand in the name of a file becomes a hyphen.
    """
    words = title if precision in ("auto", "fp32") else f"{title} {precision}"
    name = re.sub(r"[^A-Za-z0-9_]+", "-", words).strip("-")[:100] or "run"
    numbered = (f"{name}-{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each.lower() not in taken)
