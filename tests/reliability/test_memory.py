"""A process that gets no more memory says so in one line and leaves the run to be resumed."""

import random
import resource
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import Outcome, done, ptb_lm, train_arguments
from promises import Tally
from short_runs import checkpoints_of, ended, result, short_config, start

from ptb_lm.errors import PtbLmError
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.model.network import LanguageModel
from ptb_lm.training.checkpoint import load_checkpoint

SIZES = {
    "model.hidden_size": 64,
    "training.batch_size": 20,
    "training.unrolled_steps": 20,
    "training.epochs": 2,
}
T, B, H = 20, 20, 64
STOPPED_AT = 6
"""Where the run stands that is taken up again with too little memory; an epoch has 4 steps."""

LIMITED = """
import os, resource, sys
place, nth, megabytes = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])

from ptb_lm import __main__, stop
from ptb_lm.evaluation import evaluate, trained
import ptb_lm.report.summary
from ptb_lm.model import network
from ptb_lm.training import loop, open_run, run, step

def limit():
    with open("/proc/self/statm") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    limit = taken + int(megabytes * 1e6)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

module, name = {
    "corpus": (open_run, "load_corpus"),
    "building": (open_run, "new_run"),
    "taking up": (open_run, "_take_up"),
    "forward": (step, "training_window"),
    "backward": (step, "window_objective"),
    "saving": (run.Run, "save"),
    "validation": (loop, "validation_perplexity"),
    "scoring": (evaluate, "score_text"),
    "loading": (trained, "load_checkpoint"),
}[place]
original, calls = getattr(module, name), 0

def limited(*arguments, **options):
    global calls
    calls += 1
    result = original(*arguments, **options) if place == "backward" else None
    if calls == nth:
        limit()
    return result if place == "backward" else original(*arguments, **options)

setattr(module, name, limited)
__main__.main(sys.argv[4:])
"""


@dataclass(frozen=True)
class Shortage:
    """How many megabytes more a process may take from when something is called the nth time."""

    place: str
    nth: int
    megabytes: float


RESUMED_STEPS = 2
"""Steps from where the run stood to the end of its epoch."""

CALLS = {
    "corpus": 1,
    "building": 1,
    "taking up": 1,
    "forward": RESUMED_STEPS,
    "backward": RESUMED_STEPS,
    "saving": 1,
    "validation": 1,
    "scoring": 2,
}
"""The places of a resumed run, and how often each is come to."""

NEEDED = {
    "corpus": 2.0,
    "building": 2.0,
    "taking up": 1.0,
    "saving": 1.0,
    "forward": 30.0,
    "backward": 30.0,
    "validation": 30.0,
    "scoring": 30.0,
    "loading": 4.0,
}
"""Megabytes that each place, with what follows it, is sure to take."""


def arguments(run_dir: str, *options: str, **other_sizes: int) -> list[str]:
    changes = {key.replace(".", "__"): value for key, value in SIZES.items()} | other_sizes
    return train_arguments(run_dir, *options, **changes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a text of 6,000 words, a run on it, and one that was stopped."""
    folder = tmp_path_factory.mktemp("template")
    (folder / "text").mkdir()
    rng = random.Random(3)
    types = [f"w{number}" for number in range(8000)]
    for split, words in (("train", 1800), ("valid", 900), ("test", 900)):
        lines = (" ".join(rng.choices(types, k=17)) + "\n" for _ in range(words // 18))
        (folder / "text" / f"{split}.txt").write_text("".join(lines))
    with chdir(folder):
        done(*arguments("whole"))
        done(*arguments("stopped", "--max-steps", str(STOPPED_AT)))
    return folder


@pytest.fixture
def workplace(workplace: Path) -> Iterator[Path]:
    yield workplace
    shutil.rmtree(workplace)  # of checkpoints that are many megabytes in all


def limited(cwd: Path, shortage: Shortage, *command: str) -> Outcome:
    """Run a command in a process of its own that runs short of memory."""
    where = (shortage.place, str(shortage.nth), str(shortage.megabytes))
    return ended(start(cwd, "-c", LIMITED, *where, *command))


def require_the_line(outcome: Outcome, assurance: str) -> None:
    """See that a command ended with the one line that says what memory was needed for."""
    errors = [line for line in outcome.err.splitlines() if not is_progress(line)]
    assert (outcome.code, outcome.out, len(errors)) == (1, "", 1), outcome
    (line,) = errors
    assert line.startswith("error: out of memory")
    for part in (f"T = {T} ", f"B = {B} ", f"H = {H} ", "training.batch_size", assurance):
        assert part in line


def is_progress(line: str) -> bool:
    """Progress, or the warning that the text has many words that its training part lacks."""
    return line.startswith(("small on text", "Resuming ", "epoch ", "text/"))


@pytest.mark.promise("memory")
def test_a_training_without_memory_ends_with_one_line_and_can_be_resumed(
    workplace: Path, tally: Tally
) -> None:
    """Real limits (RLIMIT_AS) strike in loading, building, forward, backward, saving, validation
    and scoring: code 1, one line, checkpoints whole, and with memory again the same bits."""
    rng = random.Random(4)
    shortages = [
        Shortage("taking up", 1, 0.5),
        Shortage("backward", 2, 2.0),
        Shortage("validation", 1, 1.0),
    ]
    if tally.full:
        shortages = [
            Shortage(place, nth, rng.uniform(0, NEEDED[place]))
            for place, calls in CALLS.items()
            for nth in range(1, calls + 1)
            for _ in range(6)
        ]

    def run_short(numbered: tuple[int, Shortage]) -> None:
        number, shortage = numbered
        path = workplace / f"run-{number}"
        shutil.copytree(workplace / "stopped", path)
        config, before = (path / "config.toml").read_bytes(), checkpoints_of(path)
        outcome = limited(workplace, shortage, *arguments(path.name, "--resume"))
        require_the_line(outcome, f"the checkpoints in {path.name} are as they were")
        assert (path / "config.toml").read_bytes() == config
        assert [file for file in path.iterdir() if file.name.endswith(".partial")] == []
        after = checkpoints_of(path)
        if shortage.place == "saving":  # of last.pt, when best.pt has been put in its place
            del before["best.pt"], after["best.pt"]
        if shortage.place != "scoring":
            assert after == before
        for name in checkpoints_of(path):
            load_checkpoint(path / name)

    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(run_short, enumerate(shortages)):
            tally.count("processes out of memory")
    for number in range(len(shortages)):
        done(*arguments(f"run-{number}", "--resume"))
        assert result(Path(f"run-{number}")) == result(Path("whole")), shortages[number]
        shutil.rmtree(f"run-{number}")
        tally.count("resumed to the same bits")


@pytest.mark.promise("memory")
def test_an_evaluation_without_memory_ends_with_one_line(workplace: Path, tally: Tally) -> None:
    """Real limits strike while eval reads the checkpoint or scores the text: code 1, one line."""
    rng = random.Random(5)
    shortages = [Shortage("scoring", 1, 0.5)]
    if tally.full:
        places = ("loading", "scoring", "scoring") * 20
        shortages = [Shortage(place, 1, rng.uniform(0, NEEDED[place])) for place in places]
    before = checkpoints_of(workplace)

    def evaluate_short(shortage: Shortage) -> Outcome:
        return limited(workplace, shortage, "eval", "whole/last.pt")

    with ThreadPoolExecutor(2) as pool:
        for shortage, outcome in zip(shortages, pool.map(evaluate_short, shortages), strict=True):
            if shortage.place == "loading" and "H = " not in outcome.err:  # not known yet
                assert (outcome.code, outcome.out) == (1, "")
                (line,) = outcome.err.splitlines()
                assert line.startswith("error: out of memory")
            else:
                require_the_line(outcome, "nothing was written")
            tally.count("evaluations out of memory")
    assert checkpoints_of(workplace) == before


@pytest.mark.promise("memory")
def test_a_network_beyond_the_machine_is_refused_with_its_sizes(
    workplace: Path, tally: Tally
) -> None:
    """Hidden layers that no machine holds, built under a limit of 6 GB: one line, no run folder."""
    for size in [20_000, 200_000, 2_000_000, 2**31 - 1] if tally.full else [200_000]:
        command = arguments("huge", model__hidden_size=size)
        process = start(
            workplace,
            "-m",
            "ptb_lm",
            *command,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (6 * 10**9, 6 * 10**9)),
        )
        outcome = ended(process)
        assert (outcome.code, outcome.out) == (1, "")
        (line,) = outcome.err.splitlines()
        assert f"T = {T} unrolled steps, B = {B} streams, H = {size:,} hidden" in line
        assert not Path("huge").exists()
        tally.count("networks too large")


MESSAGES = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate"
        " memory: you tried to allocate 64 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not execute a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
)


@pytest.mark.parametrize("message", MESSAGES, ids=repr)
def test_each_way_an_allocation_fails_is_known(message: Exception) -> None:
    """What is none of these passes through as it is."""
    config = short_config("text")
    line = "out of memory with T = 7 unrolled steps, B = 5 streams"
    with pytest.raises(PtbLmError, match=line), memory_errors_explained(config, "nothing"):
        raise message
    with pytest.raises(RuntimeError, match="shapes"), memory_errors_explained(config, "nothing"):
        raise RuntimeError("shapes do not fit")


@pytest.mark.promise("memory")
def test_each_way_an_allocation_fails_at_any_step_leaves_a_run_to_resume(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, tally: Tally
) -> None:
    """What PyTorch, CUDA, oneDNN and C++ raise, at each forward pass of a run: the line, and the
    run goes on to the same bits."""
    forward = LanguageModel.forward
    passes = 0

    def counted(*inputs: Any) -> Any:
        nonlocal passes
        passes += 1
        if passes == fails_at:
            raise error
        return forward(*inputs)

    fails_at, error = 0, MESSAGES[0]
    with monkeypatch.context() as patch:
        patch.setattr(LanguageModel, "forward", counted)
        done(*arguments("counted"))
    tries = [(MESSAGES[1], 1), (MESSAGES[2], passes // 2), (MESSAGES[3], passes)]
    if tally.full:
        tries = [(message, at) for at in range(1, passes + 1) for message in MESSAGES]
    for error, fails_at in tries:
        passes = 0
        with monkeypatch.context() as patch:
            patch.setattr(LanguageModel, "forward", counted)
            outcome = ptb_lm(*arguments("run"))
        require_the_line(outcome, "the checkpoints in run are as they were")
        assert passes == fails_at
        done(*arguments("run", "--resume"))
        assert result(Path("run")) == result(Path("whole")), (error, fails_at)
        shutil.rmtree("run")
        tally.count("allocations failed")
