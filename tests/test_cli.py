"""The command line from training to a figure: what lands where, and the numbers."""

import errno
import json
import math
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import (
    contents,
    done,
    done_json,
    furnish,
    ptb_lm,
    train_arguments,
)
from networks import log_probs_of
from processes import ptb_lm_process

from ptb_lm.__main__ import main
from ptb_lm.config import preset_names
from ptb_lm.errors import InputError
from ptb_lm.report.summary import comparable_line
from ptb_lm.training.checkpoint import load_checkpoint, save_checkpoint
from ptb_lm.version import __version__

pytestmark = pytest.mark.usefixtures("workplace")

STEPS = 29  # of an epoch: the training text in 3 columns, windows of 5
TIMES = {"words_per_second", "seconds"}
LAST = "runs/a/last.pt"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("template"))


def weights(path: str) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(Path(path)).weights)


def same_weights(one: str, other: str) -> bool:
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in mine.items())


def metrics(run_dir: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics without what a clock says."""
    lines = (Path(run_dir) / "metrics.jsonl").read_text().splitlines()
    return [
        {key: value for key, value in json.loads(line).items() if key not in TIMES}
        for line in lines
    ]


def words_of(path: str) -> list[str]:
    return [
        word for line in Path(path).read_text().splitlines() for word in [*line.split(), "<eos>"]
    ]


def scores_in(path: str) -> np.ndarray[Any, Any]:
    with Path(path).open("rb") as file, np.load(file) as content:
        return np.array(content["log_probabilities"], dtype=np.float64)


def test_config_list_names_every_preset() -> None:
    lines = done("config", "list").out.splitlines()
    assert [line.split()[0] for line in lines] == preset_names()
    assert all(len(line.split()) > 5 for line in lines)


def test_config_show_prints_a_file_that_config_takes(workplace: Path) -> None:
    shown = done("config", "show", "medium").out
    assert tomllib.loads(shown)["model"]["hidden_size"] == 650
    Path("mine.toml").write_text(shown)
    assert done("config", "show", "mine.toml").out == shown
    changed = done("config", "show", "mine.toml", "--set", "model.hidden_size=651").out
    assert changed == shown.replace("hidden_size = 650", "hidden_size = 651")


def test_data_info_counts_what_the_files_hold() -> None:
    described = done_json("data", "info", "--data", "text")
    train = words_of("text/train.txt")
    assert described["types"] == len(set(train)) == 10  # <unk>, <eos>, a to h
    for split in ("train", "valid", "test"):
        words = words_of(f"text/{split}.txt")
        facts = described["splits"][split]
        assert facts["tokens"] == len(words)
        assert facts["sentences"] == words.count("<eos>")
        assert facts["unknown_share"] == pytest.approx(words.count("<unk>") / len(words))
    printed = done("data", "info", "--data", "text").out
    assert f"{len(train):,}" in printed


def test_a_finished_run_leaves_these_files(template: Path) -> None:
    assert sorted(path.name for path in Path("runs/a").iterdir()) == [
        ".lock",
        "best.pt",
        "config.toml",
        "environment.json",
        "last.pt",
        "metrics.jsonl",
        "previous.pt",
        "scores-test.npz",
        "scores-valid.npz",
    ]
    config = tomllib.loads(Path("runs/a/config.toml").read_text())
    assert config["run"] == {
        "config": "small",
        "data": "text",
        "seed": 1,
        "device": "cpu",
        "precision": "fp32",
        "deterministic": False,
        "log_steps": 4,
        "checkpoint_minutes": 10.0,
    }
    assert config["model"]["dropout"] == 0.25
    assert config["optimizer"]["learning_rate"] == 1.0
    environment = json.loads(Path("runs/a/environment.json").read_text())
    assert [part["from_step"] for part in environment] == [0]
    assert (environment[0]["precision"], environment[0]["cuda"]) == ("fp32", None)
    assert environment[0]["torch"] == torch.__version__
    assert str(template) not in json.dumps(environment)
    lines = metrics("runs/a")
    # Every 4 steps, and at each end of an epoch.
    assert [line["step"] for line in lines] == [*range(4, 29, 4), 29, *range(32, 58, 4), 58]
    ends = [line for line in lines if "valid/perplexity" in line]
    assert [line["epoch"] for line in ends] == [1, 2]
    assert [line["lr"] for line in ends] == [1.0, 1.0]
    assert all(1 < line["train/perplexity"] < 20 for line in lines)


def test_results_go_to_standard_output_and_progress_to_standard_error() -> None:
    outcome = done(*train_arguments("runs/c"))
    begun, warning, *epochs = outcome.err.splitlines()
    assert begun.startswith("small on text, seed 1, cpu, fp32: ")
    assert f"epochs of {STEPS} steps" in begun
    assert warning.startswith("<unk> is more than a tenth of the tokens in text/train.txt ")
    assert [line[:9] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert "epoch 1/2" not in outcome.out
    for split, protocol in (("valid", "3 columns"), ("test", "one stream")):
        scores = scores_in(f"runs/c/scores-{split}.npz")
        figure = f"perplexity {math.exp(-scores.mean()):.2f} ({protocol}, {len(scores)} tokens)"
        assert figure in outcome.out
    assert "last epoch (2):" in outcome.out
    assert "runs/c" in outcome.out


def test_the_reported_validation_is_the_last_epochs_and_best_is_the_least() -> None:
    ends = [line for line in metrics("runs/a") if "valid/perplexity" in line]
    last = math.exp(-scores_in("runs/a/scores-valid.npz").mean())
    assert last == pytest.approx(ends[-1]["valid/perplexity"], rel=1e-6)
    best = load_checkpoint(Path("runs/a/best.pt"))
    assert best.valid_perplexity == min(line["valid/perplexity"] for line in ends)


def test_the_config_of_a_run_repeats_it_to_the_bit() -> None:
    done("train", "--config", "runs/a/config.toml", "--run-dir", "runs/again")
    assert Path("runs/again/config.toml").read_bytes() == Path("runs/a/config.toml").read_bytes()
    assert metrics("runs/again") == metrics("runs/a")
    assert same_weights("runs/again/last.pt", LAST)
    for name in ("scores-valid.npz", "scores-test.npz"):
        assert np.array_equal(scores_in(f"runs/again/{name}"), scores_in(f"runs/a/{name}"))
    assert metrics("runs/b") != metrics("runs/a")  # as it is with another seed


def test_the_run_folder_is_named_after_config_and_seed_unless_it_is_given() -> None:
    done(*train_arguments(None, "--seed", "7", training__epochs=1))
    assert Path("runs/small-seed7/last.pt").is_file()


# Data without a test text


def test_without_a_test_text_a_run_is_trained_and_scored_on_the_validation_text() -> None:
    Path("text/test.txt").unlink()
    outcome = done(*train_arguments("runs/c"))
    assert same_weights("runs/c/last.pt", LAST)  # of which it is no part
    assert metrics("runs/c") == metrics("runs/a")
    scored = Path("runs/c/scores-valid.npz").read_bytes()
    assert scored == Path("runs/a/scores-valid.npz").read_bytes()
    assert not Path("runs/c/scores-test.npz").exists()
    last_epoch, valid, words, best, folder = outcome.out.splitlines()
    assert (last_epoch, folder) == ("last epoch (2):", "run folder: runs/c")
    assert valid.startswith("  valid  perplexity ")
    assert best.startswith("best epoch (")
    unknown = words_of("text/valid.txt").count("<unk>") / len(words_of("text/valid.txt"))
    assert words == (
        f"  vocabulary 10 words, <unk> is {unknown:.2%} of valid: comparable over the same words "
        "and texts alone"
    )
    (member,) = done_json("eval", "runs/c/last.pt", "--split", "valid")["members"]
    assert f"{member['perplexity']:.2f}" in valid
    assert list(done_json("data", "info", "--data", "text")["splits"]) == ["train", "valid"]


def test_a_test_text_may_go_and_come_between_the_parts_of_a_run() -> None:
    Path("text/test.txt").rename("kept.txt")
    done(*train_arguments("runs/c", "--max-steps", "7"))
    summary = done(*train_arguments("runs/c", "--resume")).out
    again = done(*train_arguments("runs/c", "--resume"))
    assert (again.out, again.err) == (
        summary,
        "runs/c: finished already; there is nothing to do.\n",
    )
    Path("kept.txt").rename("text/test.txt")
    again = done(*train_arguments("runs/c", "--resume"))
    assert again.err == "runs/c: finished already; scoring it.\n"
    scored = Path("runs/c/scores-test.npz").read_bytes()
    assert scored == Path("runs/a/scores-test.npz").read_bytes()
    assert same_weights("runs/c/last.pt", LAST)


def test_a_summary_says_what_its_figures_can_be_compared_with() -> None:
    shares = [
        words_of(f"text/{split}.txt").count("<unk>") / len(words_of(f"text/{split}.txt"))
        for split in ("valid", "test")
    ]
    shown = done(*train_arguments("runs/a", "--resume")).out
    assert (
        f"\n  vocabulary 10 words, <unk> is {shares[0]:.2%} of valid and {shares[1]:.2%} of test: "
        "comparable over the same words and texts alone\n"
    ) in shown
    info = done("data", "info", "--data", "text").out.splitlines()
    assert info[1].startswith("10 types, vocabulary sha256 ")
    for split, share in zip(("valid", "test"), shares, strict=True):
        assert any(line.startswith(split) and f"{share:.2%}" in line for line in info)
    assert "the same words alone" in info[-1]
    assert "alone" not in done("data", "info", "--data", "synthetic").out
    assert (
        comparable_line("ptb", 10_000, {}) == "  vocabulary 10,000 words: comparable with the paper"
    )


# Evaluation


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("protocol", ["stream", "columns"])
def test_eval_counts_every_target_and_its_perplexity_is_that_of_the_sum(
    split: str, protocol: str
) -> None:
    arguments = ["--split", split, "--protocol", protocol, "--save-scores", "scores.npz"]
    result = done_json("eval", LAST, *arguments)
    assert list(result) == ["split", "protocol", "members", "average", "unknown"]
    assert (result["split"], result["protocol"], result["average"]) == (split, protocol, None)
    (member,) = result["members"]
    assert list(member) == ["checkpoint", "tokens", "nll", "perplexity"]
    assert member["checkpoint"] == LAST
    assert member["tokens"] == len(words_of(f"text/{split}.txt")) - 1
    assert member["nll"] == pytest.approx(-scores_in("scores.npz").sum(), rel=1e-12)
    assert member["perplexity"] == pytest.approx(
        math.exp(member["nll"] / member["tokens"]), rel=1e-12
    )


def test_the_stream_protocol_is_one_pass_over_the_whole_text() -> None:
    checkpoint = load_checkpoint(Path(LAST))
    network = checkpoint.network().double().eval()
    tokens = torch.from_numpy(checkpoint.vocabulary.encode(words_of("text/test.txt"))).long()
    with torch.no_grad():
        log_probs, _ = log_probs_of(network, tokens[:-1, None], network.zero_state(1))
    expected = -log_probs[:, 0].gather(1, tokens[1:, None]).sum().item()
    assert done_json("eval", LAST)["members"][0]["nll"] == pytest.approx(expected, rel=1e-6)
    columns = done_json("eval", LAST, "--protocol", "columns")["members"][0]["nll"]
    assert columns != pytest.approx(expected, rel=1e-6)  # its columns begin from a zero state


@pytest.mark.parametrize(
    ("split", "protocol"), [("train", "columns"), ("valid", "columns"), ("test", "stream")]
)
def test_the_protocol_is_the_papers_unless_another_is_asked_for(split: str, protocol: str) -> None:
    assumed = done_json("eval", LAST, "--split", split)
    assert assumed["protocol"] == protocol
    assert assumed == done_json("eval", LAST, "--split", split, "--protocol", protocol)


def test_eval_without_a_split_is_of_the_test_text_as_the_run_reported_it() -> None:
    (member,) = done_json("eval", LAST)["members"]
    assert member["nll"] == pytest.approx(-scores_in("runs/a/scores-test.npz").sum(), rel=1e-12)
    assert f"perplexity {member['perplexity']:.2f} (one stream, " in done("eval", LAST).out


def test_an_average_is_of_probabilities() -> None:
    checkpoints = ["runs/a/last.pt", "runs/b/last.pt", "runs/b/best.pt"]
    together = done_json("eval", *checkpoints)
    files = [f"{index}.npz" for index in range(3)]
    for checkpoint, file in zip(checkpoints, files, strict=True):
        done("eval", checkpoint, "--save-scores", file)
    joined = done_json("average", *files)
    assert [member.pop("checkpoint") for member in joined["members"]] == files
    assert [member.pop("checkpoint") for member in together["members"]] == checkpoints
    del together["unknown"]  # a score file does not say
    assert joined == together  # to the last bit

    scores = np.stack([scores_in(file) for file in files])  # (3, N - 1)
    nll = -np.log(np.exp(scores).mean(axis=0)).sum()
    average = joined["average"]
    assert list(average) == ["tokens", "nll", "perplexity"]
    assert average["tokens"] == scores.shape[1]
    assert average["nll"] == pytest.approx(nll, rel=1e-12)
    assert average["perplexity"] == pytest.approx(math.exp(nll / scores.shape[1]), rel=1e-12)
    # Neither a mean of perplexities nor a mean of log-probabilities: by Jensen, less than both.
    perplexities = [member["perplexity"] for member in joined["members"]]
    geometric = math.exp(sum(map(math.log, perplexities)) / 3)
    assert average["perplexity"] < geometric * (1 - 1e-6) < sum(perplexities) / 3

    for command in (["eval", *checkpoints], ["average", *files]):
        printed = done(*command).out
        assert f"average of 3: test perplexity {average['perplexity']:.2f} (one stream, " in printed


def test_the_average_of_one_is_none() -> None:
    assert done_json("average", "runs/a/scores-test.npz")["average"] is None


def test_unknown_words_of_another_text_are_counted_as_unk_and_said() -> None:
    Path("note.txt").write_text("a b xyzzy c\nplugh <unk> d\n")
    Path("same.txt").write_text("a b <unk> c\n<unk> <unk> d\n")
    outcome = done("eval", LAST, "--text", "note.txt", "--json")
    assert outcome.err == (
        "note.txt: 2 of 9 tokens (22.2 %) are not in the vocabulary and count as <unk>\n"
    )
    result = json.loads(outcome.out)
    assert (result["split"], result["protocol"]) == ("text note.txt", "stream")
    assert result["members"][0]["tokens"] == 8
    known = done("eval", LAST, "--text", "same.txt", "--json")
    assert known.err == ""
    assert json.loads(known.out)["members"] == result["members"]


def test_a_text_on_standard_input_is_read_once_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = ["runs/a/last.pt", "runs/b/last.pt"]
    Path("note.txt").write_text("a b xyzzy c\n")
    expected = done_json("eval", *checkpoints, "--text", "note.txt", "--mc-samples", "2")
    with Path("note.txt").open(encoding="utf-8") as piped:
        monkeypatch.setattr(sys, "stdin", piped)
        outcome = done("eval", *checkpoints, "--text", "-", "--mc-samples", "2", "--json")
    assert outcome.err.startswith("standard input: 1 of 5 tokens (20.0 %) are not in the vocab")
    assert len(outcome.err.splitlines()) == 1
    assert json.loads(outcome.out) == expected | {"split": "text -"} | {
        "monte_carlo": expected["monte_carlo"] | {"split": "text -"}
    }


# Stopping, resuming, beginning anew


@pytest.mark.parametrize("stop", [1, 7, STEPS, STEPS + 5, 2 * STEPS])
def test_a_run_stopped_at_a_step_resumes_to_the_same_weights(stop: int) -> None:
    arguments = train_arguments("runs/c")
    stopped = done(*arguments, "--max-steps", str(stop))
    assert stopped.out == ""
    assert f"Stopped after step {stop}; the same command with --resume" in stopped.err
    assert not Path("runs/c/scores-test.npz").exists()
    assert same_weights("runs/c/last.pt", LAST) == (stop == 2 * STEPS)
    resumed = done(*arguments, "--resume")
    assert f"Resuming runs/c after step {stop}." in resumed.err
    assert same_weights("runs/c/last.pt", LAST)
    assert same_weights("runs/c/best.pt", "runs/a/best.pt")
    assert metrics("runs/c") == metrics("runs/a")
    assert np.array_equal(scores_in("runs/c/scores-test.npz"), scores_in("runs/a/scores-test.npz"))
    environment = json.loads(Path("runs/c/environment.json").read_text())
    assert [part["from_step"] for part in environment] == [0, stop]


def test_a_run_killed_after_its_last_checkpoint_forgets_what_it_will_do_again() -> None:
    arguments = train_arguments("runs/c")
    done(*arguments, "--max-steps", "7")
    with Path("runs/c/metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "epoch": 1}\n{"step": 12, "epo')  # as a crash leaves it
    done(*arguments, "--resume")
    assert metrics("runs/c") == metrics("runs/a")


def test_more_steps_than_there_are_is_the_whole_run() -> None:
    done(*train_arguments("runs/c"), "--max-steps", str(2 * STEPS + 1))
    assert same_weights("runs/c/last.pt", LAST)
    assert Path("runs/c/scores-test.npz").exists()


def test_resume_where_nothing_is_begins() -> None:
    done(*train_arguments("runs/c", "--resume"))
    assert same_weights("runs/c/last.pt", LAST)


def test_resume_needs_no_config_where_the_run_folder_has_one() -> None:
    done(*train_arguments("runs/c"), "--max-steps", "7")
    done("train", "--resume", "--run-dir", "runs/c")
    assert same_weights("runs/c/last.pt", LAST)


def test_resuming_where_no_run_is_says_that_a_new_one_begins() -> None:
    line = "runs/c: no checkpoint in it to go on from; a new run begins."
    assert line in done(*train_arguments("runs/c", "--resume", "--max-steps", "3")).err.splitlines()
    assert "a new run begins" not in done(*train_arguments("runs/c", "--resume")).err
    assert "a new run begins" not in done(*train_arguments("runs/d")).err
    assert same_weights("runs/c/last.pt", "runs/d/last.pt")


def test_resuming_a_finished_run_says_so_and_changes_no_weights() -> None:
    before = contents(Path("runs/a"))
    first = done(*train_arguments("runs/c")).out
    again = done(*train_arguments("runs/a", "--resume"))
    assert "runs/a: finished already; there is nothing to do" in again.err
    assert again.out == first.replace("runs/c", "runs/a")
    assert contents(Path("runs/a")) == before


def test_a_finished_run_goes_on_with_more_epochs() -> None:
    done(*train_arguments("runs/a", "--resume", training__epochs=3))
    done(*train_arguments("runs/c", training__epochs=3))
    assert same_weights("runs/a/last.pt", "runs/c/last.pt")
    assert metrics("runs/a") == metrics("runs/c")


def test_overwrite_begins_anew_and_leaves_what_is_not_the_runs() -> None:
    Path("runs/a/notes.txt").write_text("mine")
    done(*train_arguments("runs/a", "--overwrite", "--seed", "2"))
    assert same_weights(LAST, "runs/b/last.pt")
    assert metrics("runs/a") == metrics("runs/b")
    assert len(json.loads(Path("runs/a/environment.json").read_text())) == 1
    assert Path("runs/a/config.toml").read_bytes() == Path("runs/b/config.toml").read_bytes()
    assert Path("runs/a/notes.txt").read_text() == "mine"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_training_after_saving_it(number: signal.Signals, code: int) -> None:
    command = train_arguments("runs/c", training__epochs=100_000)
    with ptb_lm_process(*command, cwd=Path()) as training:
        assert training.wait_until(Path("runs/c/metrics.jsonl").exists), training.err
        training.send(number)
        assert training.end() == code, training.err
        out, err = training.out, training.err
    assert out == ""
    assert "Traceback" not in err
    assert "the same command with --resume goes on from there" in err.splitlines()[-2]
    state = load_checkpoint(Path("runs/c/last.pt")).state
    assert state is not None
    step = state.epochs_done * STEPS + state.windows_done
    assert step >= 4
    assert f"Stopped after step {step:,};" in err.splitlines()[-2]
    assert (
        err.splitlines()[-1] == f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}"
    )
    assert not list(Path("runs/c").glob(".*.partial")), "a temporary file is left"
    steps = ("--max-steps", str((state.epochs_done + 1) * STEPS))
    done(*train_arguments("runs/c", "--resume", *steps, training__epochs=100_000))
    done(*train_arguments("runs/d", *steps, training__epochs=100_000))
    assert same_weights("runs/c/last.pt", "runs/d/last.pt")


# Sampled text


def test_generated_text_is_that_of_its_seed() -> None:
    command = ["generate", LAST, "--words", "300", "--seed"]
    text = done(*command, "5").out
    assert text == done(*command, "5").out
    assert text != done(*command, "6").out
    drawn = text.removesuffix("\n").replace("\n", " <eos> ").split()
    assert len(drawn) == 300
    assert set(drawn) == {"<eos>", *"abcdefgh"}
    assert words_of("text/train.txt").count("<unk>") == 97  # and yet it is never drawn


def test_unk_is_not_drawn_even_from_a_model_that_expects_nothing_else() -> None:
    checkpoint = load_checkpoint(Path(LAST))
    unknown = checkpoint.vocabulary.index["<unk>"]
    checkpoint.weights["softmax.bias"][unknown] = 50.0
    save_checkpoint(checkpoint, Path("unknown.pt"))
    for temperature in ("1", "0.01"):
        text = done("generate", "unknown.pt", "--words", "50", "--temperature", temperature).out
        assert "<unk>" not in text
        assert len(text.removesuffix("\n").replace("\n", " <eos> ").split()) == 50


def write_decided_model() -> None:
    """Write sharp.pt, whose words depend strongly on those before: no 58 steps teach as much."""
    checkpoint = load_checkpoint(Path(LAST))
    generator = torch.Generator().manual_seed(1)
    for tensor in checkpoint.weights.values():
        tensor.uniform_(-3, 3, generator=generator)
    save_checkpoint(checkpoint, Path("sharp.pt"))


def test_a_prompt_begins_the_text_and_decides_how_it_goes_on() -> None:
    write_decided_model()
    command = ["generate", "sharp.pt", "--words", "40", "--prompt"]
    one, other = done(*command, "a  b").out, done(*command, "h g").out
    assert one.startswith("a b")
    assert other.startswith("h g")
    assert one == done(*command, " a b ").out
    assert one.removeprefix("a b") != other.removeprefix("h g")


def test_a_low_temperature_takes_the_likeliest_word_whatever_the_seed() -> None:
    write_decided_model()
    command = ["generate", "sharp.pt", "--words", "30", "--seed"]
    assert done(*command, "5").out != done(*command, "6").out
    command[-1:] = ["--temperature", "0.01", "--seed"]
    assert done(*command, "5").out == done(*command, "6").out


# The program around the commands


def test_what_reads_text_only_imports_no_torch() -> None:
    script = """
import sys
from ptb_lm.__main__ import main
for arguments in (["--help"], ["--version"], ["train", "--help"], ["config", "list"],
                  ["config", "show", "large"], ["data", "info", "--data", "synthetic"]):
    try:
        main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
    assert "torch" not in sys.modules, arguments
print("done")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.endswith("done\n")


def test_help_names_every_command() -> None:
    shown = done("--help").out
    for command in ("train", "eval", "average", "generate", "score", "report", "data", "config"):
        assert command in shown


def test_the_version_is_that_of_the_package() -> None:
    assert done("--version").out == f"ptb-lm {__version__}\n"


@pytest.mark.parametrize("command", [[], ["train"], ["data"], ["data", "prepare"], ["config"]])
def test_h_is_help(command: list[str]) -> None:
    shown = done(*command, "-h")
    assert "Usage: ptb-lm" in shown.out
    assert shown == done(*command, "--help")


def test_completion_for_a_shell_is_printed() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "ptb_lm", "--show-completion", "bash"],
        capture_output=True,
        text=True,
        # The shell is then the one named, not the one that is found to run this.
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    assert "_ptb_lm_completion()" in ran.stdout


def test_debug_shows_where_an_error_comes_from() -> None:
    with pytest.raises(InputError, match="no such preset"):
        main(["--debug", "config", "show", "nope"])


def test_an_error_of_ours_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise RuntimeError("first\n\n  second")

    monkeypatch.setattr("ptb_lm.config.preset_names", fail)
    outcome = ptb_lm("config", "list")
    assert outcome.code == 1
    assert outcome.err == "error: RuntimeError: first second; --debug shows where\n"


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("nowhere/scores.npz", "nowhere: no such folder; make it"),
        ("text/test.txt/scores.npz", "text/test.txt: not a folder"),
        ("text", "a folder; name a file"),
        ("runs/a/scores-test.npz", "the scores that its run keeps; name another file"),
    ],
)
def test_a_place_where_scores_cannot_go_is_known_before_the_evaluation(
    monkeypatch: pytest.MonkeyPatch, target: str, why: str
) -> None:
    monkeypatch.setattr("ptb_lm.evaluation.evaluate.score_text", None)
    outcome = ptb_lm("eval", LAST, "--save-scores", target)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: --save-scores {target}: {why}")
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("target", [LAST, "text/train.txt", "/dev/null"])
def test_scores_take_the_place_of_no_other_file(target: str) -> None:
    before = Path(target).read_bytes()
    outcome = ptb_lm("eval", LAST, "--save-scores", target)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"error: --save-scores: {target}: ")
    assert outcome.err.endswith("it is not replaced: name another file\n")
    assert Path(target).read_bytes() == before


def test_scores_that_cannot_be_written_are_one_line_and_exit_code_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    done("eval", LAST, "--split", "valid", "--save-scores", "old.npz")
    before = Path("old.npz").read_bytes()
    monkeypatch.setattr(os, "fsync", full)
    why = "cannot be written: No space left on device"
    new = ptb_lm("eval", LAST, "--save-scores", "new.npz")
    assert (new.code, new.err) == (1, f"error: new.npz: {why}\n")
    old = ptb_lm("eval", LAST, "--save-scores", "old.npz")
    assert old.code == 1
    assert old.err == f"error: old.npz: {why}; what stood there before still stands\n"
    assert Path("old.npz").read_bytes() == before


def test_a_reader_that_goes_away_is_no_error() -> None:
    for unbuffered in ("", "1"):  # fails at the end of the command, or at the first line
        with subprocess.Popen(
            [sys.executable, "-m", "ptb_lm", "config", "list"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        ) as command:
            assert command.stdout is not None and command.stderr is not None
            command.stdout.close()
            assert command.stderr.read() == b""
        assert command.returncode == 0
