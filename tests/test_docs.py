"""Every command that README.md, CONTRIBUTING.md and docs/ show does what it says.

The commands of a page's `sh` blocks are run in the order in which they stand, in a folder of the
page's own, in a small world (small_world.py): presets of the same names with a few units, a corpus
of a few hundred words. Python blocks are run likewise; where a block of `text` follows one, that is
what it prints.

Not run, and so not known to work: programs of others (`git`, `rsync`, `sbatch`); what `make` would
run, of which only the programs and their options are looked at (the scripts have tests of their
own); several machines, which here are one, on its loopback interface; and Slurm, in whose batch
script `srun` and `scontrol` are stand-ins, and one node is all.

In running text and in tables a command is often a line of usage, with words that stand for others:
there the command and its options are looked up.
"""

import re
import shlex
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_world
from doc_commands import (
    Reader,
    WrongCommandError,
    check_extra,
    check_make,
    check_usage,
    commands,
    options_of,
    program,
)
from fenced import command_lines, fenced_blocks
from http_server import loopback_server
from torch.distributed.run import get_args_parser

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
TYPED_ELSEWHERE = {"docs/TUTORIAL.md"}  # in full size, by test_tutorial.py
LANGUAGES = {"sh", "python", "text", "toml"}
OF_OTHERS = {"--write-golden-losses", "--signal"}  # options of the test suite, of Slurm's sbatch
COLUMN_ESCAPE = r"\|"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("world")
    with loopback_server() as server, pytest.MonkeyPatch.context() as patch:
        server.serve_files("", small_world.build(folder, server.url))
        small_world.shrink(folder, patch.setattr)
        yield folder


@pytest.fixture
def reader(world: Path, tmp_path: Path) -> Reader:
    """Someone in a folder with a text of their own, and the evidence of this repository."""
    small_world.write_texts(tmp_path / "my-text")
    for evidence in (ROOT / "results").glob("small-seed*"):
        shutil.copytree(evidence, tmp_path / "results" / evidence.name)
    return Reader.in_world(tmp_path, world)


@pytest.mark.parametrize("name", [name for name in PAGES if name not in TYPED_ELSEWHERE])
def test_the_blocks_of_a_page_run(name: str, reader: Reader) -> None:
    complaints, printed = [], ""
    for block in fenced_blocks(PAGES[name]):
        if block.language == "sh":
            for line, command in command_lines(block):
                try:
                    reader.types(command)
                except WrongCommandError as error:
                    complaints.append(f"{name}:{line}: {command}\n  {error}")
        elif block.language == "python":
            try:
                printed = reader.runs_python(block.text)
            except WrongCommandError as error:
                complaints.append(f"{name}:{block.line}: {error}")
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.follows and printed and printed.rstrip() != block.text.rstrip():
            complaints.append(f"{name}:{block.line}: it prints\n{printed}")
        if block.language != "python":
            printed = ""
    assert not complaints, "\n\n".join(complaints)


@pytest.mark.parametrize("name", PAGES)
def test_every_block_says_what_it_is(name: str) -> None:
    blocks = fenced_blocks(PAGES[name])
    assert {block.language for block in blocks} <= LANGUAGES


def spans(page: str) -> Iterator[tuple[int, str]]:
    """Yield what stands as code in a page outside its blocks, each with its line."""
    inside = False
    for number, line in enumerate(page.splitlines(), start=1):
        if line.startswith("```"):
            inside = not inside
        elif not inside:
            for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", line):
                yield number, span.replace(COLUMN_ESCAPE, "|")


TORCHRUN_OPTIONS = {
    option for action in get_args_parser()._actions for option in action.option_strings
}
EVERY_OPTION = {
    option for command in (program(), *commands().values()) for option in options_of(command)
}


def check_span(span: str) -> None:
    """Check a command within a text; what is no command is no concern of ours."""
    words = span.split()
    match words:
        case ["ptb-lm", *rest] if rest:
            check_usage(re.split(r" (?:[|>]|2>)", " ".join(rest))[0].split())
        case ["make", *rest]:
            check_make([word.replace("=N", "=2") for word in rest])
        case ["pip", *_]:
            check_extra(shlex.split(span)[1:])
        case [option, *_] if option.startswith("--"):
            name = option.partition("=")[0].rstrip("…")
            known = EVERY_OPTION | TORCHRUN_OPTIONS | OF_OTHERS
            if name not in known:
                raise WrongCommandError(f"no command has an option {name}")
        case [name, option, *_] if name in commands() and option.startswith("--"):
            check_usage(words)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_within_a_text_are_there(name: str) -> None:
    complaints = []
    for line, span in spans(PAGES[name]):
        try:
            check_span(span)
        except WrongCommandError as error:
            complaints.append(f"{name}:{line}: `{span}`: {error}")
    assert not complaints, "\n".join(complaints)
