"""An exported model: weights, config and vocabulary, each in a file that other programs open.

``model.safetensors`` has the weights by their names in a checkpoint, ``config.json`` what network
and run they are of, ``vocab.txt`` a word a line in the order of their indices. No word holds white
space, Unicode's included (:mod:`ptb_lm.corpus.text`), so that a line feed stands between words and
nowhere else.

A folder from a stranger is opened without trusting it: nothing in these formats can be executed,
and what each file may ask memory for is bounded before it is read.

Reading and writing need safetensors, an extra, which is imported where it is used.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt
from torch import Tensor

from ptb_lm.config import Config, PositiveInt, validated
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.memory import is_out_of_memory
from ptb_lm.model.network import parameter_shapes
from ptb_lm.regular import open_regular
from ptb_lm.strict_json import to_json
from ptb_lm.training.checkpoint import Checkpoint, require_precision, require_weights
from ptb_lm.training.tensor_file import DamagedFileError
from ptb_lm.version import __version__

FORMAT = 2
FORMATS_READ = {1, 2}
"""In format 1 ``config.json`` has the config's keys where they stood before ``[optimizer]``."""

MARK = "ptb-lm model"
WEIGHTS, CONFIG, VOCABULARY = "model.safetensors", "config.json", "vocab.txt"

_MOST_DESCRIPTION_BYTES = 1 << 20
"""Of config.json, and of the header of the weights: ours take 2 kB, and 50 kB with 100 layers."""

_USUAL_VOCABULARY_BYTES = 32 << 20
"""The size that vocab.txt may have in any case; else that of the weights."""

_CHUNK_BYTES = 1 << 20


class ExportedConfig(Config):
    """What stands in ``config.json``: the sections of a run's config, and what they belong to."""

    mark: Literal["ptb-lm model"]
    format: int
    ptb_lm: str
    """The version that exported it."""
    epoch: NonNegativeInt
    """Epochs done when the weights were saved."""
    valid_perplexity: float | None
    """Of these weights at the end of that epoch; null where they were saved within the next."""
    vocabulary_size: PositiveInt
    vocabulary_sha256: str
    """Of the words with a line feed between them: of vocab.txt without its last byte."""
    corpus_sha256: str
    """Of the texts trained on, see :attr:`ptb_lm.corpus.load.Corpus.sha256`."""
    weights_sha256: str
    """Of model.safetensors."""


def exported_files(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Return the files of a model by their names.

    Raises:
        InputError: safetensors is not installed, or a word of the vocabulary holds white space.
    """
    _require_safetensors()
    from safetensors.torch import save

    vocabulary = checkpoint.vocabulary
    lines = "".join(f"{word}\n" for word in vocabulary.words)
    if lines.split() != vocabulary.words:
        raise InputError(
            "a word of the vocabulary holds white space, as no word of a text does; "
            f"{VOCABULARY} could not tell where it ends"
        )
    weights = {name: tensor.contiguous() for name, tensor in checkpoint.weights.items()}
    data = save(weights, metadata={"format": "pt"})  # which other readers ask for
    content = {
        "mark": MARK,
        "format": FORMAT,
        "ptb_lm": __version__,
        **checkpoint.config.model_dump(exclude_none=True),
        "epoch": checkpoint.epoch,
        "valid_perplexity": checkpoint.valid_perplexity if checkpoint.is_validated else None,
        "vocabulary_size": len(vocabulary),
        "vocabulary_sha256": vocabulary.sha256,
        "corpus_sha256": checkpoint.corpus_sha256,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
    }
    return {
        WEIGHTS: data,
        CONFIG: f"{to_json(content, indent=2)}\n".encode(),
        VOCABULARY: lines.encode(),
    }


def is_exported(folder: Path) -> bool:
    """Whether a folder is of an exported model, if perhaps a damaged one."""
    try:
        return _read_table(folder / CONFIG).get("mark") == MARK
    except PtbLmError:
        return False


def load_exported(folder: Path) -> Checkpoint:
    """Read an exported model onto the CPU; all of it is checked.

    The tensors are views of the file, which may be replaced or removed meanwhile.

    Returns:
        it as a checkpoint that is not for resuming.

    Raises:
        DamagedFileError: a file is damaged, or does not fit the others.
        InputError: one is missing, of a format that this version does not know, or no such file at
            all; or safetensors is not installed.
        PtbLmError: one may not be read.
    """
    content = _read_config(folder / CONFIG)
    # First, as no more words are read than there are weights for.
    weights = _read_weights(folder / WEIGHTS, content)
    most_bytes = max(_USUAL_VOCABULARY_BYTES, sum(tensor.nbytes for tensor in weights.values()))
    vocabulary = _read_vocabulary(folder / VOCABULARY, content, most_bytes)
    return Checkpoint(
        config=Config(**{name: getattr(content, name) for name in Config.model_fields}),
        vocabulary=vocabulary,
        corpus_sha256=content.corpus_sha256,
        weights=weights,
        epoch=content.epoch,
        valid_perplexity=(
            float("inf") if content.valid_perplexity is None else content.valid_perplexity
        ),
    )


def _read_table(path: Path) -> dict[str, Any]:
    with _opened(path) as file:
        data = file.read(_MOST_DESCRIPTION_BYTES + 1)
    table = None
    if len(data) <= _MOST_DESCRIPTION_BYTES:
        try:
            table = json.loads(data.decode(), parse_constant=_no_json)
        except (ValueError, RecursionError):  # of nonsense, of brackets nested deep
            table = None
    if not isinstance(table, dict):
        raise DamagedFileError(path, "not a JSON object, or damaged")
    return table


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is none of JSON's numbers")


def _read_config(path: Path) -> ExportedConfig:
    table = _read_table(path)
    version = table.get("format")
    if table.get("mark") != MARK or not isinstance(version, int):
        raise InputError(f"{path}: not of a model that ptb-lm exported")
    if version not in FORMATS_READ:
        known = " and ".join(map(str, sorted(FORMATS_READ)))
        raise InputError(f"{path}: export format {version}, this version reads {known}")
    content = validated(ExportedConfig, table, str(path))
    try:
        require_precision(content)
    except ValueError as error:
        raise DamagedFileError(path, f"damaged: {error}") from None
    return content


def _read_vocabulary(path: Path, content: ExportedConfig, most_bytes: int) -> Vocabulary:
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise DamagedFileError(
                path, f"too large: {size:,} bytes, expected at most {most_bytes:,}"
            )
        lines = sum(chunk.count(b"\n") for chunk in iter(partial(file.read, _CHUNK_BYTES), b""))
        if lines != content.vocabulary_size:
            words = content.vocabulary_size
            raise DamagedFileError(
                path, f"damaged: {lines:,} lines, where {CONFIG} has {words:,} words"
            )
        file.seek(0)
        data = file.read(size)
    digest = hashlib.sha256(memoryview(data)[:-1]).hexdigest()
    if not data.endswith(b"\n") or digest != content.vocabulary_sha256:
        raise DamagedFileError(path, f"damaged: not the words whose sha256 {CONFIG} has")
    try:
        return Vocabulary(data.decode().split("\n")[:-1])
    except ValueError as error:
        raise DamagedFileError(path, "damaged: not UTF-8, or no vocabulary") from error


def _read_weights(path: Path, content: ExportedConfig) -> dict[str, Tensor]:
    """Map the weights into memory."""
    _require_safetensors()
    from safetensors.torch import load_file

    with _opened(path) as file:
        # By its descriptor where the system has that, so that it is the file that was looked at,
        # and of any name: safetensors takes none that is not UTF-8.
        descriptor = Path(f"/proc/self/fd/{file.fileno()}")
        try:
            if os.fstat(file.fileno()).st_size > _most_weights_bytes(content):
                raise ValueError(f"it is too large for those of {CONFIG}")
            if int.from_bytes(file.read(8), "little") > _MOST_DESCRIPTION_BYTES:
                raise ValueError("its header is too long")
            weights = load_file(descriptor if descriptor.exists() else path)
            require_weights(weights, content.model, content.vocabulary_size)
        except Exception as error:  # SafetensorError of a header that does not fit, and others
            if is_out_of_memory(error):
                raise
            what = f": {error}" if isinstance(error, ValueError) else ""
            raise DamagedFileError(path, f"no weights of this model, or damaged{what}") from error
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != content.weights_sha256:
            raise DamagedFileError(path, f"damaged: not the weights whose sha256 {CONFIG} has")
    return weights


def _most_weights_bytes(content: ExportedConfig) -> int:
    """Return how large the file of the weights may be: in float64, with a header."""
    shapes = parameter_shapes(content.model, content.vocabulary_size).values()
    return 8 * sum(math.prod(shape) for shape in shapes) + _MOST_DESCRIPTION_BYTES


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file of a model.

    Raises:
        InputError: there is no such file, or it is no regular one.
        PtbLmError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            yield file
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; an exported model has {WEIGHTS}, {CONFIG} and {VOCABULARY}"
        ) from None
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be read: {error.strerror}") from None


def _require_safetensors() -> None:
    try:
        import safetensors.torch  # noqa: F401
    except ImportError:
        raise InputError(
            "an exported model needs safetensors: pip install 'ptb-lm[export]'"
        ) from None
