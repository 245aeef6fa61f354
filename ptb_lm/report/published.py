"""The published figures that ours stand beside."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A row of Table 1 of arXiv 1409.2329.

    Attributes:
        title: the row's name.
        parameters: trained values with the 10,000 words of the Penn Treebank.
        valid: validation perplexity.
        test: test perplexity.
    """

    title: str
    parameters: int
    valid: float
    test: float


TABLE_1 = {
    "small": Published("small, non-regularized", 4_653_200, 120.7, 114.5),
    "medium": Published("medium, regularized", 19_780_400, 86.2, 82.7),
    "large": Published("large, regularized", 66_034_000, 82.2, 78.4),
}
