"""Inputs that ``score`` and ``generate`` refuse by size or kind, and the memory they take."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import done, furnish, ptb_lm
from small_models import decided_model

from ptb_lm import generate, score
from ptb_lm.corpus import reading
from ptb_lm.corpus.reading import LONGEST_LINE, LONGEST_WORD
from ptb_lm.evaluation.generate import PROMPT_WORDS_AT_ONCE
from ptb_lm.model.network import LanguageModel

LAST = "runs/a/last.pt"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = furnish(tmp_path_factory.mktemp("limits"))
    (folder / "one.txt").write_text("a b\n")
    return folder


@pytest.fixture(autouse=True)
def workplace(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)


def peak_megabytes(*arguments: str) -> tuple[int, str, float]:
    """Run a command: its exit code, standard error, and the most memory that it took."""
    code = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-m', 'ptb_lm', *sys.argv[1:]],"
        " stdout=subprocess.DEVNULL)\n"
        "print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    exit_code, peak = run.stdout.split()
    return int(exit_code), run.stderr, float(peak)


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_memory_is_bounded_whatever_a_line_holds(tmp_path: Path) -> None:
    _, _, idle = peak_megabytes("score", LAST, "one.txt")
    endless = tmp_path / "endless"
    endless.write_bytes(b"ab cd " * 20_000_000)
    longest = tmp_path / "longest"
    longest.write_text("é is a word of it " * (LONGEST_LINE // 20) + "\n")
    hypotheses = tmp_path / "hypotheses"
    hypotheses.write_text(f"u {'x' * 90_000}\n" * 600)
    for arguments, expected in (
        ([str(endless)], 2),
        ([str(hypotheses), "--nbest", "repeated"], 2),
        ([str(longest), "--json-lines"], 0),
    ):
        code, errors, peak = peak_megabytes("score", LAST, *arguments)
        assert code == expected, errors
        assert "Traceback" not in errors
        assert peak < idle + 200, arguments


def test_a_line_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LONGEST_WORD", 10)
    monkeypatch.setattr(reading, "LONGEST_LINE", 20)
    for text, part in (
        ("a b\n" + "c " * 10 + "\n", "line 2: longer than 20 bytes"),
        ("a b\n\n" + "c " * 10 + "d", "line 3: longer than 20 bytes"),
        ("a b\nabcdefghijk\n", "line 2: a word of 11 bytes"),
    ):
        Path("long.txt").write_text(text)
        outcome = ptb_lm("score", LAST, "one.txt", "long.txt")
        assert outcome.code == 2
        assert outcome.err.startswith(f"error: long.txt: {part}")
        assert outcome.err.count("\n") == 1
    for text in ("c " * 9 + "d\n", "abcdefghij\n" * 3, "c " * 10 + ""):
        Path("long.txt").write_text(text)
        assert done("score", LAST, "long.txt").err.count("error") == 0


def test_the_longest_word_is_scored() -> None:
    Path("word.txt").write_text("a " + "x" * LONGEST_WORD + " b\n")
    assert len(done("score", LAST, "word.txt", "--per-word").out.splitlines()) == 5


def test_few_long_words_are_held_at_once() -> None:
    taken = 0

    def lines() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield "x" * 100_000

    next(score(decided_model(), lines()))  # type: ignore[arg-type]
    assert taken <= 10


def test_a_prompt_is_read_in_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    steps, forward = [], LanguageModel.forward

    def noted(network: LanguageModel, words: object, hidden: object) -> object:
        steps.append(len(words))  # type: ignore[arg-type]
        return forward(network, words, hidden)  # type: ignore[arg-type]

    model, prompt = decided_model(), ["a", "b", "c"] * PROMPT_WORDS_AT_ONCE
    monkeypatch.setattr(LanguageModel, "forward", noted)
    assert len(list(generate(model, prompt, 2))) == 2
    assert steps == [PROMPT_WORDS_AT_ONCE] * 3 + [1, 1]  # the <eos> before it makes one more


KINDS = {
    "a checkpoint": "runs/b/last.pt",
    "a run folder": "runs/b",
    "a score file": "runs/b/scores-test.npz",
    "an exported model": "model",
    "the weights of an exported model": "model/model.safetensors",
    "a damaged checkpoint": "damaged.pt",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_no_text(kind: str) -> None:
    if "export" in kind:
        pytest.importorskip("safetensors")
        done("export", LAST, "--out", "model", "--overwrite")
    Path("damaged.pt").write_bytes(Path(LAST).read_bytes()[:3000])
    named = KINDS[kind]
    for arguments in (["score", LAST, named, "one.txt"], ["score", LAST, "one.txt", named]):
        outcome = ptb_lm(*arguments)
        assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
        assert outcome.err.startswith(f"error: {named}: {kind}")
        assert "score takes one model" in outcome.err
    outcome = ptb_lm("eval", LAST, "--text", named)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert outcome.err.startswith(f"error: --text {named}: {kind}")


@pytest.mark.parametrize("temperature", ["0", "0.0", "-1", "nan", "0.009"])
def test_greedy_is_named_where_the_temperature_is_0(temperature: str) -> None:
    outcome = ptb_lm("generate", LAST, "--temperature", temperature)
    assert (outcome.code, outcome.out) == (2, "")
    assert "--temperature" in outcome.err
    assert "--top-k 1" in outcome.err
    assert "Traceback" not in outcome.err
