"""The keys of a config as a part of docs/COMMANDS.md, from the docstrings of ptb_lm/config.py."""

import ast
import inspect
from collections.abc import Iterator

from ptb_lm import config
from ptb_lm.config import FORMER_KEYS, KINDS, Config, DropoutRates, Section

HEAD = """## Config keys

A preset has the sections `[model]`, `[training]`, `[optimizer]` and `[schedule]`, the
`config.toml` of a run also `[run]`. In a call a key is set by `--set section.key=value`;
`ptb-lm config show NAME` prints a preset. Which keys `[optimizer]` and `[schedule]` have depends on
their `kind`; where `--set` changes the kind, keys that the new kind lacks are left out.

{former}
"""


def config_reference() -> str:
    """Return the part of the page."""
    former = ", ".join(f"`{section}.{key}`" for section, key in FORMER_KEYS)
    moved = "Configs of former versions are read as before, also by `--set`: they have the keys"
    parts = [HEAD.format(former=f"{moved} {former}.")]
    for name, field in Config.model_fields.items():
        if name in KINDS:
            parts.append(f"### [{name}]\n")
            for each in dict.fromkeys(KINDS[name].values()):
                kinds = [f'`"{kind}"`' for kind, other in KINDS[name].items() if other is each]
                parts += [f"`kind` {' or '.join(kinds)}: {_headline(each)}\n", *_table(each)]
            continue
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
    if section.model_fields.keys() == {"kind"}:
        return
    yield "| key | what it is | default |"
    yield "|---|---|---|"
    for key, field in section.model_fields.items():
        if key == "kind":
            continue
        has_none = field.is_required() or field.default is None
        default = "" if has_none else f"`{config.toml_value(field.default)}`"
        yield f"| `{key}` | {docstrings.get(key, '')} | {default} |"
    yield ""


def _headline(section: type[Section]) -> str:
    """Return the first sentence of a section's docstring."""
    return " ".join((section.__doc__ or "").split())


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
