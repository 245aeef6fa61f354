"""Sampled text."""

from collections.abc import Iterator, Sequence

import torch

from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.errors import PtbLmError
from ptb_lm.evaluation.trained import TrainedModel


@torch.no_grad()
def generate(
    model: TrainedModel,
    prompt: Sequence[str] = (),
    count: int = 100,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
) -> Iterator[str]:
    """Sample words one at a time, each given all before it; ``<unk>`` is never drawn.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        prompt: words that the text goes on from; none stands for the beginning of a sentence.
        count: how many words to draw, ``<eos>`` among them.
        temperature: logits are divided by it; 1 samples from the model as it is.
        generator: on the CPU, where the drawing is done on any device; by default PyTorch's own.

    Yields:
        the words drawn.

    Raises:
        PtbLmError: the network gives no probabilities.
    """
    with model.at_work() as network:
        vocabulary, device = model.vocabulary, network.softmax.weight.device
        unknown = vocabulary.index[UNK]
        hidden = network.zero_state(1)
        words = torch.from_numpy(vocabulary.encode([EOS, *prompt]).astype("int64")).to(device)
        for _ in range(count):
            logits, hidden = network(words[:, None], hidden)  # (T, 1, V)
            last = logits[-1, 0].double().cpu()  # (V,)
            if not last.isfinite().all():
                raise PtbLmError(
                    "the checkpoint gives no probabilities: a weight is NaN or infinite"
                )
            # Before the softmax: at a low temperature it may have all of it.
            last[unknown] = -torch.inf
            weights = torch.softmax(last / temperature, dim=-1)
            drawn = int(torch.multinomial(weights, 1, generator=generator))
            words = torch.tensor([drawn], device=device)
            yield vocabulary.words[drawn]
