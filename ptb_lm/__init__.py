"""ptb-lm: recurrent language models and the figures of arXiv 1409.2329 on the Penn Treebank."""

__version__ = "0.1.0"
