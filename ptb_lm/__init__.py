"""ptb-lm: recurrent language models and the figures of arXiv 1409.2329 on the Penn Treebank.

For a notebook, the functions that the command line uses itself::

    from ptb_lm import evaluate, generate, load

    model = load("runs/small-seed1/last.pt")
    evaluate(model).perplexity
    " ".join(generate(model, ["the", "company"]))

and for a model that adapts to the text::

    from ptb_lm import Cache, Dynamic, adaptive

    evaluate(model, way=adaptive(Dynamic.tuned("rms"), Cache.tuned(2000))).perplexity
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptb_lm.version import __version__

if TYPE_CHECKING:
    from ptb_lm.evaluation.cache import Cache
    from ptb_lm.evaluation.dynamic import Dynamic
    from ptb_lm.evaluation.evaluate import evaluate
    from ptb_lm.evaluation.generate import generate
    from ptb_lm.evaluation.trained import TrainedModel, load
    from ptb_lm.evaluation.ways import adaptive

__all__ = [
    "Cache",
    "Dynamic",
    "TrainedModel",
    "__version__",
    "adaptive",
    "evaluate",
    "generate",
    "load",
]

# Imported when they are asked for: they need torch, and much of the command line does not.
_MODULES = {
    "Cache": "ptb_lm.evaluation.cache",
    "Dynamic": "ptb_lm.evaluation.dynamic",
    "TrainedModel": "ptb_lm.evaluation.trained",
    "adaptive": "ptb_lm.evaluation.ways",
    "evaluate": "ptb_lm.evaluation.evaluate",
    "generate": "ptb_lm.evaluation.generate",
    "load": "ptb_lm.evaluation.trained",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
