"""Rewrite the README's table of results from the evidence under ``results/``."""

from pathlib import Path

from ptb_lm.report.table import read_evidence, results_table, with_table

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Rewrite the table and print it."""
    readme = ROOT / "README.md"
    table = results_table(read_evidence(ROOT / "results"))
    readme.write_text(with_table(readme.read_text(encoding="utf-8"), table), encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
