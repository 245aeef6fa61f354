"""ptb-lm: recurrent language models and the figures of arXiv 1409.2329 on the Penn Treebank.

For a notebook, the functions that the command line uses itself::

    from ptb_lm import evaluate, generate, load, prepare, score

    model = load("runs/small-seed1/last.pt")
    evaluate(model).perplexity
    [sentence.perplexity for sentence in score(model, ["the company said", "said company the"])]
    " ".join(generate(model, "the company"))

For a corpus of a text of one's own there is ``prepare(["book.txt"], "my-text")``, and for a model
that adapts to the text that it is evaluated on::

    from ptb_lm import Cache, Dynamic, adaptive

    evaluate(model, way=adaptive(Dynamic.tuned("rms"), Cache.tuned(2000))).perplexity
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ptb_lm.version import __version__

if TYPE_CHECKING:
    from ptb_lm.corpus.prepare import Preparation, prepare
    from ptb_lm.evaluation.cache import Cache
    from ptb_lm.evaluation.dynamic import Dynamic
    from ptb_lm.evaluation.evaluate import evaluate
    from ptb_lm.evaluation.export import export
    from ptb_lm.evaluation.generate import Sampling, generate
    from ptb_lm.evaluation.score import SentenceScore, score
    from ptb_lm.evaluation.trained import TrainedModel, load
    from ptb_lm.evaluation.ways import adaptive

__all__ = [
    "Cache",
    "Dynamic",
    "Preparation",
    "Sampling",
    "SentenceScore",
    "TrainedModel",
    "__version__",
    "adaptive",
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
    "Cache": "ptb_lm.evaluation.cache",
    "Dynamic": "ptb_lm.evaluation.dynamic",
    "TrainedModel": "ptb_lm.evaluation.trained",
    "adaptive": "ptb_lm.evaluation.ways",
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
