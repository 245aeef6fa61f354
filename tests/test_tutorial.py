"""The tutorial is typed as it stands, and prints what it shows.

Nothing is made small here, as the tutorial is. Its outputs are real (`make docs` writes them). On
another machine they may differ in what depends on it: speeds and times are not compared, nor how
far a training had come when Ctrl-C reached it; perplexities are to be the same to a twentieth, and
of sampled text the words are to be words of the text, and as many. Where a block has the note
"without figures", which are of single words, only what the page says of them is held.
"""

import re
from contextlib import chdir
from pathlib import Path

import pytest
from cli_support import done
from doc_commands import Reader
from fenced import Block, command_lines
from tutorial import PAGE, ROOT, command_of, stop_after, typed, what_is_typed, with_outputs

TOLERANCE = 0.05
BY_MACHINE = re.compile(
    r"[\d,.]+ words/s|\d+:\d\d(:\d\d)?|after step [\d,]+"
    # Of `watch`: how far it is, its speeds, its bar and its curves.
    r"|step [\d,]+ of|train +\S+ so far|[\d.]+ %|(?<=\.\d{4}) +[\d,]+|[━─]+|[ ⠀-⣿]*[⠀-⣿][ ⠀-⣿]*"
)
NUMBER = re.compile(r"(?<![\w.])-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?(?!\w)")
SAMPLED = "compared: words of the text, as many"
WITHOUT_FIGURES = "compared: without figures"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Someone in a folder in which nothing is small."""
    folder = tmp_path_factory.mktemp("tutorial")
    (folder / "scripts").symlink_to(ROOT / "scripts")
    return Reader.in_world(folder, folder)


@pytest.fixture(scope="module")
def outputs(reader: Reader) -> list[tuple[Block, str]]:
    """What the page shows, and what its commands print."""
    page = PAGE.read_text(encoding="utf-8")
    printed = [(shown, type_in(reader, block, shown)) for block, shown in what_is_typed(page)]
    return [(shown, out) for shown, out in printed if shown is not None]


def type_in(reader: Reader, block: Block, shown: Block | None) -> str:
    if block.language == "python":
        return reader.runs_python(block.text)
    if stop_after(shown) is not None:
        return typed(command_of(block), reader.folder, reader.environment, stop_after(shown))
    return "".join(reader.types(command) for _, command in command_lines(block))


def test_the_tutorial_shows_what_its_commands_print(outputs: list[tuple[Block, str]]) -> None:
    assert len(outputs) > 10
    for shown, printed in outputs:
        if shown.note != SAMPLED:
            different = differences(shown.text, printed, figures=shown.note != WITHOUT_FIGURES)
            assert different == [], f"{PAGE.name}:{shown.line}\n{printed}"


def test_what_is_sampled_is_of_the_text(reader: Reader, outputs: list[tuple[Block, str]]) -> None:
    ((shown, printed),) = [each for each in outputs if each[0].note == SAMPLED]
    assert set(printed.split()) <= set((reader.folder / "harbour.txt").read_text().split())
    of_page, of_here = (
        len(text.rstrip().replace("\n", " <eos> ").split()) for text in (shown.text, printed)
    )
    assert of_page == pytest.approx(of_here, abs=1)  # the last may be an <eos>


@pytest.mark.usefixtures("outputs")
def test_what_the_tutorial_says_of_its_sentences_holds(reader: Reader) -> None:
    score = ("score", "runs/harbour/last.pt", "lines.txt")
    with chdir(reader.folder):
        lines = [line.split("\t") for line in done(*score).out.splitlines()[1:]]
        words = [line.split("\t") for line in done(*score, "--per-word").out.splitlines()[1:]]
    right, wrong_verb, wrong_order = (float(line[4]) for line in lines)
    assert right > wrong_verb + 1 > wrong_order + 50
    bits = {line[2]: float(line[3]) for line in words if line[0] == "2"}
    assert max(bits, key=lambda word: bits[word]) == "was"


def differences(shown: str, printed: str, *, figures: bool) -> list[tuple[str, str]]:
    """Return the lines of two outputs that differ in more than the machine explains."""
    mine, theirs = shown.rstrip().splitlines(), printed.rstrip().splitlines()
    if len(mine) != len(theirs):
        return [(f"{len(mine)} lines", f"{len(theirs)} lines")]
    pairs = zip(mine, theirs, strict=True)
    return [pair for pair in pairs if not same_line(*pair, figures=figures)]


def same_line(shown: str, printed: str, *, figures: bool = True) -> bool:
    mine, theirs = (" ".join(BY_MACHINE.sub("…", line).split()) for line in (shown, printed))
    if NUMBER.sub("#", mine) != NUMBER.sub("#", theirs):
        return False
    pairs = zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=True)
    return not figures or all(
        float(one.replace(",", "")) == pytest.approx(float(other.replace(",", "")), rel=TOLERANCE)
        for one, other in pairs
    )


@pytest.mark.parametrize(
    ("printed", "same"),
    [
        ("epoch 1/6  train  17.11  4,000 words/s  eta 0:00:09", True),
        ("epoch 1/6  train  19.00  8,123 words/s  eta 0:00:05", False),
        ("epoch 2/6  train  16.97  8,123 words/s  eta 0:00:05", False),
        ("epoch 1/6  valid  16.97  8,123 words/s  eta 0:00:05", False),
    ],
)
def test_two_lines_are_the_same_but_for_the_machine(printed: str, same: bool) -> None:
    shown = "epoch 1/6  train    16.97     8,123 words/s  eta 0:00:05"
    assert same_line(shown, printed) is same


def test_outputs_are_written_where_they_belong(tmp_path: Path) -> None:
    one = "```sh\necho a\necho b\n```\n\n```text\nold\n```\n\n"
    page = f"{one}```sh\necho c\n```\nc:\n\n```text\n```\n"
    shown = [shown for _, shown in what_is_typed(page) if shown]
    for _ in range(2):
        page = with_outputs(page, {shown[0].line: "a\nb\n", shown[1].line: "c\n"})
        shown = [shown for _, shown in what_is_typed(page) if shown]
        assert [block.text for block in shown] == ["a\nb", "c"]
    for block, after in what_is_typed(page):
        printed = typed(command_of(block), tmp_path, {"PATH": "/usr/bin:/bin"})
        assert after is not None
        assert printed.rstrip() == after.text
    with pytest.raises(RuntimeError, match="exit code 3"):
        typed(["bash", "-c", "exit 3"], tmp_path, {"PATH": "/usr/bin:/bin"})
