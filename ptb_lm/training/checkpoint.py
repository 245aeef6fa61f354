"""The checkpoint: one file of tensors and plain values that runs no code when it is opened.

``best.pt`` and any exported model hold what evaluation needs: config, vocabulary, weights.
``last.pt`` holds the :class:`TrainingState` and the random states as well: all that exact
resumption needs.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from ptb_lm.config import Config
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError
from ptb_lm.model.network import LanguageModel
from ptb_lm.training.state import TrainingState

FORMAT = 1
_MARK = "ptb-lm checkpoint"


@dataclass
class Checkpoint:
    """A checkpoint in memory, its tensors on the CPU.

    Attributes:
        config: of the run.
        vocabulary: of the training text.
        corpus_sha256: of the texts trained on, see :attr:`ptb_lm.corpus.load.Corpus.sha256`.
        weights: the network's parameters by name.
        epoch: epochs done when it was written.
        valid_perplexity: of the last of them; infinite before the first.
        state: where the run stood; None in a checkpoint that is not for resuming.
        random_states: of the generators, by device.
    """

    config: Config
    vocabulary: Vocabulary
    corpus_sha256: str
    weights: Mapping[str, Tensor]
    epoch: int
    valid_perplexity: float
    state: TrainingState | None = None
    random_states: dict[str, Tensor] = field(default_factory=dict)

    def network(self) -> LanguageModel:
        """Build the network with these weights."""
        network = LanguageModel(self.config.model, len(self.vocabulary))
        network.load_state_dict(self.weights)
        return network


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint so that the file is at every moment the old one or the new one.

    Raises:
        PtbLmError: it could not be written; the old file is as it was.
    """
    content = {
        "mark": _MARK,
        "format": FORMAT,
        "config": checkpoint.config.model_dump(),
        "vocabulary": checkpoint.vocabulary.words,
        "vocabulary_sha256": checkpoint.vocabulary.sha256,
        "corpus_sha256": checkpoint.corpus_sha256,
        "weights": dict(checkpoint.weights),
        "epoch": checkpoint.epoch,
        "valid_perplexity": checkpoint.valid_perplexity,
        "state": None if checkpoint.state is None else asdict(checkpoint.state),
        "random_states": checkpoint.random_states,
    }
    with durable_file(path) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:  # how PyTorch's zip writer reports a failed write
            raise OSError(0, str(error).splitlines()[0]) from None


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; nothing in it is executed (``weights_only``).

    Raises:
        InputError: the file is missing, is damaged, is no checkpoint of ours, or is of a format
            that this version does not know.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is none of ours: refused below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # other bytes than a checkpoint's break the unpickler in any way whatever
        content = None
    if not isinstance(content, dict) or content.get("mark") != _MARK:
        raise InputError(f"{path}: not a checkpoint of ptb-lm, or damaged")
    if content.get("format") != FORMAT:
        raise InputError(
            f"{path}: checkpoint format {content.get('format')}, this version reads {FORMAT}"
        )
    try:
        vocabulary = Vocabulary(content["vocabulary"])
        if vocabulary.sha256 != content["vocabulary_sha256"]:
            raise ValueError("vocabulary")
        checkpoint = Checkpoint(
            config=Config.model_validate(content["config"]),
            vocabulary=vocabulary,
            corpus_sha256=content["corpus_sha256"],
            weights=content["weights"],
            epoch=content["epoch"],
            valid_perplexity=content["valid_perplexity"],
            state=_state(content["state"]),
            random_states=content["random_states"],
        )
        _check_shapes(checkpoint)
    except (KeyError, TypeError, ValueError, ValidationError):
        raise InputError(f"{path}: damaged: its parts do not fit together") from None
    return checkpoint


def _state(values: dict[str, Any] | None) -> TrainingState | None:
    if values is None:
        return None
    return TrainingState(**{each.name: values[each.name] for each in fields(TrainingState)})


def _check_shapes(checkpoint: Checkpoint) -> None:
    """Raise ValueError if the weights are not those of the config's network."""
    with torch.device("meta"):  # shapes without memory
        expected = LanguageModel(checkpoint.config.model, len(checkpoint.vocabulary)).state_dict()
    shapes = {name: tensor.shape for name, tensor in checkpoint.weights.items()}
    if shapes != {name: tensor.shape for name, tensor in expected.items()}:
        raise ValueError("shapes")


def random_states() -> dict[str, Tensor]:
    """Return the states of PyTorch's generators, of the CPU and of each CUDA device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        for index, state in enumerate(torch.cuda.get_rng_state_all()):
            states[f"cuda:{index}"] = state
    return states


def restore_random_states(states: Mapping[str, Tensor]) -> None:
    """Set the generators as :func:`random_states` found them, where the device is there."""
    torch.set_rng_state(states["cpu"])
    for index in range(torch.cuda.device_count()):
        if f"cuda:{index}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
