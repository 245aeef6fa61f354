"""Sampled text.

Shapes: V words.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptb_lm.arguments import (
    require_integer,
    require_number,
    require_type,
    require_words,
)
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel, require_model, require_probabilities
from ptb_lm.stop import NEVER, StopFlag


@dataclass(frozen=True)
class Sampling:
    """How words are drawn. The defaults draw from the model as it is, but for ``<unk>``.

    They act in this order, each on what the one before leaves.

    Attributes:
        allow_unknown: whether ``<unk>`` may be drawn.
        temperature: log-probabilities are divided by it; below 1 the likely words become likelier.
        top_k: only the k likeliest words are drawn (Fan et al., arXiv 1805.04833); of equals, the
            earlier in the vocabulary. 1 takes the likeliest always; None leaves all.
        top_p: only the nucleus is drawn: the fewest of the likeliest words that have this
            probability together (Holtzman et al., arXiv 1904.09751); 1 leaves all.
        stop_at_eos: whether the first ``<eos>`` is the end.

    Raises:
        TypeError: a setting is of the wrong type.
        InputError: a number is out of its range.
    """

    allow_unknown: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    stop_at_eos: bool = False

    def __post_init__(self) -> None:
        require_type(self.allow_unknown, bool, "allow_unknown")
        require_type(self.stop_at_eos, bool, "stop_at_eos")
        if not 0 < require_number(self.temperature, "temperature") < math.inf:
            raise InputError(
                f"temperature {self.temperature}: expected a number above 0; top-k 1 always draws "
                "the likeliest word"
            )
        if self.top_k is not None and require_integer(self.top_k, "top_k") < 1:
            raise InputError(f"top-k {self.top_k}: expected 1 or more")
        if not 0 < require_number(self.top_p, "top_p") <= 1:
            raise InputError(f"top-p {self.top_p}: expected a number above 0, and at most 1")


AS_IT_IS = Sampling()

PROMPT_WORDS_AT_ONCE = 1000
"""The states of that many steps are held while a prompt is read."""


def generate(
    model: TrainedModel,
    prompt: str | Iterable[str] = (),
    count: int = 100,
    sampling: Sampling = AS_IT_IS,
    generator: torch.Generator | None = None,
    stop: StopFlag = NEVER,
) -> Iterator[str]:
    """Sample words one at a time, each given all before it.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        prompt: a text, or words, that the drawn text continues; it is split at white space. None
            stands for the beginning of a sentence.
        count: how many words to draw, ``<eos>`` among them; fewer if it is the end.
        sampling: what may be drawn, and how likely.
        generator: on the CPU, where the drawing is done on any device; by default PyTorch's own.
        stop: checked before each word.

    Returns:
        the words, each drawn when it is asked for.

    Raises:
        TypeError: an argument is of the wrong type.
        InputError: ``count`` is negative, or the generator is not on the CPU.
        PtbLmError: the network gives no probabilities; raised when a word is asked for.
        Stopped: a signal came, while a word was drawn.
    """
    require_model(model)
    start = require_words(prompt, "prompt")
    if require_integer(count, "count") < 0:
        raise InputError(f"count {count}: expected 0 or more")
    require_type(sampling, Sampling, "sampling", "try Sampling(temperature=0.8)")
    if generator is not None:
        advice = "try torch.Generator().manual_seed(1)"
        device = require_type(generator, torch.Generator, "generator", advice).device
        if device.type != "cpu":
            raise InputError(f"generator: expected one on the CPU, got one on {device}; {advice}")
    return _words(model, start, int(count), sampling, generator, stop)


@torch.no_grad()
def _words(
    model: TrainedModel,
    prompt: Sequence[str],
    count: int,
    sampling: Sampling,
    generator: torch.Generator | None,
    stop: StopFlag,
) -> Iterator[str]:
    """Do as :func:`generate` says, whose arguments these are."""
    with model.at_work() as network:
        vocabulary, device = model.vocabulary, network.device
        excluded = [] if sampling.allow_unknown else [vocabulary.index[UNK]]
        hidden = network.zero_state(1)
        words = torch.from_numpy(vocabulary.encode([EOS, *prompt]).astype("int64")).to(device)
        for _ in range(count):
            for window in torch.split(words, PROMPT_WORDS_AT_ONCE):
                stop.check()
                output = network(window[:, None], hidden)
                hidden = output.state
            log_p = network.decoder.log_probs(output.dropped[-1, 0]).double().cpu()  # (V,)
            require_probabilities(model, log_p)
            weights = next_word_probabilities(log_p, sampling, excluded)
            drawn = int(torch.multinomial(weights, 1, generator=generator))
            words = torch.tensor([drawn], device=device)
            word = vocabulary.words[drawn]
            yield word
            if word == EOS and sampling.stop_at_eos:
                return


def next_word_probabilities(
    log_p: Tensor, sampling: Sampling, excluded: Sequence[int] = ()
) -> Tensor:
    """Return the distribution that a word is drawn from.

    Args:
        log_p: the network's ln p of each word, float64 (V,); left as it is.
        sampling: what may be drawn, and how likely.
        excluded: words that are never drawn.

    Returns:
        probabilities, float64 (V,); zero where a word cannot be drawn.
    """
    allowed = log_p.clone()
    allowed[list(excluded)] = -torch.inf  # at a low temperature one of them might have it all
    # The greatest is taken off first: divided by a temperature near zero it would be infinite.
    probabilities = torch.softmax((allowed - allowed.max()) / sampling.temperature, dim=-1)
    if sampling.top_k is None and sampling.top_p == 1:
        return probabilities
    ordered, indices = probabilities.sort(descending=True, stable=True)
    if sampling.top_k is not None:
        ordered[sampling.top_k :] = 0
    if sampling.top_p < 1:
        mass = ordered.cumsum(0) / ordered.sum()
        nucleus = int((mass < sampling.top_p).sum()) + 1
        ordered[nucleus:] = 0
    return torch.zeros_like(ordered).scatter_(0, indices, ordered / ordered.sum())


def sample_generator(seed: int, sample: int) -> torch.Generator:
    """Return the random numbers of one of several samples, the same however many there are.

    Those of the first are the seed's own. The others' seeds are spawned from it by NumPy's
    ``SeedSequence``, so that no two seeds share a stream that only stands elsewhere.

    Args:
        seed: of all.
        sample: from 0.
    """
    generator = torch.Generator()
    if sample == 0:
        return generator.manual_seed(seed)
    spawned = np.random.SeedSequence(seed, spawn_key=(sample,)).generate_state(1, np.uint32)
    return generator.manual_seed(int(spawned[0]))
