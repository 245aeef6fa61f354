"""ptb-lm: recurrent language models and the figures of arXiv 1409.2329 on the Penn Treebank.

For a notebook, the functions that the command line uses itself::

    from ptb_lm import evaluate, generate, load, prepare, score

    model = load("runs/small-seed1/last.pt")
    evaluate(model).perplexity
    [sentence.perplexity for sentence in score(model, ["the company said", "said company the"])]
    " ".join(generate(model, ["the", "company"]))

and ``prepare(["book.txt"], "my-text")``, which makes a corpus of a text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptb_lm.version import __version__

if TYPE_CHECKING:
    from ptb_lm.corpus.prepare import Preparation, prepare
    from ptb_lm.evaluation.evaluate import evaluate
    from ptb_lm.evaluation.export import export
    from ptb_lm.evaluation.generate import Sampling, generate
    from ptb_lm.evaluation.score import SentenceScore, score
    from ptb_lm.evaluation.trained import TrainedModel, load

__all__ = [
    "Preparation",
    "Sampling",
    "SentenceScore",
    "TrainedModel",
    "__version__",
    "evaluate",
    "export",
    "generate",
    "load",
    "prepare",
    "score",
]

# Imported when they are asked for: they need torch, and much of the command line does not.
_MODULES = {
    "Preparation": "ptb_lm.corpus.prepare",
    "Sampling": "ptb_lm.evaluation.generate",
    "SentenceScore": "ptb_lm.evaluation.score",
    "TrainedModel": "ptb_lm.evaluation.trained",
    "evaluate": "ptb_lm.evaluation.evaluate",
    "export": "ptb_lm.evaluation.export",
    "generate": "ptb_lm.evaluation.generate",
    "load": "ptb_lm.evaluation.trained",
    "prepare": "ptb_lm.corpus.prepare",
    "score": "ptb_lm.evaluation.score",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
