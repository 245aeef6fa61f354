"""Whether the lines of an n-best list are ``id text`` at all, or in the format of another program.

A list is refused only if every line looked at has the same sign of another format, so that a text
with numbers in it, or an utterance named as a word is, is no sign.
"""

import logging
import re
from collections.abc import Collection, Iterator, Sequence

from ptb_lm.errors import InputError

logger = logging.getLogger(__name__)

FORMATS = {
    "numbered": "`id text`, with the ids utterance-1, utterance-2, …",
    "repeated": "`id text`, with the utterance's own id in each of its lines",
}
"""A description of the lines, by convention."""

LINES_LOOKED_AT, WORDS_LOOKED_AT = 1000, 50_000
"""A list is judged after that many lines or words, or at its end: before any of it is scored."""

FIRST_LINES = {
    r"NBestList": "it is an n-best list of SRILM, with scores and without ids",
    r"#\s": "it is a comment",
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
    r"""[(\[]?                               # SRILM writes (-123.4)
    (?: [a-z_]\w*[=:][-+]?\d*[.,]?\d+       # Moses writes lm=-3
    | [-+]?inf(?:inity)? | [-+]?\d*[.,]?\d+(?:e[-+]?\d+)?
    )[)\]]?,?""",
    re.VERBOSE | re.IGNORECASE,
)
"""A number, as it may also stand in a text."""

SURE_SCORE = re.compile(r"-\d|=|\.\d{3}|,\d\d?$|\de[-+]?\d|inf|[\[(]", re.IGNORECASE)
"""A sign by which a number in every line is a score: below zero, of many decimals, with a decimal
comma, named."""

LINES_OF_DOUBT = 10
"""In fewer lines, numbers without such a sign may be of the texts; in all of more they are not."""

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
        self._fields: list[Line] = []
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
        self._fields.append(line.strip("\n").split("\t"))
        self._words += len(self._lines[-1])
        if len(self._lines) >= LINES_LOOKED_AT or self._words >= WORDS_LOOKED_AT:
            self.judge()

    def judge(self) -> None:
        """Look at the lines so far together, and at no more.

        Raises:
            InputError: each has the same sign of another format.
        """
        if not self._lines:
            return
        for sign in (_bars, _other_separators, _scores, _ids_at_the_end, _no_ids):
            found = sign(self._lines, self._vocabulary)
            if found:
                raise self._wrong(*found)
        found = _columns_between_tabs(self._fields)
        if found:
            raise self._wrong(*found)
        warning = doubtful_numbers(self._lines, self._vocabulary)
        if warning is not None:
            logger.warning("--nbest: %s", warning)
        self._lines.clear()
        self._fields.clear()
        self._is_over = True

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


def _columns_between_tabs(lines: Sequence[Line]) -> Unlike | None:
    """Find ``id<tab>score<tab>text`` and other orders, whatever the numbers stand for."""
    columns = len(lines[0])
    if columns < 3 or any(len(line) != columns for line in lines):
        return None
    for place in range(1, columns):
        values = [line[place].strip() for line in lines]
        if all(map(SCORE.fullmatch, values)):
            what = f"there are {columns} columns between tabs, and column {place + 1} has numbers"
            return f"{what}, such as {values[0]}", "leave out all columns but id and text"
    return None


def _scores(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find a column of acoustic or other scores, beside the id or at the end."""
    for name, column in _columns_of_numbers(lines, vocabulary):
        utterances = [_utterance(line) for line in lines]
        are_several = len(set(utterances)) > 1
        are_many = are_several and len(lines) >= LINES_OF_DOUBT
        # Right after the id the hypotheses of one utterance have the same number, if it is spoken.
        differ = (
            are_several
            and name != "last"
            and len(set(utterances)) < len(lines) == len({*zip(utterances, column, strict=True)})
        )
        if all(map(SURE_SCORE.search, column)) or _are_two(lines) or are_many or differ:
            what = f"in each line the {name} word is a number, such as {column[0]}, as scores are"
            return what, "leave out the scores"
    return None


def doubtful_numbers(lines: Sequence[Line], vocabulary: Collection[str]) -> str | None:
    """Return a warning of numbers that may be scores or words of the texts."""
    found = next(_columns_of_numbers(lines, vocabulary), None)
    # The hypotheses of a single utterance have their numbers in common.
    if found is None or len({*map(_utterance, lines)}) < 2:
        return None
    name, column = found
    return (
        f"in each line the {name} word is a number that the vocabulary lacks, such as {column[0]}; "
        "if these are scores, leave them out"
    )


def _columns_of_numbers(
    lines: Sequence[Line], vocabulary: Collection[str]
) -> Iterator[tuple[str, Line]]:
    """Yield the places at which every line has a number that is no known word."""
    for place, name in PLACES_OF_SCORES.items():
        least = place + 1 if place >= 0 else 2
        column = [line[place] for line in lines if len(line) >= least]
        are_numbers = all(SCORE.fullmatch(word) and word not in vocabulary for word in column)
        is_one_number = len(lines) > 1 and len(set(column)) == 1
        if len(column) < len(lines) or not are_numbers or is_one_number:
            continue
        if place == 0 and not all(value.lstrip("([").startswith("-") for value in column):
            continue  # ids may be 1.12 or 4e-1
        yield name, column


def _are_two(lines: Sequence[Line]) -> bool:
    """Whether each line has two numbers after its id."""
    return all(len(line) > 2 and all(map(SCORE.fullmatch, line[1:3])) for line in lines)


def _utterance(line: Line) -> str:
    return re.sub(r"-\d+$", "", line[0])


def _other_separators(lines: Sequence[Line], vocabulary: Collection[str]) -> Unlike | None:
    """Find ``id,text``: the first word of the text is known once it is cut off."""
    for separator in ",;|:":
        if separator in vocabulary:
            continue
        if all(len(line) > 1 and line[1] == separator for line in lines):
            return f"a {separator} stands between id and text", "leave it out"
        cut = [line[0].partition(separator) for line in lines]
        if all(id_ and word in vocabulary for id_, _, word in cut):
            return (
                f"id and text are separated by {separator!r}, not by white space",
                f"`sed 's/{separator}/ /'` puts a space there",
            )
    return None


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
