"""Presets, --set, options and files: what a run is, exactly."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ptb_lm.config import (
    FORMER_KEYS,
    AdamConfig,
    Config,
    ConstantThenDecayConfig,
    CosineConfig,
    DropoutRates,
    ModelConfig,
    Recipe,
    RunOptions,
    SgdConfig,
    TrainingConfig,
    load_config,
    preset_headline,
    preset_names,
    recipe_of,
    resolve,
    to_toml,
)
from ptb_lm.errors import InputError


# arXiv 1409.2329, section 4.1: H, T, init, dropout, epochs, lr, constant epochs, decay, clip.
@pytest.mark.parametrize(
    ("name", "H", "T", "init_range", "dropout", "epochs", "lr", "constant", "decay", "clip"),
    [
        ("small", 200, 20, 0.1, 0.0, 13, 1.0, 4, 2.0, 5.0),
        ("medium", 650, 35, 0.05, 0.5, 39, 1.0, 6, 1.2, 5.0),
        ("large", 1500, 35, 0.04, 0.65, 55, 1.0, 14, 1.15, 10.0),
    ],
)
def test_a_preset_has_the_papers_values(
    name: str,
    H: int,
    T: int,
    init_range: float,
    dropout: float,
    epochs: int,
    lr: float,
    constant: int,
    decay: float,
    clip: float,
) -> None:
    assert recipe_of(resolve(name)).model_dump(exclude_none=True) == {
        "model": {
            "cell": "lstm",
            "layers": 2,
            "hidden_size": H,
            "dropout": dropout,
            "dropout_on": "non-recurrent",
            "masks_per_gate": False,
            "tied": False,
            "init_range": init_range,
        },
        "training": {
            "batch_size": 20,
            "unrolled_steps": T,
            "epochs": epochs,
        },
        "optimizer": {
            "kind": "sgd",
            "learning_rate": lr,
            "clip_norm": clip,
            "weight_decay": 0.0,
        },
        "schedule": {
            "kind": "constant-then-decay",
            "constant_epochs": constant,
            "decay": decay,
        },
        "averaging": {"kind": "none"},
    }


# arXiv 1512.05287, section 5.1 and Table 1: "tied" and "untied" are the masks of a layer's gates.
@pytest.mark.parametrize(
    ("name", "masks_per_gate"), [("gal-medium-tied", False), ("gal-medium-untied", True)]
)
def test_a_variational_preset_is_medium_but_for_its_dropout_and_weight_decay(
    name: str, masks_per_gate: bool
) -> None:
    medium, ours = (recipe_of(resolve(preset)).model_dump() for preset in ("medium", name))
    medium["model"] |= {
        "dropout": {
            "words": 0.2,
            "input": 0.35,
            "between": 0.35,
            "output": 0.35,
            "recurrent": 0.2,
        },
        "dropout_on": "variational",
        "masks_per_gate": masks_per_gate,
    }
    medium["optimizer"] |= {"weight_decay": 1e-7}
    assert ours == medium


def test_how_a_run_is_made_has_these_defaults() -> None:
    assert resolve("small").run.model_dump() == {
        "config": "small",
        "data": "ptb",
        "seed": 1,
        "device": "auto",
        "precision": "auto",
        "deterministic": False,
        "log_steps": 200,
        "checkpoint_minutes": 10.0,
    }


def test_the_presets_are_there_and_each_says_what_it_is() -> None:
    assert {"large", "medium", "small", "synthetic"} <= set(preset_names())
    for name in ("small", "medium", "large"):
        assert preset_headline(name).startswith("Zaremba, Sutskever and Vinyals 2014")


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_written_as_toml_resolves_to_itself(name: str, tmp_path: Path) -> None:
    config = resolve(name)
    complete, recipe = tmp_path / "config.toml", tmp_path / "mine.toml"
    complete.write_text(to_toml(config), encoding="utf-8")
    recipe.write_text(to_toml(recipe_of(config)), encoding="utf-8")
    assert load_config(complete) == config
    assert recipe_of(resolve(str(recipe))) == recipe_of(config)
    assert resolve(str(recipe)).run.config == "mine"
    assert set(tomllib.loads(recipe.read_text())) == {*Recipe.model_fields}


positive = st.floats(min_value=0, exclude_min=True, max_value=3.4e38)
count = st.integers(1, 2**31 - 1)
probability = st.floats(0, 1, exclude_max=True)
PLACES = list(DropoutRates.model_fields)
words = st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1
)  # no file holds a lone surrogate


def models(layers: int) -> st.SearchStrategy[ModelConfig]:
    """Any network of so many layers; with a rate for each place where there is one."""
    rates = dict.fromkeys(PLACES, probability)
    if layers == 1:
        rates["between"] = st.just(0.0)
    cells = ["lstm", "gru", "rnn-tanh", "rnn-sigmoid"]
    return st.sampled_from(cells).flatmap(
        lambda cell: st.builds(
            ModelConfig,
            cell=st.just(cell),
            layers=st.just(layers),
            hidden_size=count,
            dropout=probability | st.builds(DropoutRates, **rates),
            dropout_on=st.just("variational"),
            masks_per_gate=st.booleans() if cell in ("lstm", "gru") else st.just(False),
            tied=st.booleans(),
            init_range=st.floats(min_value=0, max_value=1e6, exclude_min=True),
        )
    )


@given(
    model=st.integers(1, 100).flatmap(models),
    training=st.builds(TrainingConfig, batch_size=count, unrolled_steps=count, epochs=count),
    optimizer=st.builds(
        SgdConfig,
        kind=st.just("sgd"),
        learning_rate=positive,
        clip_norm=positive,
        weight_decay=probability,
    )
    | st.builds(
        AdamConfig,
        kind=st.sampled_from(["adam", "adamw"]),
        learning_rate=positive,
        clip_norm=positive,
        weight_decay=probability,
        betas=st.lists(probability, min_size=2, max_size=2),
        epsilon=positive,
    ),
    schedule=st.builds(
        ConstantThenDecayConfig,
        kind=st.just("constant-then-decay"),
        constant_epochs=st.integers(0, 10**6),
        decay=st.floats(min_value=1, max_value=3.4e38),
    )
    | st.builds(
        CosineConfig,
        kind=st.just("cosine"),
        warmup_epochs=st.floats(0, 10**6),
        final_share=probability,
    ),
    run=st.builds(
        RunOptions,
        config=words,
        data=words,
        seed=st.integers(0, 2**63 - 1),
        device=st.sampled_from(["auto", "cpu", "cuda"]),
        log_steps=count,
    ),
)
def test_any_config_survives_its_file(
    model: ModelConfig,
    training: TrainingConfig,
    optimizer: SgdConfig | AdamConfig,
    schedule: ConstantThenDecayConfig | CosineConfig,
    run: RunOptions,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    config = Config(model=model, training=training, optimizer=optimizer, schedule=schedule, run=run)
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(to_toml(config).encode())
    assert load_config(path) == config


@pytest.mark.parametrize(
    ("changes", "epoch"),
    [
        (["training.decay=1e-300"], "13"),
        (["training.decay=0.5", "training.epochs=2000"], "2,000"),
        (["training.decay=0.5", "training.learning_rate=1e38"], "13"),
    ],
)
def test_a_rate_that_grows_beyond_all_numbers_is_refused(changes: list[str], epoch: str) -> None:
    complaint = f"^--set training.decay=.*: schedule.decay: .* epoch {epoch} within float32"
    with pytest.raises(InputError, match=complaint):
        resolve("small", changes)


def test_brackets_without_end_and_numbers_without_end_are_no_toml(tmp_path: Path) -> None:
    for text in ("x = " + "[" * 5000, "x = " + "9" * 5000):
        (tmp_path / "deep.toml").write_text(text)
        with pytest.raises(InputError, match="not valid TOML"):
            resolve(str(tmp_path / "deep.toml"))


@pytest.mark.parametrize(
    "name", ['"', "\\", "a\nb", "\r\t\b\f\0", "\x1f\x7f\x80", "é\u2028😀", "#", "'"]
)
def test_a_folder_of_any_name_survives_the_file(name: str, tmp_path: Path) -> None:
    config = resolve("small", None, {"data": name})
    (tmp_path / "config.toml").write_bytes(to_toml(config).encode())
    assert load_config(tmp_path / "config.toml").run.data == name


@pytest.mark.parametrize(
    ("assignment", "section", "key", "value"),
    [
        ("training.epochs=7", "training", "epochs", 7),
        ("training.learning_rate=0.25", "optimizer", "learning_rate", 0.25),
        ("optimizer.learning_rate=1e-3", "optimizer", "learning_rate", 0.001),
        (" training.decay = 3 ", "schedule", "decay", 3.0),
        ("schedule.constant_epochs=3", "schedule", "constant_epochs", 3),
        ("run.data=my-texts", "run", "data", "my-texts"),
        ('run.data="my = texts"', "run", "data", "my = texts"),
        ("run.data=a=b", "run", "data", "a=b"),
        ("run.device=cpu", "run", "device", "cpu"),
        ("model.dropout=0", "model", "dropout", 0.0),
    ],
)
def test_an_assignment_changes_its_key_and_no_other(
    assignment: str, section: str, key: str, value: Any
) -> None:
    expected = resolve("medium").model_dump()
    assert expected[section][key] != value
    expected[section][key] = value
    changed = resolve("medium", [assignment])
    assert changed.model_dump() == expected
    assert type(getattr(getattr(changed, section), key)) is type(value)


def test_of_two_assignments_to_a_key_the_last_counts() -> None:
    assert resolve("small", ["training.epochs=7", "training.epochs=8"]).training.epochs == 8


def test_an_option_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(to_toml(resolve("small", ["run.seed=5", "run.device=cpu"])))
    assert resolve(str(path)).run.seed == 5
    changed = resolve(str(path), None, {"seed": 9, "data": "elsewhere"})
    assert changed.run.model_dump() == {
        "config": "small",  # the file says what the run began from; its own name is not that
        "data": "elsewhere",
        "seed": 9,
        "device": "cpu",
        "precision": "auto",
        "deterministic": False,
        "log_steps": 200,
        "checkpoint_minutes": 10.0,
    }


def test_an_option_does_not_stay_for_the_next_run() -> None:
    resolve("small", ["training.epochs=7"], {"seed": 9})
    assert resolve("small").run.seed == 1
    assert resolve("small").training.epochs == 13


def test_a_config_is_frozen() -> None:
    config = resolve("small")
    for section, key in (("model", "layers"), ("training", "epochs"), ("run", "seed")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(getattr(config, section), key, 3)
    with pytest.raises(ValidationError, match="frozen"):
        config.model = resolve("large").model


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("training.epochs=true", "expected integer, got True"),
        ('training.epochs="3"', "expected integer, got '3'"),
        ("training.epochs=3.0", "expected integer, got 3.0"),
        ("training.epochs=three", "expected integer, got 'three'"),
        ("training.epochs=", "expected integer, got ''"),
        ("training.epochs=0", "expected greater than 0, got 0"),
        ("training.decay=true", "expected number, got True"),
        ("training.decay=0", "expected greater than 0, got 0"),
        ("training.decay=inf", "expected a finite number, got inf"),
        ("training.decay=nan", "expected a finite number, got nan"),
        ("model.dropout=1", "expected less than 1, got 1"),
        ("model.dropout=-0.1", "expected greater than or equal to 0, got -0.1"),
        ("model.dropout=nan", "got nan"),
        ("model.cell=elman", "expected 'lstm', 'gru', 'rnn-tanh' or 'rnn-sigmoid', got 'elman'"),
        ("model.dropout_on=some", "expected 'non-recurrent', 'all', 'none' or 'variational'"),
        ("model.masks_per_gate=true", "expected false, or dropout_on = 'variational' beside it"),
        (
            "model.dropout.words=0.2",
            "unknown key; a table is set as a whole: --set 'model.dropout={ words",
        ),
        ("model.init_range=3e38", "expected less than or equal to 1000000"),
        ("training.weight_decay=1", "expected less than 1, got 1"),
        ("run.data=3", "expected string, got 3"),
        ("run.data=", "expected at least 1 character, got ''"),
        ("run.seed=-1", "expected greater than or equal to 0, got -1"),
        ("run.seed=9223372036854775808", "expected less than 9223372036854775808, got 92"),
    ],
)
def test_a_value_of_another_type_or_range_is_refused(assignment: str, expected: str) -> None:
    section, _, name = assignment.partition("=")[0].partition(".")
    key = ".".join(FORMER_KEYS.get((section, name), (section, name)))
    with pytest.raises(InputError) as error:
        resolve("small", [assignment])
    assert str(error.value).startswith(f"--set {assignment}: {key}: ")
    assert expected in str(error.value)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            ["layers=1", "dropout_on=variational", "dropout={RATES}"],
            "model.dropout: expected between = 0, as one layer has none after it",
        ),
        (
            ["cell=rnn-tanh", "dropout_on=variational", "masks_per_gate=true"],
            "model.masks_per_gate: expected false, as a classic RNN has no gates",
        ),
    ],
)
def test_what_could_not_act_is_refused(changes: list[str], complaint: str) -> None:
    whole = [f"model.{change.replace('{RATES}', RATES)}" for change in changes]
    with pytest.raises(InputError, match=complaint):
        resolve("small", whole)
    resolve("small", [*whole, "model.layers=2", "model.cell=lstm"])


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(to_toml(recipe_of(resolve("small"))), encoding="utf-8-sig")
    assert recipe_of(resolve(str(tmp_path / "mine.toml"))) == recipe_of(resolve("small"))


def test_name_that_is_no_text_is_refused() -> None:
    with pytest.raises(InputError, match=r"^--data: run\.data: expected string"):
        resolve("small", None, {"data": "\ud800"})


RATES = "{ words = 0.1, input = 0.2, between = 0.3, output = 0.4, recurrent = 0.5 }"


@pytest.mark.parametrize(
    ("dropout_on", "acting"),
    [
        ("none", ""),
        ("non-recurrent", "input between output"),
        ("all", "input between output recurrent"),
        ("variational", "words input between output recurrent"),
    ],
)
def test_one_rate_is_that_of_every_place_where_dropout_acts(dropout_on: str, acting: str) -> None:
    changes = ["model.dropout=0.25", f"model.dropout_on={dropout_on}"]
    rates = resolve("medium", changes).model.dropout_rates.model_dump()
    assert rates == {place: 0.25 if place in acting.split() else 0.0 for place in PLACES}


def test_a_rate_for_each_place_survives_the_file(tmp_path: Path) -> None:
    changes = [f"model.dropout={RATES}", "model.dropout_on=variational"]
    config = resolve("medium", changes)
    assert config.model.dropout_rates.model_dump() == {
        "words": 0.1,
        "input": 0.2,
        "between": 0.3,
        "output": 0.4,
        "recurrent": 0.5,
    }
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert load_config(tmp_path / "config.toml") == config


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            [f"model.dropout={RATES}", "model.dropout_on=all"],
            "model.dropout_on: expected one that drops at the place of dropout.words = 0.1, "
            "got 'all'",
        ),
        (
            [f"model.dropout={RATES}"],
            "model.dropout_on: expected one that drops at the place of dropout.words",
        ),
        (
            ["model.dropout=" + RATES.replace("words", "wrods")],
            "model.dropout.wrods: unknown key; did you mean 'words'?; known: words, input, between",
        ),
        (
            ["model.dropout=" + RATES.replace("0.5", "1.5")],
            "model.dropout.recurrent: expected less",
        ),
        (["model.dropout={ words = 0.1 }"], "model.dropout.input: missing"),
    ],
)
def test_a_rate_that_is_not_right_is_one_line(changes: list[str], expected: str) -> None:
    with pytest.raises(InputError) as error:
        resolve("medium", changes)
    assert expected in str(error.value)
