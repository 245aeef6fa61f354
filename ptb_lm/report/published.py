"""The published figures that ours stand beside."""

from dataclasses import dataclass

from ptb_lm.config import Config, recipe_of, resolve


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


def published_for(config: Config) -> Published | None:
    """Return the paper's figures for a run, if it is the paper's model on the paper's data."""
    name = config.run.config
    if config.run.data != "ptb" or name not in TABLE_1:
        return None
    return TABLE_1[name] if recipe_of(config) == recipe_of(resolve(name)) else None
