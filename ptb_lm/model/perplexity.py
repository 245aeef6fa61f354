"""The one definition of perplexity; no torch in it, for those who only read score files."""

import math


def perplexity(nll: float, tokens: int) -> float:
    """Return exp(summed NLL / counted tokens): never a mean over windows.

    Infinite where the exponent is beyond a double, as after a diverged training.
    """
    per_token = nll / tokens
    return math.exp(per_token) if per_token < 700 else math.inf
