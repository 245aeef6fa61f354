"""Tune the ways that adapt at test time on the validation text, then score both texts by them.

Settings are chosen by the head of the validation text alone; only then is the test text scored, by
those chosen. Every figure is of one stream. Run from the root of the checkout, with a finished run
in ``runs/``. What is found is kept under ``results/test-time/`` at once: stopped at any time, the
same command goes on.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import make_table
import torch
from adapting_page import FOLDER, adapting_block
from members import say
from torch import Tensor

from ptb_lm.corpus.load import data_directory
from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.adaptive import DivergedError, read_text
from ptb_lm.evaluation.cache import Cache, interpolated
from ptb_lm.evaluation.dynamic import (
    Dynamic,
    Pace,
    gradient_mean_squares,
    rms_paces,
    sgd_paces,
)
from ptb_lm.evaluation.scores import figure
from ptb_lm.evaluation.texts import encoded_split
from ptb_lm.evaluation.trained import TrainedModel, load
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.environment import describe_environment
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.tensor_file import load_tensors, save_tensors

RESULTS = Path("results")
TUNING_TARGETS = 10_000
"""How many targets of the head of the validation text settings are chosen by."""

Grid = Mapping[str, Sequence[float]]
Point = dict[str, float]

GRIDS: dict[str, Grid] = {
    "sgd": {
        "rate": (0.02, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2),
        "decay": (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    },
    "rms": {
        "rate": (5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3),
        "decay": (0.0, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
        "epsilon": (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    },
    "cache": {
        "size": (100, 200, 500, 1000, 2000, 5000),
        "theta": (0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0, 1.3),
    },
}
STARTS: dict[str, Point] = {
    "sgd": {"rate": 0.1, "decay": 1e-3},
    "rms": {"rate": 5e-4, "decay": 3e-3, "epsilon": 1e-3},
    "cache": {"size": 1000, "theta": 0.6},
}
"""Where each climb begins; they are from a model in the midst of its training."""

WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4)
"""Of a cache: one pass over a text does for all of them."""


def climb(grid: Grid, start: Point, value: Callable[[Point], float]) -> Point:
    """Go on a grid from neighbour to better neighbour, axis by axis, to where none is better.

    Args:
        grid: the values of each axis in order.
        start: a point of it.
        value: the less, the better.
    """
    best, moved = dict(start), True
    while moved:
        moved = False
        for axis, values in grid.items():
            for step in (1, -1):
                place = values.index(best[axis]) + step
                while 0 <= place < len(values):
                    neighbour = {**best, axis: values[place]}
                    if not value(best) > value(neighbour):
                        break
                    best, moved, place = neighbour, True, place + step
    return best


@dataclass
class Study:
    """A model at test time, and what has been found of it.

    Attributes:
        model: that is scored.
        mean_squares_file: where MS_g is kept between two starts.
        evidence_file: where the rest is.
        stop: checked while a text is read.
    """

    model: TrainedModel
    mean_squares_file: Path
    evidence_file: Path
    stop: StopFlag

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What has been found before, or nothing yet.

        Raises:
            InputError: it is of other weights.
        """
        environment = describe_environment(self.model.network.device)
        subject = {
            "weights_sha256": weights_sha256(self.model),
            "tuning_targets": TUNING_TARGETS,
        }
        kept: dict[str, Any] = {**subject, "environments": [], "trials": {}, "figures": {}}
        if self.evidence_file.exists():
            kept = json.loads(self.evidence_file.read_text(encoding="utf-8"))
        for key, value in subject.items():
            if kept[key] != value:
                raise InputError(f"{self.evidence_file}: of another {key}; remove it, or it stays")
        if environment not in kept["environments"]:
            kept["environments"].append(environment)
        return kept

    def keep(self) -> None:
        """Write the evidence."""
        self.evidence_file.parent.mkdir(parents=True, exist_ok=True)
        with durable_file(self.evidence_file) as file:
            file.write(f"{json.dumps(self.evidence, indent=1)}\n".encode())

    @cached_property
    def mean_squares(self) -> dict[str, Tensor]:
        """MS_g of the model, made once."""
        path, owner = self.mean_squares_file, self.evidence["weights_sha256"]
        if path.exists():
            content = load_tensors(path)
            if content["weights_sha256"] == owner:
                return {name: value.clone() for name, value in content["mean_squares"].items()}
        text = encoded_split(self.model, "train", data_directory(None), self.stop).tokens
        segment = Dynamic.tuned("rms").segment
        found = gradient_mean_squares(self.model.network, text, segment, self.stop)
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"weights_sha256": owner, "mean_squares": found}
        save_tensors(content, path, prove=load_tensors)
        return found

    def paces(self, dynamic: Dynamic) -> dict[str, Pace]:
        """Return the update of either form."""
        if dynamic.form == "sgd":
            return sgd_paces(self.model.network, dynamic)
        return rms_paces(self.mean_squares, dynamic)

    def read(
        self, split: str, dynamic: Dynamic | None, cache: Cache | None, targets: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return ln p_vocab and ln p_cache of a split's targets, or the first so many."""
        tokens = encoded_split(self.model, split, data_directory(None), self.stop).tokens
        head = tokens if targets is None else tokens[: targets + 1]
        network, stop = self.model.network, self.stop
        if dynamic is None:
            return read_text(network, head, cache=cache, stop=stop)
        paces = self.paces(dynamic)
        return read_text(network, head, paces=paces, steps=dynamic.segment, cache=cache, stop=stop)

    def trial(self, way: str, point: Point, measure: Callable[[], dict[str, Any]]) -> Any:
        """Return what was found at a point of a way's settings, or find it and keep it."""
        trials = self.evidence["trials"].setdefault(way, [])
        for trial in trials:
            if all(trial[key] == value for key, value in point.items()):
                return trial
        found = {**point, **measure()}
        trials.append(found)
        self.keep()
        say(f"{way}: {', '.join(f'{key} {value}' for key, value in found.items())}")
        return found


def weights_sha256(model: TrainedModel) -> str:
    """Return the identity of a model's weights."""
    digest = hashlib.sha256()
    for name, weight in model.network.weights().items():
        digest.update(name.encode() + weight.cpu().numpy().tobytes())
    return digest.hexdigest()


def best_weight(log_p_vocab: Tensor, log_p_cache: Tensor) -> dict[str, float]:
    """Return the weight of a cache that makes the least perplexity, and that."""
    reached = {
        weight: perplexity_of(interpolated(log_p_vocab, log_p_cache, weight)) for weight in WEIGHTS
    }
    weight = min(reached, key=lambda weight: reached[weight])
    return {"weight": weight, "perplexity": reached[weight]}


def perplexity_of(log_p: Tensor) -> float:
    """Return the perplexity of scores."""
    return figure(log_p.numpy()).perplexity


def tuned_dynamic(study: Study, form: str) -> Dynamic:
    """Choose rate and decay, and epsilon where there is one, of a form of dynamic evaluation."""

    def settings(point: Point) -> Dynamic:
        tuned = Dynamic.tuned(form, point["rate"], point["decay"])
        return replace(tuned, epsilon=point.get("epsilon", tuned.epsilon))

    def perplexity(point: Point) -> float:
        def measure() -> dict[str, Any]:
            try:
                log_p, _ = study.read("valid", settings(point), None, TUNING_TARGETS)
            except DivergedError:
                return {"perplexity": None}
            reached = perplexity_of(log_p)
            return {"perplexity": reached if math.isfinite(reached) else None}

        reached = study.trial(form, point, measure)["perplexity"]
        return math.inf if reached is None else float(reached)

    return settings(climb(GRIDS[form], STARTS[form], perplexity))


def tuned_cache(study: Study) -> Cache:
    """Choose size, theta and weight of a cache beside the weights as they were trained."""

    def trial(point: Point) -> Any:
        def measure() -> dict[str, Any]:
            cache = Cache(int(point["size"]), point["theta"], WEIGHTS[0])
            return best_weight(*study.read("valid", None, cache, TUNING_TARGETS))

        return study.trial("cache", point, measure)

    best = climb(GRIDS["cache"], STARTS["cache"], lambda point: float(trial(point)["perplexity"]))
    return Cache(int(best["size"]), best["theta"], trial(best)["weight"])


def tuned_stack(study: Study, dynamic: Dynamic, cache: Cache) -> Cache:
    """Choose the weight of a cache on top of dynamic evaluation, all else as in each alone."""

    def measure() -> dict[str, Any]:
        return best_weight(*study.read("valid", dynamic, cache, TUNING_TARGETS))

    point = {"rate": dynamic.rate, "decay": dynamic.decay, "theta": cache.theta}
    found = study.trial(f"{dynamic.form}_cache", point, measure)
    return replace(cache, weight=found["weight"])


def make(study: Study) -> None:
    """Find all that is missing: first the settings, then the figures by them."""
    cache = tuned_cache(study)
    dynamics = [tuned_dynamic(study, form) for form in ("sgd", "rms")]
    stacks = [tuned_stack(study, dynamic, cache) for dynamic in dynamics]
    passes: list[tuple[Dynamic | None, Cache, Cache]] = [
        (None, cache, cache),
        *((dynamic, cache, stack) for dynamic, stack in zip(dynamics, stacks, strict=True)),
    ]
    for split in ("valid", "test"):
        for dynamic, cache, stack in passes:
            form = None if dynamic is None else dynamic.form
            alone, stacked = form or "usual", "_".join(filter(None, (form, "cache")))
            figures = study.evidence["figures"]
            if split in figures.get(stacked, {}):
                continue
            log_p_vocab, log_p_cache = study.read(split, dynamic, cache)
            both = interpolated(log_p_vocab, log_p_cache, stack.weight)
            settings = {} if dynamic is None else dynamic.settings
            for way, log_p, of_way in (
                (alone, log_p_vocab, settings),
                (stacked, both, {**settings, **stack.settings}),
            ):
                of = figures.setdefault(way, {"settings": of_way})
                of[split] = asdict(figure(log_p.numpy()))
                say(f"{way}: {split} perplexity {of[split]['perplexity']:.2f}")
            study.keep()


def main() -> int:
    """Make what is missing, rewrite the tables; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="small-seed1", help="its folder in runs/")
    options = parser.parse_args()
    run = RunFolder(Path("runs") / options.run)
    torch.set_num_threads(1)  # a second would wait more than work, on segments this small
    try:
        with StopFlag() as stop:
            study = Study(
                model=load(run.last, "cpu"),
                mean_squares_file=Path("runs") / FOLDER / f"{options.run}-mean-squares.pt",
                evidence_file=RESULTS / FOLDER / f"{options.run}.json",
                stop=stop,
            )
            with study.model.at_work():
                make(study)
    except Stopped as stopped:
        say(f"{stopped}; the same command goes on")
        return stopped.exit_code
    except PtbLmError as error:
        say(f"error: {error}")
        return error.exit_code
    make_table.main()
    sys.stdout.write(f"\n{adapting_block(RESULTS)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
