"""Scores by a model that adapts to what it has read: dynamic evaluation, a cache, or both.

The text is one stream: what is adapted to is all that came before.

Shapes: N tokens of a text, T steps read at once, H hidden units.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from ptb_lm.corpus.batching import evaluation_windows, widened
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.errors import PtbLmError
from ptb_lm.evaluation.cache import Cache, empty_memory, interpolated, recall
from ptb_lm.evaluation.dynamic import AdaptiveNetwork, Pace
from ptb_lm.model.decoder import at_least_float32
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.perplexity import TRAIN_AGAIN
from ptb_lm.model.scoring import in_mode, targets_per_window
from ptb_lm.model.state import HiddenState
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.training.progress import with_bar

Read = Callable[[Tensor, Tensor, HiddenState], tuple[Tensor, Tensor, HiddenState]]
"""See :meth:`~ptb_lm.evaluation.dynamic.AdaptiveNetwork.read`."""


class DivergedError(PtbLmError):
    """The weights have learnt what gives no probabilities."""


def adaptive_remedy(learns_by: object) -> str:
    """Say what to do about a model that gives no probabilities.

    Args:
        learns_by: how its weights learn from the text; None where they stay as they were trained.
    """
    return TRAIN_AGAIN if learns_by is None else "lower --dynamic-rate"


def adaptive_log_probabilities(
    network: LanguageModel,
    tokens: TokenIds,
    *,
    paces: Mapping[str, Pace] | None = None,
    steps: int | None = None,
    cache: Cache | None = None,
    stop: StopFlag = NEVER,
) -> Tensor:
    """Score each token of a text but the first, given all before it. Dropout is off.

    Args:
        network: left as it is, to the bit.
        tokens: the text, (N,).
        paces: how each parameter learns from the text, by its name; None: the weights stay.
        steps: T: the tokens read between two updates; without ``paces`` it changes no figure. None:
            what a window of evaluation holds.
        cache: what p_cache is made by; None: p_vocab alone.
        stop: checked before each T steps.

    Returns:
        ln p of the tokens 1 … N-1, (N - 1,), on the CPU.

    Raises:
        InputError: the text has no token to score.
        DivergedError: the weights have learnt what gives no probabilities.
        Stopped: a signal came.
    """
    log_p_vocab, log_p_cache = read_text(
        network, tokens, paces=paces, steps=steps, cache=cache, stop=stop
    )
    return log_p_vocab if cache is None else interpolated(log_p_vocab, log_p_cache, cache.weight)


def read_text(
    network: LanguageModel,
    tokens: TokenIds,
    *,
    paces: Mapping[str, Pace] | None = None,
    steps: int | None = None,
    cache: Cache | None = None,
    stop: StopFlag = NEVER,
) -> tuple[Tensor, Tensor]:
    """Do as :func:`adaptive_log_probabilities` up to the interpolation, whatever its weight.

    Returns:
        ln p_vocab and ln p_cache of the tokens 1 … N-1, both (N - 1,); without a cache twice the
        first.
    """
    steps = targets_per_window(network) if steps is None else steps
    read: Read = partial(_read_as_trained, network)
    if paces is not None:
        read = AdaptiveNetwork(network, paces).read
    text = torch.from_numpy(tokens).to(network.device)  # int32 (N,)
    hidden, memory = network.zero_state(1), empty_memory(network.embedding.weight)
    by_vocab, by_cache = [], []
    targets_in_all = len(tokens) - 1
    windows = evaluation_windows(targets_in_all, 1, steps)
    for places in with_bar(windows, -(-targets_in_all // steps), "the text"):  # (T, 1)
        stop.check()
        places = places.to(text.device)
        words, targets = widened(text[places]), widened(text[places + 1])
        log_p, states, hidden = read(words, targets, hidden)
        if not log_p.isfinite().all():
            raise DivergedError(
                f"no probabilities after {int(places[0]):,} tokens; {adaptive_remedy(paces)}"
            )
        by_vocab.append(log_p)
        if cache is not None:
            log_p, memory = recall(memory, states, targets.flatten(), log_p, cache)
        by_cache.append(log_p)
    return torch.cat(by_vocab).cpu(), torch.cat(by_cache).cpu()


@torch.no_grad()
def _read_as_trained(
    network: LanguageModel, words: Tensor, targets: Tensor, hidden: HiddenState
) -> tuple[Tensor, Tensor, HiddenState]:
    """Do as :meth:`~ptb_lm.evaluation.dynamic.AdaptiveNetwork.read`, but learn nothing."""
    with in_mode(network, training=False):
        output = network(words, hidden)
        log_p = -network.decoder.nll(output.dropped, targets).squeeze(1)
        return log_p, at_least_float32(output.raw).squeeze(1), output.state
