"""Calls that give one key twice: by an option and by ``--set``."""

from pathlib import Path

import pytest
from cli_support import ptb_lm, train_arguments, write_texts

from ptb_lm.config import resolve
from ptb_lm.errors import InputError

CONTRADICTIONS = [
    ({"data": "A"}, "run.data=B"),
    ({"seed": 1}, "run.seed=2"),
    ({"device": "auto"}, "run.device=cpu"),
    ({"precision": "fp32"}, 'run.precision="bf16"'),
    ({"deterministic": True}, "run.deterministic=false"),
    ({"seed": 1}, "run.seed=true"),
]
AGREEMENTS = [
    ({"data": "A"}, "run.data=A"),
    ({"data": "A"}, 'run.data = "A"'),
    ({"data": "A"}, "run.data=A/"),
    ({"seed": 2}, "run.seed=2"),
    ({"device": "cpu"}, "run.device=cpu"),
    ({"deterministic": True}, "run.deterministic=true"),
]


@pytest.mark.parametrize(("options", "assignment"), CONTRADICTIONS)
def test_contradiction_is_refused(options: dict[str, object], assignment: str) -> None:
    ((key, value),) = options.items()
    with pytest.raises(InputError) as refusal:
        resolve("small", ["model.layers=1", assignment], options)
    option = f"--{key}" if value is True else f"--{key} {value}"
    assert str(refusal.value) == (
        f"{option} and --set {assignment}: they contradict each other; leave one of them out"
    )


@pytest.mark.parametrize(("options", "assignment"), AGREEMENTS)
def test_same_value_twice(options: dict[str, object], assignment: str) -> None:
    run = resolve("small", [assignment], options).run
    assert {key: str(getattr(run, key)).rstrip("/") for key in options} == {
        key: str(value) for key, value in options.items()
    }


def test_options_win_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text((Path("configs") / "small.toml").read_text() + "[run]\nseed = 5\ndata = 'x'\n")
    assert resolve(str(file)).run.seed == 5
    run = resolve(str(file), ["run.seed=6"], {"data": "y"}).run
    assert (run.seed, run.data) == (6, "y")


def test_contradiction_writes_nothing(empty_workplace: Path) -> None:
    write_texts(Path("A"), ["a", "b"], seed=1)
    write_texts(Path("B"), ["a", "b"], seed=2)
    outcome = ptb_lm(*train_arguments("run", "--set", "run.data=B", data="A"))
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert not Path("run").exists()


def test_folder_called_as_a_built_in_corpus_is_another() -> None:
    with pytest.raises(InputError, match="contradict"):
        resolve("small", ["run.data=./ptb"], {"data": "ptb"})
