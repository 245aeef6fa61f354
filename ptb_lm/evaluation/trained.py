"""A trained model as those who use it have it: loaded, on a device, ready for any text."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ptb_lm.config import Config
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.model.network import LanguageModel
from ptb_lm.paths import user_path
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint
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


def load(path: Path | str, device: str = "auto") -> TrainedModel:
    """Load a trained model for use.

    Args:
        path: of a checkpoint, such as ``runs/small-seed1/last.pt``; of a run folder, which stands
            for its ``last.pt``; or of the folder of an exported model.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.

    Raises:
        InputError: there is no such model or device, or the model is damaged.
        PtbLmError: memory does not suffice.
    """
    chosen = choose_device(device)
    name, checkpoint = read_model(user_path(path))
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


def trained_model(name: str, checkpoint: Checkpoint, device: torch.device) -> TrainedModel:
    """Bring a model that was read onto a device.

    Raises:
        PtbLmError: memory does not suffice.
    """
    with memory_errors_explained(checkpoint.config, "nothing was written"):
        network = checkpoint.network().to(device).eval()
    return TrainedModel(
        name, checkpoint.config, checkpoint.vocabulary, checkpoint.corpus_sha256, network
    )


def require_probabilities(values: Tensor) -> None:
    """Raise PtbLmError if what a network gives is not all numbers."""
    if not values.isfinite().all():
        raise PtbLmError("the checkpoint gives no probabilities: a weight is NaN or infinite")
