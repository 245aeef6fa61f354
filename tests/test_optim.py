"""Optimizers compared with PyTorch's; checkpoints of both formats; configs of former versions."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from cli_support import WORDS, done, done_json, ptb_lm, train_arguments, write_texts
from networks import objective_of
from short_runs import result, short_config, trained

from ptb_lm.config import Config, load_config, resolve
from ptb_lm.errors import InputError
from ptb_lm.evaluation.trained import load
from ptb_lm.model.network import LanguageModel
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.metrics import read_metrics
from ptb_lm.training.optim import OPTIMIZERS, build_optimizer, clip_factor, gradient_norm
from ptb_lm.training.tensor_file import load_tensors, save_tensors

FORMAT_2 = Path(__file__).parent / "format-2"
FORMAT_2_NLL = 328.67439
"""The NLL of the test text by its last.pt, as the version that wrote it evaluates it."""

KINDS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(Path("text"), WORDS, seed=1)


def config_with(optimizer: str, schedule: str = "constant", **changes: object) -> Config:
    """The recipe of a short run with another optimizer and schedule."""
    values = short_config("text", run__log_steps=1, **changes).model_dump(exclude_none=True)
    settings: dict[str, object] = {"kind": optimizer, "learning_rate": 0.02, "clip_norm": 1.5}
    return Config.model_validate(values | {"optimizer": settings, "schedule": {"kind": schedule}})


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_adam_is_pytorchs_after_a_clip(kind: str, tied: bool) -> None:
    sets = [f"optimizer.kind={kind}", "optimizer.weight_decay=0.1", "optimizer.betas=[0.8,0.99]"]
    config = resolve("small", [*sets, "model.hidden_size=6", f"model.tied={str(tied).lower()}"])
    torch.manual_seed(1)
    ours, theirs = (LanguageModel(config.model, 11).double() for _ in range(2))
    theirs.load_weights(ours.weights())
    theirs.embedding.sparse = False
    optimizer = build_optimizer(ours, config.optimizer)
    settings = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-8, "weight_decay": 0.1}
    other = KINDS[kind](theirs.parameters(), **settings)
    words, clipped = torch.randint(11, (40, 3)), 0
    for step in range(8):
        window = words[4 * step : 4 * step + 5]
        for network in (ours, theirs):
            output = network(window[:-1], network.zero_state(3))
            objective_of(network, output, window[1:]).backward()
        factor = clip_factor(gradient_norm(ours.parameters()), 0.5)
        clipped += bool(factor < 1)
        optimizer.step(torch.tensor(0.1, dtype=torch.float64), factor, torch.tensor(0.0))
        for parameter in theirs.parameters():
            parameter.grad.mul_(factor)
        other.step()
        other.zero_grad()
    assert clipped
    for name, weight in ours.weights().items():
        torch.testing.assert_close(weight, theirs.weights()[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_step_that_is_skipped_changes_nothing(kind: str) -> None:
    config = resolve("small", [f"optimizer.kind={kind}", "model.hidden_size=6"])
    network = LanguageModel(config.model, 11)
    optimizer = build_optimizer(network, config.optimizer)
    before = {name: weight.clone() for name, weight in network.weights().items()}
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, torch.nan)
    one = torch.ones((), dtype=torch.float64)
    optimizer.step(one, one, torch.tensor(1.0))
    for name, weight in network.weights().items():
        assert torch.equal(weight, before[name])
    moments = [value for slot in optimizer.state_dict().values() for value in slot.values()]
    assert not any(value.any() for value in moments)


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["constant-then-decay", "one-cycle"])
def test_run_stopped_after_any_step_ends_as_if_it_had_not(kind: str, schedule: str) -> None:
    config = config_with(kind, training__epochs=2)
    keys = {"constant_epochs": 1, "decay": 2.0} if schedule == "constant-then-decay" else {}
    values = config.model_dump(exclude_none=True) | {"schedule": {"kind": schedule, **keys}}
    config = Config.model_validate(values)
    whole = trained(config, Path("whole"))
    assert whole.step > 20
    for step in range(1, whole.step):
        trained(config, Path(f"run-{step}"), max_steps=step)
        assert load_checkpoint(Path(f"run-{step}/last.pt")).optimizer.keys() == {
            *OPTIMIZERS[kind].slots
        }
        trained(config, Path(f"run-{step}"), resume=True)
        assert result(Path(f"run-{step}")) == result(Path("whole")), step
        shutil.rmtree(f"run-{step}")


def test_another_optimizer_is_another_recipe() -> None:
    arguments = train_arguments("run", optimizer__kind="adam", optimizer__learning_rate=0.01)
    done(*arguments, "--max-steps", "3")
    outcome = ptb_lm(*train_arguments("run", "--resume"))
    assert outcome.code == 2
    assert "optimizer.kind was 'adam', asked for 'sgd'" in outcome.err
    done(*arguments, "--resume", "--max-steps", "4")


def test_adam_in_every_command() -> None:
    done(*train_arguments("run", optimizer__kind="adamw", optimizer__learning_rate=0.01))
    for command in ("eval", "score", "export"):
        rest = {"eval": [], "score": ["text/test.txt"], "export": ["--out", "model"]}[command]
        done(command, "run", *rest)


def test_state_of_an_optimizer_that_does_not_fit_is_damage() -> None:
    trained(config_with("adam"), Path("run"), max_steps=2)
    content = load_tensors(Path("run/last.pt"))
    for spoil in ("slot", "name", "shape"):
        changed = {slot: dict(values) for slot, values in content["optimizer"].items()}
        if spoil == "slot":
            del changed["exp_avg"]
        elif spoil == "name":
            del changed["exp_avg"]["softmax.bias"]
        else:
            changed["exp_avg"]["softmax.bias"] = torch.zeros(3)
        save_tensors({**content, "optimizer": changed}, Path("bad.pt"), prove=Path.stat)
        with pytest.raises(InputError, match="do not fit together"):
            load_checkpoint(Path("bad.pt"))


# Format 2


def test_checkpoint_of_format_2_is_resumed() -> None:
    """A run that a former version left within its second epoch; to rounding, as another
    processor may round otherwise."""
    shutil.copytree(FORMAT_2, "run")
    config = load_config(Path("run/config.toml"))
    assert torch.load("run/last.pt", weights_only=True)["format"] == 2
    whole = trained(config, Path("whole"))
    run = trained(config, Path("run"), resume=True)
    assert run.finished
    ours, theirs = read_metrics(run.folder.metrics), read_metrics(whole.folder.metrics)
    for line, other in zip(ours, theirs, strict=True):
        for key in ("step", "train/perplexity", "valid/perplexity", "lr"):
            assert line[key] == pytest.approx(other[key], rel=1e-4)
    assert torch.load("run/last.pt", weights_only=True)["format"] == 3


def test_checkpoint_of_format_2_is_evaluated_and_exported() -> None:
    shutil.copytree(FORMAT_2, "run")
    (line,) = read_metrics(Path("run/metrics.jsonl"))
    checkpoint = load_checkpoint(Path("run/last.pt"))
    assert checkpoint.valid_perplexity == line["valid/perplexity"]
    done("export", "run", "--out", "model")
    evaluated = [done_json("eval", each)["members"][0]["nll"] for each in ("run", "model")]
    assert evaluated[0] == evaluated[1]
    assert evaluated[0] == pytest.approx(FORMAT_2_NLL, rel=1e-5)


# Configs of former versions


def test_former_keys_are_the_present_ones() -> None:
    former = resolve(str(FORMAT_2 / "config.toml"))
    assert (former.optimizer.learning_rate, former.optimizer.weight_decay) == (1.0, 0.001)
    assert former.schedule.model_dump() == {
        "kind": "constant-then-decay",
        "constant_epochs": 1,
        "decay": 2.0,
    }
    sets = ["training.learning_rate=0.5", "training.decay=3", "training.clip_norm=2"]
    ours = ["optimizer.learning_rate=0.5", "schedule.decay=3", "optimizer.clip_norm=2"]
    assert resolve("small", sets) == resolve("small", ours)


def test_key_in_both_places_is_refused() -> None:
    text = (FORMAT_2 / "config.toml").read_text() + "\n[optimizer]\nlearning_rate = 2.0\n"
    Path("both.toml").write_text(text)
    with pytest.raises(InputError, match=r"training.learning_rate: is optimizer.learning_rate now"):
        resolve("both.toml")


def test_keys_of_another_kind_go_with_it() -> None:
    config = resolve("small", ["schedule.kind=cosine", "optimizer.kind=adam"])
    assert config.schedule.model_dump() == {
        "kind": "cosine",
        "warmup_epochs": 0.0,
        "final_share": 0.0,
    }
    assert config.optimizer.clip_norm == 5.0
    with pytest.raises(InputError, match=r"schedule.decay: unknown key; known: kind, warmup"):
        resolve("small", ["schedule.kind=cosine", "schedule.decay=2"])
    with pytest.raises(InputError, match=r"schedule.kind: expected 'constant-then-decay' or"):
        resolve("small", ["schedule.kind=linear"])


def test_export_of_a_former_version_is_read() -> None:
    done(*train_arguments("run", "--max-steps", "3"))
    done("export", "run", "--out", "model")
    path = Path("model/config.json")
    content = json.loads(path.read_text())
    optimizer, schedule = content.pop("optimizer"), content.pop("schedule")
    assert (optimizer.pop("kind"), schedule.pop("kind")) == ("sgd", "constant-then-decay")
    del content["averaging"]
    content["training"] |= optimizer | schedule
    content["format"] = 1
    present = load(Path("model"), "cpu").config
    path.write_text(json.dumps(content))
    assert load(Path("model"), "cpu").config == present
    done("eval", "model")


def test_run_folder_of_a_former_version_in_every_command() -> None:
    shutil.copytree(FORMAT_2, "runs/old")
    for command in (["watch", "runs/old", "--once"], ["report", "runs/old"], ["eval", "runs/old"]):
        assert ptb_lm(*command).code == 0, command
    done("train", "--resume", "--run-dir", "runs/old")
    done(*train_arguments("runs/new", model__hidden_size=4))
    assert "learning_rate" not in done("compare", "runs/old", "runs/new").out
    assert load_config(Path("runs/old/config.toml")).optimizer.weight_decay == 0.001
    assert "[optimizer]" in Path("runs/old/config.toml").read_text()
