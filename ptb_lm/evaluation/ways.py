"""Ways to score a text with a trained model: the standard one, and others on request.

The standard one is the paper's: no dropout, fixed weights, no memory but the hidden state.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ptb_lm.arguments import require_type
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.errors import InputError
from ptb_lm.evaluation.adaptive import adaptive_log_probabilities, adaptive_remedy
from ptb_lm.evaluation.cache import Cache
from ptb_lm.evaluation.dynamic import Dynamic, gradient_mean_squares, rms_paces, sgd_paces
from ptb_lm.evaluation.scores import MONTE_CARLO, USUAL
from ptb_lm.evaluation.texts import encoded_split
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.perplexity import TRAIN_AGAIN
from ptb_lm.model.scoring import (
    Scorer,
    monte_carlo_log_probabilities,
    target_log_probabilities,
)
from ptb_lm.stop import StopFlag

MakeScorer = Callable[[TrainedModel, Path], Scorer]
"""Build the scorer for a model; raises InputError if the method does not apply to it.

The data folder is for those that need the training text.
"""


@dataclass(frozen=True)
class Way:
    """A way to score.

    Attributes:
        key: its name in JSON.
        title: its name for a person and in score files, settings included.
        scorer: builds the scorer.
        settings: with which it was requested.
        one_stream: whether it reads a text only as one stream.
        remedy: what to do where it gives no probabilities, for the error message.
    """

    key: str
    title: str
    scorer: MakeScorer
    settings: dict[str, str | float] = field(default_factory=dict)
    one_stream: bool = False
    remedy: str = TRAIN_AGAIN


AS_THE_PAPER = Way(USUAL, USUAL, lambda model, data_dir: target_log_probabilities)


def monte_carlo(samples: int) -> Way:
    """Score by the mean p of several passes with dropout of units on (arXiv 1512.05287)."""

    def scorer(model: TrainedModel, data_dir: Path) -> Scorer:
        if not model.config.model.has_dropout_of_units:
            raise InputError(
                f"--mc-samples: {model.name} was trained without dropout of units; "
                "nothing to sample"
            )
        torch.manual_seed(model.config.run.seed)  # so that a figure can be repeated
        unrolled_steps = model.config.training.unrolled_steps
        return partial(
            monte_carlo_log_probabilities, samples=samples, unrolled_steps=unrolled_steps
        )

    title = f"the mean probability of {samples:,} passes with dropout"
    return Way(MONTE_CARLO, title, scorer, {"samples": samples})


def adaptive(dynamic: Dynamic | None = None, cache: Cache | None = None) -> Way:
    """Score by a model that adapts to the text: dynamic evaluation, a cache, or both.

    The form ``rms`` of dynamic evaluation first reads the text that a model was trained on.

    Raises:
        TypeError: one is of the wrong type.
        InputError: neither is given.
    """
    if dynamic is not None:
        require_type(dynamic, Dynamic, "dynamic", "try Dynamic.tuned('rms')")
    if cache is not None:
        require_type(cache, Cache, "cache", "try Cache.tuned(2000)")
    asked = [part for part in (dynamic, cache) if part is not None]
    if not asked:
        raise InputError("adaptive: nothing to adapt by; give dynamic, cache or both")

    def scorer(model: TrainedModel, data_dir: Path) -> Scorer:
        def score(network: LanguageModel, tokens: TokenIds, streams: int, stop: StopFlag) -> Tensor:
            if dynamic is None:
                return adaptive_log_probabilities(network, tokens, cache=cache, stop=stop)
            if dynamic.form == "sgd":
                paces = sgd_paces(network, dynamic)
            else:
                text = encoded_split(
                    model, "train", data_dir, stop, otherwise="use --dynamic sgd, which needs none"
                )
                mean_squares = gradient_mean_squares(network, text.tokens, dynamic.segment, stop)
                paces = rms_paces(mean_squares, dynamic)
            return adaptive_log_probabilities(
                network, tokens, paces=paces, steps=dynamic.segment, cache=cache, stop=stop
            )

        return score

    return Way(
        key="_".join(part.key for part in asked),
        title=" and ".join(part.title for part in asked),
        scorer=scorer,
        settings={name: value for part in asked for name, value in part.settings.items()},
        one_stream=True,
        remedy=adaptive_remedy(dynamic),
    )
