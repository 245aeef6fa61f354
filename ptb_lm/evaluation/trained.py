"""A trained model as those who use it have it: loaded, on a device, ready for any text."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ptb_lm.arguments import require_path, require_type
from ptb_lm.config import Config
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.perplexity import TRAIN_AGAIN
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint, require_finite_weights
from ptb_lm.training.environment import choose_device
from ptb_lm.training.exported import CONFIG, WEIGHTS, load_exported
from ptb_lm.training.run_folder import RunFolder


@dataclass(frozen=True)
class TrainedModel:
    """What :func:`load` returns.

    Attributes:
        name: the file, or the folder of an exported model, that it came from.
        config: of the run that it came from.
        vocabulary: of the training text.
        corpus_sha256: of the texts trained on, see :attr:`ptb_lm.corpus.load.Corpus.sha256`.
        network: without dropout, on a device.
    """

    name: str
    config: Config
    vocabulary: Vocabulary
    corpus_sha256: str
    network: LanguageModel

    def with_data(self, data: str) -> "TrainedModel":
        """Return the model as if its config said that its data lies elsewhere.

        Args:
            data: ``ptb``, ``synthetic`` or a folder. Whether the texts there are those that it was
                trained on is seen when they are read.
        """
        return replace(self, config=self.config.with_options(data=data))

    @contextmanager
    def at_work(self) -> Iterator[LanguageModel]:
        """Have products computed in the run's precision within, and explain a lack of memory.

        Raises:
            PtbLmError: memory does not suffice.
        """
        with memory_errors_explained(self.config, "nothing was written"):
            run = self.config.run
            configure_backends(run.precision, deterministic=run.deterministic or None)
            yield self.network


def require_model(model: object) -> None:
    """Raise TypeError if a value is not what :func:`load` returns."""
    path = repr(os.fspath(model)) if isinstance(model, str | os.PathLike) else "path"
    require_type(model, TrainedModel, "model", f"try load({path})")


def load(path: Path | str, device: str = "auto") -> TrainedModel:
    """Load a trained model for use.

    Args:
        path: of a checkpoint, such as ``runs/small-seed1/last.pt``; of a run folder, which stands
            for its ``last.pt``; or of the folder of an exported model.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.

    Raises:
        TypeError: ``path`` is no path.
        InputError: there is no such model or device, or the model is damaged.
        PtbLmError: a weight is NaN or infinite, or memory does not suffice.
    """
    path = require_path(path, "path", "name a checkpoint, a run folder or an exported model")
    chosen = choose_device(device)
    name, checkpoint = read_model(path)
    return trained_model(name, checkpoint, chosen)


def read_model(path: Path) -> tuple[str, Checkpoint]:
    """Read what :func:`load` takes, and say which file or folder it was.

    Raises:
        InputError: there is no such model, or it is damaged.
        PtbLmError: it may not be read.
    """
    place = model_place(path)
    is_folder = os.path.isdir(place)  # noqa: PTH112 - Path's raises of a name that is too long
    return str(place), load_exported(place) if is_folder else load_checkpoint(place)


def model_place(path: Path) -> Path:
    """Return the checkpoint, or the folder of an exported model, that a path stands for.

    Raises:
        InputError: it is a folder without a model, or with two, or the evidence of a run.
    """
    if not os.path.isdir(path):  # noqa: PTH112 - Path's raises of a name that is too long
        return path
    run = RunFolder(path)
    is_run = run.config.exists() or run.last.exists()
    if (path / CONFIG).exists() or (path / WEIGHTS).exists():
        if is_run:
            raise InputError(
                f"{path}: both a run and an exported model are in it; name the run's "
                f"{run.last.name}, or move one of the two"
            )
        return path
    if is_run:
        if run.is_evidence:
            raise InputError(
                f"{run.last}: no such checkpoint: {path} is the evidence of a run, without its "
                "weights; `ptb-lm average` reads its score files"
            )
        return run.last
    raise InputError(
        f"{path}: no model in it; name a checkpoint, a run folder or the folder of an exported "
        "model"
    )


def file_kind(path: Path) -> str | None:
    """Return what a path is if it is of a model or of NumPy's; None for anything else."""
    if os.path.isdir(path):  # noqa: PTH112 - Path's raises of a name that is too long
        run = RunFolder(path)
        if run.config.exists() or run.last.exists():
            return "a run folder"
        is_exported = (path / CONFIG).exists() or (path / WEIGHTS).exists()
        return "an exported model" if is_exported else None
    if not os.path.isfile(path):  # noqa: PTH113 - as above; a pipe is not opened
        return None
    with suppress(OSError), path.open("rb") as file:
        head = file.read(9)
        if head.startswith(b"PK\x03\x04"):
            return _zip_kind(file)
        if head.startswith(b"\x93NUMPY"):
            return "an array of NumPy"
        if head.startswith((b"\x80\x02", b"\x80\x04")):  # a pickle, as before PyTorch 1.6
            return "a checkpoint"
        if path.suffix == ".onnx" or head[5:] == b"\0\0\0{":  # a header of less than 2**40 bytes
            return "the weights of an exported model"
    return None


def _zip_kind(file: IO[bytes]) -> str | None:
    try:
        names = zipfile.ZipFile(file).namelist()
    except zipfile.BadZipFile:
        return "a damaged checkpoint or other zip archive"
    if any(name.endswith(".npy") for name in names):
        return "a score file, or another archive of NumPy"
    return "a checkpoint" if any(name.endswith("data.pkl") for name in names) else None


def trained_model(name: str, checkpoint: Checkpoint, device: torch.device) -> TrainedModel:
    """Bring a model that was read onto a device.

    Raises:
        PtbLmError: a weight is NaN or infinite, or memory does not suffice.
    """
    require_finite_weights(checkpoint.weights, name)
    with memory_errors_explained(checkpoint.config, "nothing was written"):
        network = checkpoint.network().to(device).eval()
    return TrainedModel(
        name, checkpoint.config, checkpoint.vocabulary, checkpoint.corpus_sha256, network
    )


def require_probabilities(model: TrainedModel, values: Tensor) -> None:
    """Raise PtbLmError if what a model's network gives is not all numbers."""
    if not values.isfinite().all():
        raise PtbLmError(
            f"{model.name}: gives no probabilities: NaN or infinity comes of its weights; "
            f"{TRAIN_AGAIN}"
        )
