"""ptb-lm: recurrent language models and the figures of arXiv 1409.2329 on the Penn Treebank.

For a notebook, the functions that the command line uses itself::

    from ptb_lm import evaluate, generate, load, prepare

    model = load("runs/small-seed1/last.pt")
    evaluate(model).perplexity
    " ".join(generate(model, ["the", "company"]))

and ``prepare(["book.txt"], "my-text")``, which makes a corpus of a text.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptb_lm.version import __version__

if TYPE_CHECKING:
    from ptb_lm.corpus.prepare import Preparation, prepare
    from ptb_lm.evaluation.evaluate import evaluate
    from ptb_lm.evaluation.generate import generate
    from ptb_lm.evaluation.trained import TrainedModel, load

__all__ = [
    "Preparation",
    "TrainedModel",
    "__version__",
    "evaluate",
    "generate",
    "load",
    "prepare",
]

# Imported when they are asked for: they need torch, and much of the command line does not.
_MODULES = {
    "Preparation": "ptb_lm.corpus.prepare",
    "TrainedModel": "ptb_lm.evaluation.trained",
    "evaluate": "ptb_lm.evaluation.evaluate",
    "generate": "ptb_lm.evaluation.generate",
    "load": "ptb_lm.evaluation.trained",
    "prepare": "ptb_lm.corpus.prepare",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
