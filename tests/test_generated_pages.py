"""The pages of docs/ that are made from code are those of today's code; links lead somewhere."""

import re
from pathlib import Path

import pytest
from command_reference import NAME, command_reference
from doc_commands import commands, options_of
from idea_figure import LAYERS, crossings, draw_idea, path

from ptb_lm.config import DropoutRates, ModelConfig, RunOptions, Section, TrainingConfig
from ptb_lm.report.curves import drawn

ROOT = Path(__file__).parents[1]
PAGES = {
    str(page.relative_to(ROOT)): page.read_text(encoding="utf-8")
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
}
LINK = re.compile(r"\]\(([^)\s]+)\)")
OF_EVERY_COMMAND = {"--help", "--debug"}


def test_the_reference_is_of_todays_commands() -> None:
    assert PAGES[f"docs/{NAME}"] == command_reference(), "make table writes it anew"


@pytest.mark.parametrize("name", commands())
def test_the_reference_has_every_option_of_a_command(name: str) -> None:
    """As the command line itself takes them, whatever the script makes of it."""
    _, _, section = PAGES[f"docs/{NAME}"].partition(f"\n## ptb-lm {name}\n")
    section, _, _ = section.partition("\n## ")
    shown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", section))
    assert options_of(commands()[name]) - OF_EVERY_COMMAND <= shown
    assert f"```text\nptb-lm {name}" in section


@pytest.mark.parametrize("section", [ModelConfig, TrainingConfig, RunOptions, DropoutRates])
def test_the_reference_explains_every_key_of_a_config(section: type[Section]) -> None:
    _, _, keys = PAGES[f"docs/{NAME}"].partition("\n## Config keys\n")
    for key in section.model_fields:
        assert re.search(rf"^\| `{key}` \| [^|]{{8,}}\.", keys, re.MULTILINE), key


def test_the_reference_has_every_variable_that_is_read() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "ptb_lm").rglob("*.py"))
    read = re.findall(r"environ(?:ment)?(?:\.\w+)?[\[(]\"([A-Z_]+)\"", source)
    assert {"PTB_LM_DATA_DIR", "WORLD_SIZE", "LOCAL_RANK"} <= set(read)
    _, _, variables = PAGES[f"docs/{NAME}"].partition("## Environment variables")
    assert [name for name in read if f"`{name}`" not in variables] == []


def test_the_figure_of_the_idea_is_drawn_by_todays_code() -> None:
    committed = (ROOT / "docs" / "idea.svg").read_bytes()
    assert drawn(draw_idea)["svg"] == committed, "make table draws it anew"


def test_the_path_of_the_figure_passes_dropout_as_often_as_the_page_says() -> None:
    steps = sum(arrow.recurrent for arrow in path())
    assert len(crossings(dropped_on_recurrent=False)) == LAYERS + 1 == 3
    assert len(crossings(dropped_on_recurrent=True)) == LAYERS + 1 + steps == 7


def test_the_code_that_the_idea_quotes_is_in_the_network() -> None:
    source = (ROOT / "ptb_lm" / "model" / "network.py").read_text(encoding="utf-8")
    quoted = [span for span in re.findall(r"`([^`\n]+)`", PAGES["docs/IDEA.md"]) if "self." in span]
    assert len(quoted) == 2
    assert [span for span in quoted if span not in source] == []


def anchors(page: str) -> set[str]:
    """Return what a link may point to within a page, as GitHub names its headings."""
    headings = re.findall(r"^#+ (.+)$", page, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    broken = []
    for target in LINK.findall(re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[name], flags=re.DOTALL)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / name).parent / file).resolve() if file else ROOT / name
        there = path.exists()
        if there and anchor:
            there = anchor in anchors(path.read_text(encoding="utf-8"))
        if not there:
            broken.append(target)
    assert broken == []
