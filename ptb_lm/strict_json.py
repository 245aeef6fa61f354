"""JSON as the standard has it: no NaN, no infinity, and no text that UTF-8 cannot encode."""

import json
import math
from typing import Any

from ptb_lm.paths import utf8_text


def to_json(value: Any, indent: int | None = None) -> str:
    """Write a value as JSON.

    A figure that is not finite, as of a diverged training, is null. In names of files, bytes that
    are not UTF-8 are written as ``\\xe9``.
    """
    return json.dumps(_standard(value), indent=indent, allow_nan=False)


def _standard(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return utf8_text(value)
    if isinstance(value, dict):
        return {_standard(key): _standard(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_standard(item) for item in value]
    return value
