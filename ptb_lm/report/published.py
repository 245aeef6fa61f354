"""The published figures that ours stand beside."""

from collections.abc import Mapping
from dataclasses import dataclass

from ptb_lm.config import Config, recipe_of, resolve
from ptb_lm.evaluation.scores import MONTE_CARLO, USUAL
from ptb_lm.model.perplexity import figure_text


@dataclass(frozen=True)
class Perplexities:
    """The two figures of a row."""

    valid: float
    test: float

    @property
    def signed(self) -> tuple[str, str]:
        """Both as differences in percent, as a table has them."""
        return figure_text(self.valid, 1, "+"), figure_text(self.test, 1, "+")


@dataclass(frozen=True)
class Published:
    """A model of Table 1 of arXiv 1409.2329, or of that of arXiv 1512.05287.

    Attributes:
        title: the row's name.
        name: in the title of an average.
        parameters: trained values with the 10,000 words of the Penn Treebank.
        valid: validation perplexity.
        test: test perplexity.
        averages: the same of averages of several models, by how many; others are not given.
        monte_carlo: test perplexity by Monte Carlo, if it is given.
    """

    title: str
    name: str
    parameters: int
    valid: float
    test: float
    averages: Mapping[int, Perplexities]
    monte_carlo: float | None = None

    def of_members(self, members: int) -> Perplexities | None:
        """Return the figures of one model or of the average of several, if the paper gives them."""
        if members == 1:
            return Perplexities(self.valid, self.test)
        return self.averages.get(members)

    def by_way(self, split: str, way: str) -> float | None:
        """Return the figure of one model on a split, if the paper gives it.

        Args:
            split: ``valid``, ``test`` or another.
            way: the key of a way to score, see :mod:`ptb_lm.evaluation.ways`.
        """
        given = {
            ("valid", USUAL): self.valid,
            ("test", USUAL): self.test,
            ("test", MONTE_CARLO): self.monte_carlo,
        }
        return given.get((split, way))


AVERAGED = (2, 5, 10, 38)
"""How many models the paper averages."""

TABLE_1 = {
    "small": Published(
        "small, non-regularized",
        "small",
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
        "medium",
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
        "large",
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
"""The models of arXiv 1409.2329, by preset."""

VARIATIONAL = {
    "gal-medium-untied": Published(
        "medium, variational (untied)",
        "medium, variational (untied)",
        19_780_400,
        81.9,
        79.7,
        {},
        monte_carlo=78.6,
    ),
    "gal-medium-tied": Published(
        "medium, variational (tied)",
        "medium, variational (tied)",
        19_780_400,
        81.8,
        79.7,
        {},
        monte_carlo=79.0,
    ),
}
"""Those of arXiv 1512.05287 that there are presets of. Tied are the masks of a layer's gates."""

PUBLISHED = TABLE_1 | VARIATIONAL


@dataclass(frozen=True)
class Elsewhere:
    """A figure that others have published for a model of these sizes.

    Attributes:
        model: what it is of.
        source: who gives it, and for what way of evaluation if it is another.
        valid: validation perplexity, if it is given.
        test: test perplexity.
        preset: of the same model here, if there is one.
    """

    model: str
    source: str
    valid: float | None
    test: float
    preset: str | None = None


_TENSORFLOW = "TensorFlow's tutorial (tensorflow/models, tutorials/rnn/ptb)"
_GAL = "Gal and Ghahramani, arXiv 1512.05287"

ELSEWHERE = (
    Elsewhere("small, non-regularized", _TENSORFLOW, 121.39, 115.91, "small"),
    Elsewhere("medium, regularized", _TENSORFLOW, 86.16, 82.07, "medium"),
    Elsewhere("large, regularized", _TENSORFLOW, 82.62, 78.29, "large"),
    Elsewhere("large, variational (untied)", _GAL, 77.9, 75.2),
    Elsewhere("large, variational (untied)", f"{_GAL}, Monte Carlo", None, 73.4),
    Elsewhere("large, variational, average of 10", f"{_GAL}, Monte Carlo", None, 68.7),
)
"""Beside the two tables."""


def published_for(config: Config) -> Published | None:
    """Return a paper's figures for a run, if it is the paper's model on the paper's data."""
    name = config.run.config
    if config.run.data != "ptb" or name not in PUBLISHED:
        return None
    return PUBLISHED[name] if recipe_of(config) == recipe_of(resolve(name)) else None


def percent_above(reached: float, published: float) -> float:
    """Return by how much a perplexity is above a published one, in percent; negative: below."""
    return (reached / published - 1) * 100
