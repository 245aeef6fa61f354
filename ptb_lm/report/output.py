"""Writing a report into a folder."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path

from ptb_lm.durable import durable_file
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.paths import utf8_text
from ptb_lm.regular import NotRegularError, open_regular
from ptb_lm.report.as_json import report_json
from ptb_lm.report.comparison import HEADING, Comparison
from ptb_lm.report.curves import draw_curves, has_curve
from ptb_lm.report.markdown import report_markdown
from ptb_lm.report.page import page_beginning, report_page
from ptb_lm.strict_json import to_json

logger = logging.getLogger(__name__)

BEGINNINGS = {
    "report.md": f"# {HEADING}\n".encode(),
    "report.json": b'{\n  "paper": [',
    "report.html": page_beginning().encode(),
}
"""By which a file of a report is known, so that no other one of the same name is replaced."""


def write_report(comparison: Comparison, folder: Path) -> list[Path]:
    """Write ``report.md``, ``report.json``, ``report.html`` and the curves of each group.

    Where matplotlib is missing, a warning says that the curves are.

    Returns:
        the files.

    Raises:
        InputError: the folder's name is taken by a file, or in it a report's name is, by a file
            that is none.
        PtbLmError: it or a file in it cannot be written.
    """
    if os.path.exists(folder) and not os.path.isdir(folder):  # noqa: PTH110, PTH112
        raise InputError(f"--out {folder}: not a folder; name a folder for the report")
    curves = _drawn(comparison)
    names = {name: f"curves-{name}.png" for name in curves}
    contents = {
        f"curves-{name}.{form}": data
        for name, files in curves.items()
        for form, data in files.items()
    }
    drawings = {name: files["svg"] for name, files in curves.items()}
    contents |= {
        "report.md": utf8_text(f"{report_markdown(comparison, names)}\n").encode(),
        "report.json": f"{to_json(report_json(comparison), indent=2)}\n".encode(),
        "report.html": utf8_text(report_page(comparison, drawings)).encode(),
    }
    _require_own_or_absent(folder, contents)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PtbLmError(f"{folder}: cannot be created: {error.strerror}") from None
    # The curves last: by the others a folder is known, wherever this is broken off.
    for name in sorted(contents, key=lambda name: name not in BEGINNINGS):
        with durable_file(folder / name) as file:
            file.write(contents[name])
    return [folder / name for name in contents]


def _require_own_or_absent(folder: Path, names: Iterable[str]) -> None:
    """Raise InputError if a file would be replaced that no report before this one has left.

    Curves look like anybody's: they are a report's where one lies beside them.
    """
    is_own = {name: _is_own(folder / name, mark) for name, mark in BEGINNINGS.items()}
    for name in names:
        is_known = is_own[name] if name in is_own else any(is_own.values())
        if os.path.lexists(folder / name) and not is_known:
            raise InputError(
                f"--out {folder}: {name} in it was not written by ptb-lm report and would go; "
                "name another folder"
            )


def _is_own(path: Path, beginning: bytes) -> bool:
    """Whether a file is there and begins as a report's does."""
    try:
        with open_regular(path) as file:
            return file.read(len(beginning)) == beginning
    except (NotRegularError, FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise PtbLmError(f"{path}: cannot be read: {error.strerror}") from None


def _drawn(comparison: Comparison) -> dict[str, dict[str, bytes]]:
    """Return the curves of each group that has any, by its name and the file's format."""
    try:
        return {group.name: draw_curves(group) for group in comparison.groups if has_curve(group)}
    except ImportError:
        logger.warning("No curves: they need matplotlib: pip install 'ptb-lm[report]'")
        return {}
