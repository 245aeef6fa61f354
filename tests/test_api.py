"""What a notebook imports: the functions that the command line uses itself."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from cli_support import done, done_json, furnish

import ptb_lm

LAST = "runs/a/last.pt"


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = furnish(tmp_path_factory.mktemp("api"))
    with chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def model() -> ptb_lm.TrainedModel:
    return ptb_lm.load(LAST, device="cpu")


def test_each_public_name_is_there_and_no_other() -> None:
    assert all(getattr(ptb_lm, name) for name in ptb_lm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'evaluat'"):
        ptb_lm.evaluat  # noqa: B018


def test_the_package_itself_imports_no_torch() -> None:
    code = "import sys, ptb_lm; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_evaluate_gives_what_the_command_prints(model: ptb_lm.TrainedModel, split: str) -> None:
    (member,) = done_json("eval", LAST, "--split", split)["members"]
    scores = ptb_lm.evaluate(model, split)
    assert scores.perplexity == member["perplexity"]
    assert len(scores.log_probabilities) == member["tokens"]


def test_evaluate_takes_a_text(model: ptb_lm.TrainedModel) -> None:
    assert (
        ptb_lm.evaluate(model, text="text/test.txt").perplexity == ptb_lm.evaluate(model).perplexity
    )


def test_generate_gives_what_the_command_prints(model: ptb_lm.TrainedModel) -> None:
    printed = done("generate", LAST, "--words", "30", "--seed", "5", "--prompt", "a b").out
    drawn = ptb_lm.generate(model, ["a", "b"], 30, generator=torch.Generator().manual_seed(5))
    assert words_and_lines(["a", "b", *drawn]) == printed
    greedy = done("generate", LAST, "--words", "9", "--top-k", "1", "--top-p", "0.5").out
    sampling = ptb_lm.Sampling(top_k=1, top_p=0.5)
    assert words_and_lines(ptb_lm.generate(model, count=9, sampling=sampling)) == greedy
    assert len(list(ptb_lm.generate(model, ["a"]))) == 100


def test_score_gives_what_the_command_prints(model: ptb_lm.TrainedModel) -> None:
    lines = Path("text/test.txt").read_text().splitlines()
    printed = done("score", LAST, "text/test.txt", "--json-lines").out.splitlines()
    for sentence, line in zip(ptb_lm.score(model, lines), printed, strict=True):
        row = json.loads(line)
        assert sentence.log_probability == row["log_probability_nats"]
        assert sentence.perplexity == row["perplexity"]


def words_and_lines(words: Iterable[str]) -> str:
    return " ".join(words).replace(" <eos>", "\n").replace("\n ", "\n") + "\n"
