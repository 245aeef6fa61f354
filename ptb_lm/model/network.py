"""The network of the paper: embedding, L LSTM layers, softmax; dropout in L+1 places.

Shapes: T steps, B streams, H hidden units, V words, L layers. Time comes first.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ptb_lm.config import ModelConfig
from ptb_lm.model.cells import CellWeights, lstm_cell
from ptb_lm.model.libraries import require_headroom
from ptb_lm.model.state import HiddenState


class Dropout(nn.Module):
    """Dropout D of the paper: each value is zero with probability p, else divided by 1 - p.

    It is ``nn.Dropout`` with masks drawn from uniform numbers in float32, which on a CPU takes a
    third of the time of PyTorch's own draw.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """Return x, in training mode under a fresh mask of its shape."""
        if not self.training or self.p == 0:
            return x
        dtype = torch.promote_types(x.dtype, torch.float32)  # of bfloat16 there are too few
        kept = torch.rand(x.shape, dtype=dtype, device=x.device) < 1 - self.p
        return x * kept.to(x.dtype).div_(1 - self.p)


class LanguageModel(nn.Module):
    """A deep LSTM whose dropout acts on the non-recurrent connections only.

    The figure 2 of arXiv 1409.2329: each dashed arrow, from the embedding to layer 1, from each
    layer to the next, and from layer L to the softmax, passes :attr:`drop`; no solid arrow, from
    a step to the next, does. ``nn.LSTM(dropout=…)`` would leave out the first and the last of
    these, so that each layer is a fused single-layer LSTM of its own.

    Embedding and softmax are not tied. Every parameter is drawn from
    U(-init_range, init_range), both bias vectors of each layer too, with no forget-gate offset.

    Attributes:
        config: what it was made from.
        precision: ``bf16``: products in bfloat16, weights and state in float32; otherwise all in
            float32.
    """

    def __init__(self, config: ModelConfig, vocabulary_size: int, precision: str = "fp32") -> None:
        super().__init__()
        self.config = config
        self.precision = precision
        width = config.hidden_size
        # A window has few of the words: its gradient is of their rows alone.
        self.embedding = nn.Embedding(vocabulary_size, width, sparse=True)
        self.layers = nn.ModuleList(nn.LSTM(width, width) for _ in range(config.layers))
        self.softmax = nn.Linear(width, vocabulary_size)
        self.drop: nn.Module = Dropout(config.dropout)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.uniform_(-config.init_range, config.init_range)

    def forward(self, words: Tensor, hidden: HiddenState) -> tuple[Tensor, HiddenState]:
        """Run a window of T steps from a given state.

        Args:
            words: word indices, int64 (T, B).
            hidden: the state before the first step, see :meth:`zero_state`.

        Returns:
            logits of the next word, (T, B, V), and the state after the last step.

        Raises:
            MemoryError: too little memory is left for the kernels.
        """
        require_headroom()
        with torch.autocast(words.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = self.drop(self.embedding(words))  # (T, B, H)
            after: HiddenState = []
            for layer, (h, c) in zip(self.layers, hidden, strict=True):
                x, state = layer(x, (h.unsqueeze(0), c.unsqueeze(0)))
                after.append((state[0].squeeze(0).to(h), state[1].squeeze(0).to(c)))
                x = self.drop(x)
            return self.softmax(x), after

    def zero_state(self, streams: int) -> HiddenState:
        """Return the state at the beginning of a text: h and c zero, (B, H) for each layer."""
        weight = self.softmax.weight
        return [
            (weight.new_zeros(streams, weight.shape[1]), weight.new_zeros(streams, weight.shape[1]))
            for _ in self.layers
        ]

    def cell_weights(self) -> Iterator[CellWeights]:
        """Yield the weights of each layer, in the form the reference cells take."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        for layer in self.layers:
            yield CellWeights(*(layer.get_parameter(name) for name in names))


def reference_forward(
    network: LanguageModel, words: Tensor, hidden: HiddenState
) -> tuple[Tensor, HiddenState]:
    """Compute what :meth:`LanguageModel.forward` computes, step by step with the reference cell.

    With dropout off the two agree to rounding in outputs, states and gradients. With dropout on
    each step here draws its own masks, in another order.
    """
    logits = []
    state = list(hidden)
    for step_words in words:  # (B,)
        x = network.drop(network.embedding(step_words))  # (B, H)
        for index, weights in enumerate(network.cell_weights()):
            state[index] = lstm_cell(x, state[index], weights)
            x = network.drop(state[index][0])
        logits.append(network.softmax(x))
    return torch.stack(logits), state


def parameter_count(network: nn.Module) -> int:
    """Return the number of trained values."""
    return sum(parameter.numel() for parameter in network.parameters())


def weight_shapes(config: ModelConfig, vocabulary_size: int) -> dict[str, tuple[int, ...]]:
    """Return the shape of each parameter by its name in a checkpoint, without making any."""
    width = config.hidden_size
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (vocabulary_size, width),
        "softmax.weight": (vocabulary_size, width),
        "softmax.bias": (vocabulary_size,),
    }
    for layer in range(config.layers):
        for source in ("ih", "hh"):
            shapes[f"layers.{layer}.weight_{source}_l0"] = (4 * width, width)
            shapes[f"layers.{layer}.bias_{source}_l0"] = (4 * width,)
    return shapes
