"""The public functions accept what a person would pass, or refuse it in one line, at the call."""

from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import furnish
from small_models import decided_model

import ptb_lm
from ptb_lm import Cache, Dynamic, Preparation, Sampling
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import TrainedModel

LAST = "runs/a/last.pt"


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = furnish(tmp_path_factory.mktemp("arguments"))
    with chdir(folder):
        yield folder


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return decided_model()


def drawn(model: TrainedModel, prompt: Any) -> list[str]:
    generator = torch.Generator().manual_seed(1)
    return list(ptb_lm.generate(model, prompt, 30, generator=generator))


def refusal(kind: type[Exception], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "prompt",
    [
        "a b c",
        " a\tb\nc ",
        ["a", "b", "c"],
        ("a b", "c"),
        np.array(["a", "b", "c"]),
        (word for word in "abc"),
        np.str_("a b c"),
    ],
)
def test_a_prompt_is_split_at_white_space(model: TrainedModel, prompt: Any) -> None:
    assert drawn(model, prompt) == drawn(model, ["a", "b", "c"])
    assert drawn(model, "a b c") != drawn(model, list("a b c"[1:]))


LINES = ["a b", "c d e", ""]


@pytest.mark.parametrize(
    "lines",
    [
        LINES,
        tuple(LINES),
        iter(LINES),
        np.array(LINES),
        [line.split() for line in LINES],
        [tuple(line.split()) for line in LINES],
        ([line] for line in LINES),
        [f"{line}\n" for line in LINES],
        [np.array(line.split(), dtype=str) for line in LINES],
        [iter(line.split()) for line in LINES],
    ],
)
def test_lines_are_texts_or_words(model: TrainedModel, lines: Any) -> None:
    expected = [sentence.log_probability for sentence in ptb_lm.score(model, LINES)]
    scores = list(ptb_lm.score(model, lines))
    assert [sentence.words for sentence in scores] == [line.split() for line in LINES]
    assert [sentence.log_probability for sentence in scores] == expected


def test_a_column_of_a_data_frame_is_lines(model: TrainedModel) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": LINES})
    assert len(list(ptb_lm.score(model, frame["text"]))) == 3
    assert drawn(model, frame["text"]) == drawn(model, LINES)
    message = refusal(TypeError, lambda: ptb_lm.score(model, frame))
    assert message.startswith("lines: ")
    assert message.endswith("got DataFrame; give one column of it")


WRONG_LINES = [None, 3, b"a b", Path("x"), {"a": 1}, {"a b"}, np.array("a"), [1], [None], [b"a"]]


@pytest.mark.parametrize("lines", [*WRONG_LINES, [["a", 1]], ["a", 1.5], [{"a"}], [[["a"]]]])
def test_other_lines_are_refused_at_the_call(model: TrainedModel, lines: Any) -> None:
    assert refusal(TypeError, lambda: ptb_lm.score(model, lines)).startswith("lines: ")


def test_a_line_that_comes_later_is_named(model: TrainedModel) -> None:
    scores = ptb_lm.score(model, iter(["a", b"b"]), lines_at_once=1)  # type: ignore[list-item]
    next(scores)
    message = refusal(TypeError, lambda: next(scores))
    assert message == "lines: line 2: expected a text or a list of words, got bytes"


@pytest.mark.parametrize("prompt", [None, 3, b"a", ["a", None], [1], {"a"}, {"a": 1}, [["a"]]])
def test_other_prompts_are_refused_at_the_call(model: TrainedModel, prompt: Any) -> None:
    message = refusal(TypeError, lambda: ptb_lm.generate(model, prompt))
    assert message.startswith("prompt: ")


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        (InputError, "count", {"count": -1}),
        (TypeError, "count", {"count": 2.0}),
        (TypeError, "count", {"count": "5"}),
        (TypeError, "count", {"count": None}),
        (TypeError, "count", {"count": True}),
        (TypeError, "sampling", {"sampling": {"top_k": 1}}),
        (TypeError, "sampling", {"sampling": None}),
        (TypeError, "generator", {"generator": 1}),
        (TypeError, "generator", {"generator": np.random.default_rng(1)}),
    ],
)
def test_other_options_are_refused_at_the_call(
    model: TrainedModel, kind: type[Exception], name: str, options: dict[str, Any]
) -> None:
    assert refusal(kind, lambda: ptb_lm.generate(model, "a", **options)).startswith(name)


def test_whole_numbers_may_be_numpys(model: TrainedModel) -> None:
    sampling = Sampling(top_k=np.int64(1), temperature=np.float32(0.5))  # type: ignore[arg-type]
    count: Any = np.int64(3)
    assert len(list(ptb_lm.generate(model, "a", count, sampling))) == 3
    assert list(ptb_lm.generate(model, "a", 0)) == []
    assert len(list(ptb_lm.score(model, ["a"], lines_at_once=count))) == 1


@pytest.mark.parametrize("value", [LAST, Path(LAST), None, 3, {}, torch.nn.Linear(1, 1)])
def test_a_model_is_what_load_returns(value: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: ptb_lm.score(value, ["a"]),
        lambda: ptb_lm.generate(value, "a"),
        lambda: ptb_lm.evaluate(value),
    ]
    advice = f"load({LAST!r})" if isinstance(value, str | Path) else "load(path)"
    for call in calls:
        message = refusal(TypeError, call)
        assert message.startswith("model: expected TrainedModel, got ")
        assert message.endswith(f"try {advice}")


@pytest.mark.parametrize("value", [None, 3, b"runs/a", [LAST], decided_model()])
def test_a_model_is_loaded_from_a_path(value: Any) -> None:
    assert refusal(TypeError, lambda: ptb_lm.load(value)).startswith("path: expected a path")
    assert refusal(TypeError, lambda: ptb_lm.export(value, "x")).startswith("path: expected a path")
    assert refusal(TypeError, lambda: ptb_lm.export(LAST, value)).startswith("folder: expected")


def test_a_device_may_be_pytorchs() -> None:
    loaded = ptb_lm.load(LAST, torch.device("cpu"))  # type: ignore[arg-type]
    assert loaded.network.softmax.weight.device.type == "cpu"
    message = refusal(InputError, lambda: ptb_lm.load(LAST, None))  # type: ignore[arg-type]
    assert "device" in message


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        (TypeError, "text", {"text": b"text/test.txt"}),
        (TypeError, "text", {"text": ["a b"]}),
        (InputError, "text", {"text": "a b\nc d\n"}),
        (TypeError, "data", {"data": 3}),
        (TypeError, "data_dir", {"data_dir": b"x"}),
        (TypeError, "way", {"way": "rms"}),
        (TypeError, "way", {"way": Cache.tuned(10)}),
        (TypeError, "way", {"way": None}),
        (TypeError, "split: expected str, got int", {"split": 1}),
        (InputError, "--protocol", {"protocol": ["stream"]}),
    ],
)
def test_other_arguments_of_evaluate_are_refused(
    model: TrainedModel, kind: type[Exception], name: str, options: dict[str, Any]
) -> None:
    assert refusal(kind, lambda: ptb_lm.evaluate(model, **options)).startswith(name)


@pytest.mark.parametrize(
    ("kind", "name", "make"),
    [
        (TypeError, "dynamic", lambda: ptb_lm.adaptive("rms")),
        (TypeError, "dynamic", lambda: ptb_lm.adaptive(Cache.tuned(10))),
        (TypeError, "cache", lambda: ptb_lm.adaptive(cache=2000)),
        (TypeError, "size", lambda: Cache.tuned("2000")),
        (TypeError, "size", lambda: Cache.tuned(2000.0)),
        (TypeError, "theta", lambda: Cache.tuned(10, theta="0.1")),
        (TypeError, "weight", lambda: Cache(10, 0.1, None)),
        (InputError, "--dynamic", lambda: Dynamic.tuned(["rms"])),
        (TypeError, "rate", lambda: Dynamic.tuned("rms", rate="0.1")),
        (TypeError, "decay", lambda: Dynamic("rms", 0.1, None)),
        (TypeError, "segment", lambda: Dynamic("rms", 0.1, 0.1, segment=2.5)),
        (InputError, "segment", lambda: Dynamic("rms", 0.1, 0.1, segment=0)),
        (InputError, "epsilon", lambda: Dynamic("rms", 0.1, 0.1, epsilon=0)),
        (TypeError, "temperature", lambda: Sampling(temperature="1")),
        (InputError, "temperature", lambda: Sampling(temperature=0)),
        (TypeError, "top_k", lambda: Sampling(top_k=2.5)),
        (TypeError, "top_p", lambda: Sampling(top_p=None)),
        (TypeError, "allow_unknown", lambda: Sampling(allow_unknown="no")),
        (TypeError, "valid_share", lambda: Preparation(valid_share="0.1")),
        (TypeError, "min_count", lambda: Preparation(min_count=2.5)),
        (TypeError, "max_vocab", lambda: Preparation(max_vocab="100")),
        (TypeError, "lower", lambda: Preparation(lower="yes")),
        (TypeError, "seed", lambda: Preparation(seed=None)),
        (InputError, "--seed", lambda: Preparation(seed=-1)),
        (TypeError, "lines_at_once", lambda: ptb_lm.score(decided_model(), [], lines_at_once=1.5)),
        (InputError, "lines_at_once", lambda: ptb_lm.score(decided_model(), [], lines_at_once=0)),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(
    kind: type[Exception], name: str, make: Callable[[], object]
) -> None:
    assert refusal(kind, make).startswith(name)


def test_the_likeliest_word_is_named_where_the_temperature_is_0() -> None:
    assert "top-k 1" in refusal(InputError, lambda: Sampling(temperature=0.0))


@pytest.mark.parametrize(
    "files",
    ["text/train.txt", Path("text/train.txt"), ["text/train.txt"], iter(["text/train.txt"])],
)
def test_prepare_takes_one_path_or_several(files: Any, tmp_path: Path) -> None:
    assert ptb_lm.prepare(files, tmp_path / "new")["splits"]["train"]["lines"] > 0


@pytest.mark.parametrize(
    ("kind", "name", "arguments"),
    [
        (TypeError, "files", (None, "out")),
        (TypeError, "files", (b"x", "out")),
        (TypeError, "files: item 2", (["text/train.txt", 3], "out")),
        (InputError, "files", ([], "out")),
        (TypeError, "out", ("text/train.txt", None)),
        (TypeError, "out", ("text/train.txt", b"out")),
        (TypeError, "preparation", ("text/train.txt", "out", {"min_count": 3})),
        (TypeError, "preparation", ("text/train.txt", "out", None)),
    ],
)
def test_other_arguments_of_prepare_are_refused(
    kind: type[Exception], name: str, arguments: Any
) -> None:
    assert refusal(kind, lambda: ptb_lm.prepare(*arguments)).startswith(name)
    assert not Path("out").exists()
