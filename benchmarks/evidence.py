"""Where the benchmarks keep their figures."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"


def show(result: dict[str, Any], place: str, *, keep: bool) -> None:
    """Print figures as JSON, and keep them under ``results/`` if that is asked for."""
    text = json.dumps(result, indent=2) + "\n"
    print(text, end="")
    if keep:
        path = RESULTS / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
