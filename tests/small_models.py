"""Models of a few words with weights drawn at random: decided, as no short training makes them."""

from collections.abc import Sequence

import torch

from ptb_lm.config import resolve
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.network import LanguageModel

LETTERS = "abcdefgh"


def decided_model(
    words: Sequence[str] = LETTERS, width: float = 1.0, **keys: object
) -> TrainedModel:
    """Return a model over words, ``<eos>`` and ``<unk>`` with weights from U(-width, width).

    Keys are of ``[model]``.
    """
    assignments = [f"model.{key}={value}" for key, value in {"hidden_size": 12, **keys}.items()]
    config = resolve("small", assignments, {"data": "text", "device": "cpu", "precision": "fp32"})
    vocabulary = Vocabulary([EOS, UNK, *words])
    network = LanguageModel(config.model, len(vocabulary)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-width, width, generator=generator)
    return TrainedModel("model", config, vocabulary, "0" * 64, network)
