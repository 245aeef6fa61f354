"""The keys of a config as a part of docs/COMMANDS.md, from the docstrings of ptb_lm/config.py."""

import ast
import inspect
from collections.abc import Iterator

from ptb_lm import config
from ptb_lm.config import Config, DropoutRates, Section

HEAD = """## Config keys

A preset has the sections `[model]` and `[training]`, the `config.toml` of a run also `[run]`. In a
call a key is set by `--set section.key=value`; `ptb-lm config show NAME` prints a preset.
"""


def config_reference() -> str:
    """Return the part of the page."""
    parts = [HEAD]
    for name, field in Config.model_fields.items():
        section = field.annotation
        assert isinstance(section, type) and issubclass(section, Section)
        parts += [f"### [{name}]\n", *_table(section)]
    parts += [
        "### Rates of dropout\n",
        "`model.dropout` is one rate, or a table with one for each place:\n",
        *_table(DropoutRates),
    ]
    return "\n".join(parts)


def _table(section: type[Section]) -> Iterator[str]:
    docstrings = dict(_docstrings(section))
    yield "| key | what it is | default |"
    yield "|---|---|---|"
    for key, field in section.model_fields.items():
        has_none = field.is_required() or field.default is None
        default = "" if has_none else f"`{config.toml_value(field.default)}`"
        yield f"| `{key}` | {docstrings.get(key, '')} | {default} |"
    yield ""


def _docstrings(section: type[Section]) -> Iterator[tuple[str, str]]:
    """Yield the keys of a section that a string stands below, each with this."""
    (body,) = ast.parse(inspect.getsource(section)).body
    assert isinstance(body, ast.ClassDef)
    for statement, below in zip(body.body, body.body[1:], strict=False):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            text = " ".join(str(below.value.value).split()).replace("``", "`")
            yield statement.target.id, cell(text)


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table has it."""
    return text.replace("|", r"\|")
