"""The network as an ONNX graph, which onnxruntime and others run without PyTorch.

Written node by node: ONNX has an operator for a whole layer of each cell
(https://onnx.ai/onnx/operators), so that the graph is as small as the network's picture, and the
same whichever PyTorch is installed.

Needs onnx, an extra. Shapes: T steps, B streams, H hidden units, V words, L layers, G gates.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from torch import Tensor

from ptb_lm.config import ModelConfig
from ptb_lm.errors import InputError
from ptb_lm.model.layers import LAYERS
from ptb_lm.version import __version__

OPSET, IR_VERSION = 17, 8
"""Of 2022, so that what has been released since then reads the file."""

MOST_BYTES = 2**31 - 2**20
"""Of weights: the protocol buffer that a file is ends at 2 GiB."""


@dataclass(frozen=True)
class _Operator:
    """ONNX's layer of a cell.

    Attributes:
        name: of the operator.
        gates: where each of its gates stands among PyTorch's.
        attributes: what makes it compute what PyTorch does.
    """

    name: str
    gates: list[int]
    attributes: dict[str, Any] = field(default_factory=dict)


_OPERATORS = {
    # i, o, f, c for i, f, g, o
    "lstm": _Operator("LSTM", [0, 3, 1, 2]),
    # z, r, h for r, z, n; r is applied after the affine map of h, not before
    "gru": _Operator("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    "rnn-tanh": _Operator("RNN", [0], {"activations": ["Tanh"]}),
    "rnn-sigmoid": _Operator("RNN", [0], {"activations": ["Sigmoid"]}),
}


def onnx_model(config: ModelConfig, weights: Mapping[str, Tensor]) -> ModelProto:
    """Return a network without dropout as ONNX, in float32.

    Its inputs are ``words``, int64 (T, B), and the state before the first step: ``h``, and with the
    LSTM ``c``, each (L, B, H). Its outputs are ``logits`` of the next word, (T, B, V), and the
    state after the last step, ``h_after`` and ``c_after``. T and B may be any. Where the layers
    have different numbers of units, each has a state of its own: ``h.0``, (1, B, H) with its own H,
    and so on.

    Args:
        config: of the network.
        weights: by their names in a checkpoint.

    Raises:
        InputError: the weights take more bytes than a file can hold.
    """
    size = 4 * sum(weight.numel() for weight in weights.values())
    if size > MOST_BYTES:
        raise InputError(
            f"--onnx: the weights take {size / 1e9:.1f} GB, of which an ONNX file holds "
            f"{MOST_BYTES / 1e9:.1f} GB; export without it"
        )
    kinds = ("h", "c")[: LAYERS[config.cell].states]
    _, *units = config.sizes
    states = {kind: (len(units), "B", units[0]) for kind in kinds}
    if len({*units}) > 1:
        each = enumerate(units)
        states = {f"{kind}.{layer}": (1, "B", size) for layer, size in each for kind in kinds}
    initializers = {
        "embedding.weight": _float32(weights["embedding.weight"]),
        "softmax.bias": _float32(weights["softmax.bias"]),
        "axis_of_directions": np.array([1]),
    }
    if not config.tied:
        initializers["softmax.weight"] = _float32(weights["softmax.weight"])
    for layer in range(len(units)):
        initializers |= _layer_weights(_OPERATORS[config.cell], weights, layer)
    graph = helper.make_graph(
        _nodes(config, kinds),
        "language_model",
        [
            helper.make_tensor_value_info("words", TensorProto.INT64, ("T", "B")),
            *(_float_value(*state) for state in states.items()),
        ],
        [
            _float_value("logits", ("T", "B", len(weights["embedding.weight"]))),
            *(_float_value(f"{state}_after", shape) for state, shape in states.items()),
        ],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    return helper.make_model(
        graph,
        producer_name="ptb-lm",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )


def _nodes(config: ModelConfig, kinds: tuple[str, ...]) -> list[NodeProto]:
    """Return the operators from the words to the logits, in the order in which they act."""
    operator = _OPERATORS[config.cell]
    _, *units = config.sizes
    layers, is_stacked = range(len(units)), len({*units}) == 1
    nodes = [helper.make_node("Gather", ["embedding.weight", "words"], ["x.0"])]  # (T, B, E)
    if is_stacked:  # (L, B, H) into (1, B, H) each
        nodes += [
            helper.make_node("Split", [kind], [f"{kind}.{layer}" for layer in layers], axis=0)
            for kind in kinds
        ]
    for layer in layers:
        before = [f"{kind}.{layer}" for kind in kinds]
        every_step, output = f"every_step.{layer}", f"x.{layer + 1}"
        nodes += [
            helper.make_node(
                operator.name,
                [f"x.{layer}", *(f"{part}.{layer}" for part in "WRB"), "", *before],
                [every_step, *(f"{part}_after" for part in before)],
                hidden_size=units[layer],
                **operator.attributes,
            ),
            # (T, 1, B, H) into (T, B, H)
            helper.make_node("Squeeze", [every_step, "axis_of_directions"], [output]),
        ]
    top, matrix = f"x.{len(units)}", "embedding.weight" if config.tied else "softmax.weight"
    nodes += [
        helper.make_node("Transpose", [matrix], ["transposed"], perm=[1, 0]),  # (H, V)
        helper.make_node("MatMul", [top, "transposed"], ["without_bias"]),
        helper.make_node("Add", ["without_bias", "softmax.bias"], ["logits"]),  # (T, B, V)
    ]
    if is_stacked:
        nodes += [
            helper.make_node(
                "Concat", [f"{kind}.{layer}_after" for layer in layers], [f"{kind}_after"], axis=0
            )
            for kind in kinds
        ]
    return nodes


def _layer_weights(
    operator: _Operator, weights: Mapping[str, Tensor], layer: int
) -> dict[str, NDArray[np.float32]]:
    """Return W and R, (1, G * H, H), and B, both biases in one (1, 2 * G * H), of a layer."""

    def in_order(name: str) -> Tensor:
        gates = weights[f"layers.{layer}.{name}_l0"].chunk(len(operator.gates))
        return torch.cat([gates[gate] for gate in operator.gates])[None]

    parts = {
        "W": in_order("weight_ih"),
        "R": in_order("weight_hh"),
        "B": torch.cat([in_order("bias_ih"), in_order("bias_hh")], dim=1),
    }
    return {f"{name}.{layer}": _float32(tensor) for name, tensor in parts.items()}


def _float32(tensor: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = tensor.detach().cpu().float().numpy()
    return array


def _float_value(name: str, shape: tuple[int | str, ...]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
