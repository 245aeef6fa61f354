"""Dynamic evaluation: weights that go on learning from the text while it is scored.

Krause, Kahembwe, Murray and Renals, "Dynamic Evaluation of Neural Sequence Models"
(arXiv 1709.07432). A text is read in segments s_1, s_2, … of a few tokens. Each is scored by the
weights made from what came before it, and only then are they updated. With theta_g the weights as
they were trained, L the NLL of a segment, eta the rate and lambda the decay, section 5 has

    SGD   theta_i = theta_{i-1} - eta grad L(s_i) + lambda (theta_g - theta_{i-1})
    RMS   theta_i = theta_{i-1} - eta grad L(s_i) / (sqrt(MS_g) + epsilon)
                    + min(lambda RMS_norm, 1) (theta_g - theta_{i-1})

weight by weight: MS_g is the mean square of the gradient over segments of the training text, and
RMS_norm is sqrt(MS_g) by its average over all weights. Backpropagation ends at the first step of a
segment, while the hidden state goes on.

Here L is the NLL summed over a segment's tokens, and for MS_g averaged over streams, as the
objective of training is. With a mean over a segment in its place, the rate of SGD would be so many
times larger, and the epsilon of RMS as many times smaller.

Shapes: T steps of a segment, B streams, V words, H hidden units.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ptb_lm.arguments import require_integer, require_number
from ptb_lm.corpus.batching import training_columns, training_window, windows_per_epoch
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.errors import InputError
from ptb_lm.model.decoder import at_least_float32
from ptb_lm.model.dropout import Dropout
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.state import HiddenState, detach
from ptb_lm.stop import StopFlag
from ptb_lm.training.progress import with_bar
from ptb_lm.training.step import window_objective

STATISTICS_STREAMS = 100
"""Streams that the training text is cut into for MS_g; as many as in the authors' code."""

TUNED = {"sgd": (0.07, 3e-3), "rms": (5e-4, 1e-3)}
"""Rate and decay by form, tuned on the validation text for the paper's small model."""


@dataclass(frozen=True)
class Dynamic:
    """The settings of dynamic evaluation.

    Attributes:
        form: ``sgd`` or ``rms``.
        rate: eta.
        decay: lambda.
        segment: tokens read between two updates; the paper's number for words is 5.
        epsilon: of ``rms``; keeps steps bounded for weights whose gradient was almost always zero.

    Raises:
        TypeError: a setting is not a number, or the segment not a whole one.
        InputError: there is no such form, or a setting is out of its range.
    """

    form: str
    rate: float
    decay: float
    segment: int = 5
    epsilon: float = 3e-3
    key: ClassVar = "dynamic"

    def __post_init__(self) -> None:
        _require_form(self.form)
        if not 0 <= require_number(self.rate, "rate") < math.inf:
            raise InputError(f"--dynamic-rate {self.rate}: expected 0 or more")
        if not 0 <= require_number(self.decay, "decay") <= 1:
            raise InputError(f"--dynamic-decay {self.decay}: expected 0 to 1")
        if require_integer(self.segment, "segment") < 1:
            raise InputError(f"segment {self.segment}: expected 1 or more")
        if not 0 < require_number(self.epsilon, "epsilon") < math.inf:
            raise InputError(f"epsilon {self.epsilon}: expected more than 0")

    @classmethod
    def tuned(cls, form: str, rate: float | None = None, decay: float | None = None) -> "Dynamic":
        """Fill in what is not given with what was tuned for the small model.

        Raises:
            InputError: there is no such form, or a setting is out of its range.
        """
        _require_form(form)
        tuned_rate, tuned_decay = TUNED[form]
        return cls(
            form,
            rate=tuned_rate if rate is None else rate,
            decay=tuned_decay if decay is None else decay,
        )

    @property
    def settings(self) -> dict[str, str | float]:
        """By their names in JSON."""
        epsilon = {"dynamic_epsilon": self.epsilon} if self.form == "rms" else {}
        return {
            "dynamic": self.form,
            "dynamic_rate": self.rate,
            "dynamic_decay": self.decay,
            "dynamic_segment": self.segment,
            **epsilon,
        }

    @property
    def title(self) -> str:
        """What a person reads."""
        epsilon = f"epsilon {self.epsilon:g}, " if self.form == "rms" else ""
        return (
            f"dynamic evaluation ({self.form.upper()}, rate {self.rate:g}, decay {self.decay:g}, "
            f"{epsilon}segments of {self.segment} tokens)"
        )


def _require_form(form: str) -> None:
    if form not in list(TUNED):  # which need not be hashed
        raise InputError(f"--dynamic {form}: expected {' or '.join(TUNED)}")


class Pace(NamedTuple):
    """How a parameter is updated: all of its weights alike, (), or each in its own way.

    Attributes:
        step: what its gradient is multiplied by.
        decay: how far it is pulled back to the trained weight, 0 to 1.
    """

    step: Tensor
    decay: Tensor


def sgd_paces(network: LanguageModel, dynamic: Dynamic) -> dict[str, Pace]:
    """Return the form SGD, by the parameters' names."""
    return {
        name: Pace(weight.new_tensor(dynamic.rate), weight.new_tensor(dynamic.decay))
        for name, weight in network.weights().items()
    }


def rms_paces(mean_squares: Mapping[str, Tensor], dynamic: Dynamic) -> dict[str, Pace]:
    """Return the form RMS from MS_g, both by the parameters' names."""
    rms = {name: mean_square.sqrt() for name, mean_square in mean_squares.items()}
    weights = sum(root.numel() for root in rms.values())
    average = sum(float(root.sum(dtype=torch.float64)) for root in rms.values()) / weights
    return {
        name: Pace(
            dynamic.rate / (root + dynamic.epsilon),
            (root * (dynamic.decay / average)).clamp(max=1),
        )
        for name, root in rms.items()
    }


def gradient_mean_squares(
    network: LanguageModel, tokens: TokenIds, segment: int, stop: StopFlag
) -> dict[str, Tensor]:
    """Return MS_g, by the parameters' names: the mean of grad L squared over a text's segments.

    Args:
        network: left as it is.
        tokens: the training text, (N,).
        segment: T.
        stop: checked before each segment.

    Raises:
        InputError: the text is shorter than a segment.
        Stopped: a signal came.
    """
    network = differentiable_copy(network)
    mean_squares = {name: torch.zeros_like(weight) for name, weight in network.weights().items()}
    streams = min(STATISTICS_STREAMS, max(1, len(tokens) // (segment + 1)))
    columns = training_columns(tokens, streams, segment).to(network.device)
    segments = windows_per_epoch(columns, segment)
    hidden = network.zero_state(streams)
    for index in with_bar(range(segments), segments, "gradients of the training text"):
        stop.check()
        inputs, targets = training_window(columns, index, segment)  # (T, B)
        output = network(inputs, detach(hidden))
        hidden = output.state
        objective = window_objective(network.decoder.nll(output.dropped, targets), streams)
        objective.backward()  # type: ignore[no-untyped-call]
        for name, parameter in network.named_parameters():
            rows, gradient = pop_gradient(parameter)
            mean_squares[name][rows] += gradient.square()
    for mean_square in mean_squares.values():
        mean_square /= segments
    return mean_squares


def differentiable_copy(network: LanguageModel) -> LanguageModel:
    """Return a copy with dropout off that can be differentiated.

    In evaluation mode cuDNN does not keep what backward needs.
    """
    network = copy.deepcopy(network).train()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.eval()
        elif isinstance(module, nn.RNNBase):
            module.flatten_parameters()  # whose weights the copy no longer has in one piece
    return network


def pop_gradient(parameter: nn.Parameter) -> tuple[Tensor | slice, Tensor]:
    """Take a parameter's gradient from it.

    Returns:
        the rows that it covers, each once, and their gradient; all rows if it is dense.
    """
    gradient = parameter.grad
    assert gradient is not None
    parameter.grad = None
    if not gradient.is_sparse:
        return slice(None), gradient
    gradient = gradient.coalesce()  # a word that occurs twice counts once, with the sum
    return gradient.indices()[0], gradient.values()


class AdaptiveNetwork:
    """A copy of a network that learns from what it reads; the network itself stays theta_g.

    Embedding rows absent from a segment only decay, and lazily: when the word recurs, its k missed
    updates are applied at once (factor (1 - lambda)^k). This spares each update a pass over the
    embedding.

    Attributes:
        copy: with the weights theta_i.
        paces: by the parameters' names.
        updates: i.
        row_updates: how many updates each row of the embedding has seen, int64 (V,).
    """

    def __init__(self, network: LanguageModel, paces: Mapping[str, Pace]) -> None:
        self.copy = differentiable_copy(network)
        self.paces = paces
        self.updates = 0
        embedding = network.embedding.weight
        self.row_updates = torch.zeros(len(embedding), dtype=torch.int64, device=embedding.device)
        self._trained = network.weights()

    def read(
        self, words: Tensor, targets: Tensor, hidden: HiddenState
    ) -> tuple[Tensor, Tensor, HiddenState]:
        """Score a segment, and only then learn from it.

        Args:
            words: int64 (T, 1).
            targets: the word after each, int64 (T, 1).
            hidden: the state before it.

        Returns:
            ln p of the targets, (T,), h of layer L, (T, H), and the state after the segment.
        """
        if self.copy.embedding.sparse:
            self._catch_up(words.flatten())
        output = self.copy(words, hidden)
        nll = self.copy.decoder.nll(output.dropped, targets).squeeze(1)
        nll.sum().backward()  # type: ignore[no-untyped-call]
        self._update()
        h = at_least_float32(output.raw.detach()).squeeze(1)
        return -nll.detach(), h, detach(output.state)

    @torch.no_grad()
    def _catch_up(self, rows: Tensor) -> None:
        """Apply the decays that rows of the embedding have missed; a row may be given twice."""
        name = "embedding.weight"
        weight, trained = self.copy.embedding.weight, self._trained[name][rows]
        missed = (self.updates - self.row_updates[rows])[:, None]
        left = (1 - self.paces[name].decay.expand_as(weight)[rows]) ** missed
        weight[rows] = torch.lerp(trained, weight[rows], left)
        self.row_updates[rows] = self.updates

    @torch.no_grad()
    def _update(self) -> None:
        self.updates += 1
        for name, parameter in self.copy.named_parameters():
            rows, gradient = pop_gradient(parameter)
            trained, pace = self._trained[name], self.paces[name]
            if isinstance(rows, slice):
                parameter.lerp_(trained, pace.decay).addcmul_(gradient, pace.step, value=-1)
                continue
            step, decay = (part.expand_as(parameter)[rows] for part in pace)
            parameter[rows] = torch.lerp(parameter[rows], trained[rows], decay) - step * gradient
            self.row_updates[rows] = self.updates
