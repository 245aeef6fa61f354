"""Types the commands of docs/TUTORIAL.md, and writes below them what they print."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from fenced import FENCE, Block, fenced_blocks

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "TUTORIAL.md"

SET_UP = "make install"
"""What begins the commands that have been typed by whoever runs this."""

CTRL_C = re.compile(r'typed: Ctrl-C after "(.*)"')
"""The note above an output whose command is stopped when it has printed that."""


def main() -> None:
    """Rewrite the page."""
    page = PAGE.read_text(encoding="utf-8")
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "COLUMNS": "80",
        "OMP_NUM_THREADS": "1",  # figures depend on it, if only in their last digits
    }
    printed = {}
    with tempfile.TemporaryDirectory(prefix="ptb-lm-tutorial-") as name:
        folder = Path(name)
        (folder / "scripts").symlink_to(ROOT / "scripts")
        for block, shown in what_is_typed(page):
            sys.stderr.write(f"{block.text}\n")
            out = typed(command_of(block), folder, environment, stop_after(shown))
            if shown is not None:
                printed[shown.line] = out
    PAGE.write_text(with_outputs(page, printed), encoding="utf-8")


def what_is_typed(page: str) -> Iterator[tuple[Block, Block | None]]:
    """Yield each block that is to be typed, with the next one where that shows what it prints."""
    blocks = fenced_blocks(page)
    for block, after in zip(blocks, [*blocks[1:], None], strict=True):
        if block.language in ("sh", "python") and not block.text.startswith(SET_UP):
            yield block, after if after is not None and after.language == "text" else None


def command_of(block: Block) -> list[str]:
    """Return the command of a process that does what a block says."""
    if block.language == "python":
        return ["python", "-c", block.text]
    return ["bash", "-e", "-o", "pipefail", "-c", block.text]


def stop_after(shown: Block | None) -> str | None:
    """Return what a command is to print before it is stopped by Ctrl-C, if it is to be."""
    note = CTRL_C.fullmatch(shown.note) if shown else None
    return note[1] if note else None


def typed(
    command: list[str], folder: Path, environment: Mapping[str, str], stop_after: str | None = None
) -> str:
    """Run a command in a folder, and return what it prints on both streams.

    Raises:
        RuntimeError: it ends with another exit code than it should.
    """
    lines = []
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that Ctrl-C reaches all of it, and nothing else
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append(line)
            if stop_after is not None and line.startswith(stop_after):
                os.killpg(process.pid, signal.SIGINT)
    printed = "".join(lines)
    expected = 0 if stop_after is None else 128 + signal.SIGINT
    if process.returncode != expected:
        raise RuntimeError(f"{command[-1]}: exit code {process.returncode}\n{printed}")
    return printed


def with_outputs(page: str, printed: Mapping[int, str]) -> str:
    """Return a page with the blocks that begin at these lines replaced."""
    lines = page.splitlines()
    for first in sorted(printed, reverse=True):
        start = first - 1
        end = lines.index(FENCE, start)
        lines[start:end] = [line.rstrip() for line in printed[first].rstrip().splitlines()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
