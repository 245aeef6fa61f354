"""JSON as the standard has it, which knows neither NaN nor infinity."""

import json
import math
from typing import Any


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a value as JSON; a figure that is not finite, as of a diverged training, is null."""
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
