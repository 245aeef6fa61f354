"""The fenced blocks of a Markdown page: what is shown there to be typed, and what it prints."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

FENCE = "```"
COMMENT = re.compile(r"<!-- (.*) -->")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        language: the word after the opening fence, empty where there is none.
        text: the lines between the fences.
        line: the number of the first of these in the page, from 1.
        note: a comment of one line that stands right above the block: an instruction to whoever
            runs it that no reader of the page sees.
        follows: whether nothing but empty lines is between it and the block before.
    """

    language: str
    text: str
    line: int
    note: str
    follows: bool


def fenced_blocks(page: str) -> list[Block]:
    """Return the blocks of a page in order.

    Raises:
        ValueError: the last one is not closed.
    """
    blocks = []
    note, between, opened, inside = "", True, None, list[str]()
    for number, line in enumerate(page.splitlines(), start=1):
        if opened is None and line.startswith(FENCE):
            opened, inside = number, []
            language = line.removeprefix(FENCE).strip()
        elif opened is None:
            comment = COMMENT.fullmatch(line)
            note = comment[1] if comment else note if not line else ""
            between = between or bool(line)
        elif line == FENCE:
            blocks.append(Block(language, "\n".join(inside), opened + 1, note, not between))
            note, between, opened = "", False, None
        else:
            inside.append(line)
    if opened is not None:
        raise ValueError(f"the block that line {opened} opens is not closed")
    return blocks


def command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Yield the commands of a block, each with its line in the page; a script is one command."""
    if block.text.startswith("#!"):
        yield block.line, block.text
        return
    begun, first = "", block.line
    for number, line in enumerate(block.text.splitlines(), start=block.line):
        first = first if begun else number
        begun += line.removesuffix("\\")
        if line.endswith("\\"):
            continue
        if begun.strip() and not begun.lstrip().startswith("#"):
            yield first, begun.strip()
        begun = ""
