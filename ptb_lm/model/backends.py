"""What the libraries beneath PyTorch are told once, and watched for at each forward pass."""

import ctypes
import logging
import mmap
import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

logger = logging.getLogger(__name__)

HEADROOM_BYTES = 32 * 2**20
DEFAULT, ONEDNN = "ieee", "bf16"
"""Values of ``torch.backends.mkldnn.matmul.fp32_precision``, named for where they lead."""

MAX_MATMUL_ERROR = 1e-6
"""Of a float32 product against float64, as a share of its norm; rounding to bfloat16 makes 2e-3."""


def configure_backends(precision: str, *, deterministic: bool | None = None) -> None:
    """Set the arithmetic of every product alike, and how large buffers are kept.

    Set for the whole process; the last call counts.

    Args:
        precision: ``fp32``: float32 in every product. ``tf32``: on CUDA the factors of every
            product are rounded to TF32, 10 bits of mantissa; elsewhere as ``fp32``. ``bf16``: what
            :class:`~ptb_lm.model.network.LanguageModel` does in bfloat16 it casts itself; all
            else is as in ``fp32``.
        deterministic: whether to take only algorithms that give the same bits each time; None
            leaves that as it is.
    """
    assert precision in ("fp32", "tf32", "bf16")
    backends: Any = torch.backends  # its parts become objects at import, unseen by mypy
    # PyTorch's defaults would have the softmax's products in float32 and the LSTM's in TF32.
    for products in (backends.cuda.matmul, backends.cudnn.rnn):
        products.fp32_precision = "tf32" if precision == "tf32" else "ieee"
    for products in (backends.mkldnn.matmul, backends.mkldnn.rnn):
        products.fp32_precision = "ieee"
    if _is_amd() and ONEDNN in matmul_routes():
        backends.mkldnn.matmul.fp32_precision = ONEDNN
    if deterministic:
        # Read by cuBLAS and cuDNN when they begin to work.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    # To set it takes imports, to ask does not.
    if deterministic not in (None, torch.are_deterministic_algorithms_enabled()):
        torch.use_deterministic_algorithms(deterministic)
    invariants: Any = torch.sparse.check_sparse_tensor_invariants
    if not invariants.is_enabled():
        invariants.disable()  # said, or PyTorch warns that nobody has
    _keep_large_buffers()


def products_in(precision: str, device: torch.device) -> torch.autocast:
    """Have products computed in bfloat16 within, where that is the precision."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def _is_amd() -> bool:
    """Whether MKL, PyTorch's default, takes its slower kernels here."""
    information = Path("/proc/cpuinfo")
    return information.exists() and "AuthenticAMD" in information.read_text()


@cache
def matmul_routes() -> tuple[str, ...]:
    """Return the settings in which the CPU computes float32 products in float32.

    Beside PyTorch's default there is oneDNN. PyTorch hands products to it only where it may round
    them to bfloat16; but oneDNN does so only on a processor with matrix tiles (AMX), and a probe
    sees whether this is one.
    """
    backends: Any = torch.backends
    before = backends.mkldnn.matmul.fp32_precision
    routes = []
    for route in (DEFAULT, ONEDNN):
        backends.mkldnn.matmul.fp32_precision = route
        if matmul_error() < MAX_MATMUL_ERROR:
            routes.append(route)
    backends.mkldnn.matmul.fp32_precision = before
    return tuple(routes)


@cache
def has_bfloat16_lstm() -> bool:
    """Whether oneDNN, which runs PyTorch's fused LSTM on the CPU, has kernels in bfloat16 here.

    It has none for processors without AVX-512, and PyTorch does not look before it asks for them.
    Those for training are not there wherever those for evaluation are, so a step is tried.

    Raises:
        RuntimeError: it cannot be tried, for another reason than that.
    """
    with torch.random.fork_rng(devices=[]):  # the numbers of a training are not to be used up
        lstm = torch.nn.LSTM(1, 1)
    try:
        with torch.enable_grad():  # an evaluation may be the first to ask
            with torch.autocast("cpu", torch.bfloat16):
                outputs, _ = lstm(torch.zeros(1, 1, 1))
            outputs.sum().backward()
    except RuntimeError as error:
        if "could not create a primitive" not in str(error):
            raise
        logger.warning(
            "This processor has no bfloat16 kernels for the LSTM: bf16 is slower than fp32 here."
        )
        return False
    return True


@cache
def has_bfloat16_layers_on_cuda() -> bool:
    """Whether PyTorch's fused recurrent layers compute in bfloat16 under its autocast on CUDA.

    Up to 2.11 they compute in float16, whatever autocast is told: another arithmetic, which without
    a scaled objective loses small gradients.
    """
    with torch.random.fork_rng(devices=[]):  # the numbers of a training are not to be used up
        lstm = torch.nn.LSTM(8, 8)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        outputs, _ = lstm.cuda()(torch.zeros(1, 1, 8, device="cuda"))
    if outputs.dtype == torch.bfloat16:
        return True
    logger.warning(
        "This PyTorch computes recurrent layers in %s where bfloat16 is asked for, so bf16 takes "
        "their steps one by one: slower than tf32 here.",
        str(outputs.dtype).removeprefix("torch."),
    )
    return False


def matmul_error(rows: int = 64, inner: int = 256, columns: int = 512) -> float:
    """Return the error of a float32 product as it is set now, against float64.

    Returns:
        the Frobenius norm of the error by that of the product.
    """
    generator = torch.Generator().manual_seed(1)
    a = torch.rand(rows, inner, generator=generator) - 0.5
    b = torch.rand(inner, columns, generator=generator) - 0.5
    exact = a.double() @ b.double()
    return float(((a @ b).double() - exact).norm() / exact.norm())


@cache
def _keep_large_buffers() -> None:
    """Have glibc keep the memory of large tensors for the next ones; done once in a process.

    Otherwise each comes fresh from the system at each step, and its page faults cost as much as
    the product that fills it. Other C libraries have other ways; nothing is done there.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max = -1, -4
    c_library = ctypes.CDLL(None)
    c_library.mallopt(m_mmap_max, 0)
    c_library.mallopt(m_trim_threshold, 2**31 - 1)


def require_headroom() -> None:
    """Reserve address space and give it back at once, untouched: ten microseconds.

    To be called before a forward and before a backward pass. oneDNN, which runs PyTorch's fused
    LSTM on the CPU, builds its kernels when a shape comes for the first time. It does not look
    whether it was given the few megabytes that their descriptors and code take: under
    ``ulimit -v``, one process in a hundred would die of a segmentation fault there. This turns it
    into an exception.

    Raises:
        MemoryError: the system grants no more 32 MiB.
    """
    try:
        mmap.mmap(-1, HEADROOM_BYTES).close()
    except OSError as error:
        raise MemoryError("no memory is left to build the kernels of the network") from error
