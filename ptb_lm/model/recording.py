"""Work recorded once on the GPU and then replayed, with one launch for all of its operations.

A training step of these models is a few hundred short operations, and to launch each takes longer
than to do it. A CUDA graph is launched as a whole.
"""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Recorder = Callable[[Callable[[], Result]], Callable[[], Result]]

WARM_UP = 3
"""Runs before the recording, in which libraries choose kernels and make their workspaces."""


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
        aside = torch.cuda.Stream()
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
