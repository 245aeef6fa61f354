"""Whether the lines of an n-best list are ``id text`` at all, or in the format of another program.

A list is refused only if every line looked at has the same sign of another format, so that a text
with numbers in it, or an utterance named as a word is, is no sign.
"""

import re
from collections.abc import Collection, Sequence

from ptb_lm.errors import InputError

FORMATS = {
    "numbered": "`id text`, with the ids utterance-1, utterance-2, …",
    "repeated": "`id text`, with the utterance's own id in each of its lines",
}
"""A description of the lines, by convention."""

LINES_LOOKED_AT, WORDS_LOOKED_AT = 1000, 50_000
"""A list is judged after that many lines or words, or at its end: before any of it is scored."""

FIRST_LINES = {
    r"NBestList": "it is an n-best list of SRILM, with scores and without ids",
    r"\\data\\": "it is an ARPA language model",
    r"#!MLF!#": "it is a master label file of HTK",
    r"\{\s*($|[\"'])|\[\s*($|[\"'{\[])": "it is JSON",
}
"""Names of other formats, by a pattern for the beginning of their first line."""

NAMES_OF_IDS = {"id", "key", "name", "file", "audio", "segment", "utt", "utterance", "hyp_id"} | {
    f"{what}{between}id" for what in ("utt", "utterance", "segment", "seg") for between in ("", "_")
}
NAMES_OF_TEXTS = {"text", "hyp", "hypothesis", "transcript", "transcription", "sentence", "words"}
"""Names of columns in the header of a table."""

SCORE = re.compile(
    r"""\(?                             # SRILM writes (-123.4)
    (?: [a-z_]\w*[=:][-+]?\d*\.?\d+   # Moses writes lm=-3
    | -\d+ | -inf | [-+]?\d*\.\d+ | [-+]?\d+\.?\d*e[-+]?\d+
    )\)?""",
    re.VERBOSE | re.IGNORECASE,
)
"""A number below zero or with a point or an exponent: text seldom has one in every line."""

PLACES_OF_SCORES = {0: "first", 1: "second", 2: "third", -1: "last"}

Line = Sequence[str]
Unlike = tuple[str, str]
"""The format that a list has instead, and how to convert it."""


class Look:
    """Looks at the first lines of a list, in constant memory."""

    def __init__(self, convention: str, vocabulary: Collection[str]) -> None:
        self.convention = convention
        self._vocabulary = vocabulary
        self._lines: list[Line] = []
        self._words = 0
        self._is_over = False

    def at(self, line: str) -> None:
        """Look at a line that has words.

        Raises:
            InputError: enough has been seen, and it is in another format.
        """
        if self._is_over:
            return
        if not self._lines:
            self._require_no_other_file(line)
        self._lines.append(line.split())
        self._words += len(self._lines[-1])
        if len(self._lines) >= LINES_LOOKED_AT or self._words >= WORDS_LOOKED_AT:
            self.judge()
            self._is_over = True
            self._lines.clear()

    def judge(self) -> None:
        """Raise InputError if every line so far has the same sign of another format."""
        for sign in (_bars, _scores, _ids_at_the_end, _no_ids) if self._lines else ():
            found = sign(self._lines, self._vocabulary)
            if found:
                raise self._wrong(*found)

    def _wrong(self, what: str, advice: str = "") -> InputError:
        advice = f"; {advice}" if advice else ""
        return InputError(f"--nbest: {what}; expected lines {FORMATS[self.convention]}{advice}")

    def _require_no_other_file(self, line: str) -> None:
        for beginning, what in FIRST_LINES.items():
            if re.match(beginning, line.strip(), re.IGNORECASE):
                raise self._wrong(f"line 1: {what}")
        columns = [name.strip("#\"' ").lower() for name in re.split(r"[\t,;]| (?=\S+$)", line)]
        if columns[0] in NAMES_OF_IDS and NAMES_OF_TEXTS.intersection(columns[1:]):
            raise self._wrong("line 1: a header of columns", "`tail -n +2` leaves it out")


def _bars(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find ``id ||| text ||| features ||| score``."""
    if "|||" in vocabulary or not all(any("|||" in word for word in line) for line in lines):
        return None
    return (
        "the lines have columns between |||, as those of Moses",
        "`awk -F ' *[|][|][|] *' '{print $1, $2}'` makes them so, for --nbest repeated",
    )


def _scores(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find a column of acoustic or other scores, beside the id or at the end."""
    for place, name in PLACES_OF_SCORES.items():
        least = place + 1 if place >= 0 else 2
        column = [line[place] for line in lines if len(line) >= least]
        if len(column) < len(lines) or not _is_column_of_scores(column, lines, vocabulary):
            continue
        if place == 0 and not all(value.lstrip("(").startswith("-") for value in column):
            continue  # ids may be 1.12 or 4e-1
        what = f"in each line the {name} word is a number, such as {column[0]}, as scores are"
        return what, "leave out the scores"
    return None


def _is_column_of_scores(
    column: Sequence[str], lines: Sequence[Line], vocabulary: Collection[str]
) -> bool:
    """Whether all are scores.

    The hypotheses of one utterance may all have a number at the same place: there the numbers must
    differ, and be such as texts hardly have.
    """
    if not all(SCORE.fullmatch(word) and word not in vocabulary for word in column):
        return False
    if len(lines) > 1 and len(set(column)) == 1:
        return False
    is_unlike_text = any(re.search(r"-\d|=|\.\d{3}|e[-+]?\d", word) for word in column)
    are_two = all(len(line) > 2 and all(map(SCORE.fullmatch, line[1:3])) for line in lines)
    utterances = {re.sub(r"-\d+$", "", line[0]) for line in lines}
    return is_unlike_text or are_two or len(utterances) > 1


def _ids_at_the_end(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find ``text (id)``."""
    if not all(re.fullmatch(r"\(\S+\)", line[-1]) and line[-1] not in vocabulary for line in lines):
        return None
    return "the id stands at the end of each line, as in trn files of sclite", ""


def _no_ids(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find a text: lines that all begin with a word, which no id of a recogniser is."""
    first = [line[0] for line in lines]
    if not all(word in vocabulary and not any(map(str.isdigit, word)) for word in first):
        return None
    return f"the lines have no ids: {first[0]!r} is a word of the vocabulary, as is each first", ""
