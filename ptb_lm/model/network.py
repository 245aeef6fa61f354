"""The network of the paper: embedding, L recurrent layers, softmax; dropout in L+1 places.

Shapes: T steps, B streams, H hidden units, V words, L layers. Time comes first.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ptb_lm.config import PLACES, ModelConfig
from ptb_lm.model.backends import products_in, require_headroom
from ptb_lm.model.decoder import DECODERS, Decoder
from ptb_lm.model.dropout import Dropout, WindowDropout, WordDropout
from ptb_lm.model.layers import LAYERS, RecurrentLayer
from ptb_lm.model.share import Share
from ptb_lm.model.state import HiddenState

DECODER = "softmax"


class WindowOutput(NamedTuple):
    """The result of a forward pass over a window.

    Attributes:
        raw: h of the top layer at every step, (T, B, H).
        dropped: the same after the output dropout, for the decoder.
        state: the state after the last step.
    """

    raw: Tensor
    dropped: Tensor
    state: HiddenState


class Embedding(nn.Embedding):
    """PyTorch's, but it draws nothing on the meta device: that takes a second and 75 MB once."""

    def reset_parameters(self) -> None:
        """Draw the weights."""
        if not self.weight.is_meta:
            super().reset_parameters()


class LanguageModel(nn.Module):
    """A deep recurrent network; in the paper an LSTM with dropout where nothing recurs.

    The figure 2 of arXiv 1409.2329: each dashed arrow, from the embedding to layer 1, from each
    layer to the next, and from layer L to the softmax, passes one of :attr:`drop`; no solid arrow,
    from a step to the next, does. ``nn.LSTM(dropout=…)`` would leave out the first and the last of
    these, so that each layer is a fused single-layer kernel of its own. Other cells, and other
    places for dropout, are what ``config`` says.

    Every parameter is drawn from U(-init_range, init_range), both bias vectors of each layer too,
    with no forget-gate offset.

    Attributes:
        config: what it was made from.
        precision: ``bf16``: products in bfloat16, weights and state in float32; otherwise all in
            float32.
        drop: dropout by place: ``input``, ``between``, ``output``.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, precision: str = "fp32") -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        layer, sizes = LAYERS[config.cell], config.sizes
        # A window has few of the words: the gradient is of their rows alone, unless the softmax,
        # which has them all, is the same matrix.
        self.embedding = Embedding(vocabulary_size, sizes[0], sparse=not config.tied)
        self.layers = nn.ModuleList(
            layer(input_size, hidden_size, _recurrent_dropout(config, layer.gates), precision)
            for input_size, hidden_size in pairwise(sizes)
        )
        decoder = DECODERS[DECODER](sizes[-1], vocabulary_size, precision)
        self.add_module(DECODER, decoder)
        if config.tied:
            decoder.weight = self.embedding.weight
        self.drop_words = WordDropout(config.dropout_rates.words)
        self.drop = _dropout(config, layer.gates)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-config.init_range, config.init_range)

    @property
    def decoder(self) -> Decoder:
        """The decoder, which takes :attr:`WindowOutput.dropped`."""
        return cast(Decoder, self.get_submodule(DECODER))

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.embedding.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the parameters and of the state."""
        return self.embedding.weight.dtype

    def forward(self, words: Tensor, hidden: HiddenState) -> WindowOutput:
        """Run a window of T steps from a given state.

        Args:
            words: word indices, int64 (T, B).
            hidden: the state before the first step, see :meth:`zero_state`.

        Raises:
            MemoryError: too little memory is left for the kernels.
        """
        require_headroom()
        with products_in(self.precision, self.device):
            embedded = self.embedding(words)  # (T, B, H)
            x = self.drop_words.of_words(embedded, words, self.embedding.num_embeddings)
            after: HiddenState = []
            for index, (layer, state) in enumerate(zip(self.layers, hidden, strict=True)):
                x = self.drop["between" if index else "input"](x)
                x, state = layer(x, state)
                after.append(state)
            return WindowOutput(x, self.drop["output"](x), after)

    def zero_state(self, streams: int) -> HiddenState:
        """Return the state at the beginning of a text: all zero, (B, H) each, for each layer."""
        return [cast(RecurrentLayer, layer).zero_state(streams) for layer in self.layers]

    def take_share(self, share: Share) -> None:
        """Draw masks for all streams of a batch, and keep those of a share."""
        for module in self.modules():
            if isinstance(module, Dropout):
                module.share = share

    def weights(self) -> dict[str, Tensor]:
        """Return the parameters by their names in a checkpoint, a tied one once."""
        return {name: parameter.detach() for name, parameter in self.named_parameters()}

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`weights` gave."""
        alias = {f"{DECODER}.weight": weights["embedding.weight"]} if self.config.tied else {}
        self.load_state_dict({**weights, **alias})


def _recurrent_dropout(config: ModelConfig, gates: int) -> Dropout:
    """Return the dropout of h[l, t-1], for one layer."""
    rate = config.dropout_rates.recurrent
    if config.dropout_on != "variational":
        return Dropout(rate)
    return WindowDropout(rate, gates if config.masks_per_gate else None)


def _dropout(config: ModelConfig, gates: int) -> nn.ModuleDict:
    """Return the dropout at each of the L + 1 non-recurrent places."""
    rates = config.dropout_rates
    if config.dropout_on != "variational":
        return nn.ModuleDict(
            {place: Dropout(getattr(rates, place)) for place in PLACES["non-recurrent"]}
        )
    own = gates if config.masks_per_gate else None
    places = {
        "input": WindowDropout(rates.input, own),
        "between": WindowDropout(rates.between, own),
        "output": WindowDropout(rates.output),
    }
    return nn.ModuleDict(places)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def parameter_shapes(config: ModelConfig, vocabulary_size: int) -> dict[str, torch.Size]:
    """Return the shape of each parameter by its name in a checkpoint.

    The network is built on PyTorch's meta device: no memory is taken, no random number is drawn.

    Raises:
        ValueError: a parameter has more bytes than PyTorch can count.
    """
    try:
        with torch.device("meta"):
            network = LanguageModel(config, vocabulary_size)
    except RuntimeError as error:
        raise ValueError(f"no network can have {config.sizes_text}") from error
    return {name: weight.shape for name, weight in network.weights().items()}
