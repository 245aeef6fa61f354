"""Per-token scores: the file that carries a model's evaluation, and the average of several.

An average of models averages their probabilities: at each target the mean of p over the members,
not of logits and not of weights. That needs each member's ln p of each target and nothing else,
so members can be made anywhere and joined later, no model loaded.

Shapes: N tokens of a text, N - 1 targets.
"""

import hashlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError
from ptb_lm.model.perplexity import perplexity

FORMAT = 1
PROTOCOLS = ("stream", "columns")
USUAL = "usual"
"""The way of the paper: no dropout, fixed weights, nothing remembered but the hidden state."""
# Scores of ten million tokens, or a file of them that is packed no more than numbers can be.
PLAUSIBLE_BYTES = 40_000_000
PLAUSIBLE_RATIO = 20
LONGEST_HEADER = 256
ROUNDED_STEPS = np.float32(1024)
LONGEST_DIRECTORY = 1000
_UNSAID = ("way", USUAL)


@dataclass(frozen=True)
class ScoredText:
    """What was scored, and how. Scores are comparable where all of this is equal.

    Attributes:
        split: ``train``, ``valid``, ``test``, or the name of a text of the user's.
        protocol: ``stream``: one stream from a zero state, as the paper's test figure;
            ``columns``: B streams, each from a zero state, as its validation figure.
        streams: B; 1 in the protocol ``stream``.
        text_sha256: of the words, so that it does not depend on a vocabulary's order.
        vocabulary_size: V; perplexities over different vocabularies cannot be compared.
        way: with its settings, see :mod:`ptb_lm.evaluation.ways`.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    split: str
    protocol: str
    streams: Annotated[int, Field(gt=0, strict=True)]
    text_sha256: str
    vocabulary_size: Annotated[int, Field(gt=0, strict=True)]
    way: str = USUAL

    @property
    def layout(self) -> str:
        """The protocol in words."""
        return "one stream" if self.streams == 1 else f"{self.streams} columns"


@dataclass(frozen=True)
class Scores:
    """The scores of one model on one text.

    Attributes:
        name: what the member is called: its checkpoint or file.
        text: what was scored.
        log_probabilities: ln p of each target in the order of the text, float32 (N - 1,).
    """

    name: str
    text: ScoredText
    log_probabilities: NDArray[np.float32]

    @property
    def perplexity(self) -> float:
        """Over all of the targets."""
        return figure(self.log_probabilities).perplexity


@dataclass(frozen=True)
class Figure:
    """A perplexity and what it is made of."""

    tokens: int
    nll: float
    perplexity: float


def figure(log_probabilities: NDArray[np.floating[Any]]) -> Figure:
    """Add up scores in float64: perplexity = exp(summed NLL / counted tokens)."""
    nll = -float(log_probabilities.sum(dtype=np.float64))
    tokens = len(log_probabilities)
    return Figure(tokens, nll, perplexity(nll, tokens))


def require_each_once(named: Iterable[tuple[Path, Path]]) -> None:
    """Raise InputError if a member of an average is named twice, which would count it twice.

    Args:
        named: of each member, what names it in the call, and the file or folder that this is.
    """
    seen: dict[str, Path] = {}
    for path, place in named:
        real = os.path.realpath(place)
        if real in seen:
            raise InputError(f"{path}: named twice, as {seen[real]}; name another, or leave it out")
        seen[real] = path


def average(members: Sequence[Scores]) -> Figure:
    """Return the figure of the mean of the members' probabilities, exact in float64.

    Raises:
        InputError: the members did not score the same text in the same way.
    """
    first = members[0]
    for member in members[1:]:
        for key, value in asdict(first.text).items():
            other = getattr(member.text, key)
            if other != value:
                raise InputError(
                    f"{member.name}: {key} is {other}, but {value} in {first.name}; an average "
                    "needs the same text scored in the same way"
                )
    total = np.full(len(first.log_probabilities), -np.inf)
    for member in members:
        np.logaddexp(total, member.log_probabilities.astype(np.float64), out=total)
    return figure(total - np.log(len(members)))


def result_table(members: Sequence[Scores]) -> dict[str, Any]:
    """Return the object that ``eval --json`` and ``average --json`` print."""
    text = members[0].text
    several = len(members) > 1
    return {
        "split": text.split,
        "protocol": text.protocol,
        **({"way": text.way} if text.way != USUAL else {}),
        "members": [
            {"checkpoint": member.name, **asdict(figure(member.log_probabilities))}
            for member in members
        ],
        "average": asdict(average(members)) if several else None,
    }


def text_sha256(batches: Iterable[Sequence[str]]) -> str:
    """Return the identity of a text that comes as lists of words: of the words, however cut."""
    digest = hashlib.sha256()
    separator = ""
    for words in filter(None, batches):
        digest.update((separator + "\n".join(words)).encode())
        separator = "\n"
    return digest.hexdigest()


def save_scores(scores: Scores, path: Path) -> None:
    """Write a score file: an ``.npz`` of float32 scores and their description, no pickle in it.

    The standard way is not written, so old files stay valid; any other is, and versions that do not
    know the key refuse the file.

    Raises:
        PtbLmError: it could not be written.
    """
    said = {key: value for key, value in asdict(scores.text).items() if (key, value) != _UNSAID}
    description = json.dumps({"format": FORMAT, **said}).encode()
    with durable_file(path) as file:
        np.savez_compressed(
            file,
            log_probabilities=scores.log_probabilities,
            description=np.frombuffer(description, np.uint8),
        )


def rounded(scores: Scores) -> Scores:
    """Return scores rounded to 1/1024 nat, which a file holds in two thirds of the bytes.

    The errors of single tokens, at most 1/2048, cancel: a perplexity changes by less than 0.001.
    """
    steps = np.round(scores.log_probabilities * ROUNDED_STEPS)
    return Scores(scores.name, scores.text, (steps / ROUNDED_STEPS).astype(np.float32))


def load_scores(path: Path) -> Scores:
    """Read a score file; nothing in it is executed, and no more is unpacked than scores can be.

    Raises:
        InputError: it is missing, damaged, not a score file, or of another format.
    """
    # Not Path's, which raise of a name that is too long.
    if os.path.isdir(path):  # noqa: PTH112
        of_a_run = path / "scores-test.npz"
        named = of_a_run if of_a_run.is_file() else "what `ptb-lm eval --save-scores` has written"
        raise InputError(f"{path}: a folder; expected a score file: name {named}")
    if not os.path.isfile(path):  # noqa: PTH113
        raise InputError(f"{path}: no such score file")
    try:
        with path.open("rb") as file:
            _require_short_directory(file)
            archive = zipfile.ZipFile(file)
            _require_plausible_size(archive, os.fstat(file.fileno()).st_size)
            description = json.loads(_member(archive, "description").tobytes())
            log_probabilities = _member(archive, "log_probabilities")
        version = description.pop("format")
    except MemoryError:
        raise
    except Exception:  # damage breaks zip, zlib, numpy or json, each in its own way
        raise _not_scores(path) from None
    if not isinstance(version, int):
        raise _not_scores(path)
    if version != FORMAT:
        raise InputError(f"{path}: score format {version}, this version reads {FORMAT}")
    try:
        text = TypeAdapter(ScoredText).validate_python(description)
    except ValidationError:
        raise _not_scores(path) from None
    if text.protocol not in PROTOCOLS:
        raise _not_scores(path)
    fits = log_probabilities.dtype == np.float32 and log_probabilities.ndim == 1
    if not fits or not len(log_probabilities) or not (log_probabilities <= 0).all():
        raise _not_scores(path)
    return Scores(str(path), text, log_probabilities)


def _require_short_directory(file: IO[bytes]) -> None:
    """Raise an exception if an archive lists more than a few members, each of which takes memory.

    The last 22 bytes of an archive without a comment say how long its list is, unless the 20 before
    them lead to another record that says so.
    """
    file.seek(-42, os.SEEK_END)
    before, mark, directory_bytes = struct.unpack("<4s16x4s8xI6x", file.read())
    if before == b"PK\6\7" or mark != b"PK\5\6" or directory_bytes > LONGEST_DIRECTORY:
        raise ValueError("not the end of a score file")


def _require_plausible_size(archive: zipfile.ZipFile, packed: int) -> None:
    """Raise ValueError if an archive unpacks to what no scores do: a bomb."""
    unpacked = sum(info.file_size for info in archive.infolist())
    if unpacked > max(PLAUSIBLE_BYTES, PLAUSIBLE_RATIO * packed):
        raise ValueError(f"{unpacked:,} bytes")


def _member(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read one array of an ``.npz``.

    ``np.load`` would make room for what a header declares, before it looks for it in the file.

    Raises:
        ValueError: it is not, in numpy's format 1.0, an array of one dimension, all of it there.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("of other methods a few bytes unpack to any number at once")
    with archive.open(info) as member:
        data = io.BytesIO(member.read(info.file_size))
    if np.lib.format.read_magic(data) != (1, 0):
        raise ValueError("format")
    header = np.lib.format.read_array_header_1_0(data, max_header_size=LONGEST_HEADER)
    shape, _, dtype = header
    values = np.frombuffer(data.getbuffer()[data.tell() :], dtype)  # refuses objects
    if shape != values.shape:
        raise ValueError("shape")
    return values


def _not_scores(path: Path) -> InputError:
    return InputError(f"{path}: not a score file of ptb-lm, or damaged")
