"""What a notebook imports: the functions that the command line uses itself."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path

import pytest
import torch
from cli_support import done, done_json, furnish

import ptb_lm
from ptb_lm.errors import InputError

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


def test_evaluate_takes_the_data_from_where_it_lies_now(model: ptb_lm.TrainedModel) -> None:
    Path("text").rename("elsewhere")
    try:
        (member,) = done_json("eval", LAST, "--data", "elsewhere")["members"]
        assert ptb_lm.evaluate(model, data=Path("elsewhere")).perplexity == member["perplexity"]
    finally:
        Path("elsewhere").rename("text")
    assert ptb_lm.evaluate(model).perplexity == member["perplexity"]


def test_a_test_text_may_be_another_by_now(model: ptb_lm.TrainedModel) -> None:
    shutil.copytree("text", "later")
    Path("later/test.txt").write_text("a b c\n")
    assert len(ptb_lm.evaluate(model, data="later").log_probabilities) == 3
    Path("later/valid.txt").write_text("a b c\n")
    with pytest.raises(InputError, match="the texts of the data later are not those"):
        ptb_lm.evaluate(model, data="later")


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
