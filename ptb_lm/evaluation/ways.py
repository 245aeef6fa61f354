"""Ways to score a text with a trained model: the usual one, and others that are asked for by name.

The usual one is the paper's: no dropout, fixed weights, nothing remembered but the hidden state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch

from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.scoring import (
    Scorer,
    monte_carlo_log_probabilities,
    target_log_probabilities,
)


@dataclass(frozen=True)
class Way:
    """A way to score.

    Attributes:
        key: what it is called in JSON.
        title: what it is called where a person reads.
        scorer: makes the scoring itself for a model; raises InputError where the model has no such.
        settings: what it was asked for with.
    """

    key: str
    title: str
    scorer: Callable[[TrainedModel], Scorer]
    settings: dict[str, float] = field(default_factory=dict)


USUAL = Way("usual", "as the paper scores", lambda model: target_log_probabilities)


def monte_carlo(samples: int) -> Way:
    """Score by the mean probability of so many passes with dropout (arXiv 1512.05287)."""

    def scorer(model: TrainedModel) -> Scorer:
        if not model.config.model.has_dropout:
            raise InputError(
                f"--mc-samples: {model.name} was trained without dropout; nothing to sample"
            )
        torch.manual_seed(model.config.run.seed)  # a figure comes again
        unrolled_steps = model.config.training.unrolled_steps
        return partial(
            monte_carlo_log_probabilities, samples=samples, unrolled_steps=unrolled_steps
        )

    title = f"by the mean probability of {samples:,} passes with dropout"
    return Way("monte_carlo", title, scorer, {"samples": samples})
