"""The network of the paper: embedding, L recurrent layers, softmax; dropout in L+1 places.

Shapes: T steps, B streams, H hidden units, V words, L layers. Time comes first.
"""

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ptb_lm.config import PLACES, ModelConfig
from ptb_lm.model.backends import (
    has_bfloat16_layers_on_cuda,
    has_bfloat16_lstm,
    products_in,
    require_headroom,
)
from ptb_lm.model.cells import CELLS, State, cell_step
from ptb_lm.model.decoder import DECODERS, Decoder
from ptb_lm.model.dropout import Dropout, WindowDropout, WordDropout
from ptb_lm.model.layers import layer_weights, run_fused, run_stepwise
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
        self.cell = CELLS[config.cell]
        self.precision = precision
        width, rates = config.hidden_size, config.dropout_rates
        # A window has few of the words: the gradient is of their rows alone, unless the softmax,
        # which has them all, is the same matrix.
        self.embedding = nn.Embedding(vocabulary_size, width, sparse=not config.tied)
        self.layers = nn.ModuleList(self.cell.layer(width, width) for _ in range(config.layers))
        decoder = DECODERS[DECODER](width, vocabulary_size, precision)
        self.add_module(DECODER, decoder)
        if config.tied:
            decoder.weight = self.embedding.weight
        self.drop_words = WordDropout(rates.words)
        self.drop, self.drop_recurrent = _dropout(config, self.cell.gates)
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
                x, state = self._run_layer(layer, x, state)
                after.append(state)
            return WindowOutput(x, self.drop["output"](x), after)

    def _run_layer(self, layer: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
        """Run a layer, fused where nothing within it is masked and there is a kernel for it."""
        layer = cast(nn.RNNBase, layer)
        per_gate = x.dim() == 4
        is_masked = per_gate or self.drop_recurrent.acts
        if self.cell.fused and not is_masked and self._has_kernel(layer, x.device):
            return run_fused(self.cell, layer, x, state)
        masks = None
        if self.drop_recurrent.acts:
            masks = self.drop_recurrent.draw(x[0] if per_gate else x)  # x is as wide as h
        return run_stepwise(self.cell, layer_weights(layer), x, state, masks)

    def _has_kernel(self, layer: nn.RNNBase, device: torch.device) -> bool:
        if self.precision != "bf16":
            return True
        if device.type == "cuda":
            return has_bfloat16_layers_on_cuda()
        return not isinstance(layer, nn.LSTM) or has_bfloat16_lstm()

    def zero_state(self, streams: int) -> HiddenState:
        """Return the state at the beginning of a text: all zero, (B, H) each, for each layer."""
        weight = self.embedding.weight
        shape = (streams, weight.shape[1])
        return [
            tuple(weight.new_zeros(shape) for _ in range(self.cell.states)) for _ in self.layers
        ]

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


def _dropout(config: ModelConfig, gates: int) -> tuple[nn.ModuleDict, Dropout]:
    """Return dropout by place, and that of the recurrent connection."""
    rates = config.dropout_rates
    if config.dropout_on != "variational":
        places = {place: Dropout(getattr(rates, place)) for place in PLACES["non-recurrent"]}
        return nn.ModuleDict(places), Dropout(rates.recurrent)
    own = gates if config.masks_per_gate else None
    places = {
        "input": WindowDropout(rates.input, own),
        "between": WindowDropout(rates.between, own),
        "output": WindowDropout(rates.output),
    }
    return nn.ModuleDict(places), WindowDropout(rates.recurrent, own)


def reference_forward(network: LanguageModel, words: Tensor, hidden: HiddenState) -> WindowOutput:
    """Compute what :meth:`LanguageModel.forward` computes, step by step with the reference cell.

    With dropout off the two agree to rounding in outputs, states and gradients. With dropout on
    each step here draws its own masks, in another order, and on the non-recurrent connections
    alone.
    """
    outputs, dropped = [], []
    states = list(hidden)
    for step_words in words:  # (B,)
        x = network.embedding(step_words)  # (B, H)
        for index, layer in enumerate(network.layers):
            x = network.drop["between" if index else "input"](x)
            weights = layer_weights(cast(nn.RNNBase, layer))
            states[index] = cell_step(network.cell, x, states[index], weights)
            x = states[index][0]
        outputs.append(x)
        dropped.append(network.drop["output"](x))
    return WindowOutput(torch.stack(outputs), torch.stack(dropped), states)


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def weight_shapes(config: ModelConfig, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its name in a checkpoint, without making any."""
    width, gates = config.hidden_size, CELLS[config.cell].gates
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (vocabulary_size, width),
        "softmax.bias": (vocabulary_size,),
    }
    if not config.tied:
        shapes["softmax.weight"] = (vocabulary_size, width)
    for layer in range(config.layers):
        for source in ("ih", "hh"):
            shapes[f"layers.{layer}.weight_{source}_l0"] = (gates * width, width)
            shapes[f"layers.{layer}.bias_{source}_l0"] = (gates * width,)
    return shapes
