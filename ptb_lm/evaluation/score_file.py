"""The file of per-token scores: written durably, read without trust.

Shapes: N tokens of a text, N - 1 targets.
"""

import io
import json
import os
import struct
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import PROTOCOLS, USUAL, ScoredText, Scores
from ptb_lm.regular import open_regular

FORMAT = 1
# Scores of ten million tokens, or a file of them that is packed no more than numbers can be.
PLAUSIBLE_BYTES = 40_000_000
PLAUSIBLE_RATIO = 20
LONGEST_HEADER = 256
ROUNDED_STEPS = np.float32(1024)
LONGEST_DIRECTORY = 1000
_UNSAID = ("way", USUAL)


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
    try:
        with open_regular(path) as file:
            _require_short_directory(file)
            archive = zipfile.ZipFile(file)
            facts = os.fstat(file.fileno())
            # Of a sparse file only what is on the disk counts, in blocks of 512 bytes.
            _require_plausible_size(archive, min(facts.st_size, 512 * facts.st_blocks))
            description = json.loads(_member(archive, "description").tobytes())
            log_probabilities = _member(archive, "log_probabilities")
        version = description.pop("format")
    except (MemoryError, InputError):
        raise
    except OSError as error:
        if not os.path.exists(path):  # noqa: PTH110
            raise InputError(f"{path}: no such score file") from None
        if isinstance(error, PermissionError):
            raise InputError(f"{path}: cannot be read: {error.strerror}") from None
        raise _not_scores(path) from None
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
