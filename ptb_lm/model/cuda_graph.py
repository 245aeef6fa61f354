"""Work captured once as a CUDA graph and then replayed, with one launch for all of its operations.

A training step of these models is a few hundred short operations, and to launch each takes longer
than to do it. A CUDA graph is launched as a whole.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Protocol, TypeVar

import torch

from ptb_lm.model.memory import is_out_of_memory

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


class Capture(Protocol):
    """See :func:`captured`."""

    def __call__(self, work: Callable[[], Result], /) -> Callable[[], Result]:
        """Capture work."""


WARM_UP = 3
"""Runs before the capture, in which libraries choose kernels and make their workspaces."""


def captured(work: Callable[[], Result]) -> Callable[[], Result]:
    """Capture work as :func:`capture_cuda_graph` does, or return it as it is where that fails.

    The second is slower and computes the same. It is said once in the log.

    Raises:
        RuntimeError: the device's memory does not suffice.
    """
    try:
        return capture_cuda_graph(work)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # An error in the midst of a capture comes as that of the capture's end.
        _say_once(f"no CUDA graph can be captured here, so all is slower: {_first_cause(error)}")
        return work


def _first_cause(error: BaseException) -> BaseException:
    while error.__context__ is not None:
        error = error.__context__
    return error


@cache
def _say_once(line: str) -> None:
    logger.warning("%s", line)


@cache
def _stream_aside(device: int) -> torch.cuda.Stream:
    """Return the stream of a device's captures: one, as cuBLAS keeps a workspace for each."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def capture_cuda_graph(work: Callable[[], Result]) -> Callable[[], Result]:
    """Capture work, which is done a few times for that, and return what replays it.

    The work is on tensors of the current CUDA device that stay where they are, in shapes that stay
    as they are, and nothing in it reads a value back. Random numbers are drawn anew at each replay,
    the ones that the work itself would draw; the capture leaves the generator as it was.

    Returns:
        a function that does the work once more and gives the same tensors each time, with what
        they hold now.

    Raises:
        RuntimeError: the work cannot be captured.
    """
    random_state, stream = torch.cuda.get_rng_state(), torch.cuda.current_stream()
    graph, aside = torch.cuda.CUDAGraph(), _stream_aside(torch.cuda.current_device())
    try:
        aside.wait_stream(stream)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        stream.wait_stream(aside)
        with torch.cuda.graph(graph, stream=aside):
            result = work()
    except RuntimeError:
        # PyTorch leaves the stream of a capture that failed midway the current one, and (2.11) the
        # generator of random numbers waiting for the capture's end: that of another will do.
        torch.cuda.set_stream(stream)
        with suppress(RuntimeError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            torch.zeros((), device="cuda")
        torch.cuda.set_stream(stream)
        raise
    finally:
        torch.cuda.set_rng_state(random_state)

    def replay() -> Result:
        graph.replay()
        return result

    return replay
