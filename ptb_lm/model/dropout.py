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
        return x * self.draw(x.shape, x) if self.acts else x

    def draw(self, window: Sequence[int], like: Tensor) -> Tensor:
        """Draw the factors of a window's values, (T, B, H): new ones at every step.

        Args:
            window: T, B and H.
            like: a tensor of the type and device that the factors are to have.
        """
        return self.factors(window, like)

    def factors(self, shape: Sequence[int], like: Tensor, streams_dim: int = -2) -> Tensor:
        """Draw factors of 0 and 1 / (1 - p), of the type and device of another tensor.

        Args:
            shape: of the factors.
            like: the other tensor.
            streams_dim: which dimension is B.
        """
        # bfloat16 has too few distinct values in [0, 1) for an accurate rate.
        dtype = torch.promote_types(like.dtype, torch.float32)
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

    def draw(self, window: Sequence[int], like: Tensor) -> Tensor:
        """Draw the factors of a window: (1, B, H), or (G, 1, B, H) if each gate has its own.

        A window under the latter becomes G windows, (G, T, B, H).
        """
        gates = () if self.gates is None else (self.gates,)
        return self.factors((*gates, 1, *window[1:]), like)


class WordDropout(Dropout):
    """Dropout of word types: in a window and stream a word is there each time or never."""

    def of_words(self, embedded: Tensor, words: Tensor, vocabulary_size: int) -> Tensor:
        """Return embedded words (T, B, H), in training mode some of the words (T, B) as zero."""
        if not self.acts:
            return embedded
        of_types = self.factors((vocabulary_size, words.shape[1]), embedded, -1)  # (V, B)
        return embedded * of_types.gather(0, words).unsqueeze(2)
