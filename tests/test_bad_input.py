"""A user's mistake is one line that says what, where and what instead; and nothing is lost."""

import io
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cli_support import contents, done, furnish, ptb_lm, train_arguments, write_texts

from ptb_lm.config import preset_names
from ptb_lm.training.tensor_file import save_tensors

LAST, SCORES = "runs/a/last.pt", "runs/a/scores-test.npz"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("template"))


# What a mistake needs beside the template, written before the command is run.


def write(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def config_file(old: str = "", new: str = "") -> None:
    """Write mine.toml: the small preset with a passage changed."""
    shown = done("config", "show", "small").out
    assert old in shown
    write("mine.toml", shown.replace(old, new, 1).encode())


def corpus(split: str, data: bytes) -> None:
    """Write a corpus ``bad`` with one split of these bytes."""
    shutil.copytree("text", "bad")
    write(f"bad/{split}.txt", data)


def corpus_without_valid() -> None:
    corpus("valid", b"")
    Path("bad/valid.txt").unlink()


def broken_test_text() -> None:
    corpus("test", b"")
    Path("bad/test.txt").unlink()
    Path("bad/test.txt").symlink_to("nowhere")


def folder_as_test_text() -> None:
    corpus("test", b"")
    Path("bad/test.txt").unlink()
    Path("bad/test.txt").mkdir()


def checkpoint(**changes: Any) -> None:
    """Write bad.pt: a checkpoint with parts changed, or left out where the value is None."""
    content = {**torch.load(LAST, weights_only=True), **changes}
    kept = {key: value for key, value in content.items() if value is not None}
    save_tensors(kept, Path("bad.pt"), prove=lambda path: None)


def precision_left_open() -> None:
    config = torch.load(LAST, weights_only=True)["config"]
    checkpoint(config={**config, "run": {**config["run"], "precision": "auto"}})


class Intruder:
    """Unpickled, it makes a folder: what must not run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def torch_pickle(content: Any) -> Callable[[], None]:
    """Write bad.pt with a seal that is right: what refuses it is not the seal."""
    return lambda: save_tensors(content, Path("bad.pt"), prove=lambda path: None)


def old_torch_pickle() -> None:
    content = torch.load(LAST, weights_only=True)
    torch.save(content, "whole.pt", _use_new_zipfile_serialization=False)
    write("bad.pt", Path("whole.pt").read_bytes()[:200])


def new_words() -> None:
    """Change the training text after the run, so that its vocabulary is another."""
    with Path("text/train.txt").open("a") as file:
        file.write("entirely new words\n")


def lines_in_another_order() -> None:
    """Change the training text after the run, so that its vocabulary stays what it was."""
    lines = Path("text/train.txt").read_text().splitlines(keepends=True)
    Path("text/train.txt").write_text("".join(reversed(lines)))


def as_many_other_words() -> None:
    """Change the training text after the run, so that its vocabulary is another, of one size."""
    text = Path("text/train.txt").read_text()
    Path("text/train.txt").write_text(text.replace("a", "z"))


def penn_treebank(*folders: str) -> Callable[[], None]:
    """Make folders with a file that is called as one of the Penn Treebank's."""

    def write_it() -> None:
        for folder in folders:
            write(f"{folder}/ptb.train.txt", b"a b c\n")

    return write_it


def evidence_alone() -> None:
    for path in Path("runs/a").glob("*.pt"):
        path.unlink()


def score_file(**arrays: Any) -> Callable[[], None]:
    """Write bad.npz: a score file with arrays changed, or left out where the value is None."""

    def write_it() -> None:
        with np.load(SCORES) as content:
            changed = {**content, **arrays}
        np.savez("bad.npz", **{key: value for key, value in changed.items() if value is not None})

    return write_it


def description(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


def damaged_scores() -> None:
    """Damage the compressed bytes of a score file, past the header of its first member."""
    data = bytearray(Path(SCORES).read_bytes())
    data[100:140] = b"\xff" * 40
    write("bad.npz", bytes(data))


def scores_of(name: str, *options: str) -> None:
    done("eval", LAST, "--save-scores", name, *options)


def scores_of_two_texts() -> None:
    for name, text in (("one", b"a b c\n"), ("two", b"a b d\n")):
        write(f"{name}/note.txt", text)
        scores_of(f"{name}.npz", "--text", f"{name}/note.txt")


def scores_over_two_vocabularies() -> None:
    write("note.txt", b"<unk> <unk>\n")
    scores_of("one.npz", "--text", "note.txt")
    done("eval", "runs/other/last.pt", "--text", "note.txt", "--save-scores", "two.npz")


def run_without_data() -> None:
    shutil.move("text", "elsewhere")


def run_without_last_checkpoint() -> None:
    Path("runs/a/last.pt").unlink()
    Path("runs/a/previous.pt").unlink()


class Mistake(NamedTuple):
    """A command, what its message must hold, and what is made before."""

    arguments: list[str]
    fragments: list[str]
    before: Callable[[], Any] = lambda: None


def train(*options: str, data: str = "text", **changes: Any) -> list[str]:
    return train_arguments("runs/new", *options, data=data, **changes)


def prepare(*arguments: str, out: str = "new") -> list[str]:
    return ["data", "prepare", *arguments, "--out", out]


def resume(*options: str, run_dir: str = "runs/a", **changes: Any) -> list[str]:
    return train_arguments(run_dir, "--resume", *options, **changes)


def both_checkpoints_damaged() -> None:
    for name in ("last.pt", "previous.pt"):
        path = Path("runs/a") / name
        write(str(path), path.read_bytes()[:3000])


PRESETS = ", ".join(preset_names())
NO_CHECKPOINT = ["bad.pt: not a checkpoint of ptb-lm, or damaged"]
NO_SCORES = ["bad.npz: not a score file of ptb-lm, or damaged"]
MODEL_KEYS = "known: cell, embedding_size, hidden_sizes, layers, hidden_size, dropout, dropout_on"

MISTAKES = {
    # config
    "unknown preset": Mistake(
        ["config", "show", "meduim"],
        ["config 'meduim': no such preset or file; did you mean 'medium'?", f"presets: {PRESETS}"],
    ),
    "unknown preset in train": Mistake(
        ["train", "--config", "smal", "--data", "text"], ["'smal'", "did you mean 'small'?"]
    ),
    "no config file": Mistake(
        ["train", "--config", "nowhere/mine.toml"], ["nowhere/mine.toml: no such config file"]
    ),
    "no config": Mistake(
        ["train", "--data", "text"], ["--config: missing", "`ptb-lm config list`"]
    ),
    "unknown key by --set": Mistake(
        train("--set", "model.hiden_size=9"),
        [
            "error: --set model.hiden_size=9: model.hiden_size: unknown key",
            "did you mean 'hidden_size'?",
            MODEL_KEYS,
        ],
    ),
    "unknown section by --set": Mistake(
        train("--set", "trainig.epochs=9"),
        ["error: --set trainig.epochs=9: trainig: unknown key; did you mean 'training'?"],
    ),
    "unknown key that is a word of the program": Mistake(
        train("--set", "model.one=3"), ["--set model.one=3: model.one: unknown key"]
    ),
    "unknown key in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["error: mine.toml: model.droput: unknown key; did you mean 'dropout'?", MODEL_KEYS],
        lambda: config_file("[training]", "droput = 0.5\n\n[training]"),
    ),
    "unknown section in a file": Mistake(
        ["config", "show", "mine.toml"],
        [
            "mine.toml: optimiser: unknown key; did you mean 'optimizer'?",
            "known: model, training",
        ],
        lambda: config_file("[training]", "[optimiser]\nrate = 1\n\n[training]"),
    ),
    "key outside a section in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: epochs: expected a section [epochs]"],
        lambda: config_file("[model]", "epochs = 9\n\n[model]"),
    ),
    "ill-typed key by --set": Mistake(
        train(training__epochs="many"),
        ["--set training.epochs=many: training.epochs: expected integer, got 'many'"],
    ),
    "ill-typed key in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: model.layers: expected integer, got '2'"],
        lambda: config_file("layers = 2", 'layers = "2"'),
    ),
    "value out of range in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: model.dropout: expected less than 1, got 1.5"],
        lambda: config_file("dropout = 0.0", "dropout = 1.5"),
    ),
    "missing key in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: schedule.decay: missing", "`ptb-lm config show small`"],
        lambda: config_file("decay = 2.0\n"),
    ),
    "missing section in a file": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: training: missing"],
        lambda: write("mine.toml", done("config", "show", "small").out.split("\n\n")[0].encode()),
    ),
    "broken TOML": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: not valid TOML", "line 2"],
        lambda: config_file('cell = "lstm"', "cell = "),
    ),
    "a config that is not UTF-8": Mistake(
        ["config", "show", "mine.toml"],
        ["mine.toml: not UTF-8 at byte 2"],
        lambda: write("mine.toml", b"# \xff\n"),
    ),
    "--set without =": Mistake(
        train("--set", "training.epochs"), ["--set training.epochs: expected section.key=value"]
    ),
    "--set without a section": Mistake(
        train("--set", "epochs=3"), ["--set epochs=3: expected section.key=value"]
    ),
    "--set without a section, very long": Mistake(
        train("--set", "e" * 7000), [f"error: --set {'e' * 200}…: expected section.key=value"]
    ),
    "--set of a very long unknown key": Mistake(
        train("--set", f"model.{'e' * 7000}=1"),
        [f"--set model.{'e' * 194}…: model.{'e' * 194}…: unknown key; known: cell, embedding_size"],
    ),
    "--precision nonsense": Mistake(
        train("--precision", "fp8"),
        ["--precision: run.precision: expected 'auto', 'fp32', 'tf32' or 'bf16', got 'fp8'"],
    ),
    "--device nonsense in train": Mistake(
        train("--device", "gpu"), ["--device: run.device: expected 'auto', 'cpu' or 'cuda'", "gpu"]
    ),
    "--seed out of range": Mistake(
        train("--seed", "-1"), ["--seed: run.seed: expected greater than or equal to 0, got -1"]
    ),
    # data
    "no data folder": Mistake(
        train(data="nowhere"), ["--data nowhere: expected ptb, synthetic, or a folder with"]
    ),
    "no data folder in data info": Mistake(
        ["data", "info", "--data", "nowhere"], ["--data nowhere: expected ptb, synthetic"]
    ),
    "no Penn Treebank in data info": Mistake(
        ["data", "info", "--data-dir", "empty"],
        [f"{Path('empty/ptb')}: the Penn Treebank is not there; `ptb-lm data fetch` gets it"],
    ),
    "a damaged Penn Treebank": Mistake(
        train("--data-dir", "mine", data="ptb"),
        ["mine/ptb/ptb.train.txt: 5 bytes where", "5,101,618", "`ptb-lm data fetch`"],
        lambda: write("mine/ptb/ptb.train.txt", b"a b\n\n"),
    ),
    "no valid.txt": Mistake(
        train(data="bad"),
        ["bad/valid.txt: cannot be read: No such file"],
        corpus_without_valid,
    ),
    "an empty text": Mistake(
        train(data="bad"), ["bad/train.txt: no word in it"], lambda: corpus("train", b"")
    ),
    "a text of blank lines": Mistake(
        train(data="bad"), ["bad/test.txt: no word in it"], lambda: corpus("test", b"\n \n\t\n")
    ),
    "a training text too short for B and T": Mistake(
        train(data="bad"),
        ["training text has 17 tokens", "batch_size 3", "unrolled_steps 5", "at least 18"],
        lambda: corpus("train", b"a " * 16),
    ),
    "a validation text too short for B": Mistake(
        train(data="bad"),
        ["bad/valid.txt: the validation text has 3 tokens", "3 columns need at least 4"],
        lambda: corpus("valid", b"a b\n"),
    ),
    "a text that is not UTF-8": Mistake(
        train(data="bad"),
        ["bad/train.txt: line 2, byte 6: not UTF-8 (0xe9)", "convert the file to UTF-8"],
        lambda: corpus("train", b"a b\nc \xe9\n"),
    ),
    "a test text that is a broken link": Mistake(
        train(data="bad"), ["bad/test.txt: cannot be read: No such file"], broken_test_text
    ),
    "a test text that is a folder": Mistake(
        train(data="bad"), ["bad/test.txt: cannot be read: Is a directory"], folder_as_test_text
    ),
    "the test figure of data without a test text": Mistake(
        ["eval", LAST],
        [
            f"{LAST}: the folder text that it was trained on has no test.txt",
            "use --split valid, or --text FILE",
        ],
        lambda: Path("text/test.txt").unlink(),
    ),
    "the test split of data without one": Mistake(
        ["eval", LAST, "--split", "test"],
        [f"{LAST}: the folder text that it was trained on has no test.txt"],
        lambda: Path("text/test.txt").unlink(),
    ),
    # a text to prepare
    "nothing to prepare": Mistake(["data", "prepare", "--out", "new"], ["Missing argument 'FILE"]),
    "nowhere to prepare it to": Mistake(
        ["data", "prepare", "text/train.txt"], ["Missing option '--out'"]
    ),
    "a text to prepare that is not there": Mistake(
        prepare("text/train.txt", "nowhere.txt"), ["nowhere.txt: cannot be read: No such file"]
    ),
    "a text to prepare that is a folder": Mistake(
        prepare("text"), ["text: cannot be read: Is a directory"]
    ),
    "a text to prepare that is empty": Mistake(
        prepare("text/train.txt", "note.txt"),
        ["note.txt: no word in it"],
        lambda: write("note.txt", b"\n"),
    ),
    "a text to prepare that is not UTF-8": Mistake(
        prepare("note.txt"),
        ["note.txt: line 2, byte 6: not UTF-8 (0xe9)", "convert the file to UTF-8"],
        lambda: write("note.txt", b"a b\nc \xe9\n"),
    ),
    "standard input twice": Mistake(
        prepare("-", "-"), ["-: standard input comes once; name it once"]
    ),
    "a text to prepare of two lines": Mistake(
        prepare("note.txt"),
        ["note.txt: too few lines (2) to be cut into train, valid, test; a line is a sentence"],
        lambda: write("note.txt", b"a b\nc\n"),
    ),
    "a text to prepare of empty lines but one": Mistake(
        prepare("note.txt"),
        ["note.txt: no word in the ", "lines drawn for ", "larger share, or another --seed"],
        lambda: write("note.txt", b"a a\n" + b"\n" * 30),
    ),
    "too high a --min-count": Mistake(
        prepare("text/valid.txt", "--min-count", "1000"),
        [
            "text/valid.txt: --min-count 1000 leaves no word, as the most frequent comes ",
            "lower it",
        ],
    ),
    "--min-count 0": Mistake(
        prepare("text/train.txt", "--min-count", "0"), ["--min-count 0: expected 1 or more"]
    ),
    "--max-vocab too small": Mistake(
        prepare("text/train.txt", "--max-vocab", "2"),
        ["--max-vocab 2: expected 3 or more, as <eos> and <unk> count"],
    ),
    "no share for validation": Mistake(
        prepare("text/train.txt", "--valid-share", "0"),
        ["--valid-share 0.0: expected more than 0 and less than 1"],
    ),
    "a share that is not a number": Mistake(
        prepare("text/train.txt", "--test-share", "nan"), ["--test-share nan: expected 0 or more"]
    ),
    "shares that leave nothing to train on": Mistake(
        prepare("text/train.txt", "--valid-share", "0.5", "--test-share", "0.5"),
        ["--test-share 0.5: expected 0 or more, and with --valid-share 0.5 less than 1"],
    ),
    "a prepared corpus that is there": Mistake(
        prepare("runs/a/config.toml", out="text"),
        ["--out text: there already; use --overwrite to replace it, or name another folder"],
    ),
    "a folder of other things to replace": Mistake(
        prepare("text/train.txt", "--overwrite", out="runs/a"),
        ["--out runs/a: .lock in it is no part of a corpus and would go; name another folder"],
    ),
    "a text to prepare in the folder to replace": Mistake(
        prepare("other/../text/train.txt", "--overwrite", out="text"),
        ["--out text: other/../text/train.txt is in it and would go; name another folder"],
    ),
    "the current folder to prepare to": Mistake(
        prepare("text/train.txt", "--overwrite", out="text/.."),
        ["--out text/..: the current folder is in it; name a folder of its own"],
    ),
    "a file to prepare to": Mistake(
        prepare("text/train.txt", "--overwrite", out="text/test.txt"),
        ["--out text/test.txt: not a folder; name a folder for the corpus"],
    ),
    # checkpoints
    "no checkpoint": Mistake(["eval", "nowhere.pt"], ["nowhere.pt: no such checkpoint"]),
    "a folder without a model to generate from": Mistake(
        ["generate", "runs"],
        ["runs: no model in it; name a checkpoint, a run folder or the folder of an exported"],
    ),
    "a run folder without a checkpoint": Mistake(
        ["eval", "runs/a"], [f"{LAST}: no such checkpoint"], run_without_last_checkpoint
    ),
    "a text as checkpoint": Mistake(["eval", "text/test.txt"], ["text/test.txt: not a checkpoint"]),
    # As opcodes of a pickle, these letters take from a stack that is empty.
    "a text that begins a pickle": Mistake(
        ["eval", "bad.pt"], NO_CHECKPOINT, lambda: write("bad.pt", b"to be or not to be\n")
    ),
    "an empty checkpoint": Mistake(["eval", "bad.pt"], NO_CHECKPOINT, lambda: write("bad.pt", b"")),
    "a pickle": Mistake(
        ["eval", "bad.pt"], NO_CHECKPOINT, lambda: write("bad.pt", pickle.dumps({"a": 1}, 5))
    ),
    "a torch pickle of something else": Mistake(
        ["eval", "bad.pt"], NO_CHECKPOINT, torch_pickle({"weights": torch.zeros(3)})
    ),
    "a torch pickle that runs code": Mistake(
        ["eval", "bad.pt"], NO_CHECKPOINT, torch_pickle(Intruder())
    ),
    "a truncated checkpoint": Mistake(
        ["eval", "bad.pt"],
        NO_CHECKPOINT,
        lambda: write("bad.pt", Path(LAST).read_bytes()[:-500]),
    ),
    "a truncated checkpoint in PyTorch's old format": Mistake(
        ["eval", "bad.pt"], NO_CHECKPOINT, old_torch_pickle
    ),
    "a checkpoint of another format": Mistake(
        ["eval", "bad.pt"],
        ["bad.pt: checkpoint format 4, this version reads 2 and 3"],
        lambda: checkpoint(format=4),
    ),
    "a checkpoint of no format": Mistake(
        ["eval", "bad.pt"],
        NO_CHECKPOINT,
        lambda: checkpoint(format=None),
    ),
    "a checkpoint without a part": Mistake(
        ["eval", "bad.pt"],
        ["bad.pt: damaged: its parts do not fit together"],
        lambda: checkpoint(vocabulary=None),
    ),
    "a checkpoint of a precision that no run has": Mistake(
        ["eval", "bad.pt"],
        ["bad.pt: damaged: its parts do not fit together"],
        precision_left_open,
    ),
    "a checkpoint with another network's weights": Mistake(
        ["eval", "bad.pt"],
        ["bad.pt: damaged: its parts do not fit together"],
        lambda: checkpoint(weights=torch.load("runs/other/last.pt", weights_only=True)["weights"]),
    ),
    "a checkpoint with another vocabulary than its own": Mistake(
        ["generate", "bad.pt"],
        ["bad.pt: damaged: its parts do not fit together"],
        lambda: checkpoint(vocabulary=["<eos>", "<unk>", *"abcdefgh"][::-1]),
    ),
    "eval after the data changed": Mistake(
        ["eval", LAST],
        [f"{LAST}: its vocabulary (10 words)", "data text (13 words)", "--text FILE"],
        new_words,
    ),
    "eval after the order of the text changed": Mistake(
        ["eval", LAST, "--split", "valid"],
        [f"{LAST}: the texts of the data text are not those", "--data", "--text FILE"],
        lines_in_another_order,
    ),
    "eval after the data went away": Mistake(
        ["eval", LAST],
        [f"{LAST}: it was trained on the folder text, which is not here", "--data", "--text FILE"],
        run_without_data,
    ),
    "eval after as many other words came": Mistake(
        ["eval", LAST],
        [f"{LAST}: its vocabulary is not that of the data text: both have 10 words", "--data"],
        as_many_other_words,
    ),
    "eval of evidence": Mistake(
        ["eval", "runs/a"],
        [f"{LAST}: no such checkpoint: runs/a is the evidence of a run, without its weights"],
        evidence_alone,
    ),
    "the Penn Treebank's folder as a text of one's own": Mistake(
        ["data", "info", "--data", "my corpora/ptb"],
        [
            "--data my corpora/ptb: ptb.train.txt in it is of the Penn Treebank",
            "leave --data out, and use --data-dir 'my corpora'",
        ],
        penn_treebank("my corpora/ptb"),
    ),
    "the Penn Treebank's files in a folder of another name": Mistake(
        train(data="my corpora"),
        ["no train.txt; `ptb-lm data fetch --from 'my corpora'` installs it"],
        penn_treebank("my corpora"),
    ),
    "eval on data that is not there": Mistake(
        ["eval", LAST, "--data", "nowhere"], ["--data nowhere: expected ptb, synthetic, or a"]
    ),
    "eval on another model's data": Mistake(
        ["eval", LAST, "--data", "other"],
        [f"{LAST}: its vocabulary (10 words)", "data other (7 words)", "--text FILE"],
    ),
    "two vocabularies in one eval": Mistake(
        ["eval", LAST, "runs/other/last.pt", "--text", "text/test.txt"],
        ["runs/other/last.pt: its vocabulary (7 words)", f"{LAST} (10 words)", "one at a time"],
    ),
    "two batch sizes in one eval": Mistake(
        ["eval", LAST, "runs/wide/last.pt", "--protocol", "columns"],
        ["runs/wide/last.pt: streams is 4, but 3 in runs/a/last.pt"],
        lambda: done(*train_arguments("runs/wide", training__batch_size=4)),
    ),
    "a text to evaluate that is not there": Mistake(
        ["eval", LAST, "--text", "nowhere.txt"], ["nowhere.txt: cannot be read: No such file"]
    ),
    "a text to evaluate that is a folder": Mistake(
        ["eval", LAST, "--text", "text"], ["text: cannot be read: Is a directory"]
    ),
    "a text to evaluate that is too short for its columns": Mistake(
        ["eval", LAST, "--text", "note.txt", "--protocol", "columns"],
        ["has 2 tokens; 3 columns need at least 4"],
        lambda: write("note.txt", b"a"),
    ),
    # exported models
    "a run and an exported model in one folder": Mistake(
        ["eval", "runs/a"],
        ["runs/a: both a run and an exported model are in it; name the run's last.pt"],
        lambda: [
            done("export", LAST, "--out", "model"),
            shutil.copytree("model", "runs/a", dirs_exist_ok=True),
        ],
    ),
    "another program's model": Mistake(
        ["eval", "model"],
        ["model/config.json: not of a model that ptb-lm exported"],
        lambda: write("model/config.json", b'{"model_type": "gpt2"}'),
    ),
    "half an exported model": Mistake(
        ["generate", "model"],
        ["model/config.json: no such file; an exported model has model.safetensors, config.json"],
        lambda: write("model/model.safetensors", b""),
    ),
    "no folder to export into": Mistake(
        ["export", LAST], ["Missing option '--out'", "see `ptb-lm export --help`"]
    ),
    "no checkpoint to export": Mistake(
        ["export", "nowhere.pt", "--out", "model"], ["nowhere.pt: no such checkpoint"]
    ),
    "a model is there already": Mistake(
        ["export", "runs/b", "--out", "model"],
        ["model: a model is there already; use --overwrite to replace it, or name another folder"],
        lambda: done("export", LAST, "--out", "model"),
    ),
    "export into a run folder": Mistake(
        ["export", LAST, "--out", "runs/b", "--overwrite"],
        ["runs/b: not empty, and more or other than an exported model: ", "is in it"],
    ),
    "export into a folder of another program's model": Mistake(
        ["export", LAST, "--out", "model", "--overwrite"],
        ["model: not empty, and more or other than an exported model: config.json is in it"],
        lambda: write("model/config.json", b'{"model_type": "gpt2"}'),
    ),
    "export into a file": Mistake(
        ["export", LAST, "--out", LAST], [f"{LAST}: not a folder; name a folder for the model"]
    ),
    "--device nonsense in export": Mistake(
        ["export", LAST, "--out", "model", "--device", "gpu"], ["--device gpu: expected auto, cpu"]
    ),
    # run folders
    "a run is there already": Mistake(
        train_arguments("runs/a"),
        ["runs/a: a run is there already", "--resume", "--overwrite", "another --run-dir"],
    ),
    "a folder that is none of a run": Mistake(
        train_arguments("text"), ["text: not empty and not a run folder; name another --run-dir"]
    ),
    "a folder that is none of a run, with --overwrite": Mistake(
        train_arguments("text", "--overwrite"), ["text: not empty and not a run folder"]
    ),
    "a file as run folder": Mistake(
        train_arguments("text/test.txt", "--overwrite"), ["text/test.txt: not a folder"]
    ),
    "--overwrite with data that is not there": Mistake(
        train_arguments("runs/a", "--overwrite", data="nowhere"), ["--data nowhere: expected"]
    ),
    "resume with another recipe": Mistake(
        resume(model__hidden_size=9, training__decay=3.0),
        [
            f"{LAST}: the run there was made otherwise",
            "model.hidden_size was 8, asked for 9; schedule.decay was 2.0, asked for 3.0",
            "resume it with its own config.toml",
        ],
    ),
    "resume of no run": Mistake(
        ["train", "--resume", "--run-dir", "runs/nope"],
        ["runs/nope: no run in it to go on with; name --config to begin one"],
    ),
    "resume with another seed": Mistake(
        resume("--seed", "2"), ["run.seed was 1, asked for 2", "another --run-dir"]
    ),
    "resume after the data changed": Mistake(
        resume(),
        [
            f"{LAST}: its vocabulary (10 words) is not that of --data text (13 words)",
            "bring the old texts back, or begin a new run in another --run-dir",
        ],
        new_words,
    ),
    "resume after as many other words came": Mistake(
        resume(),
        [
            f"{LAST}: its vocabulary is not that of --data text: both have 10 words, but the words "
            "or their order differ, so the training text is another, or was changed; bring the"
        ],
        as_many_other_words,
    ),
    "resume after the order of the text changed": Mistake(
        resume(),
        [f"{LAST}: the texts of --data text have changed since", "another --run-dir"],
        lines_in_another_order,
    ),
    "resume from weights alone": Mistake(
        resume(),
        [f"{LAST}: holds weights only, nothing to resume from"],
        lambda: shutil.copy("runs/a/best.pt", LAST),
    ),
    "resume from a damaged checkpoint": Mistake(
        resume(),
        [f"{LAST}: not a checkpoint of ptb-lm, or damaged; previous.pt beside it is damaged too"],
        both_checkpoints_damaged,
    ),
    "resume of results without a checkpoint": Mistake(
        resume(),
        ["runs/a: has results but no last.pt to resume from", "--overwrite"],
        run_without_last_checkpoint,
    ),
    "--resume with --overwrite": Mistake(
        resume("--overwrite"), ["--resume and --overwrite: choose one"]
    ),
    "a run to watch that is not there": Mistake(
        ["watch", "runs/none"],
        ["runs/none: no such folder; name run folders, as in `ptb-lm watch runs/small-seed1`"],
    ),
    "a file to watch": Mistake(["watch", LAST], [f"{LAST}: not a folder; name run folders"]),
    "a folder to watch that is not a run": Mistake(
        ["watch", "text"],
        ["text: not a run folder: it has no config.toml; name what `ptb-lm train` has made"],
    ),
    "a folder of runs to watch": Mistake(
        ["watch", "runs"], ["runs: not a run folder: it has no config.toml; name the runs in it"]
    ),
    "a finished run to watch whose scores are damaged": Mistake(
        ["watch", "runs/a"],
        ["runs/a/scores-valid.npz: not a score file of ptb-lm, or damaged"],
        lambda: write("runs/a/scores-valid.npz", b"x"),
    ),
    "no interval": Mistake(["watch", "runs/a", "--interval", "0"], ["--interval", "0.1"]),
    "one run to compare": Mistake(
        ["compare", "runs/a"], ["compare: takes two runs or more, as in `ptb-lm compare runs/a"]
    ),
    "a run to compare that is not there": Mistake(
        ["compare", "runs/a", "runs/none"],
        ["runs/none: no such folder; name run folders, as in `ptb-lm compare runs/a runs/b`"],
    ),
    "a run compared with itself": Mistake(
        ["compare", "runs/a", "./runs/../runs/a/"],
        ["runs/../runs/a: named twice, as runs/a; name another run"],
    ),
    "a run to compare whose scores are damaged": Mistake(
        ["compare", "runs/a", "runs/b"],
        ["runs/b/scores-test.npz: not a score file of ptb-lm, or damaged"],
        lambda: write("runs/b/scores-test.npz", b"x"),
    ),
    "a run to compare whose environment is damaged": Mistake(
        ["compare", "runs/a", "runs/b"],
        ["runs/b/environment.json: not a list of environments any more"],
        lambda: write("runs/b/environment.json", b"{}"),
    ),
    # options
    "--log nonsense": Mistake(train("--log", "wandb"), ["--log wandb: expected tensorboard"]),
    "no CUDA in train": Mistake(
        train("--device", "cuda"), ["--device cuda: PyTorch sees no CUDA device", "--device cpu"]
    ),
    "no CUDA in eval": Mistake(
        ["eval", LAST, "--device", "cuda"], ["--device cuda: PyTorch sees no CUDA device"]
    ),
    "--device nonsense in eval": Mistake(
        ["eval", LAST, "--device", "gpu"], ["--device gpu: expected auto, cpu or cuda"]
    ),
    "--device nonsense in generate": Mistake(
        ["generate", LAST, "--device", "gpu"], ["--device gpu: expected auto, cpu or cuda"]
    ),
    "unknown command": Mistake(["trian"], ["trian", "`ptb-lm --help`"]),
    "unknown option": Mistake(train("--epochs", "3"), ["--epochs", "see `ptb-lm train --help`"]),
    "missing argument": Mistake(["eval"], ["CKPT", "see `ptb-lm eval --help`"]),
    "missing argument of a command of a group": Mistake(
        ["config", "show"], ["NAME", "see `ptb-lm config show --help`"]
    ),
    "an option's value missing": Mistake(["train", "--config"], ["--config", "argument"]),
    "wrong type for --max-steps": Mistake(train("--max-steps", "x"), ["--max-steps", "integer"]),
    "no steps": Mistake(train("--max-steps", "0"), ["--max-steps", "1"]),
    "wrong type for --seed": Mistake(train("--seed", "1.5"), ["--seed", "integer"]),
    "--split nonsense": Mistake(
        ["eval", LAST, "--split", "dev"], ["--split dev: expected train, valid, test"]
    ),
    "--protocol nonsense": Mistake(
        ["eval", LAST, "--protocol", "batch"], ["--protocol batch: expected stream or columns"]
    ),
    "--split with --text": Mistake(
        ["eval", LAST, "--split", "test", "--text", "text/test.txt"],
        ["--split and --text: choose one"],
    ),
    "--save-scores of two": Mistake(
        ["eval", LAST, "runs/b/last.pt", "--save-scores", "s.npz"],
        ["--save-scores: takes one checkpoint at a time"],
    ),
    "--dynamic nonsense": Mistake(
        ["eval", LAST, "--dynamic", "adam"], ["--dynamic adam: expected sgd or rms"]
    ),
    "--dynamic-rate nonsense": Mistake(
        ["eval", LAST, "--dynamic", "sgd", "--dynamic-rate", "nan"],
        ["--dynamic-rate nan: expected 0 or more"],
    ),
    "--dynamic-decay nonsense": Mistake(
        ["eval", LAST, "--dynamic", "rms", "--dynamic-decay", "1.5"],
        ["--dynamic-decay 1.5: expected 0 to 1"],
    ),
    "--dynamic-decay alone": Mistake(
        ["eval", LAST, "--dynamic-decay", "0"],
        ["--dynamic-decay: has a meaning only with --dynamic"],
    ),
    "--dynamic of columns": Mistake(
        ["eval", LAST, "--dynamic", "sgd", "--protocol", "columns"],
        ["--protocol columns: dynamic evaluation (SGD", "is of one stream; leave it out"],
    ),
    "--dynamic rms after the data went away": Mistake(
        ["eval", LAST, "--dynamic", "rms", "--text", "elsewhere/test.txt"],
        [f"{LAST}: it was trained on the folder text, which is not here", "use --dynamic sgd"],
        run_without_data,
    ),
    "no states to cache": Mistake(["eval", LAST, "--cache", "0"], ["--cache 0: expected 1"]),
    "--cache-theta nonsense": Mistake(
        ["eval", LAST, "--cache", "9", "--cache-theta", "-1"], ["--cache-theta -1.0: expected 0"]
    ),
    "--cache-weight nonsense": Mistake(
        ["eval", LAST, "--cache", "9", "--cache-weight", "1"],
        ["--cache-weight 1.0: expected 0 or more and less than 1"],
    ),
    "--cache-weight alone": Mistake(
        ["eval", LAST, "--dynamic", "sgd", "--cache-weight", "0.1"],
        ["--cache-weight: has a meaning only with --cache"],
    ),
    "--mc-samples with --cache": Mistake(
        ["eval", LAST, "--mc-samples", "2", "--cache", "9"],
        ["--mc-samples with --dynamic or --cache: choose one"],
    ),
    "no words to generate": Mistake(["generate", LAST, "--words", "0"], ["--words", "1"]),
    "no temperature": Mistake(["generate", LAST, "--temperature", "0"], ["--temperature", "0.01"]),
    "no samples": Mistake(["generate", LAST, "--samples", "0"], ["--samples", "1"]),
    "a temperature that is no number": Mistake(
        ["generate", LAST, "--temperature", "nan"], ["--temperature", "0.01"]
    ),
    "a temperature without end": Mistake(
        ["generate", LAST, "--temperature", "inf"], ["temperature inf: expected a number above 0"]
    ),
    "none of the likeliest words": Mistake(["generate", LAST, "--top-k", "0"], ["--top-k", "1"]),
    "an empty nucleus": Mistake(
        ["generate", LAST, "--top-p", "0"],
        ["top-p 0.0: expected a number above 0, and at most 1"],
    ),
    "more than all probability": Mistake(
        ["generate", LAST, "--top-p", "90"], ["top-p 90.0: expected a number above 0, and at most"]
    ),
    # scoring
    "no checkpoint to score with": Mistake(
        ["score", "nowhere.pt", "text/test.txt"], ["nowhere.pt: no such checkpoint"]
    ),
    "a text in the place of the checkpoint": Mistake(
        ["score", "text/test.txt", LAST], ["text/test.txt: not a checkpoint"]
    ),
    "a text to score that is not there": Mistake(
        ["score", LAST, "text/test.txt", "nowhere.txt"],
        ["nowhere.txt: cannot be read: No such file"],
    ),
    "a text to score that is a folder": Mistake(
        ["score", LAST, "text"], ["text: cannot be read: Is a directory"]
    ),
    "a line to score that is not UTF-8": Mistake(
        ["score", LAST, "note.txt"],
        ["note.txt: line 3, byte 7: not UTF-8 (0xe9)", "convert the file to UTF-8"],
        lambda: write("note.txt", b"a b\n\nc \xe9\n"),
    ),
    "a NUL in a line to score": Mistake(
        ["score", LAST, "text/test.txt", "note.txt", "--per-word"],
        ["note.txt: line 2, byte 2: a NUL byte: is it UTF-16"],
        lambda: write("note.txt", b"a\n\0b\n"),
    ),
    "--nbest without its convention": Mistake(["score", LAST, "--nbest"], ["--nbest", "argument"]),
    "--nbest nonsense": Mistake(
        ["score", LAST, "text/test.txt", "--nbest", "kaldi"],
        ["--nbest kaldi: expected numbered or repeated"],
    ),
    "--nbest with --per-word": Mistake(
        ["score", LAST, "text/test.txt", "--nbest", "numbered", "--per-word"],
        ["--nbest and --per-word: choose one"],
    ),
    "--nbest with --continuous": Mistake(
        ["score", LAST, "text/test.txt", "--nbest", "numbered", "--continuous"],
        ["--nbest and --continuous: choose one"],
    ),
    "an n-best list without numbers": Mistake(
        ["score", LAST, "list.txt", "--nbest", "numbered"],
        ["line 2: the id 'other' does not end in a hyphen and a number", "--nbest repeated"],
        lambda: write("list.txt", b"utt-1 a b\nother a b\n"),
    ),
    "an n-best list with an empty line": Mistake(
        ["score", LAST, "list.txt", "--nbest", "repeated"],
        ["line 2: an empty line; expected an id and a text"],
        lambda: write("list.txt", b"utt a b\n\nutt a\n"),
    ),
    "--device nonsense in score": Mistake(
        ["score", LAST, "text/test.txt", "--device", "gpu"],
        ["--device gpu: expected auto, cpu or cuda"],
    ),
    "a seed that no generator takes": Mistake(
        ["generate", LAST, "--seed", str(2**63)], ["--seed", str(2**63 - 1)]
    ),
    # score files
    "no score file": Mistake(["average", "nowhere.npz"], ["nowhere.npz: no such score file"]),
    "scores of two splits": Mistake(
        ["average", SCORES, "runs/b/scores-valid.npz"],
        ["runs/b/scores-valid.npz: split is valid, but test in runs/a/scores-test.npz"],
    ),
    "scores of two texts of one name": Mistake(
        ["average", "one.npz", "two.npz"],
        ["two.npz: text_sha256 is ", "in one.npz", "the same text scored in the same way"],
        scores_of_two_texts,
    ),
    "scores under two protocols": Mistake(
        ["average", SCORES, "columns.npz"],
        ["columns.npz: protocol is columns, but stream in runs/a/scores-test.npz"],
        lambda: scores_of("columns.npz", "--protocol", "columns"),
    ),
    "scores in two ways": Mistake(
        ["average", SCORES, "cache.npz"],
        ["cache.npz: way is a continuous cache (9 states, ", "but usual in runs/a/scores-test.npz"],
        lambda: scores_of("cache.npz", "--cache", "9"),
    ),
    "scores over two vocabularies": Mistake(
        ["average", "one.npz", "two.npz"],
        ["two.npz: vocabulary_size is 7, but 10 in one.npz"],
        scores_over_two_vocabularies,
    ),
    "a text as score file": Mistake(["average", "text/test.txt"], ["text/test.txt: not a score"]),
    "a checkpoint as score file": Mistake(["average", LAST], [f"{LAST}: not a score file"]),
    "an empty score file": Mistake(
        ["average", "bad.npz"], NO_SCORES, lambda: write("bad.npz", b"")
    ),
    "a truncated score file": Mistake(
        ["average", "bad.npz"],
        NO_SCORES,
        lambda: write("bad.npz", Path(SCORES).read_bytes()[:-30]),
    ),
    "a damaged score file": Mistake(["average", "bad.npz"], NO_SCORES, damaged_scores),
    "one array as score file": Mistake(
        ["average", "bad.npy"],
        ["bad.npy: not a score file"],
        lambda: np.save("bad.npy", np.zeros(3)),
    ),
    "a run's folder as a score file": Mistake(
        ["average", "runs/a", "runs/b"],
        ["runs/a: a folder; expected a score file: name runs/a/scores-test.npz"],
    ),
    "another folder as a score file": Mistake(
        ["average", "text"], ["text: a folder; expected a score file: name what `ptb-lm eval"]
    ),
    "a score file twice": Mistake(
        ["average", SCORES, "runs/b/scores-test.npz", "runs/b/../a/scores-test.npz"],
        [f"runs/b/../a/scores-test.npz: named twice, as {SCORES}"],
    ),
    "a score file twice in JSON": Mistake(
        ["average", SCORES, SCORES, "--json"], [f"{SCORES}: named twice, as {SCORES}"]
    ),
    "a model twice": Mistake(["eval", "runs/a", LAST], [f"{LAST}: named twice, as runs/a"]),
    "a score file without a description": Mistake(
        ["average", "bad.npz"], NO_SCORES, score_file(description=None)
    ),
    "a score file whose description is none": Mistake(
        ["average", "bad.npz"], NO_SCORES, score_file(description=description("[1]"))
    ),
    "a score file whose description lacks keys": Mistake(
        ["average", "bad.npz"], NO_SCORES, score_file(description=description('{"format": 1}'))
    ),
    "a score file of another format": Mistake(
        ["average", "bad.npz"],
        ["bad.npz: score format 2, this version reads 1"],
        score_file(description=description('{"format": 2, "texts": []}')),
    ),
    "a pickled score file": Mistake(
        ["average", "bad.npz"],
        NO_SCORES,
        score_file(log_probabilities=np.array([Intruder(), None])),
    ),
    "scores that are no log-probabilities": Mistake(
        ["average", "bad.npz"],
        NO_SCORES,
        score_file(log_probabilities=np.array([-1.0, 0.5], np.float32)),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_that_helps_and_loses_nothing(
    mistake: Mistake, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake.before()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    there = contents(workplace)
    outcome = ptb_lm(*mistake.arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert "Traceback" not in outcome.err
    for fragment in mistake.fragments:
        assert fragment in outcome.err
    assert outcome.out == ""
    assert contents(workplace) == there


def test_the_least_corpus_that_is_named_is_enough(workplace: Path) -> None:
    corpus("train", b"a " * 17)
    write("bad/valid.txt", b"a b c\n")
    done(*train(data="bad"))


def test_a_mistake_in_a_process_of_its_own_is_one_line_too(workplace: Path) -> None:
    """Here warnings are shown, as a user has them, and PyTorch has one of such a file."""
    write("bad.pt", pickle.dumps({"a": 1}, 5))
    command = [sys.executable, "-m", "ptb_lm", "eval", "bad.pt"]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr == "error: bad.pt: not a checkpoint of ptb-lm, or damaged\n"


def test_the_traps_of_this_file_would_spring(workplace: Path) -> None:
    buffer = io.BytesIO(pickle.dumps(Intruder()))
    pickle.load(buffer)
    assert Path("executed").is_dir()


def test_a_diverged_run_leaves_no_checkpoint(workplace: Path) -> None:
    outcome = ptb_lm(*train(training__learning_rate=1e10))
    assert (outcome.code, outcome.out) == (1, "")
    assert "there is no checkpoint yet" in outcome.err.splitlines()[-1]
    assert not list(Path("runs/new").glob("*.pt"))


def test_a_corpus_of_one_word_is_no_mistake(workplace: Path) -> None:
    write_texts(Path("one"), ["a"], seed=1)
    assert "perplexity" in done(*train(data="one")).out
