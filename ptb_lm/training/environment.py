"""Where a run was made: versions, device, threads, commit. No host name, no path."""

import platform
import subprocess
from pathlib import Path

import numpy
import torch
import torch.distributed as dist

from ptb_lm.config import Config
from ptb_lm.errors import InputError
from ptb_lm.version import __version__


def choose_device(name: str | torch.device) -> torch.device:
    """Turn ``auto``, ``cpu`` or ``cuda`` into a device, or a device into itself.

    Raises:
        InputError: there is no such device, or CUDA is asked for and PyTorch sees none.
    """
    name = str(name)
    if name not in ("auto", "cpu", "cuda"):
        raise InputError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError(
            "--device cuda: PyTorch sees no CUDA device here; use --device cpu or auto"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def settled(config: Config) -> Config:
    """Return a config with the precision chosen that ``auto`` stands for on its device.

    Raises:
        InputError: there is no such device.
    """
    device = choose_device(config.run.device)
    if config.run.precision != "auto":
        return config
    precision = "tf32" if device.type == "cuda" else "fp32"
    return config.with_options(precision=precision)


def describe_environment(device: torch.device) -> dict[str, str | int | None]:
    """Describe this program, machine and device, for ``environment.json``."""
    return {
        "ptb_lm": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "threads": torch.get_num_threads(),
        "processes": _processes(),
    }


def _processes() -> int:
    """Return how many share the training; a PyTorch may be built without a way to."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _commit() -> str | None:
    """Return the commit of the source tree, with ``+changes`` if the program differs from it."""
    source = Path(__file__).resolve().parents[2]
    if not (source / ".git").exists():
        return None
    try:
        commit = _git(source, "rev-parse", "HEAD")
        changed = _git(source, "status", "--porcelain", "--", "ptb_lm", "configs")
        return commit + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    # Without the lock by which `git status` refreshes its index; a kill would leave it behind.
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
