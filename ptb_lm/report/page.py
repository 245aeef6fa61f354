"""A report as one HTML page that needs nothing beside it: no script, no file, no network."""

import re
from collections.abc import Mapping, Sequence
from html import escape

from ptb_lm.report.comparison import ELSEWHERE_TITLE, HEADING, TITLE, Comparison, Row
from ptb_lm.report.curves import (
    GRID,
    INK,
    PAPER_WHITE,
    PUBLISHED_COLOUR,
    TRAIN_COLOUR,
    VALID_COLOUR,
    curves_title,
)
from ptb_lm.report.published import Elsewhere
from ptb_lm.training.run_folder import SCORED_SPLITS

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="generator" content="ptb-lm report">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{heading}</title>
<style>
:root {{
  --page: #ffffff; --ink: #24292f; --faint: #59636e; --grid: #d0d7de; --stripe: #f6f8fa;
  --train: #d55e00; --valid: #0072b2; --published: #767676;
}}
@media (prefers-color-scheme: dark) {{
  :root {{
    --page: #15191e; --ink: #e6edf3; --faint: #9aa5b1; --grid: #3a424c; --stripe: #1d232a;
    --train: #ff9a52; --valid: #5ab4f0; --published: #a0a8b0;
  }}
}}
* {{ box-sizing: border-box; }}
body {{
  margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 80rem; background: var(--page);
  color: var(--ink); font: 1rem/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
}}
h1 {{ font-size: 1.6rem; }}
h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: .85rem; }}
th, td {{ padding: .35rem .45rem; text-align: left; white-space: nowrap; }}
thead th {{ font-weight: 600; vertical-align: bottom; }}
thead {{ border-bottom: 2px solid var(--grid); }}
thead th[colspan] {{ text-align: center; border-bottom: 1px solid var(--grid); }}
tbody th {{ font-weight: 400; }}
tbody tr {{ border-bottom: 1px solid var(--grid); }}
tbody tr:nth-child(even) {{ background: var(--stripe); }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; }}
.ours {{ font-weight: 600; }}
.deviation {{ padding-left: 0; font-variant-numeric: tabular-nums; }}
.status, .notes {{ color: var(--faint); }}
.status, .runs {{ white-space: normal; }}
.notes {{ font-size: .9rem; padding-left: 1.2rem; }}
figure {{ margin: 1.5rem 0; max-width: 56rem; }}
figure svg {{ width: 100%; height: auto; display: block; }}
@media print {{
  :root {{
    --page: #ffffff; --ink: #000000; --faint: #333333; --grid: #bbbbbb; --stripe: #ffffff;
    --train: #d55e00; --valid: #0072b2; --published: #767676;
  }}
  @page {{ size: landscape; margin: 12mm; }}
  body {{ padding: 0; }}
  table {{ font-size: 7.5pt; }}
  th, td {{ padding: 2pt 3pt; }}
  figure, tr {{ break-inside: avoid; }}
  figure {{ max-width: 190mm; }}
  h2 {{ break-after: avoid; }}
}}
</style>
</head>
<body>
<h1>{heading}</h1>
{sections}
</body>
</html>
"""

PAPER_HEAD = """<tr><th rowspan="2" scope="col">model</th>
<th rowspan="2" scope="col">precision</th><th rowspan="2" scope="col">over</th>
<th colspan="2" scope="colgroup">paper</th><th colspan="4" scope="colgroup">ours</th>
<th colspan="2" scope="colgroup">difference, %</th>
<th colspan="2" scope="colgroup">protocol, tokens</th></tr>
<tr><th scope="col" class="number">valid</th><th scope="col" class="number">test</th>
<th scope="col" class="number">valid</th><th scope="col">±</th>
<th scope="col" class="number">test</th><th scope="col">±</th>
<th scope="col" class="number">valid</th><th scope="col" class="number">test</th>
<th scope="col">valid</th><th scope="col">test</th></tr>"""

ELSEWHERE_HEAD = """<tr><th rowspan="2" scope="col">model</th>
<th rowspan="2" scope="col">published by</th><th colspan="2" scope="colgroup">theirs</th>
<th colspan="2" scope="colgroup">ours</th></tr>
<tr><th scope="col" class="number">valid</th><th scope="col" class="number">test</th>
<th scope="col" class="number">valid</th><th scope="col" class="number">test</th></tr>"""

OTHER_HEAD = """<tr><th rowspan="2" scope="col">model</th>
<th rowspan="2" scope="col">precision</th><th rowspan="2" scope="col">over</th>
<th rowspan="2" scope="col">data</th><th rowspan="2" scope="col" class="number">vocabulary</th>
<th rowspan="2" scope="col">runs</th>
<th colspan="4" scope="colgroup">perplexity</th>
<th colspan="2" scope="colgroup">protocol, tokens</th></tr>
<tr><th scope="col" class="number">valid</th><th scope="col">±</th>
<th scope="col" class="number">test</th><th scope="col">±</th>
<th scope="col">valid</th><th scope="col">test</th></tr>"""

THEME = {
    INK: "var(--ink)",
    GRID: "var(--grid)",
    PAPER_WHITE: "var(--page)",
    TRAIN_COLOUR: "var(--train)",
    VALID_COLOUR: "var(--valid)",
    PUBLISHED_COLOUR: "var(--published)",
}
"""The colours of the curves as the page has them, which is light or dark."""


def report_page(comparison: Comparison, drawings: Mapping[str, bytes]) -> str:
    """Return the page.

    Args:
        comparison: what to show.
        drawings: the curves of each group as SVG, by its name.
    """
    sections = []
    if comparison.has_published:
        sections += [
            f"<h2>{TITLE}</h2>",
            _table(PAPER_HEAD, [_paper_row(row) for row in comparison.paper]),
            f"<h2>{ELSEWHERE_TITLE}</h2>",
            _table(ELSEWHERE_HEAD, [_elsewhere_row(*each) for each in comparison.elsewhere]),
        ]
    if comparison.others:
        sections += [
            "<h2>Other runs</h2>",
            _table(OTHER_HEAD, [_other_row(row) for row in comparison.others]),
        ]
    notes = "\n".join(f"<li>{escape(note)}</li>" for note in comparison.notes)
    sections.append(f'<ul class="notes">\n{notes}\n</ul>')
    if drawings:
        sections.append("<h2>Learning curves</h2>")
    sections += [
        f'<figure role="img" aria-label="{escape(curves_title(group))}">\n'
        f"{inline_svg(drawings[group.name], group.name)}\n</figure>"
        for group in comparison.groups
        if group.name in drawings
    ]
    return PAGE.format(heading=HEADING, sections="\n".join(sections))


def page_beginning() -> str:
    """Return what every such page begins with, and no other does."""
    return PAGE.partition('<meta name="viewport"')[0]


def inline_svg(drawing: bytes, name: str) -> str:
    """Return an SVG file as a part of a page: in its colours, and with identifiers of its own."""
    text = drawing.decode("utf-8")
    svg = text[text.index("<svg") :].strip()  # what is before names the standard by its address

    def adapted(tag: re.Match[str]) -> str:
        of_page = re.sub(r'\bid="', f'id="{name}-', tag[0])
        of_page = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", of_page)
        for colour, variable in THEME.items():
            of_page = of_page.replace(colour, variable)
        return of_page

    # What is between tags are words of the user's, in which no "<" stands as such.
    return re.sub(r"<[^>]*>", adapted, svg)


def _table(head: str, rows: Sequence[str]) -> str:
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return (
        f'<div class="wide"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table></div>'
    )


def _paper_row(row: Row) -> str:
    paper = [f"{row.paper.valid}", f"{row.paper.test}"] if row.paper else ["not given"] * 2
    difference = row.difference
    percents = difference.signed if difference else ("", "")
    return (
        _what(row)
        + "".join(map(_number, paper))
        + _perplexities(row)
        + "".join(map(_number, percents))
        + _scored(row)
    )


def _other_row(row: Row) -> str:
    data = row.group.data if row.group else ""
    words = f"{row.reached.scored['valid'].text.vocabulary_size:,}" if row.reached else ""
    return (
        f"{_what(row)}<td>{escape(data)}</td>{_number(words)}"
        f'<td class="runs">{escape(", ".join(row.runs))}</td>'
        f"{_perplexities(row)}{_scored(row)}"
    )


def _elsewhere_row(figure: Elsewhere, ours: list[Row]) -> str:
    valid = "not given" if figure.valid is None else f"{figure.valid}"
    cells = [valid, f"{figure.test}"]
    for split in SCORED_SPLITS:
        reached = [
            f"{row.reached.perplexity[split]} ({row.precision})" for row in ours if row.reached
        ]
        cells.append("<br>".join(reached))
    return f'<th scope="row">{escape(figure.model)}</th><td>{escape(figure.source)}</td>' + "".join(
        map(_number, cells)
    )


def _what(row: Row) -> str:
    over = row.reached.over if row.reached else ""
    return (
        f'<th scope="row">{escape(row.title)}</th><td>{escape(row.precision)}</td><td>{over}</td>'
    )


def _perplexities(row: Row) -> str:
    if row.reached is None:
        return f'<td colspan="4" class="status">{escape(row.status)}</td>'
    cells = ""
    for split in SCORED_SPLITS:
        if split not in row.reached.perplexity:  # of data without a test text
            cells += '<td colspan="2" class="status">none</td>'
            continue
        estimate = row.reached.perplexity[split]
        cells += f'<td class="number ours">{estimate.shown}</td>'
        cells += f'<td class="deviation">{estimate.spread}</td>'
    return cells


def _scored(row: Row) -> str:
    scored = row.reached.scored if row.reached else {}
    return "".join(f"<td>{scored.get(s, '')}</td>" for s in SCORED_SPLITS)


def _number(text: str) -> str:
    return f'<td class="number">{text}</td>'
