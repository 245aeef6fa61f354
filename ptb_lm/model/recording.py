"""Work recorded once on the GPU and then replayed, with one launch for all of its operations.

A training step of these models is a few hundred short operations, and to launch each takes longer
than to do it. A CUDA graph is launched as a whole.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Protocol, TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Recorder(Protocol):
    """See :func:`record`."""

    def __call__(self, work: Callable[[], Result], /) -> Callable[[], Result]:
        """Record work."""


WARM_UP = 3
"""Runs before the recording, in which libraries choose kernels and make their workspaces."""


def record(work: Callable[[], Result]) -> Callable[[], Result]:
    """Record work as :func:`record_cuda_graph` does, or return it as it is where that fails.

    The second is slower and computes the same. It is said once in the log. Of a recording that
    failed midway PyTorch leaves the recording's stream the current one, and (2.11) the generator
    of random numbers waiting for the recording's end: that of another will do.

    Raises:
        OutOfMemoryError: the device's memory does not suffice.
    """
    stream = torch.cuda.current_stream() if torch.cuda.is_available() else None
    try:
        return record_cuda_graph(work)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _say_once(f"no CUDA graph can be recorded here, all goes on more slowly: {error}")
    if stream is not None:
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros((), device="cuda")
    return work


@cache
def _say_once(line: str) -> None:
    logger.warning("%s", line)


def record_cuda_graph(work: Callable[[], Result]) -> Callable[[], Result]:
    """Record work, which is done a few times for that, and return what replays it.

    The work is on tensors of the current CUDA device that stay where they are, in shapes that stay
    as they are, and nothing in it reads a value back. Random numbers are drawn anew at each replay,
    the ones that the work itself would draw; the recording leaves the generator as it was.

    Returns:
        a function that does the work once more and gives the same tensors each time, with what
        they hold now.

    Raises:
        RuntimeError: the work cannot be recorded.
    """
    random_state = torch.cuda.get_rng_state()
    graph = torch.cuda.CUDAGraph()
    try:
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        with torch.cuda.graph(graph):
            result = work()
    finally:
        torch.cuda.set_rng_state(random_state)

    def replay() -> Result:
        graph.replay()
        return result

    return replay
