"""Which arithmetic a run is made in: chosen by device, named, and the same in every product."""

from typing import Any

import pytest
import torch

from ptb_lm.config import resolve
from ptb_lm.model.backends import configure_backends
from ptb_lm.training.environment import settled

backends: Any = torch.backends


@pytest.mark.parametrize(
    ("cuda", "device", "asked", "expected", "name"),
    [
        (False, "auto", "auto", "fp32", "small-seed1"),
        (True, "auto", "auto", "tf32", "small-tf32-seed1"),
        (True, "cpu", "auto", "fp32", "small-seed1"),
        (True, "cuda", "fp32", "fp32", "small-seed1"),
        (True, "cuda", "bf16", "bf16", "small-bf16-seed1"),
        (False, "cpu", "tf32", "tf32", "small-tf32-seed1"),
    ],
)
def test_auto_is_tf32_on_cuda_and_float32_elsewhere_and_names_the_run(
    cuda: bool,
    device: str,
    asked: str,
    expected: str,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    config = settled(resolve("small", options={"device": device, "precision": asked}))
    assert (config.run.precision, config.run_name) == (expected, name)
    assert settled(config) == config


@pytest.mark.parametrize(("precision", "rounding"), [("tf32", "tf32"), ("fp32", "ieee")])
def test_the_lstm_and_the_softmax_round_alike(precision: str, rounding: str) -> None:
    """PyTorch's defaults would have them differ on CUDA."""
    configure_backends("fp32" if precision == "tf32" else "tf32")
    configure_backends(precision)
    assert backends.cuda.matmul.fp32_precision == rounding
    assert backends.cudnn.rnn.fp32_precision == rounding
    configure_backends("fp32")
