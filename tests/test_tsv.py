"""TSV is read back by the tools people use: the same rows and the same words."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from small_models import decided_model

from ptb_lm import score
from ptb_lm.evaluation.nbest import rank, read_hypotheses
from ptb_lm.report.score_rows import (
    HypothesisRow,
    LineRow,
    WordRow,
    as_json_lines,
    as_tsv,
    hypothesis_rows,
    line_rows,
    word_rows,
)

AWKWARD = [
    *(
        '"',
        '""',
        '"""',
        '"quoted',
        'end"',
        'mid"dle',
        '"both"',
        "'",
        "'s",
        '\\"',
        "\\",
        "\\t",
        "\\n",
    ),
    *("NA", "N/A", "null", "NULL", "None", "nan", "NaN", "inf", "-", "", "True", "TRUE"),
    *("007", "1e5", "+1", "1,5", "1.50", "#", "#a", "//", ";", ",", "|", "=1+1", "<eos>", "<unk>"),
    *("\ufeffa", "\u200b", "é", "\ud7ff", "😀", "\x07", "\x1b[0m"),
]
LINES = [
    " ".join(AWKWARD),
    " ".join(reversed(AWKWARD)),
    *AWKWARD,
    '" a " b "',
    "a\x85b\u2028c\x1cd\x0be\r",  # white space, of which some ends lines elsewhere
    '" a',
    "# a",
    "",
]


def word_tsv() -> tuple[str, list[tuple[str, str, str]]]:
    """The table of words, and each row's first three fields."""
    rows = list(word_rows(score(decided_model(), LINES)))
    text = "".join(f"{line}\n" for line in as_tsv(rows, WordRow))
    return text, [(str(row.line), str(row.position), row.word) for row in rows]


def nbest_tsv() -> tuple[str, list[tuple[str, str]]]:
    """The table of an n-best list, and each row's id and text."""
    ids = ['"', "#1", "NA", "007", '"u"', "u"]
    lines = [
        f"{id_} {text}" for id_ in ids for text in LINES if text.strip() not in ("", "\ufeffa")
    ]
    ranked = rank(decided_model(), read_hypotheses(lines, "repeated"), lines_at_once=100)
    rows = list(hypothesis_rows(ranked))
    text = "".join(f"{line}\n" for line in as_tsv(rows, HypothesisRow))
    return text, [(row.id, row.text) for row in rows]


def by_csv(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file, "excel-tab"))


def by_csv_with_newlines_translated(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.reader(file, dialect="excel-tab"))


def by_pandas(path: Path) -> list[list[str]]:
    pandas = pytest.importorskip("pandas")
    table = pandas.read_csv(path, sep="\t", keep_default_na=False, dtype=str)
    return [list(table.columns), *table.to_numpy().tolist()]


def by_polars(path: Path) -> list[list[str]]:
    polars = pytest.importorskip("polars")
    table = polars.read_csv(path, separator="\t", infer_schema=False)
    rows = [["" if value is None else value for value in row] for row in table.rows()]
    return [table.columns, *rows]


READERS = [by_csv, by_csv_with_newlines_translated, by_pandas, by_polars]


@pytest.mark.parametrize("read", READERS)
def test_words_are_read_back(read: object, tmp_path: Path) -> None:
    text, expected = word_tsv()
    header, *rows = read_back(read, text, tmp_path)
    assert header == list(WordRow._fields)
    assert [tuple(row[:3]) for row in rows] == expected
    assert len(rows) > 100


@pytest.mark.parametrize("read", READERS)
def test_hypotheses_are_read_back(read: object, tmp_path: Path) -> None:
    text, expected = nbest_tsv()
    header, *rows = read_back(read, text, tmp_path)
    assert header == list(HypothesisRow._fields)
    assert [(row[0], row[3]) for row in rows] == expected
    assert [row[4] for row in rows] == [str(len(text.split())) for _, text in expected]


@pytest.mark.parametrize("read", READERS)
def test_an_empty_figure_stays_a_field(read: object, tmp_path: Path) -> None:
    rows = line_rows(score(decided_model(), ["", "a"], continuous=True))
    text = "".join(f"{line}\n" for line in as_tsv(rows, LineRow))
    _, first, second = read_back(read, text, tmp_path)
    assert first[:4] == ["1", "0", "0", "0"]
    assert first[5] == ""
    assert len(second) == 6


def read_back(read: object, text: str, folder: Path) -> Sequence[Sequence[str]]:
    path = folder / "scores.tsv"
    path.write_text(text, encoding="utf-8", newline="")
    assert callable(read)
    table: Sequence[Sequence[str]] = read(path)
    return table


def test_nothing_is_quoted_without_a_quotation_mark() -> None:
    text, expected = word_tsv()
    for line, (*_, word) in zip(text.split("\n")[1:], expected, strict=False):
        field = line.split("\t")[2]
        assert field == (f'"{word.replace(chr(34), chr(34) * 2)}"' if '"' in word else word)


def test_json_lines_quote_as_json_does() -> None:
    lines = list(as_json_lines(word_rows(score(decided_model(), ['" NA "']))))
    assert [json.loads(line)["word"] for line in lines] == ['"', "NA", '"', "<eos>"]


def test_the_longest_fields_are_read_back() -> None:
    line = f"u-1 {'x' * 99_995}"
    ranked = rank(decided_model(), read_hypotheses([line], "numbered"), lines_at_once=1)
    tsv = "\n".join(as_tsv(hypothesis_rows(ranked), HypothesisRow))
    _, row = csv.reader(io.StringIO(tsv), "excel-tab")
    assert row[3] == "x" * 99_995
