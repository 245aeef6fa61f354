"""Which of the streams of a batch are computed here, where several processes share them."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The streams ``first`` to ``stop`` - 1 of B.

    Attributes:
        first: the first.
        stop: the one after the last.
        total: B.
    """

    first: int
    stop: int
    total: int

    @property
    def streams(self) -> int:
        """How many they are."""
        return self.stop - self.first

    def of(self, values: Tensor, dim: int) -> Tensor:
        """Return the part of values that have B along one dimension."""
        there = values.shape[dim]  # fewer than B in a last row of evaluation
        first, stop = min(self.first, there), min(self.stop, there)
        return values.narrow(dim, first, stop - first)
