"""Two models compared target by target on one text that both have scored."""

from dataclasses import dataclass
from math import isqrt, sqrt

import numpy as np

from ptb_lm.evaluation.scores import Scores


@dataclass(frozen=True)
class PairedComparison:
    """How much better one model predicts a text than another.

    Attributes:
        targets: how many.
        nll_difference: NLL per token of the second minus that of the first, in nats: positive
            where the first is better. NaN where one of them gives a target the probability 0.
        standard_error: of that mean, over texts of this kind with both models as they are; what
            another seed would change is not in it. NaN of fewer than four targets.
        first_better: the share of targets that the first gives a higher probability.
        second_better: the same of the second; what is left is equal.
    """

    targets: int
    nll_difference: float
    standard_error: float
    first_better: float
    second_better: float

    @classmethod
    def of(cls, first: Scores, second: Scores) -> "PairedComparison":
        """Compare two models' scores of one text, which the caller has seen to be one.

        Neighbouring targets are not independent: where one model knows a topic better, it does so
        for some sentences. The standard error is therefore that of the means of consecutive
        blocks, about the square root of N of them with as many targets in each (batch means, as in
        Flegal and Jones, arXiv 0811.1729). On the scores under ``results/`` it is 1.0 to 2 times
        the one that takes targets as independent.
        """
        ours = first.log_probabilities.astype(np.float64)
        theirs = second.log_probabilities.astype(np.float64)
        finite = bool(np.isfinite(ours).all() and np.isfinite(theirs).all())
        difference = ours - theirs if finite else np.full(len(ours), np.nan)
        return cls(
            targets=len(difference),
            nll_difference=float(difference.mean()),
            standard_error=_error_of_mean(difference),
            first_better=float((ours > theirs).mean()),
            second_better=float((ours < theirs).mean()),
        )


def _error_of_mean(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    blocks = isqrt(len(values))
    if blocks < 2:
        return np.nan
    means = [block.mean() for block in np.array_split(values, blocks)]
    return float(np.std(means, ddof=1) / sqrt(blocks))
