"""A trained model as those who use it have it: loaded, on a device, ready for any text."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ptb_lm.config import Config
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import PtbLmError
from ptb_lm.model.libraries import set_libraries
from ptb_lm.model.network import LanguageModel
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.environment import choose_device
from ptb_lm.training.memory import memory_errors_explained


@dataclass(frozen=True)
class TrainedModel:
    """What :func:`load` returns.

    Attributes:
        name: the file it came from.
        config: of the run that it came from.
        vocabulary: of the training text.
        network: without dropout, on a device.
    """

    name: str
    config: Config
    vocabulary: Vocabulary
    network: LanguageModel

    @contextmanager
    def at_work(self) -> Iterator[LanguageModel]:
        """Have products computed in the run's precision within, and explain a lack of memory.

        Raises:
            PtbLmError: memory does not suffice.
        """
        with memory_errors_explained(self.config, "nothing was written"):
            set_libraries(self.config.run.precision)
            yield self.network


def load(path: Path | str, device: str = "auto") -> TrainedModel:
    """Load a trained model for use.

    Args:
        path: of a checkpoint, such as ``runs/small-seed1/last.pt``.
        device: ``cpu``, ``cuda``, or ``auto``: a GPU where there is one.

    Raises:
        InputError: there is no such checkpoint or device, or the checkpoint is damaged.
        PtbLmError: memory does not suffice.
    """
    chosen = choose_device(device)
    checkpoint = load_checkpoint(Path(path))
    with memory_errors_explained(checkpoint.config, "nothing was written"):
        network = checkpoint.network().to(chosen).eval()
    return TrainedModel(str(path), checkpoint.config, checkpoint.vocabulary, network)


def require_probabilities(values: Tensor) -> None:
    """Raise PtbLmError if what a network gives is not all numbers."""
    if not values.isfinite().all():
        raise PtbLmError("the checkpoint gives no probabilities: a weight is NaN or infinite")
