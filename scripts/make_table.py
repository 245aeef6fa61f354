"""Rewrite the README's table and example of results from the evidence under ``results/``."""

from pathlib import Path

from ptb_lm.report.table import read_evidence, results_table, with_results

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Rewrite the README and print the table."""
    readme = ROOT / "README.md"
    runs = read_evidence(ROOT / "results")
    page = with_results(readme.read_text(encoding="utf-8"), runs)
    readme.write_text(page, encoding="utf-8")
    print(results_table(runs))


if __name__ == "__main__":
    main()
