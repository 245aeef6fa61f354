"""What a shell offers for the value of an option when Tab is pressed.

Each function takes what has been typed so far. The values are defined elsewhere and imported from
there inside the function: without torch, as a shell waits for the answer.
"""

from typing import get_args


def preset(incomplete: str) -> list[tuple[str, str]]:
    """Return the presets, each with what it is; a shell completes the names of files itself."""
    from ptb_lm.config import preset_headline, preset_names

    return [(name, preset_headline(name)) for name in preset_names() if name.startswith(incomplete)]


def corpus(incomplete: str) -> list[str]:
    """Return the corpora that have a name."""
    from ptb_lm.config import BUILT_IN

    return _beginning(incomplete, BUILT_IN)


def split(incomplete: str) -> list[str]:
    """Return the splits of a corpus."""
    from ptb_lm.corpus.splits import SPLITS

    return _beginning(incomplete, SPLITS)


def protocol(incomplete: str) -> list[str]:
    """Return the protocols of evaluation."""
    from ptb_lm.evaluation.scores import PROTOCOLS

    return _beginning(incomplete, PROTOCOLS)


def device(incomplete: str) -> list[str]:
    """Return the devices."""
    return _run_option("device", incomplete)


def precision(incomplete: str) -> list[str]:
    """Return the precisions."""
    return _run_option("precision", incomplete)


def log(incomplete: str) -> list[str]:
    """Return what metrics can be written for."""
    from ptb_lm.training.event_file import LOGS

    return _beginning(incomplete, LOGS)


def _run_option(key: str, incomplete: str) -> list[str]:
    from ptb_lm.config import RunOptions

    return _beginning(incomplete, get_args(RunOptions.model_fields[key].annotation))


def _beginning(incomplete: str, values: tuple[str, ...]) -> list[str]:
    return [value for value in values if value.startswith(incomplete)]
