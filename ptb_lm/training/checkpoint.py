"""The checkpoint: config, vocabulary, weights, and in ``last.pt`` all that resumption needs.

``best.pt`` and any exported model hold what evaluation needs: config, vocabulary, weights.
``last.pt`` holds the :class:`TrainingState` and the random states as well.
"""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError
from torch import Tensor

from ptb_lm.config import LONGEST_SHOWN, Config, ModelConfig
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.memory import is_out_of_memory
from ptb_lm.model.network import LanguageModel, parameter_shapes
from ptb_lm.model.perplexity import TRAIN_AGAIN
from ptb_lm.training.averaging import AveragerState
from ptb_lm.training.optim import OPTIMIZERS
from ptb_lm.training.state import TrainingState
from ptb_lm.training.tensor_file import DamagedFileError, load_tensors, save_tensors

FORMAT = 3
FORMATS_READ = {2, 3}
"""Checkpoints of format 2 have no optimizer state: SGD, the only kind then, has none."""

MARK = "ptb-lm checkpoint"
FLOATS = {torch.float32, torch.float64}


@dataclass
class Checkpoint:
    """A checkpoint in memory, its tensors on the CPU.

    Attributes:
        config: of the run.
        vocabulary: of the training text.
        corpus_sha256: of the texts trained on, see :attr:`ptb_lm.corpus.load.Corpus.sha256`.
        weights: the network's parameters by name, as they are used: averaged ones if there are any.
        epoch: epochs done when it was written.
        valid_perplexity: of the last of them; infinite before the first.
        state: where the run stood; None in a checkpoint that is not for resuming.
        raw_weights: the parameters from which the training continues, if the weights are averaged.
        averager: the state of the average, whose averaged weights are ``weights``.
        optimizer: the state of the optimizer.
        random_states: of the generators, by device.
    """

    config: Config
    vocabulary: Vocabulary
    corpus_sha256: str
    weights: Mapping[str, Tensor]
    epoch: int
    valid_perplexity: float
    state: TrainingState | None = None
    raw_weights: Mapping[str, Tensor] = field(default_factory=dict)
    averager: AveragerState = field(default_factory=AveragerState)
    optimizer: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    random_states: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_within_epoch(self) -> bool:
        """Whether windows have changed the weights since an epoch's end."""
        return self.state is not None and self.state.windows_done > 0

    @property
    def is_validated(self) -> bool:
        """Whether ``valid_perplexity`` is a number, and of these weights."""
        return math.isfinite(self.valid_perplexity) and not self.is_within_epoch

    def network(self) -> LanguageModel:
        """Build the network with these weights."""
        network = LanguageModel(self.config.model, len(self.vocabulary), self.config.run.precision)
        network.load_weights(self.weights)
        return network


class _Content(BaseModel):
    """What stands in the file of a checkpoint, and of which types."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

    mark: Literal["ptb-lm checkpoint"]
    format: int
    config: Config
    vocabulary: Annotated[list[str], Field(fail_fast=True)]
    vocabulary_sha256: str
    corpus_sha256: str
    weights: dict[str, Tensor]
    epoch: NonNegativeInt
    valid_perplexity: float
    state: TrainingState | None
    raw_weights: dict[str, Tensor] = {}
    averager: AveragerState = Field(default_factory=AveragerState)
    optimizer: dict[str, dict[str, Tensor]] = {}
    random_states: dict[str, Tensor]


def save_checkpoint(checkpoint: Checkpoint, path: Path, previous: Path | None = None) -> None:
    """Write a checkpoint so that the file is at every moment the old one or the new one.

    Args:
        checkpoint: what to write.
        path: where to.
        previous: where the checkpoint that stood there is kept, once the new one has been read
            back as a resumption would read it.

    Raises:
        PtbLmError: it could not be written; the old file is as it was.
    """
    content = {
        "mark": MARK,
        "format": FORMAT,
        "config": checkpoint.config.model_dump(),
        "vocabulary": checkpoint.vocabulary.words,
        "vocabulary_sha256": checkpoint.vocabulary.sha256,
        "corpus_sha256": checkpoint.corpus_sha256,
        "weights": dict(checkpoint.weights),
        "epoch": checkpoint.epoch,
        "valid_perplexity": checkpoint.valid_perplexity,
        "state": None if checkpoint.state is None else asdict(checkpoint.state),
        "raw_weights": dict(checkpoint.raw_weights),
        # The average is the weights, and is not written twice.
        "averager": {**vars(checkpoint.averager), "average": {}},
        "optimizer": checkpoint.optimizer,
        "random_states": checkpoint.random_states,
    }
    save_tensors(content, path, prove=load_checkpoint, previous=previous)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; nothing in it is executed, and all of it is checked.

    The tensors are views of the file, which may be replaced or removed meanwhile.

    Raises:
        DamagedFileError: the file is damaged, or is no checkpoint of ours.
        InputError: it is missing or no regular file, or of a format that this version does not
            know.
    """
    if not os.path.exists(path):  # noqa: PTH110 - Path's raises of a name that is too long
        raise InputError(f"{path}: no such checkpoint")
    values = load_tensors(path)
    if values.get("mark") != MARK:
        raise DamagedFileError(path)
    version = values.get("format")
    if not isinstance(version, int):
        raise DamagedFileError(path)
    if version not in FORMATS_READ:
        known = " and ".join(map(str, sorted(FORMATS_READ)))
        raise InputError(f"{path}: checkpoint format {version}, this version reads {known}")
    try:
        content = _Content.model_validate(values)
        vocabulary = Vocabulary(content.vocabulary)
        if vocabulary.sha256 != content.vocabulary_sha256:
            raise ValueError("vocabulary")
        require_precision(content.config)
        require_weights(content.weights, content.config.model, len(vocabulary))
        if content.state is not None:
            _check_state(content.state, content.config)
            _check_optimizer(content)
            _check_averager(content, len(vocabulary))
            torch.Generator().set_state(content.random_states["cpu"])
    except (KeyError, TypeError, ValueError, RuntimeError, ValidationError) as error:
        # RuntimeError is how PyTorch refuses a random state.
        if is_out_of_memory(error):
            raise
        raise DamagedFileError(path, "damaged: its parts do not fit together") from error
    average = content.weights if content.raw_weights else {}
    return Checkpoint(
        config=content.config,
        vocabulary=vocabulary,
        corpus_sha256=content.corpus_sha256,
        weights=content.weights,
        epoch=content.epoch,
        valid_perplexity=content.valid_perplexity,
        state=content.state,
        raw_weights=content.raw_weights,
        averager=replace(content.averager, average=average),
        optimizer=content.optimizer,
        random_states=content.random_states,
    )


def require_precision(config: Config) -> None:
    """Raise ValueError if a config of trained weights leaves open what precision they are of."""
    if config.run.precision == "auto":
        raise ValueError("run.precision is auto, for which a run that begins puts what it takes")


def require_weights(
    weights: Mapping[str, Tensor], config: ModelConfig, vocabulary_size: int
) -> None:
    """Raise ValueError if weights are not those of a config's network, naming one that is not."""
    expected = parameter_shapes(config, vocabulary_size)
    for name in [*expected, *weights]:
        if name not in weights:
            raise ValueError(f"{name} is missing")
        if name not in expected:
            raise ValueError(f"{name[:LONGEST_SHOWN]} is none of this network's weights")
        shape, dtype = tuple(weights[name].shape), weights[name].dtype
        if shape != expected[name]:
            wanted = tuple(expected[name])
            raise ValueError(f"{name} has the shape {shape}, this network's has {wanted}")
        if dtype not in FLOATS:
            raise ValueError(f"{name} is of {dtype}, expected torch.float32 or torch.float64")


def require_finite_weights(weights: Mapping[str, Tensor], where: Path | str) -> None:
    """Raise PtbLmError if a weight of a model that was read is NaN or infinite.

    Args:
        weights: the network's parameters by name.
        where: the file or folder that they were read from.
    """
    for name, weight in weights.items():
        if not is_finite(weight):
            raise PtbLmError(f"{where}: {name} has a weight that is NaN or infinite; {TRAIN_AGAIN}")


def is_finite(weight: Tensor) -> bool:
    """Whether every value is a number; takes no memory for a mask of them."""
    return bool(torch.stack(weight.detach().aminmax()).isfinite().all())


def _check_averager(content: _Content, vocabulary_size: int) -> None:
    """Raise ValueError if the average does not fit the weights."""
    averager, state = content.averager, content.state
    if averager.average or bool(averager.count) != bool(content.raw_weights):
        raise ValueError("averager")
    if state is not None and len(averager.valid_perplexities) not in (0, state.epochs_done):
        raise ValueError("averager")
    if content.raw_weights:
        require_weights(content.raw_weights, content.config.model, vocabulary_size)


def _check_optimizer(content: _Content) -> None:
    """Raise ValueError if the optimizer's state is not one of the config's and the parameters'."""
    if content.optimizer.keys() != {*OPTIMIZERS[content.config.optimizer.kind].slots}:
        raise ValueError("optimizer")
    for slot, values in content.optimizer.items():
        if values.keys() != content.weights.keys():
            raise ValueError("optimizer")
        for name, value in values.items():
            shape = () if slot == "step" else content.weights[name].shape
            if value.dtype not in FLOATS or value.shape != shape:
                raise ValueError("optimizer")


def _check_state(state: TrainingState, config: Config) -> None:
    """Raise ValueError if the state is not one of the config's epochs, network and batch."""
    if state.epochs_done > config.training.epochs:
        raise ValueError("epochs")
    with torch.device("meta"):
        hidden = LanguageModel(config.model, 1).zero_state(config.training.batch_size)
    shapes = [[part.shape for part in layer] for layer in hidden]
    if [[part.shape for part in layer] for layer in state.hidden] != shapes:
        raise ValueError("hidden")
    if any(part.dtype not in FLOATS for layer in state.hidden for part in layer):
        raise ValueError("hidden")


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
