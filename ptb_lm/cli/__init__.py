"""The command line: options in, a call of one function of the package, results out.

A module holds a command or a few that belong together. What imports torch is imported inside the
command that needs it, so that ``--help`` and the commands that only read text answer at once.
"""

# In the order of --help.
from ptb_lm.cli import (  # isort: skip
    data,
    train,
    watch,
    evaluate,
    score,
    generate,
    export,
    report,
    compare,
    bench,
    config,
)
from ptb_lm.cli.app import app

__all__ = [
    "app",
    "bench",
    "compare",
    "config",
    "data",
    "evaluate",
    "export",
    "generate",
    "report",
    "score",
    "train",
    "watch",
]
