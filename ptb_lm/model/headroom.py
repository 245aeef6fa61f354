"""See that the kernels of the network find memory for their small parts before they are built."""

import mmap

HEADROOM_BYTES = 32 * 2**20


def require_headroom() -> None:
    """Reserve address space and give it back at once, untouched: ten microseconds.

    oneDNN, which runs PyTorch's fused LSTM on the CPU, builds its kernels when a shape comes for
    the first time. It does not look whether it was given the few megabytes that their descriptors
    and code take: under ``ulimit -v``, one process in a hundred would die of a segmentation fault
    there. This turns it into an exception.

    Raises:
        MemoryError: the system grants no more 32 MiB.
    """
    try:
        mmap.mmap(-1, HEADROOM_BYTES).close()
    except OSError as error:
        raise MemoryError("no memory is left to build the kernels of the network") from error
