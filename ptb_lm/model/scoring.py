"""What is counted in evaluation: the log-probability of each target of a text.

Shapes: T steps, B streams, V words, N tokens of a text. All likelihoods are in nats.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ptb_lm.corpus.batching import (
    batches_by_length,
    evaluation_windows,
    padded_windows,
    require_columns,
    widened,
)
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.model.cuda_graph import captured
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.padding import copy_state_
from ptb_lm.model.share import Share
from ptb_lm.model.state import HiddenState, first_streams
from ptb_lm.stop import NEVER, StopFlag

TARGETS_PER_WINDOW = 1000
"""Maximum targets per evaluation window, exceeded only if there are more streams than this."""

PROBABILITIES_PER_WINDOW = 10_000_000
"""Maximum probabilities per window (about 40 MB): larger vocabularies get shorter windows."""

# Sentences scored side by side, however long: one alone leaves the recurrent product slow.
LEAST_STREAMS = 16


def targets_per_window(network: LanguageModel) -> int:
    """Return about how many targets a window of evaluation is to hold."""
    at_most = PROBABILITIES_PER_WINDOW // network.decoder.vocabulary_size
    return min(TARGETS_PER_WINDOW, max(LEAST_STREAMS, at_most))


Scorer = Callable[[LanguageModel, TokenIds, int, StopFlag], Tensor]
"""See :func:`target_log_probabilities`."""

ScoreWindow = Callable[[Tensor, HiddenState], tuple[Tensor, HiddenState]]
"""See :func:`_score_window`, whose last two arguments these are."""


@torch.no_grad()
def target_log_probabilities(
    network: LanguageModel,
    tokens: TokenIds,
    streams: int,
    stop: StopFlag = NEVER,
    share: Share | None = None,
) -> Tensor:
    """Score each token of a text but the first, given all before it in its column.

    The state is zero at the head of each column and goes on from window to window. Dropout is off.

    Args:
        network: left in the mode (training or evaluation) it was in.
        tokens: the text, (N,).
        streams: B columns; 1 is the paper's test protocol.
        stop: checked before each window.
        share: where several processes share the columns, those that are scored here.

    Returns:
        ln p of the tokens 1 … N-1 in the order of the text, (N - 1,), on the CPU; zero where
        another process scores them.

    Raises:
        InputError: the text has fewer targets than streams.
        Stopped: a signal came; the network is as it was.
    """
    require_columns(len(tokens), streams)
    max_steps = max(1, targets_per_window(network) // streams)
    with in_mode(network, training=False):
        share = share or Share(0, streams, streams)
        return _score_text(network, tokens, max_steps, share, stop).squeeze(1)


@torch.no_grad()
def monte_carlo_log_probabilities(
    network: LanguageModel,
    tokens: TokenIds,
    streams: int,
    stop: StopFlag = NEVER,
    *,
    samples: int,
    unrolled_steps: int,
) -> Tensor:
    """Score a text as :func:`target_log_probabilities` does, by the mean p of passes under dropout.

    Each pass draws masks of its own, for each window anew (arXiv 1512.05287, section 4.2). No words
    are dropped, as in the code that made that paper's figures (``LM_code/`` of
    https://github.com/yaringal/BayesianRNN): a pass that does not see the word before its target
    gives it a far lower p. As many passes are made side by side as a window of evaluation holds.

    Args:
        network: left in the mode it was in.
        tokens: the text, (N,).
        streams: B columns.
        stop: checked before each window.
        samples: how many passes.
        unrolled_steps: T of a window: that of training, so that a mask lasts as long as there.

    Returns:
        ln of the mean p, float64 (N - 1,).

    Raises:
        InputError: the text has fewer targets than streams.
        Stopped: a signal came; the network is as it was.
    """
    require_columns(len(tokens), streams)
    total = torch.full((len(tokens) - 1,), -torch.inf, dtype=torch.float64)
    every = Share(0, streams, streams)
    at_once = max(1, targets_per_window(network) // (unrolled_steps * streams))
    with in_mode(network, training=True), in_mode(network.drop_words, training=False):
        for made in range(0, samples, at_once):
            passes = min(at_once, samples - made)
            log_p = _score_text(network, tokens, unrolled_steps, every, stop, passes)
            torch.logaddexp(total, log_p.double().logsumexp(dim=1), out=total)
    return (total - math.log(samples)).clamp(max=0)  # of certainty, rounding makes more than that


@torch.no_grad()
def sentence_log_probabilities(
    network: LanguageModel, tokens: TokenIds, lengths: Tensor, stop: StopFlag = NEVER
) -> Tensor:
    """Score each sentence of a text as if it stood alone: a zero state, then ``<eos>``, then it.

    Sentences of like lengths are scored side by side; a score is the same to rounding as one at a
    time. However many and however long they are, memory is that of a window and of the result.

    Args:
        network: left in the mode it was in.
        tokens: ``<eos>``, then the sentences one after another, each with its ``<eos>``, (N,).
        lengths: of each sentence with its ``<eos>``, int64; their sum is N - 1.
        stop: checked before each window.

    Returns:
        ln p of the tokens 1 … N-1 in the order of the text, (N - 1,), on the CPU.

    Raises:
        Stopped: a signal came; the network is as it was.
    """
    text, scores = _text_and_room(network, tokens)
    starts = lengths.cumsum(0) - lengths
    targets = targets_per_window(network)
    with in_mode(network, training=False):
        for batch in batches_by_length(lengths, targets, LEAST_STREAMS):
            hidden = network.zero_state(len(batch))
            for window in padded_windows(starts[batch], lengths[batch], targets):
                stop.check()
                places, counted = (part.to(text.device) for part in window)  # (T, B)
                before = first_streams(hidden, places.shape[1])
                scored, hidden = _score_window(network, text, places, before)
                scores[places[counted]] = scored[counted]
    return scores.cpu()


@torch.no_grad()
def continued_log_probabilities(
    network: LanguageModel, tokens: TokenIds, hidden: HiddenState, stop: StopFlag = NEVER
) -> tuple[Tensor, HiddenState]:
    """Score a part of a stream from the state that the part before it left.

    Args:
        network: left in the mode it was in.
        tokens: the last token of the part before, then the part; (N,), N may be 1.
        hidden: the state of one stream.
        stop: checked before each window.

    Returns:
        ln p of the tokens 1 … N-1, (N - 1,), on the CPU, and the state before the last token.

    Raises:
        Stopped: a signal came; the network is as it was.
    """
    text, scores = _text_and_room(network, tokens)
    if len(scores) == 0:
        return scores, hidden
    with in_mode(network, training=False):
        for places in evaluation_windows(len(scores), 1, targets_per_window(network)):
            stop.check()
            places = places.to(text.device)
            scores[places], hidden = _score_window(network, text, places, hidden)
    return scores.cpu(), hidden


def _text_and_room(
    network: LanguageModel, tokens: TokenIds, *of_each: int
) -> tuple[Tensor, Tensor]:
    """Put a text of N tokens on the device, beside zeros for its scores, (N - 1, *of_each)."""
    text = torch.from_numpy(tokens).to(network.device)  # int32
    room = torch.zeros(len(tokens) - 1, *of_each, dtype=network.dtype, device=network.device)
    return text, room


def _score_text(
    network: LanguageModel,
    tokens: TokenIds,
    max_steps: int,
    share: Share,
    stop: StopFlag,
    passes: int = 1,
) -> Tensor:
    """Score a text in the mode that the network is in, (N - 1, passes).

    The passes run side by side: what is a stream elsewhere is here as many streams in a row.
    """
    shape = (max_steps, share.streams * passes)
    text, scores = _text_and_room(network, tokens, passes)
    device = text.device
    hidden = network.zero_state(share.streams * passes)
    score: ScoreWindow = partial(_score_window, network, text)
    score_whole = score
    if capture_pays(device, windows=len(scores) // (max_steps * share.total)):
        score_whole = _captured(score, shape, hidden)
    for places in evaluation_windows(len(scores), share.total, max_steps):  # (T, B)
        stop.check()
        places = share.of(places, dim=1)
        if not places.numel():
            continue
        places = places.to(device)
        each = places.repeat_interleave(passes, dim=1)  # (T, B * passes)
        score_this = score_whole if each.shape == shape else score
        scored, hidden = score_this(each, first_streams(hidden, each.shape[1]))
        scores[places] = scored.view(*places.shape, passes)
    return scores.cpu()


def _score_window(
    network: LanguageModel, text: Tensor, places: Tensor, hidden: HiddenState
) -> tuple[Tensor, HiddenState]:
    """Score a window's targets.

    Args:
        network: in either mode.
        text: int32 (N,).
        places: which targets, (T, B), see :func:`~ptb_lm.corpus.batching.evaluation_windows`.
        hidden: the state before it.

    Returns:
        ln p of each, (T, B), and the state after the last.
    """
    targets = widened(text[places + 1])
    _, h, hidden = network(widened(text[places]), hidden)
    return network.decoder.nll(h, targets).neg_(), hidden


def capture_pays(device: torch.device, windows: int) -> bool:
    """Whether so many windows of a text are worth the few that a capture takes."""
    return device.type == "cuda" and windows >= 10


def _captured(score: ScoreWindow, shape: tuple[int, int], hidden: HiddenState) -> ScoreWindow:
    """Capture the scoring of windows of one shape; what it returns holds until the next one."""
    held_places = torch.zeros(shape, dtype=torch.int64, device=hidden[0][0].device)
    held = [tuple(part.clone() for part in layer) for layer in hidden]
    replay = captured(lambda: score(held_places, held))

    def score_captured(places: Tensor, before: HiddenState) -> tuple[Tensor, HiddenState]:
        held_places.copy_(places)
        copy_state_(held, before)
        return replay()

    return score_captured


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Turn dropout on or off in a network or a part of it, and back to what it was."""
    was_training = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(was_training)


def nll_sum(log_probabilities: Tensor) -> float:
    """Return the summed NLL of a text, added up in float64."""
    return -float(log_probabilities.sum(dtype=torch.float64))
