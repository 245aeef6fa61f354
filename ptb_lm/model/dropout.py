"""Dropout: where it acts, how long a mask lasts, and which values share one.

Shapes: T steps, B streams, H hidden units, V words, G gates.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ptb_lm.model.share import Share


class Dropout(nn.Module):
    """Dropout D of the paper: each value is zero with probability p, else divided by 1 - p.

    It is ``nn.Dropout`` with masks drawn from uniform numbers in float32, which a CPU draws faster
    than PyTorch does its own.

    Attributes:
        p: the probability of being dropped.
        share: where several processes share a batch, the streams that are computed here. The
            masks are drawn for all of them, so that they are those of one process.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.share: Share | None = None

    @property
    def acts(self) -> bool:
        """Whether anything is dropped now: in training mode alone."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """Return x, (T, B, H), in training mode under a fresh mask."""
        return x * self.draw(x) if self.acts else x

    def draw(self, x: Tensor) -> Tensor:
        """Draw a mask for x, (T, B, H): other factors at every step."""
        return self.factors(x.shape, x)

    def factors(self, shape: Sequence[int], like: Tensor, streams_dim: int = -2) -> Tensor:
        """Draw factors of 0 and 1 / (1 - p), of the type and device of another tensor.

        Args:
            shape: of the factors.
            like: the other tensor.
            streams_dim: which dimension is B.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)  # of bfloat16 there are too few
        of_all = list(shape)
        if self.share is not None:
            of_all[streams_dim] = self.share.total
        kept = torch.rand(of_all, dtype=dtype, device=like.device) < 1 - self.p
        if self.share is not None:
            kept = self.share.of(kept, streams_dim)
        return kept.to(like.dtype).div_(1 - self.p)


class WindowDropout(Dropout):
    """Variational dropout (arXiv 1512.05287): a stream's mask is the same at every step.

    A window of truncated backpropagation takes the place of that paper's sequence.

    Attributes:
        gates: G, where each gate of the next layer has a mask of its own; None where all share one.
    """

    def __init__(self, p: float, gates: int | None = None) -> None:
        super().__init__(p)
        self.gates = gates

    def draw(self, x: Tensor) -> Tensor:
        """Draw a mask for x, (T, B, H): (1, B, H), or (G, 1, B, H), so that x becomes G windows."""
        gates = () if self.gates is None else (self.gates,)
        return self.factors((*gates, 1, *x.shape[1:]), x)


class WordDropout(Dropout):
    """Dropout of word types: in a window and stream a word is there each time or never."""

    def of_words(self, embedded: Tensor, words: Tensor, vocabulary_size: int) -> Tensor:
        """Return embedded words (T, B, H), in training mode some of the words (T, B) as zero."""
        if not self.acts:
            return embedded
        of_types = self.factors((vocabulary_size, words.shape[1]), embedded, -1)  # (V, B)
        return embedded * of_types.gather(0, words).unsqueeze(2)
