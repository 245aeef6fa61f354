"""Exported models: the same figures as the checkpoint's, used without ptb-lm, whole or not there.

What a README says is run here as it stands in it.
"""

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from checkpoints import only_line
from cli_support import WORDS, assignments, contents, done, done_json, ptb_lm, train_arguments
from cli_support import write_texts as write_corpus
from hostile import Watched
from networks import log_probs_of
from safetensors.torch import load_file, save_file

from ptb_lm import evaluate, export, load
from ptb_lm.config import Config, resolve
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.durable import durable_folder
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation import export as exporting
from ptb_lm.evaluation.export import ONNX, README
from ptb_lm.evaluation.exported_readme import exported_readme
from ptb_lm.model.layers import LAYERS
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.onnx_graph import onnx_model
from ptb_lm.model.scoring import target_log_probabilities
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from ptb_lm.training.exported import CONFIG, VOCABULARY, WEIGHTS, load_exported

RUN, LAST = "runs/a", "runs/a/last.pt"
KINDS = [(cell, tied) for cell in LAYERS for tied in (False, True)]
# No letter of any alphabet, a byte order mark, an emoji, quotes, a backslash, marks of Markdown.
ODD_WORDS = [EOS, UNK, "\ufeffa", "\u200b", "e\u0301", "\U0001f600", "'\"", "\\n", "```", "|", "a"]
FILES = {WEIGHTS, CONFIG, VOCABULARY, README}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus, a finished run on it, and that run exported."""
    folder = tmp_path_factory.mktemp("export")
    write_corpus(folder / "text", WORDS, seed=1)
    with chdir(folder):
        done(*train_arguments(RUN))
        done("export", LAST, "--out", "model", "--device", "cpu")
    return folder


def tiny_config(**changes: Any) -> Config:
    """A config of weights so large that nothing in its network can be left out unnoticed."""
    return resolve("small", assignments(model__init_range=1.0, **changes)[1::2])


def random_checkpoint(
    path: Path, words: list[str] = ODD_WORDS, dtype: torch.dtype = torch.float32, **changes: Any
) -> Checkpoint:
    """Write a checkpoint of a network that was never trained."""
    config = tiny_config(**{"run__data": "nowhere", "run__precision": "fp32", **changes})
    torch.manual_seed(1)
    network = LanguageModel(config.model, len(words)).to(dtype)
    checkpoint = Checkpoint(config, Vocabulary(words), "0", network.weights(), 2, 12.5)
    save_checkpoint(checkpoint, path)
    return checkpoint


# What is in the folder.


def test_the_folder_holds_the_model_and_nothing_else(workplace: Path) -> None:
    checkpoint, folder = load_checkpoint(Path(LAST)), Path("model")
    assert {path.name for path in folder.iterdir()} == FILES
    weights = load_file(folder / WEIGHTS)
    assert sorted(weights) == sorted(checkpoint.weights)
    for name, weight in checkpoint.weights.items():
        assert weights[name].dtype == torch.float32
        assert weights[name].numpy().tobytes() == weight.numpy().tobytes()
    content = json.loads((folder / CONFIG).read_text())
    for section, values in checkpoint.config.model_dump(exclude_none=True).items():
        assert content[section] == values
    lines = (folder / VOCABULARY).read_bytes()
    assert lines.decode().splitlines() == checkpoint.vocabulary.words
    assert content["vocabulary_sha256"] == hashlib.sha256(lines[:-1]).hexdigest()
    assert content["weights_sha256"] == sha256(folder / WEIGHTS)
    assert content["epoch"] == 2
    assert content["valid_perplexity"] == checkpoint.valid_perplexity


def test_the_readme_has_the_perplexities_that_eval_gives(workplace: Path) -> None:
    readme = Path("model", README).read_text()
    for split, layout in (("valid", "3 columns"), ("test", "one stream")):
        (member,) = done_json("eval", LAST, "--split", split)["members"]
        figures = f"{member['perplexity']:.2f} | {layout} | {member['tokens']:,} |"
        assert f"| {split} | {figures}" in readme


@pytest.mark.parametrize(
    ("preset", "options", "title"),
    [
        ("small", {"data": "ptb"}, "small"),
        ("small", {"data": "ptb", "epochs": 2}, "small, changed"),
        ("small", {"data": "/texts/my *words*"}, "small, on my--words-"),
        ("synthetic", {"data": "synthetic"}, "synthetic, on synthetic"),
        ("mine.toml", {"data": "texts/harbour"}, "mine, on harbour"),
        ("medium", {"data": "texts/harbour/", "epochs": 2}, "medium, changed, on harbour"),
    ],
)
def test_the_title_of_the_readme_says_what_the_model_is(
    workplace: Path, preset: str, options: dict[str, Any], title: str
) -> None:
    Path("mine.toml").write_text(done("config", "show", "small").out)
    changes = [f"training.epochs={options['epochs']}"] if "epochs" in options else []
    checkpoint = load_checkpoint(Path(LAST))
    checkpoint.config = resolve(preset, changes, {"data": options["data"]})
    readme = exported_readme(checkpoint, [], "cpu", onnx=False)
    assert readme.splitlines()[0] == f"# {title}"


# In bfloat16 a cell without a fused kernel, as not every processor has one for the LSTM.
@pytest.mark.parametrize(("precision", "cell"), [("fp32", "lstm"), ("bf16", "rnn-sigmoid")])
def test_its_scores_are_bitwise_those_of_the_checkpoint(
    workplace: Path, precision: str, cell: str
) -> None:
    done(*train_arguments("runs/b", "--precision", precision, model__cell=cell))
    export("runs/b/last.pt", "b", device="cpu")
    for split in ("valid", "test"):
        ours, theirs = (
            evaluate(load(path, "cpu"), split).log_probabilities for path in ("b", "runs/b/last.pt")
        )
        assert ours.tobytes() == theirs.tobytes()
    exported, checkpoint = load_exported(Path("b")), load_checkpoint(Path("runs/b/last.pt"))
    assert exported.config == checkpoint.config
    assert exported.corpus_sha256 == checkpoint.corpus_sha256


def test_the_commands_take_the_folder_and_a_run_folder(workplace: Path) -> None:
    of_checkpoint = done_json("eval", LAST)
    for folder, name in (("model", "model"), (RUN, LAST)):
        table = done_json("eval", folder)
        assert table["members"][0].pop("checkpoint") == name
        assert table["members"][0] == {
            key: value for key, value in of_checkpoint["members"][0].items() if key != "checkpoint"
        }
        drawn = [done("generate", path, "--words", "20").out for path in (LAST, folder)]
        assert drawn[0] == drawn[1]


def test_an_exported_model_is_exported_again_to_the_same(workplace: Path) -> None:
    done("export", "model", "--out", "again", "--device", "cpu")
    assert contents(Path("again")) == contents(Path("model"))


def test_a_float64_checkpoint_stays_so(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path / "a.pt", dtype=torch.float64)
    export(tmp_path / "a.pt", tmp_path / "a", onnx=True)
    for name, weight in load_exported(tmp_path / "a").weights.items():
        assert weight.dtype == torch.float64
        assert torch.equal(weight, checkpoint.weights[name])
    onnx_weights = onnx.load(tmp_path / "a" / ONNX).graph.initializer
    assert {each.data_type for each in onnx_weights if each.name != "axis_of_directions"} == {
        onnx.TensorProto.FLOAT
    }


def test_words_of_any_kind_come_back(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "a.pt")
    export(tmp_path / "a.pt", tmp_path / "a")
    assert load_exported(tmp_path / "a").vocabulary.words == ODD_WORDS
    assert load(tmp_path / "a", "cpu").vocabulary.words == ODD_WORDS


def test_a_folder_of_any_name_is_written_and_read(workplace: Path) -> None:
    name = os.fsdecode(b"m\xff \n")
    done("export", LAST, "--out", name)
    assert (
        done_json("eval", name)["members"][0]["nll"] == done_json("eval", LAST)["members"][0]["nll"]
    )


@pytest.mark.parametrize("space", ["\n", "\r", "\x1c", "\x85", "\u2028", "\u3000", ""])
def test_a_word_with_white_space_which_no_text_has_is_refused(tmp_path: Path, space: str) -> None:
    word = f"a{space}b" if space else ""
    random_checkpoint(tmp_path / "a.pt", [EOS, UNK, word])
    with pytest.raises(InputError, match="a word of the vocabulary holds white space"):
        export(tmp_path / "a.pt", tmp_path / "a")
    assert not (tmp_path / "a").exists()


# Where nothing can be measured.


def without_texts() -> None:
    shutil.rmtree("text")


def other_texts() -> None:
    lines = Path("text/train.txt").read_text().splitlines(keepends=True)
    Path("text/train.txt").write_text("".join(reversed(lines)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (without_texts, "it was trained on the folder text, which is not here; name where it lies"),
        (other_texts, "the texts of the data text are not those that it was trained on"),
    ],
)
def test_what_cannot_be_measured_is_said_not_to_be(
    workplace: Path, change: Callable[[], None], why: str
) -> None:
    change()
    outcome = done("export", LAST, "--out", "new")
    assert f"not measured: {LAST}: {why}" in outcome.err
    assert outcome.out == f"new: {WEIGHTS}, {CONFIG}, {VOCABULARY}, {README}\n"
    recorded = load_checkpoint(Path(LAST)).valid_perplexity
    readme = Path("new", README).read_text()
    assert "Not measured here" in readme
    assert f"validation perplexity of {recorded:.2f} (3 columns) at the end of epoch 2." in readme


def test_it_is_measured_on_its_texts_where_they_lie_now(workplace: Path) -> None:
    done("export", LAST, "--out", "before")
    shutil.move("text", "elsewhere")
    outcome = done("export", LAST, "--out", "new", "--data", "elsewhere")
    assert outcome.err == ""
    for name in FILES:
        assert Path("new", name).read_bytes() == Path("before", name).read_bytes()
    (valid, test) = export(LAST, "again", data=Path("elsewhere")).measured
    assert f"valid perplexity {valid.perplexity:.2f}" in outcome.out
    assert f"test perplexity {test.perplexity:.2f}" in outcome.out


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("nowhere", "--data nowhere: expected ptb, synthetic, or a folder"),
        ("synthetic", "is not that of the data synthetic ("),
    ],
)
def test_other_data_than_its_own_is_refused_where_it_is_named(
    workplace: Path, data: str, why: str
) -> None:
    before = contents(workplace)
    only_line(ptb_lm("export", LAST, "--out", "new", "--data", data), 2, why)
    assert contents(workplace) == before


def test_the_penn_treebank_is_not_fetched_for_it(workplace: Path) -> None:
    checkpoint = load_checkpoint(Path(LAST))
    run = checkpoint.config.run.model_copy(update={"data": "ptb"})
    checkpoint.config = checkpoint.config.model_copy(update={"run": run})
    save_checkpoint(checkpoint, Path("ptb.pt"))
    outcome = done("export", "ptb.pt", "--out", "new", "--data-dir", "empty")
    assert (
        "not measured: ptb.pt: the Penn Treebank, which it was trained on, is not in empty"
        in outcome.err
    )
    assert "Not measured here" in Path("new", README).read_text()


def test_a_perplexity_of_other_weights_is_not_given(workplace: Path) -> None:
    """Stopped within epoch 2, the checkpoint records that of epoch 1, whose weights are gone."""
    done(*train_arguments("runs/part", "--max-steps", "40"))
    checkpoint = load_checkpoint(Path("runs/part/last.pt"))
    assert checkpoint.epoch == 1
    assert np.isfinite(checkpoint.valid_perplexity)
    without_texts()
    done("export", "runs/part", "--out", "new")
    readme = Path("new", README).read_text()
    assert "records no figure of these weights" in readme
    assert "saved within epoch 2 of 2" in readme
    assert json.loads(Path("new", CONFIG).read_text())["valid_perplexity"] is None


def test_a_diverged_model_is_said_to_be_of_the_epoch_that_it_is_of(workplace: Path) -> None:
    checkpoint = load_checkpoint(Path(LAST))
    checkpoint.valid_perplexity = np.inf
    save_checkpoint(checkpoint, Path("diverged.pt"))
    without_texts()
    done("export", "diverged.pt", "--out", "new")
    readme = Path("new", README).read_text()
    assert "saved after epoch 2 of 2" in readme
    assert "records no figure of these weights" in readme


# Without ptb-lm.

WITHOUT_PTB_LM = """
import contextlib, io, json, os, re, sys
sys.modules["ptb_lm"] = None
printed = []
for folder in sys.argv[1:]:
    os.chdir(folder)
    readme = open("README.md", encoding="utf-8").read()
    for code in re.findall(r"```python\\n(.*?)```", readme, re.DOTALL):
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, {})
        printed.append(out.getvalue())
json.dump(printed, sys.stdout)
"""


def printed_by_readmes(folders: list[Path]) -> Iterator[str]:
    """What the code in READMEs prints, one after another, where ptb-lm cannot be imported."""
    command = [sys.executable, "-I", "-X", "utf8", "-c", WITHOUT_PTB_LM, *map(str, folders)]
    ran = subprocess.run(command, capture_output=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    return iter(json.loads(ran.stdout))


def test_the_readme_loads_each_kind_of_network_without_ptb_lm(tmp_path: Path) -> None:
    """Its code, run as it stands, scores its sentence as ptb-lm does, and as onnxruntime does."""
    kinds = [*((*kind, torch.float32) for kind in KINDS), ("gru", True, torch.float64)]
    networks, folders = [], []
    for number, (cell, tied, dtype) in enumerate(kinds):
        folder = tmp_path / str(number)
        changes = {"model__cell": cell, "model__tied": tied}
        if number % 2:  # layers of different widths
            changes |= {"model__embedding_size": 8, "model__hidden_sizes": [7, 5, 8]}
        checkpoint = random_checkpoint(tmp_path / "a.pt", dtype=dtype, **changes)
        export(tmp_path / "a.pt", folder, onnx=True)
        networks.append(checkpoint.network().to(dtype).eval())
        folders.append(folder)
    printed = printed_by_readmes(folders)
    vocabulary = Vocabulary(ODD_WORDS)
    for network, kind in zip(networks, kinds, strict=True):
        lines = [line.split() for line in next(printed).splitlines()]
        words = [word for word, _ in lines]
        assert set(words) <= set(ODD_WORDS)
        assert words[-1] == EOS
        ids = vocabulary.encode([EOS, *words])
        expected = target_log_probabilities(network, ids, 1)
        tolerance = 1e-5 if kind[2] == torch.float32 else 1e-12
        assert expected.tolist() == pytest.approx(
            [float(score) for _, score in lines], abs=tolerance
        ), kind
        with torch.no_grad():
            inputs = torch.from_numpy(ids[:-1].astype("int64"))[:, None]
            log_probs, _ = log_probs_of(network, inputs, network.zero_state(1))
        assert next(printed).strip() == ODD_WORDS[int(log_probs[-1, 0].argmax())], kind
    assert list(printed) == []


def test_the_readme_says_that_bfloat16_differs(tmp_path: Path) -> None:
    random_checkpoint(tmp_path / "a.pt", run__precision="bf16")
    export(tmp_path / "a.pt", tmp_path / "a")
    assert "This computes in float32" in (tmp_path / "a" / README).read_text()


# ONNX.


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("cell", "tied"), KINDS)
def test_onnxruntime_computes_what_the_network_does(cell: str, tied: bool, layers: int) -> None:
    config = tiny_config(model__cell=cell, model__tied=tied, model__layers=layers).model
    torch.manual_seed(1)
    network = LanguageModel(config, 11).eval()
    graph = onnx_model(config, network.weights())
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    states = [value.name for value in session.get_inputs()][1:]
    assert len(states) == LAYERS[cell].states

    def run(words: torch.Tensor, state: list[Any]) -> list[Any]:
        return session.run(None, {"words": words.numpy(), **dict(zip(states, state, strict=True))})

    for steps, streams in ((1, 1), (9, 1), (1, 4), (12, 3)):
        words = torch.randint(11, (steps, streams))
        # A state that is not zero, else its way in would not be seen.
        hidden = [tuple(torch.rand(streams, 8) for _ in states) for _ in range(layers)]
        before = [torch.stack(parts).numpy() for parts in zip(*hidden, strict=True)]
        with torch.no_grad():
            output = network(words, hidden)
            logits, after = network.softmax(output.dropped), output.state
        whole = run(words, before)
        expected = [logits, *(torch.stack(parts) for parts in zip(*after, strict=True))]
        for ours, theirs in zip(whole, expected, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-5, rtol=0)
        parts, state = [], before
        for window in words.split(5):
            part, *state = run(window, state)
            parts.append(part)
        for ours, theirs in zip([np.concatenate(parts), *state], whole, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("cell", LAYERS)
def test_onnx_state_of_layers_of_different_widths(cell: str) -> None:
    sizes = {"model__embedding_size": 6, "model__hidden_sizes": [7, 5, 8]}
    config = tiny_config(model__cell=cell, **sizes).model
    torch.manual_seed(1)
    network = LanguageModel(config, 11).eval()
    graph = onnx_model(config, network.weights())
    onnx.checker.check_model(graph, full_check=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    words, (_, *states) = torch.randint(11, (9, 3)), session.get_inputs()
    hidden = [tuple(torch.rand_like(part) for part in layer) for layer in network.zero_state(3)]
    values = [part[None].numpy() for layer in hidden for part in layer]
    names = [state.name for state in states]
    assert names[:: LAYERS[cell].states] == ["h.0", "h.1", "h.2"]
    with torch.no_grad():
        output = network(words, hidden)
    state = dict(zip(names, values, strict=True))
    logits, *after = session.run(None, {"words": words.numpy(), **state})
    expected = [
        network.softmax(output.dropped),
        *(p[None] for layer in output.state for p in layer),
    ]
    for ours, theirs in zip([logits, *after], expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5, rtol=0)


def test_weights_that_no_onnx_file_holds_are_refused() -> None:
    config = tiny_config().model
    weights = {"embedding.weight": torch.empty(2**29, device="meta")}
    with pytest.raises(InputError, match=r"--onnx: the weights take 2\.1 GB"):
        onnx_model(config, weights)


# Whole, or not there.


def test_overwrite_replaces_a_model_as_a_whole(workplace: Path) -> None:
    done("export", RUN, "--out", "new", "--onnx")
    assert Path("new", ONNX).exists()
    random_checkpoint(Path("a.pt"))
    done("export", "a.pt", "--out", "new", "--overwrite")
    assert {path.name for path in Path("new").iterdir()} == FILES
    assert load("new", "cpu").vocabulary.words == ODD_WORDS


def test_overwrite_removes_nothing_else(workplace: Path) -> None:
    Path("model/.git").mkdir()
    before = contents(workplace)
    line = only_line(ptb_lm("export", LAST, "--out", "model", "--overwrite"), 2)
    assert "model: not empty, and more or other than an exported model: .git is in it" in line
    assert contents(workplace) == before


def test_an_empty_folder_and_a_link_to_one_are_taken(workplace: Path) -> None:
    Path("empty").mkdir()
    Path("link").symlink_to("empty")
    done("export", LAST, "--out", "link")
    assert Path("link").is_symlink()
    assert {path.name for path in Path("empty").iterdir()} == FILES


def test_a_write_that_fails_leaves_what_was_there(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(workplace)
    write_bytes = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == VOCABULARY:
            write_bytes(path, data[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_bytes(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    for name, rest in (("new", ""), ("model", "; what stood there before still stands")):
        outcome = ptb_lm("export", LAST, "--out", name, "--overwrite")
        line = only_line(outcome, 1)
        assert line == f"error: {name}: cannot be written: No space left on device{rest}"
        assert contents(workplace) == before


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()])
def test_a_replacement_that_fails_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "old").write_text("old")
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if (path / "new").exists():
            raise error
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with (
        pytest.raises((PtbLmError, KeyboardInterrupt)),
        durable_folder(folder, replace=True) as temporary,
    ):
        (temporary / "new").write_text("new")
    assert contents(tmp_path) == {"a": None, "a/old": b"old"}


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    with (
        pytest.raises(PtbLmError, match="a: cannot be written: Directory not empty"),
        durable_folder(tmp_path / "a") as temporary,
    ):
        (temporary / "new").write_text("new")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "other").write_text("other")
    assert contents(tmp_path) == {"a": None, "a/other": b"other"}


def test_a_signal_while_it_measures_leaves_nothing(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(workplace)
    stop = StopFlag()
    score_text, splits = exporting.score_text, []

    def signalled(*arguments: Any) -> Any:
        splits.append(arguments[2].split)
        stop.signal_number = signal.SIGTERM
        return score_text(*arguments)

    monkeypatch.setattr(exporting, "score_text", signalled)
    with pytest.raises(Stopped):
        export(LAST, "new", stop=stop)
    assert splits == ["valid"]
    assert contents(workplace) == before


def test_without_the_extras_one_line_says_what_to_install(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "ptb_lm.model.onnx_graph")
    before = contents(workplace)
    export_it = ["export", LAST, "--out", "new"]
    only_line(ptb_lm(*export_it, "--onnx"), 2, "--onnx: needs onnx: pip install 'ptb-lm[onnx]'")
    assert contents(workplace) == before
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    for command in (export_it, ["eval", "model"]):
        only_line(ptb_lm(*command), 2, "needs safetensors: pip install 'ptb-lm[export]'")
    assert contents(workplace) == before


# Folders that are damaged, or a stranger's.


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed(**keys: Any) -> Callable[[Path], None]:
    """Change keys of config.json, written section__key; a key of None is left out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / CONFIG).read_text())
        for key, value in keys.items():
            *sections, name = key.split("__")
            table = content[sections[0]] if sections else content
            if value is None:
                del table[name]
            else:
                table[name] = value
        (folder / CONFIG).write_text(json.dumps(content))

    return change


def text(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: bytes_of(folder / name, change)


def bytes_of(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    """Change the weights, and config.json with them, so that what refuses them is no sha256."""

    def change_both(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
        change(tensors)
        save_file(tensors, folder / WEIGHTS)
        changed(weights_sha256=sha256(folder / WEIGHTS))(folder)

    return change_both


def not_utf_8(folder: Path) -> None:
    data = (folder / VOCABULARY).read_bytes().replace(b"\na\n", b"\n\xff\n")
    (folder / VOCABULARY).write_bytes(data)
    changed(vocabulary_sha256=hashlib.sha256(data[:-1]).hexdigest())(folder)


def more_words_than_weights(folder: Path) -> None:
    data = b"a\n" * 3 * 10**7
    (folder / VOCABULARY).write_bytes(data)
    changed(vocabulary_sha256=hashlib.sha256(data[:-1]).hexdigest())(folder)


def words(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    """Change the words, and config.json with them."""

    def change_both(folder: Path) -> None:
        before = (folder / VOCABULARY).read_text().split("\n")[:-1]
        after = change(before)
        (folder / VOCABULARY).write_text("".join(f"{word}\n" for word in after))
        changed(vocabulary_sha256=hashlib.sha256("\n".join(after).encode()).hexdigest())(folder)

    return change_both


def long(name: str, beginning: bytes) -> Callable[[Path], None]:
    """Write a file that begins so and is 400 MB long, of which the disk holds next to nothing."""

    def write(folder: Path) -> None:
        (folder / name).write_bytes(beginning)
        os.truncate(folder / name, 4 * 10**8)

    return write


def flipped(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


class Damage(NamedTuple):
    make: Callable[[Path], Any]
    fragments: list[str]


NO_WEIGHTS = [f"{WEIGHTS}: no weights of this model, or damaged"]
DAMAGE = {
    "no weights": Damage(lambda folder: (folder / WEIGHTS).unlink(), [f"{WEIGHTS}: no such file"]),
    "no config": Damage(lambda folder: (folder / CONFIG).unlink(), [f"{CONFIG}: no such file"]),
    "no words": Damage(
        lambda folder: (folder / VOCABULARY).unlink(), [f"{VOCABULARY}: no such file"]
    ),
    "a config that is no JSON": Damage(
        text(CONFIG, lambda data: data[:-3]), [f"{CONFIG}: not a JSON object, or damaged"]
    ),
    "a config of NaN": Damage(
        text(CONFIG, lambda data: data.replace(b'"epoch": 2', b'"epoch": NaN')),
        [f"{CONFIG}: not a JSON object"],
    ),
    "a config nested deep": Damage(text(CONFIG, lambda data: b"[" * 10**5), ["not a JSON object"]),
    "a config of a list": Damage(text(CONFIG, lambda data: b"[1]"), ["not a JSON object"]),
    "a number of thousands of digits": Damage(
        text(CONFIG, lambda data: data.replace(b'"epoch": 2', b'"epoch": ' + b"2" * 5000)),
        ["not a JSON object"],
    ),
    "a config that is not UTF-8": Damage(
        text(CONFIG, lambda data: data.replace(b"lstm", b"\xff")), ["not a JSON object"]
    ),
    "another program's config": Damage(
        text(CONFIG, lambda data: b'{"architectures": ["GPT2LMHeadModel"]}'),
        [f"{CONFIG}: not of a model that ptb-lm exported"],
    ),
    "a newer format": Damage(changed(format=3), ["export format 3, this version reads 1 and 2"]),
    "no format": Damage(changed(format=None), ["not of a model that ptb-lm exported"]),
    "an unknown key": Damage(
        changed(wieghts="x"), [f"{CONFIG}: wieghts: unknown key", "weights_sha256"]
    ),
    "an unknown key in a section": Damage(
        changed(model__droput=0.5), ["model.droput: unknown key; did you mean 'dropout'?"]
    ),
    "a key missing": Damage(changed(weights_sha256=None), ["weights_sha256: missing"]),
    "a key of a section missing": Damage(changed(model__layers=None), ["model.layers: missing"]),
    "a key of another type": Damage(
        changed(model__layers="2"), ["model.layers: expected integer, got '2'"]
    ),
    "a sha256 of another type": Damage(
        changed(weights_sha256=5), ["weights_sha256: expected string, got 5"]
    ),
    "more layers than it has": Damage(
        changed(model__layers=3), [*NO_WEIGHTS, "layers.2.weight_ih_l0 is missing"]
    ),
    "another width": Damage(
        changed(model__hidden_size=9),
        [*NO_WEIGHTS, "embedding.weight has the shape (10, 8), this network's has (10, 9)"],
    ),
    "a width of a thousand million": Damage(
        changed(model__hidden_size=2**30), [*NO_WEIGHTS, "1,073,741,824 units"]
    ),
    "another cell": Damage(changed(model__cell="gru"), [*NO_WEIGHTS, "(24, 8)"]),
    "a precision that no run has": Damage(
        changed(run__precision="auto"), [f"{CONFIG}: damaged: run.precision is auto"]
    ),
    "a tied softmax": Damage(
        changed(model__tied=True), [*NO_WEIGHTS, "softmax.weight is none of this network's"]
    ),
    "a weight missing": Damage(
        weights(lambda tensors: tensors.pop("softmax.bias")), ["softmax.bias is missing"]
    ),
    "a weight too many": Damage(
        weights(lambda tensors: tensors.update(more=torch.zeros(3))), ["more is none of this"]
    ),
    "a weight of another shape": Damage(
        weights(lambda tensors: tensors.update({"softmax.bias": torch.zeros(10, 1)})),
        ["softmax.bias has the shape (10, 1)"],
    ),
    "a weight of another type": Damage(
        weights(lambda tensors: tensors.update({"softmax.bias": torch.zeros(10).half()})),
        ["softmax.bias is of torch.float16"],
    ),
    "a bit of the weights flipped": Damage(
        text(WEIGHTS, flipped), [f"{WEIGHTS}: damaged: not the weights whose sha256 {CONFIG} has"]
    ),
    "weights cut off": Damage(text(WEIGHTS, lambda data: data[:-1]), NO_WEIGHTS),
    "weights with a byte more": Damage(text(WEIGHTS, lambda data: data + b"\0"), NO_WEIGHTS),
    "empty weights": Damage(text(WEIGHTS, lambda data: b""), NO_WEIGHTS),
    "a header longer than the file": Damage(
        text(WEIGHTS, lambda data: b"\xff" * 8 + data[8:]), [*NO_WEIGHTS, "header is too long"]
    ),
    "a header that is no JSON": Damage(
        text(WEIGHTS, lambda data: data[:8] + b"[" + data[9:]), NO_WEIGHTS
    ),
    "a pickle as weights": Damage(
        lambda folder: shutil.copy(LAST, folder / WEIGHTS), [*NO_WEIGHTS, "header is too long"]
    ),
    "a word too few": Damage(
        words(lambda words: words[:-1]), [f"{VOCABULARY}: damaged: 9 lines, where {CONFIG} has 10"]
    ),
    "a word twice": Damage(
        words(lambda words: [*words[:-1], words[0]]), [f"{VOCABULARY}: damaged: not UTF-8, or no"]
    ),
    "no <unk>": Damage(
        words(lambda words: [word.replace(UNK, "unk") for word in words]), ["or no vocabulary"]
    ),
    "words in another order": Damage(
        text(VOCABULARY, lambda data: b"\n".join([*data.split(b"\n")[-2::-1], b""])),
        [f"{VOCABULARY}: damaged: not the words whose sha256 {CONFIG} has"],
    ),
    "words with carriage returns": Damage(
        text(VOCABULARY, lambda data: data.replace(b"\n", b"\r\n")), ["not the words"]
    ),
    "half a word more": Damage(text(VOCABULARY, lambda data: data + b"x"), ["not the words"]),
    "words that are not UTF-8": Damage(not_utf_8, ["not UTF-8, or no vocabulary"]),
    "weights for another vocabulary": Damage(
        changed(vocabulary_size=11), [*NO_WEIGHTS, "(10, 8)", "(11, 8)"]
    ),
    "a folder as weights": Damage(
        lambda folder: [(folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()],
        [f"{WEIGHTS}: a folder, expected a regular file"],
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_folder_is_refused_in_one_line(workplace: Path, damage: Damage) -> None:
    before = contents(Path("model"))
    damage.make(Path("model"))
    assert contents(Path("model")) != before
    for command in (["eval", "model"], ["generate", "model"]):
        only_line(ptb_lm(*command), 2, "error: model/", *damage.fragments)


def test_weights_that_are_no_numbers_are_no_damage(workplace: Path) -> None:
    weights(lambda tensors: tensors["softmax.bias"].fill_(torch.nan))(Path("model"))
    only_line(ptb_lm("eval", "model"), 1, "error: model: softmax.bias has a weight that is NaN")


def test_a_folder_of_a_strangers_takes_no_more_memory_than_a_good_one(
    workplace: Path,
) -> None:
    """A long header, config or list of words is refused before it is read whole."""
    bombs = {
        "header": long(WEIGHTS, (4 * 10**8).to_bytes(8, "little") + b'{"__metadata__":{"a":"'),
        "config": long(CONFIG, b'{"a":"'),
        "nested": text(CONFIG, lambda data: b"[" * 10**6),
        "words": more_words_than_weights,
        "width": changed(model__hidden_size=2**31 - 1),
        "layers": changed(model__layers=100),
    }
    for name, make in bombs.items():
        shutil.copytree("model", name)
        make(Path(name))
    with Watched(workplace, [["eval", "model"]]) as watched:
        for name in bombs:
            answer = watched.run("eval", name)
            assert answer.refused, answer
            assert answer.complaint() is None, name
        answer = watched.run("eval", "model")
        assert answer.code == 0, answer
