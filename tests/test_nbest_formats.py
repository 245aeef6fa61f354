"""N-best lists: what is surely another format is refused in one line, and nothing else is."""

import json
import logging
import subprocess
from pathlib import Path

import pytest
from cli_support import Outcome, furnish, ptb_lm
from small_models import decided_model

from ptb_lm.errors import InputError
from ptb_lm.evaluation import nbest
from ptb_lm.evaluation.nbest import Hypothesis, rank, read_hypotheses

LAST = "runs/a/last.pt"
VOCABULARY = {"<eos>", "<unk>", "the", "dog", "Anna", "sees", "a", "b", "3.5", "-1", "."}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("nbest"))


@pytest.fixture(autouse=True)
def workplace(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)


def scored(text: str, convention: str, *options: str) -> Outcome:
    Path("list").write_text(text, encoding="utf-8")
    return ptb_lm("score", LAST, "list", "--nbest", convention, *options)


def read(text: str, convention: str) -> list[Hypothesis]:
    return list(read_hypotheses(text.splitlines(), convention, VOCABULARY))


OTHERS = {
    "ids of utterances": ("numbered", "spk1-0001 a b\nspk1-0002 a\nspk2-0001 b", "begins with 0"),
    "an id twice": ("numbered", "u-5 a b\nu-5 a", "line 2: the id 'u-5' comes twice"),
    "no ids": ("repeated", "Anna sees the\nAnna see\nthe dog", "no ids: 'Anna' is a word"),
    "no ids, numbered": ("numbered", "Anna sees the\nAnna see", "no ids: 'Anna' is a word"),
    "Moses": ("repeated", "0 ||| a b ||| lm=-3 ||| -4\n0 ||| a ||| lm=-4 ||| -5", "awk -F"),
    "Moses, numbered": ("numbered", "0 ||| a b ||| lm=-3 ||| -4", "between |||"),
    "Moses, tight": ("repeated", "0|||a b|||-4\n1|||a|||-5", "between |||"),
    "a score": ("numbered", "u-1 -12.5 a b\nu-2 -13.5 a", "second word is a number, such as -12.5"),
    "a tab and a score": ("repeated", "u\t-12\ta b\nu\t-14\ta", "second word"),
    "costs": ("numbered", "u-1 12.25 a b\nu-2 13.5 a\nv-1 9.0 b", "second word"),
    "integer costs": ("numbered", "u-1 123 a b\nu-2 120 a\nv-1 119 b", "second word"),
    "ten confidences": ("repeated", "\n".join(f"u{n} 0.{n + 10} a b" for n in range(10)), "second"),
    "infinities": ("repeated", "u -inf a b\nu inf a", "second word"),
    "ranks between tabs": ("repeated", "u\t1\ta b\nu\t2\ta", "column 2 has numbers, such as 1"),
    "counts at the end": ("numbered", "u-1\ta b\t3\nu-2\ta\t2", "3 columns between tabs, and c"),
    "short decimal commas": ("repeated", "u1 1,5 a b\nu1 2,5 a", "second word"),
    "decimal commas": ("repeated", "u -12,3 a b\nu -12,5 a", "second word"),
    "scores in brackets": ("repeated", "u a b [-12.3]\nu a [-12.4]", "last word"),
    "commas": ("repeated", "u1,a b\nu1,b a", "`sed 's/,/ /'` puts a space there"),
    "colons": ("numbered", "u-1:a b\nu-2:b a", "separated by ':'"),
    "bars between spaces": ("repeated", "u1 | a b\nu1 | b", "a | stands between id and text"),
    "a comment": ("repeated", "# of Monday\nu a\nu b", "it is a comment"),
    "two costs": ("numbered", "u-1 12.5 3.2 a b\nu-2 13.5 3.1 a", "second word"),
    "small scores": ("numbered", "u-1 1.5e-05 a b\nu-2 2.1e-06 a", "second word"),
    "scores at the end": ("numbered", "u-1 a b -3.5\nu-2 a -4.25", "last word is a number"),
    "named scores": ("numbered", "u-1 a b lm=-3.5\nu-2 a lm=-4", "last word"),
    "times": ("repeated", "u 1 0.00 0.25 a\nu 1 0.25 0.5 b\nv 1 0.0 0.1 a", "third word"),
    "SRILM": ("repeated", "NBestList1.0\n(-123.4) a b", "SRILM"),
    "SRILM scores": ("repeated", "-123.4 -12.3 5 a b\n-124.0 -13.1 5 a", "first word"),
    "SRILM scores, numbered": ("numbered", "-123.4 -12.3 5 a b\n-124.0 -13 5 a", "first word"),
    "SRILM parentheses": ("repeated", "(-123.4) a b\n(-124.0) a", "first word"),
    "an ARPA model": ("repeated", "\n\\data\\\nngram 1=3", "ARPA"),
    "a header": ("repeated", "utt_id\ttext\nu\ta b", "header of columns"),
    "a header with commas": ("numbered", "id,text\nu-1,a b", "header of columns"),
    "a header with a space": ("numbered", "utterance hypothesis\nu-1 a b", "header of columns"),
    "our own table": ("numbered", "id\trank\tlog_probability_nats\ttext\nu-1\t1\t-3\ta", "header"),
    "JSON lines": ("repeated", '{"id": "u-1", "text": "a"}', "JSON"),
    "a JSON document": ("numbered", '[\n  {"id": "u-1"}\n]', "JSON"),
    "sclite": ("repeated", "a b (u-1)\na (u-2)", "trn"),
    "an empty line within": ("numbered", "u-1 a\n\nu-2 b", "line 2: an empty line"),
    "no number": ("numbered", "u-1 a\nv a", "line 2: the id 'v' does not end"),
    "a long hypothesis": ("numbered", f"u-1 {'a ' * 60_000}", "line 1: 120,004 characters"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_formats_are_refused(name: str) -> None:
    convention, text, part = OTHERS[name]
    with pytest.raises(InputError) as error:
        read(text, convention)
    message = str(error.value)
    assert part in message
    assert message.startswith("--nbest: ")
    assert "\n" not in message
    assert "expected" in message or "--nbest repeated" in message


RIGHT = {
    "measures": ("repeated", "u1 3.7 a\nu2 2.7 b\nu3 1.7 a"),
    "prices": ("repeated", "u1 a b 12.5\nu1 a b 12.4\nu2 b 3.2"),
    "ids with colons": ("repeated", "AMI:17 a b\nAMI:17 a"),
    "Kaldi": ("numbered", "4k0c030h-1 a b\n4k0c030h-2 a\n4k0c0310-1 b"),
    "AMI": (
        "numbered",
        "AMI_EN2001a_H00_MEE068_0000557_0000594-1 a\nAMI_EN2001a_H00_MEE068_0000557_0000594-2 b",
    ),
    "LibriSpeech": ("numbered", "103-1240-0000-1 a\n103-1240-0000-2 b\n103-1240-0001-1 a"),
    "ten and more": ("numbered", "\n".join(f"u-{number} a" for number in range(1, 30))),
    "from 0": ("numbered", "u-0 a\nu-1 b"),
    "sorted": ("numbered", "u-1 a\nu-10 b\nu-2 a b"),
    "own ids that end in numbers": ("repeated", "spk1-0001 a b\nspk1-0001 a\nspk1-0002 b"),
    "numbers as ids": ("repeated", "0 a b\n0 a\n1 b"),
    "decimals as ids": ("repeated", "1.1 a b\n1.1 a\n1.2 b"),
    "times as ids": ("repeated", "20230101.123456 a b\n20230101.123456 a\n20230101.223456 a"),
    "hexadecimal ids": ("numbered", "3e-1 a b\n3e-2 a\n4e-1 a"),
    "GUIDs": ("numbered", "{3F2504E0-4F89}-1 a\n{3F2504E0-4F89}-2 b"),
    "ids in brackets": ("repeated", "[u1] a b\n[u1] a"),
    "a word as an id": ("repeated", "Anna sees\nAnna see\nu2 the dog"),
    "an id like a header": ("repeated", "utt\ta b\nutt\ta"),
    "a known number": ("numbered", "u-1 3.5 a\nv-1 -1 b"),
    "a number in one utterance": ("numbered", "u-1 4.5 million\nu-2 4.5 billion\nu-3 2.5 million"),
    "a number in every hypothesis": ("numbered", "u-1 il a -4 degrés\nu-2 il a -4 degré"),
    "French": ("numbered", "u-1 3,5 % de 1.200 €\nu-2 l' an 2000 -\nv-1 c' est 12.50 €"),
    "bars": ("numbered", "u-1 a ||| b\nu-2 a"),
    "parentheses": ("numbered", "u-1 a ( b )\nu-2 a (b)\nu-3 a"),
    "no words": ("numbered", "u-1 a b\nu-2\nu-3 "),
    "empty lines at the end": ("numbered", "u-1 a b\nu-2 a\n\n  \n\n"),
    "nothing": ("numbered", "\n\n"),
    "carriage returns": ("numbered", "u-1 a b\r\nu-2\r\n\r\n"),
}


@pytest.mark.parametrize("name", RIGHT)
def test_no_right_list_is_refused(name: str) -> None:
    convention, text = RIGHT[name]
    hypotheses = read(text, convention)
    assert [each.id for each in hypotheses] == [
        line.split()[0] for line in text.splitlines() if line.strip()
    ]


def test_a_list_is_judged_by_its_first_lines() -> None:
    """A sign of another format is one of every line, and is not looked for without end."""
    scores = [f"u{number}-1 -{number}.5 a" for number in range(3000)]
    with pytest.raises(InputError, match="second word"):
        next(rank(decided_model(), read_hypotheses(scores, "numbered"), lines_at_once=1000))
    mixed = ["u-1 a b", *scores]
    assert len(list(read_hypotheses(mixed, "numbered"))) == 3001
    lines = iter(mixed)
    hypotheses = read_hypotheses(lines, "numbered")
    assert next(hypotheses).id == "u-1"
    assert next(lines) == scores[0]  # no line is taken before its turn


def test_the_command_that_is_shown_converts_a_list_of_moses(tmp_path: Path) -> None:
    text = "0 ||| a b ||| lm=-3 ||| -4\n0 ||| a |||  ||| -5\n12 |||  ||| lm=-1 ||| -1\n"
    outcome = scored(text, "repeated")
    assert (outcome.code, outcome.out) == (2, "")
    command = outcome.err.split("`")[-2]
    converted = subprocess.run(
        ["sh", "-c", command], input=text, capture_output=True, text=True, check=True
    ).stdout
    assert [line.split() for line in converted.splitlines()] == [
        ["0", "a", "b"],
        ["0", "a"],
        ["12"],
    ]
    assert scored(converted, "repeated").code == 0


def test_words_and_unknown_words_are_columns_on_the_right() -> None:
    text = "u-1 a xyzzy b\nu-2 a\nu-3\n"
    header, *rows = (line.split("\t") for line in scored(text, "numbered").out.splitlines())
    assert header[:4] == ["id", "rank", "log_probability_nats", "text"]
    assert header[4:] == ["words", "unknown"]
    assert {row[0]: row[4:] for row in rows} == {
        "u-1": ["3", "1"],
        "u-2": ["1", "0"],
        "u-3": ["0", "0"],
    }
    lines = scored(text, "numbered", "--json-lines").out.splitlines()
    assert {row["id"]: (row["words"], row["unknown"]) for row in map(json.loads, lines)} == {
        "u-1": (3, 1),
        "u-2": (1, 0),
        "u-3": (0, 0),
    }


def warnings_of(text: str, convention: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    model = decided_model()
    model.network.softmax.bias.data[model.vocabulary.index["<unk>"]] = 50.0
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        list(rank(model, read_hypotheses(text.splitlines(), convention), lines_at_once=9))
    return caplog.messages


def test_unknown_words_at_the_top_are_told(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_of("u-1 a b\nu-2 a xyzzy\nv-1 a\nv-2 b\n", "numbered", caplog)
    assert warning.startswith("--nbest: in 1 of 2 utterances the first has more unknown words")
    assert "the column unknown" in warning
    assert warnings_of("u-1 a xyzzy\nu-2 b xyzzy\n", "numbered", caplog) == []


def test_a_list_with_nothing_to_rank_is_told(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_of("u-1 a\nu-2 b\nv-1 a\n", "repeated", caplog)
    assert warning.startswith("--nbest: each of 3 utterances has a single hypothesis")
    assert warnings_of("u-1 a\n", "repeated", caplog) == []
    assert warnings_of("u-1 a\nu-2 b\nv-1 a\n", "numbered", caplog) == []


def test_an_utterance_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nbest, "HYPOTHESES_OF_UTTERANCE", 3)
    assert len(read("u a\nu b\nu a b\nv a", "repeated")) == 4
    with pytest.raises(InputError, match="line 4: 'u' has more than 3 hypotheses"):
        read("u a\nu b\nu a b\nu a", "repeated")
    monkeypatch.setattr(nbest, "WORDS_OF_UTTERANCE", 3)
    with pytest.raises(InputError, match=r"line 2: 'u' has more than .* 3 words"):
        read("u a b\nu b a", "repeated")


def test_a_list_is_ranked_from_a_command() -> None:
    outcome = scored("u-1 a b\nu-2 a\n\n\n", "numbered")
    assert (outcome.code, outcome.err) == (0, "")
    assert len(outcome.out.splitlines()) == 3


def test_numbers_that_may_be_scores_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    read("u1 3.7 a\nu2 2.7 b\nu3 1.7 a", "repeated")
    assert "the second word is a number that the vocabulary lacks, such as 3.7" in caplog.text
    caplog.clear()
    read("u1 a b\nu2 b", "repeated")
    assert not caplog.text
