"""Layers of different widths: `model.embedding_size` and `model.hidden_sizes`, in every command."""

import json
from pathlib import Path

import pytest
from cli_support import WORDS, done, done_json, train_arguments, write_texts
from short_runs import result

from ptb_lm.config import load_config, resolve
from ptb_lm.errors import InputError
from ptb_lm.training.checkpoint import load_checkpoint

SIZES = {"model__embedding_size": 6, "model__hidden_sizes": [9, 9, 6], "model__hidden_size": 6}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("text"), WORDS, seed=1)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dropout_on", ["non-recurrent", "variational"])
def test_layers_of_different_widths_in_every_command(tied: bool, dropout_on: str) -> None:
    sizes = {**SIZES, "model__tied": tied, "model__dropout": 0.3, "model__dropout_on": dropout_on}
    done(*train_arguments("whole", **sizes))
    done(*train_arguments("parts", "--max-steps", "1", **sizes))
    for steps in ("7", "40"):
        done(*train_arguments("parts", "--resume", "--max-steps", steps, **sizes))
    done(*train_arguments("parts", "--resume", **sizes))
    assert result(Path("parts")) == result(Path("whole"))
    checkpoint = load_checkpoint(Path("whole/last.pt"))
    shapes = {name: tuple(weight.shape) for name, weight in checkpoint.weights.items()}
    assert shapes["layers.0.weight_ih_l0"] == (36, 6)
    assert shapes["layers.2.weight_hh_l0"] == (24, 6)
    widths = [layer[0].shape[1] for layer in checkpoint.network().zero_state(1)]
    assert widths == [9, 9, 6]
    done("export", "whole", "--out", "model", "--onnx")
    evaluated = [
        done_json("eval", model)["members"][0]["perplexity"] for model in ("whole/last.pt", "model")
    ]
    assert evaluated[0] == evaluated[1]
    scored = [done("score", model, "text/test.txt").out for model in ("whole", "model")]
    assert scored[0] == scored[1]
    assert done("generate", "model", "--words", "5").out
    config = json.loads(Path("model/config.json").read_text())
    assert config["model"]["hidden_sizes"] == [9, 9, 6]


def test_sizes_in_a_config_file() -> None:
    done(*train_arguments("run", "--max-steps", "1", **SIZES))
    assert load_config(Path("run/config.toml")).model.sizes == [6, 9, 9, 6]
    shorter = resolve("run/config.toml", ["model.hidden_sizes=[4,5]"]).model
    assert (shorter.sizes, shorter.layers, shorter.hidden_size) == ([6, 4, 5], 2, 5)
    assert resolve("small", ["model.embedding_size=3"]).model.sizes == [3, 200, 200]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["hidden_sizes=[]"], "expected at least 1 item"),
        (["hidden_sizes=[0,1]"], "model.hidden_sizes.0: expected greater than 0, got 0"),
        (["hidden_sizes=[1.0]"], "model.hidden_sizes.0: expected integer, got 1.0"),
        (["hidden_sizes=3"], "model.hidden_sizes: expected list, got 3"),
        (["hidden_sizes=[3,4]", "layers=3"], "model.layers: expected 2, as hidden_sizes has"),
        (["hidden_sizes=[3,4]", "hidden_size=3"], "expected 4, the last of hidden_sizes"),
        (["embedding_size=3", "tied=true"], "as wide as the last layer, 200"),
        (["hidden_sizes=[3,4]", "tied=true"], "as wide as the last layer, 4"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        resolve("small", [f"model.{assignment}" for assignment in assignments])
    assert str(refusal.value).startswith("--set model.")
    assert message in str(refusal.value)
