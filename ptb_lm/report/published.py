"""The published figures that ours stand beside."""

from collections.abc import Mapping
from dataclasses import dataclass

from ptb_lm.config import Config, recipe_of, resolve


@dataclass(frozen=True)
class Perplexities:
    """The two figures of a row."""

    valid: float
    test: float


@dataclass(frozen=True)
class Published:
    """A model of Table 1 of arXiv 1409.2329.

    Attributes:
        title: the row's name.
        parameters: trained values with the 10,000 words of the Penn Treebank.
        valid: validation perplexity.
        test: test perplexity.
        averages: the same of averages of several models, by how many; others are not given.
    """

    title: str
    parameters: int
    valid: float
    test: float
    averages: Mapping[int, Perplexities]

    @property
    def size(self) -> str:
        """The first word of its name."""
        return self.title.partition(",")[0]

    def of_members(self, members: int) -> Perplexities | None:
        """Return the figures of one model or of the average of several, if the paper gives them."""
        if members == 1:
            return Perplexities(self.valid, self.test)
        return self.averages.get(members)


AVERAGED = (2, 5, 10, 38)
"""How many models the paper averages."""

TABLE_1 = {
    "small": Published(
        "small, non-regularized",
        4_653_200,
        120.7,
        114.5,
        {
            2: Perplexities(100.4, 96.1),
            5: Perplexities(87.9, 84.1),
            10: Perplexities(83.5, 80.0),
        },
    ),
    "medium": Published(
        "medium, regularized",
        19_780_400,
        86.2,
        82.7,
        {
            2: Perplexities(80.6, 77.0),
            5: Perplexities(76.7, 73.3),
            10: Perplexities(75.2, 72.0),
        },
    ),
    "large": Published(
        "large, regularized",
        66_034_000,
        82.2,
        78.4,
        {
            2: Perplexities(76.9, 73.6),
            10: Perplexities(72.8, 69.5),
            38: Perplexities(71.9, 68.7),
        },
    ),
}


def published_for(config: Config) -> Published | None:
    """Return the paper's figures for a run, if it is the paper's model on the paper's data."""
    name = config.run.config
    if config.run.data != "ptb" or name not in TABLE_1:
        return None
    return TABLE_1[name] if recipe_of(config) == recipe_of(resolve(name)) else None


def percent_above(reached: float, published: float) -> float:
    """Return by how much a perplexity is above a published one, in percent; negative: below."""
    return (reached / published - 1) * 100
