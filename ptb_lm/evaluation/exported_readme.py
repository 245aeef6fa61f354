"""The README of an exported model: what it is, what it was measured at, how to use it.

Its code is complete for the model that it stands beside, and a test runs it: neither imports
ptb-lm.

Shapes: T steps, B streams, H hidden units, V words, L layers.
"""

import json
import re
from collections.abc import Sequence

import torch

from ptb_lm.config import BUILT_IN, Config, preset_names, recipe_of, resolve
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.evaluation.scores import Scores, figure
from ptb_lm.model.perplexity import figure_text
from ptb_lm.paths import named_path, path_text
from ptb_lm.training.checkpoint import Checkpoint
from ptb_lm.version import __version__

CELL_NAMES = {
    "lstm": "LSTM",
    "gru": "GRU",
    "rnn-tanh": "classic RNN with tanh",
    "rnn-sigmoid": "classic RNN with the logistic sigmoid",
}
PRECISIONS = {
    "fp32": "float32",
    "tf32": "float32, its products in TF32 on a GPU",
    "bf16": "bfloat16 products, weights and sums in float32",
}
_SIGMOID_LAYER = """\
class SigmoidRNN(nn.RNN):
    \"\"\"h' = sigm(A x + b + A' h + b'), for which nn.RNN has no kernel.\"\"\"

    def forward(self, x, h=None):
        h = x.new_zeros(x.shape[1], self.hidden_size) if h is None else h
        outputs = []
        for affine in nn.functional.linear(x, self.weight_ih_l0, self.bias_ih_l0):
            h = torch.sigmoid(
                affine + nn.functional.linear(h, self.weight_hh_l0, self.bias_hh_l0)
            )
            outputs.append(h)
        return torch.stack(outputs), h


"""
_LAYERS = {
    "lstm": "nn.LSTM",
    "gru": "nn.GRU",
    "rnn-tanh": "nn.RNN",
    "rnn-sigmoid": "SigmoidRNN",
}


def exported_readme(
    checkpoint: Checkpoint, measured: Sequence[Scores], device: str, *, onnx: bool
) -> str:
    """Write the README.

    Args:
        checkpoint: what is exported.
        measured: its scores; none where the data was not there.
        device: that they were computed on.
        onnx: whether model.onnx is there.
    """
    config = checkpoint.config
    parts = [
        f"# {_title(config)}",
        f"A recurrent language model over words, exported by ptb-lm {__version__}.",
        _facts(checkpoint),
        "## Perplexity",
        _measured(measured, config, device) if measured else _not_measured(checkpoint),
        f"In a text, a line is a sentence: it is split at white space and ended with `{EOS}`, and "
        f"a word that is not in `vocab.txt` counts as `{UNK}`. Perplexities over another "
        "vocabulary, or of words split otherwise, cannot be held against these.",
        "## Use it without ptb-lm",
        "In this folder, with `pip install torch safetensors`:",
        _fenced(_torch_code(checkpoint)),
    ]
    if config.run.precision == "bf16":
        parts.append(
            "This computes in float32; ptb-lm rounds the factors of products to bfloat16, as in "
            "this model's training, so that its figures differ a little."
        )
    if onnx:
        parts += [
            "## Use it without PyTorch",
            "In this folder, with `pip install numpy onnxruntime`; `model.onnx` computes in "
            "float32, for any number of steps and streams:",
            _fenced(_onnx_code(checkpoint)),
        ]
    parts += [
        "## Use it with ptb-lm",
        "`ptb-lm eval`, `ptb-lm score` and `ptb-lm generate` take this folder wherever they take a "
        "checkpoint; in a notebook, `ptb_lm.load` does.",
    ]
    return "\n\n".join(parts) + "\n"


def _title(config: Config) -> str:
    """Return what the model is: of which config, and on what data if not the Penn Treebank."""
    name = config.run.config
    parts = [_plain(name)]
    if name in preset_names() and recipe_of(config) != recipe_of(resolve(name)):
        parts.append("changed")
    if config.run.data != "ptb":
        parts.append(
            f"on {_plain(path_text(named_path(config.run.data).name)) or 'a text of its own'}"
        )
    return ", ".join(parts)


def _facts(checkpoint: Checkpoint) -> str:
    config, weights = checkpoint.config, checkpoint.weights
    model, run = config.model, config.run
    parameters = sum(weight.numel() for weight in weights.values())
    kind = str(weights["embedding.weight"].dtype).removeprefix("torch.")
    tied = "one matrix with the softmax's" if model.tied else "not tied to the softmax"
    saved = f"after epoch {checkpoint.epoch}"
    if checkpoint.is_within_epoch:
        saved = f"within epoch {checkpoint.epoch + 1}"
    rows = {
        "network": f"{CELL_NAMES[model.cell]}, {model.sizes_text}; embedding {tied}",
        "parameters": f"{parameters:,}, {kind}",
        "vocabulary": f"{len(checkpoint.vocabulary):,} words, sha256 "
        f"`{checkpoint.vocabulary.sha256}`",
        "trained on": _data_name(run.data),
        "weights": f"saved {saved} of {config.training.epochs}, seed {run.seed}, precision "
        f"{run.precision}",
    }
    table = ["| | |", "|---|---|", *(f"| {name} | {fact} |" for name, fact in rows.items())]
    return "\n".join(table)


def _measured(measured: Sequence[Scores], config: Config, device: str) -> str:
    lines = ["| split | perplexity | protocol | predicted tokens |", "|---|---|---|---|"]
    for scores in measured:
        reached = figure(scores.log_probabilities)
        lines.append(
            f"| {scores.text.split} | {figure_text(reached.perplexity)} | {scores.text.layout} | "
            f"{reached.tokens:,} |"
        )
    lines += [
        "",
        f"Measured on these weights when they were exported, on {device} "
        f"({PRECISIONS[config.run.precision]}): exp(summed NLL / predicted tokens), every stream "
        "or column from a zero state, no dropout.",
    ]
    return "\n".join(lines)


def _not_measured(checkpoint: Checkpoint) -> str:
    said = "Not measured here: the texts that it was trained on were not at hand."
    if not checkpoint.is_validated:
        return f"{said} The checkpoint records no figure of these weights."
    reached = figure_text(checkpoint.valid_perplexity)
    return (
        f"{said} The checkpoint records a validation perplexity of {reached} "
        f"({checkpoint.config.training.batch_size} columns) at the end of epoch {checkpoint.epoch}."
    )


def _data_name(data: str) -> str:
    if data in BUILT_IN:
        return {"ptb": "the Penn Treebank", "synthetic": "ptb-lm's synthetic language"}[data]
    return f"a text of its own, `{_plain(path_text(named_path(data).name))}`"


def _plain(name: str) -> str:
    """Return a name with nothing in it that Markdown would take for its own."""
    return re.sub(r"[^\w.+-]", "-", name)


def _fenced(code: str) -> str:
    return f"```python\n{code.rstrip()}\n```"


def _sentence(vocabulary: Vocabulary) -> list[str]:
    """Return an example: a few words of the vocabulary, between the ends of sentences."""
    words = [word for word in vocabulary.words[:100] if word.isalnum()][:3]
    return [EOS, *(words or [UNK]), EOS]


def _literal(words: Sequence[str]) -> str:
    """Return words as they stand in code."""
    return json.dumps(words, ensure_ascii=False)


def _torch_code(checkpoint: Checkpoint) -> str:
    model = checkpoint.config.model
    words, (width, *units) = len(checkpoint.vocabulary), model.sizes
    layer = _LAYERS[model.cell]
    lines = [
        'words = Path("vocab.txt").read_text(encoding="utf-8").split()',
        'weights = load_file("model.safetensors")',
    ]
    if model.tied:
        lines.append('weights["softmax.weight"] = weights["embedding.weight"]  # one matrix')
    lines += [
        f"embedding, softmax = nn.Embedding({words}, {width}), nn.Linear({units[-1]}, {words})",
        f"sizes = {model.sizes}",
        f"layers = nn.ModuleList({layer}(i, h) for i, h in zip(sizes, sizes[1:]))",
        'model = nn.ModuleDict({"embedding": embedding, "layers": layers, "softmax": softmax})',
    ]
    if checkpoint.weights["embedding.weight"].dtype == torch.float64:
        lines.append("model.double()")
    lines.append("model.load_state_dict(weights)")
    loading = "\n".join(lines)
    return f"""\
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

{_SIGMOID_LAYER if model.cell == "rnn-sigmoid" else ""}{loading}


@torch.no_grad()
def log_probabilities(ids, states):
    # ln p of each next word, (T, B, V), of words (T, B); states, one a layer, are carried on
    x = embedding(ids)
    for number, layer in enumerate(layers):
        x, states[number] = layer(x, states[number])
    return softmax(x).log_softmax(dim=-1)


index = {{word: number for number, word in enumerate(words)}}
text = {_literal(_sentence(checkpoint.vocabulary))}
ids = torch.tensor([index.get(word, index["{UNK}"]) for word in text])
states = [None] * {model.layers}  # the zero state, at the beginning of a text
scores = log_probabilities(ids[:-1, None], states)[:, 0].gather(1, ids[1:, None])
for word, score in zip(text[1:], scores[:, 0].tolist()):
    print(word, score)
"""


def _onnx_code(checkpoint: Checkpoint) -> str:
    start = _sentence(checkpoint.vocabulary)[:-1]
    return f"""\
from pathlib import Path

import numpy as np
import onnxruntime

words = Path("vocab.txt").read_text(encoding="utf-8").split()
session = onnxruntime.InferenceSession("model.onnx")
_, *states = session.get_inputs()
shapes = {{part.name: [1 if size == "B" else size for size in part.shape] for part in states}}
state = {{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}}
ids = np.array([[words.index(word)] for word in {_literal(start)}])  # (T, B)
logits, *after = session.run(None, {{"words": ids, **state}})  # (T, B, V), of each next word
state = dict(zip(state, after))  # where the next call goes on from
print(words[logits[-1, 0].argmax()])
"""
