"""How long a run has trained, from its metrics, and how a duration is written."""

import math
from collections.abc import Sequence

from ptb_lm.training.run_folder import Record


def training_seconds(records: Sequence[Record], targets_per_step: int) -> list[float]:
    """Return at each line of the metrics how long the run had trained; stops are not counted.

    The line of an epoch's end says it. Within an epoch it follows from the words per second, which
    are those of the epoch so far.

    Args:
        records: the metrics from their first line on.
        targets_per_step: T * B.
    """
    epoch_began_at_step, epoch_began_at, seconds = 0, 0.0, 0.0
    elapsed = []
    for record in records:
        rate = number_in(record, "words_per_second")
        if not math.isnan(number_in(record, "seconds")):
            seconds = epoch_began_at = number_in(record, "seconds")
            epoch_began_at_step = record["step"]
        elif rate > 0:
            targets = (record["step"] - epoch_began_at_step) * targets_per_step
            seconds = epoch_began_at + max(0, targets) / rate
        elapsed.append(seconds)
    return elapsed


def number_in(record: Record, key: str) -> float:
    """Return a figure of a line of the metrics; NaN where it has none, as after a divergence."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:  # an integer beyond all floats, which is none of ours
        return math.nan


def clock(seconds: float) -> str:
    """Write a duration as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
