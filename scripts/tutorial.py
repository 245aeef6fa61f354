"""Types the commands of docs/TUTORIAL.md and writes what they print below them."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fenced import Block, fenced_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "TUTORIAL.md"

CTRL_C = re.compile(r'typed: Ctrl-C after "(.*)"')
"""The note above a block of output: the command before it is stopped when it has printed that."""


def main() -> None:
    """Rewrite the page."""
    page = PAGE.read_text(encoding="utf-8")
    programs = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory(prefix="ptb-lm-tutorial-") as folder:
        (Path(folder) / "scripts").symlink_to(ROOT / "scripts")
        for block, shown in outputs(page):
            if shown is not None and block.language == "sh":
                printed = typed(block.text, Path(folder), environment, stop_after(shown))
                page = with_output(page, shown, printed)
            elif block.language == "sh":
                typed(block.text, Path(folder), environment)
    PAGE.write_text(page, encoding="utf-8")


def outputs(page: str) -> Iterator[tuple[Block, Block | None]]:
    """Yield what is to be typed on a page, with the block that shows what it prints, if any."""
    blocks = fenced_blocks(page)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language in ("sh", "python"):
            yield block, after if after and after.language == "text" else None
