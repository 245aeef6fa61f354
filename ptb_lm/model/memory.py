"""What a person reads when memory does not suffice."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ptb_lm.config import Config
from ptb_lm.errors import RESERVE_BYTES, PtbLmError

# How allocations fail that PyTorch reports as a RuntimeError: its own, C++'s, cuBLAS's and cuDNN's,
# the system's, and oneDNN's, which says of a product without room that it could not be created.
_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
    "could not create a primitive",
    "could not execute a primitive",
    "could not create a memory",
)


@contextmanager
def memory_errors_explained(config: Config, assurance: str) -> Iterator[None]:
    """Turn an allocation that fails into one line with the sizes that memory grows with.

    Nothing is tried again with another batch size, which would be another recipe.

    Args:
        config: of the network that is at work.
        assurance: what the reader need not worry about.

    Raises:
        PtbLmError: in place of the error of the allocation.
    """
    reserve = bytearray(RESERVE_BYTES)
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        del reserve
        if not is_out_of_memory(error):
            raise
        training, (_, *units) = config.training, config.model.sizes
        widths = ", ".join(f"{size:,}" for size in (units[:1] if len({*units}) == 1 else units))
        raise PtbLmError(
            f"out of memory with T = {training.unrolled_steps} unrolled steps, "
            f"B = {training.batch_size} streams, H = {widths} hidden units in {len(units)} layers; "
            "lower training.unrolled_steps, training.batch_size or model.hidden_size in a new run, "
            f"or free memory and repeat the command; {assurance}"
        ) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error is of an allocation that failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(sign in str(error) for sign in _SIGNS)
