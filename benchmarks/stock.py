"""The model as a good engineer writes it from PyTorch's parts, timed: the baseline of the bench.

``nn.LSTM`` with its own dropout, ``cross_entropy``, ``clip_grad_norm_``, plain SGD, and PyTorch's
defaults throughout, but for the precision where one is asked for. Nothing of ptb_lm is imported.
For each line on standard input, a number of steps, it trains so many and writes the seconds that
they took to standard output, as JSON.
"""

import argparse
import json
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn


class StockModel(nn.Module):
    """Embedding, stacked LSTM, dropout, softmax."""

    def __init__(self, words: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.drop = nn.Dropout(dropout)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=layers, dropout=dropout)
        self.softmax = nn.Linear(hidden, words)

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Return logits (T, B, V) and the state after a window of words (T, B)."""
        outputs, state = self.lstm(self.drop(self.embedding(inputs)), state)
        return self.softmax(self.drop(outputs)), state


def main() -> None:
    """Build the model, then train as many steps as each line of standard input says."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("words", "hidden", "layers", "streams", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("dropout", "clip", "init-range"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "tf32", "bf16"), help="else the defaults")
    options = parser.parse_args()
    if options.precision:
        rounding = "tf32" if options.precision == "tf32" else "ieee"
        backends: Any = torch.backends
        backends.cuda.matmul.fp32_precision = backends.cudnn.rnn.fp32_precision = rounding

    torch.manual_seed(1)
    torch.set_default_device(options.device)
    model = StockModel(options.words, options.hidden, options.layers, options.dropout)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -options.init_range, options.init_range)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    shape = (options.layers, options.streams, options.hidden)
    state = (torch.zeros(shape), torch.zeros(shape))
    # Words as frequent as in a language: the k-th most frequent 1/k times as often as the first.
    frequencies = 1 / torch.arange(1, options.words + 1)
    text = torch.multinomial(frequencies, (options.steps + 1) * options.streams, replacement=True)
    columns = text.view(options.steps + 1, options.streams)
    inputs, targets = columns[:-1], columns[1:]

    for line in sys.stdin:
        began = time.perf_counter()
        for _ in range(int(line)):
            optimizer.zero_grad()
            with torch.autocast(options.device, torch.bfloat16, options.precision == "bf16"):
                logits, (h, c) = model(inputs, state)
            state = (h.detach().float(), c.detach().float())
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
            (loss * options.steps).backward()  # summed over steps, averaged over streams
            nn.utils.clip_grad_norm_(model.parameters(), options.clip)
            optimizer.step()
        if options.device == "cuda":
            torch.cuda.synchronize()
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
