"""The one definition of perplexity, and how one is shown; without torch, for score files."""

import math

from ptb_lm.errors import PtbLmError

NO_FIGURE = "-"
"""Shown in place of a figure that is not a number."""

FIGURE_WIDTH = 8
"""The widest figure in characters, its sign not counted."""

TRAIN_AGAIN = (
    "the training has diverged; train again with a lower optimizer.learning_rate, or use a "
    "checkpoint from before that, such as best.pt"
)
"""The remedy for a model whose figures are not numbers."""


def perplexity(nll: float, tokens: int) -> float:
    """Return exp(summed NLL / counted tokens): never a mean over windows.

    Infinite where the NLL is not finite, or the figure beyond a double, as after a diverged
    training.
    """
    per_token = nll / tokens
    return math.exp(per_token) if math.isfinite(nll) and per_token < 700 else math.inf


def require_perplexity(nll: float, tokens: int, what: str, remedy: str = TRAIN_AGAIN) -> float:
    """Return the perplexity of a text, which must be a number.

    Args:
        nll: summed, in nats.
        tokens: the number of targets.
        what: the model or file, and the text, for the error message.
        remedy: what the user can do, for the error message.

    Raises:
        PtbLmError: the perplexity is not finite.
    """
    reached = perplexity(nll, tokens)
    if not math.isfinite(reached):
        raise PtbLmError(f"{what}: {no_perplexity(nll, tokens)}; {remedy}")
    return reached


def no_perplexity(nll: float, tokens: int) -> str:
    """Say why a perplexity is not a number."""
    return f"the perplexity is not a number: the mean NLL of a token is {nll / tokens:.6g} nats"


def figure_text(value: float, decimals: int = 2, sign: str = "", width: int = FIGURE_WIDTH) -> str:
    """Write a perplexity, a difference or a percentage with the most digits that fit a width.

    Args:
        value: the figure; NaN and the infinities are shown as :data:`NO_FIGURE`.
        decimals: the number of decimals where they fit; a larger figure has an exponent.
        sign: ``+``: the sign of positive figures is shown too.
        width: the most characters, the sign not counted; at least 6.
    """
    if not math.isfinite(value):
        return NO_FIGURE
    forms = [*(f".{n}f" for n in range(decimals, -1, -1)), *(f".{n}e" for n in (2, 1, 0))]
    fitting = next(form for form in forms if len(format(abs(value), form)) <= width)
    return format(value, f"{sign}{fitting}")
