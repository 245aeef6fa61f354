"""A network made wider by units that are always zero, as GPUs multiply some widths faster.

A padded unit has only zero weights, in and out. So in an LSTM its gates are sigm(0), sigm(0),
sigm(0) and tanh(0) = 0, its memory c = c / 2 + 0 stays zero as it begins, and with it h; in a GRU
h = h / 2 + 0, in an RNN h = tanh(0). Nothing flows into the rest, and no gradient back: each
gradient of a padded weight has a factor that is zero. So that training leaves them zero, and all
else computes what the network does. Only an RNN with sigm has h = sigm(0) there: it is not padded.

Shapes: V words, B streams, H hidden units, H' padded ones.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ptb_lm.model.layers import AffineLayer
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.state import HiddenState


def padded_copy(network: LanguageModel, multiple: int) -> LanguageModel:
    """Return a copy of a network whose width is the next multiple of a number.

    Its weights lie in memory of their own.
    """
    if network.config.cell == "rnn-sigmoid":
        multiple = 1
    width, *widths = (-(-size // multiple) * multiple for size in network.config.sizes)
    sizes = {"embedding_size": width, "hidden_sizes": widths}
    words = network.decoder.vocabulary_size
    with torch.random.fork_rng(devices=[]):  # what is drawn here is not kept
        padded = LanguageModel(network.config.model_copy(update=sizes), words, network.precision)
    padded = padded.to(network.embedding.weight)
    with torch.no_grad():
        for parameter in padded.parameters():
            parameter.zero_()
    copy_weights_(padded, network)
    return padded.train(network.training)


@torch.no_grad()
def copy_weights_(target: LanguageModel, source: LanguageModel) -> None:
    """Copy the weights that two networks of different padding share."""
    for target_weight, source_weight in zip(_by_unit(target), _by_unit(source), strict=True):
        _copy_corner_(target_weight, source_weight)


@torch.no_grad()
def copy_state_(target: HiddenState, source: HiddenState) -> None:
    """Copy the part of a hidden state that two networks of different padding share."""
    for target_layer, source_layer in zip(target, source, strict=True):
        for target_part, source_part in zip(target_layer, source_layer, strict=True):
            _copy_corner_(target_part, source_part)


def _by_unit(network: LanguageModel) -> Iterator[Tensor]:
    """Yield each weight with the gates in a dimension of their own: (G, H, …) for (G * H, …)."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            gates = module.gates if isinstance(module, AffineLayer) else 1
            yield torch.unflatten(parameter, 0, (gates, -1))


def _copy_corner_(target: Tensor, source: Tensor) -> None:
    """Copy what two tensors share, from index 0 in each dimension."""
    if target.shape == source.shape:
        target.copy_(source)
        return
    corner = tuple(slice(min(pair)) for pair in zip(target.shape, source.shape, strict=True))
    target[corner].copy_(source[corner])
