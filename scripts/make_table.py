"""Rewrite the tables of the README and of docs/, and the figures there, from ``results/``.

And docs/COMMANDS.md, from the command line itself.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import command_reference
from adapting_page import adapting_blocks
from distributed_page import distributed_blocks
from figures import write_figures
from measured import runs_on_ptb
from reliability_page import reliability_blocks
from reproduction_page import reproduction_blocks
from speed_page import speed_blocks

from ptb_lm.errors import PtbLmError
from ptb_lm.report.evidence import Evidence, read_evidence
from ptb_lm.report.table import results_table, with_blocks, with_results

ROOT = Path(__file__).resolve().parents[1]

PAGES: dict[str, Callable[[Path], dict[str, str]]] = {
    "DISTRIBUTED.md": distributed_blocks,
    "REPRODUCTION.md": reproduction_blocks,
    "RELIABILITY.md": reliability_blocks,
    "SPEED.md": speed_blocks,
    "TEST_TIME.md": adapting_blocks,
}
"""The pages of docs/ with tables, and what makes these, by name, from the folder of evidence."""


def rewritten(results: Path, runs: list[Evidence]) -> dict[Path, str]:
    """Return the pages as they are to be, each by its place; none is written.

    Args:
        results: the folder of evidence.
        runs: of it, those that the README shows.

    Raises:
        InputError: evidence lacks a file, or is not what its name says.
    """
    readme = ROOT / "README.md"
    demo = read_evidence(results / "demo")
    pages = {readme: with_results(readme.read_text(encoding="utf-8"), runs, demo)}
    for name, blocks in PAGES.items():
        page = ROOT / "docs" / name
        if page.exists():
            pages[page] = with_blocks(page.read_text(encoding="utf-8"), blocks(results))
    if (ROOT / "docs").exists():
        pages[ROOT / "docs" / command_reference.NAME] = command_reference.command_reference()
    return pages


def main() -> None:
    """Rewrite the pages and print the table of results; all pages or, of wrong evidence, none.

    Raises:
        SystemExit: evidence is wrong; standard error says which.
    """
    results = ROOT / "results"
    try:
        runs = runs_on_ptb(results)
        pages = rewritten(results, runs)
    except PtbLmError as error:
        sys.stderr.write(f"error: {error}; no page was rewritten\n")
        sys.exit(error.exit_code)
    for page, text in pages.items():
        page.write_text(text, encoding="utf-8")
    if (ROOT / "docs").exists():
        try:
            write_figures(results, ROOT / "docs")
        except ImportError:
            print("The figures of docs/ are as they were: matplotlib is not installed.")
    print(results_table(runs))


if __name__ == "__main__":
    main()
