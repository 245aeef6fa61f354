"""Imports go one way, down the list of rooms; what reads text only imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ptb_lm

PACKAGE = Path(ptb_lm.__file__).parent

# From the top: a room may import those below it, and its own modules.
ROOMS = [
    "__init__",
    "__main__",
    "cli",
    "watch",
    "compare",
    "report",
    "bench",
    "evaluation",
    "training",
    "model",
    "corpus",
    "config",
    "lock",
    "durable",
    "regular",
    "strict_json",
    "stop",
    "streams",
    "arguments",
    "paths",
    "urls",
    "terminal",
    "errors",
    "version",
]


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports, wherever in it the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            if name == "ptb_lm" or name.startswith("ptb_lm."):
                found.add(name.removeprefix("ptb_lm").removeprefix(".") or "__init__")
    return found


SOURCES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def resolve_module(name: str) -> str:
    """The module that an imported name is or is in."""
    while name not in SOURCES:
        name, dot, _ = name.rpartition(".")
        if not dot:
            return "__init__"
    return name


GRAPH = {
    name: {resolve_module(imported) for imported in imports_of(path)}
    for name, path in SOURCES.items()
}


def test_every_room_is_in_the_list() -> None:
    assert {name.partition(".")[0] for name in GRAPH} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_no_import_goes_up(name: str) -> None:
    room = ROOMS.index(name.partition(".")[0])
    up = [other for other in GRAPH[name] if ROOMS.index(other.partition(".")[0]) < room]
    assert not up


def test_no_imports_go_in_a_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in GRAPH[name] - {name}:
                visit(other, (*path, name))
            done.add(name)

    for name in GRAPH:
        visit(name, ())
    assert done == set(GRAPH)


@pytest.mark.parametrize(
    "module",
    [
        *("cli", "__main__", "config"),
        *("corpus.describe", "corpus.download", "corpus.load"),
        *("watch.live", "report.output", "compare.text", "report.summary"),
        *("report.table", "training.event_file"),
    ],
)
def test_what_needs_no_torch_imports_none(module: str) -> None:
    code = f"import sys, ptb_lm.{module}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configs_are_complete_so_no_code_falls_back_on_a_default() -> None:
    """No `.get(key, default)` on a config outside config.py."""
    for name, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                with_default = node.func.attr == "get" and len(node.args) == 2
                owner = ast.unparse(node.func.value)
                assert not (with_default and "config" in owner), f"{name}: {ast.unparse(node)}"
