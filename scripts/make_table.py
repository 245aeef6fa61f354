"""Rewrite the tables of the README and of docs/, and the figures there, from ``results/``.

And docs/COMMANDS.md, from the command line itself.
"""

from collections.abc import Callable
from pathlib import Path

import command_reference
from adapting_page import adapting_blocks
from distributed_page import distributed_blocks
from figures import write_figures
from reliability_page import reliability_blocks
from reproduction_page import reproduction_blocks
from speed_page import speed_blocks

from ptb_lm.report.evidence import read_evidence
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


def main() -> None:
    """Rewrite the pages and print the table of results."""
    results = ROOT / "results"
    runs = read_evidence(results)
    readme = ROOT / "README.md"
    demo = read_evidence(results / "demo")
    written = with_results(readme.read_text(encoding="utf-8"), runs, demo)
    readme.write_text(written, encoding="utf-8")
    for name, blocks in PAGES.items():
        page = ROOT / "docs" / name
        if page.exists():
            text = with_blocks(page.read_text(encoding="utf-8"), blocks(results))
            page.write_text(text, encoding="utf-8")
    if (ROOT / "docs").exists():
        reference = ROOT / "docs" / command_reference.NAME
        reference.write_text(command_reference.command_reference(), encoding="utf-8")
        try:
            write_figures(results, ROOT / "docs")
        except ImportError:
            print("The figures of docs/ are as they were: matplotlib is not installed.")
    print(results_table(runs))


if __name__ == "__main__":
    main()
