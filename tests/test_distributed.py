"""Several processes that share a training compute what one does, and stop, fail and resume as one.

The processes are real ones, connected over the loopback device.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import assignments
from processes import Process, free_port, started, steps_in_log, write_corpus

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.model.dropout import Dropout, WindowDropout, WordDropout
from ptb_lm.model.share import Share
from ptb_lm.training.checkpoint import load_checkpoint
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.world import TorchrunWorld, World, joined_world

STREAMS, STEPS, WINDOWS = 5, 6, 55
FLOAT64 = (
    "import torch; torch.set_default_dtype(torch.float64); import ptb_lm.__main__ as m; m.main()"
)
RECIPE = {
    "training__batch_size": STREAMS,
    "training__unrolled_steps": STEPS,
    "training__epochs": 1,
    "run__log_steps": 1,
}
OFTEN_SAVED = ("--set", "run.checkpoint_minutes=0.0001")
REGULARIZED = {"model__dropout": 0.5}
TIED = {"model__tied": True}
NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}
THERE = (
    "a run is there already; use --resume to go on with it, --overwrite to begin anew, or "
    "another --run-dir\n"
)
AVERAGED = {
    "optimizer__kind": "adam",
    "optimizer__learning_rate": 0.01,
    "averaging__kind": "ema",
    "averaging__decay": 0.9,
}
VARIATIONAL = {"model__dropout_on": "variational", "model__dropout": 0.3}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("distributed")
    # Not a multiple of the streams: the last row of the validation has 3 of them.
    tokens = {"train": 1656, "valid": 189, "test": 153}
    write_corpus(folder / "text", tokens, seed=1)
    write_corpus(folder / "other", tokens, seed=2)
    return folder


def command(run_dir: str, *options: str, data: str = "text", **changes: Any) -> list[str]:
    fixed = ["train", "--config", "small", "--device", "cpu", "--data", data, "--run-dir", run_dir]
    return [*fixed, *options, *assignments(**{"model__dropout": 0.0, **RECIPE, **changes})]


@contextmanager
def processes_in(folders: Sequence[Path], *arguments: str) -> Iterator[list[Process]]:
    """Start a process of one training in each folder, with what torchrun would tell it."""
    place = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(len(folders)),
    }
    program = [sys.executable, "-c", FLOAT64, *arguments]
    with ExitStack() as stack:
        yield [
            stack.enter_context(started(program, cwd, {**place, "RANK": rank, "LOCAL_RANK": rank}))
            for rank, cwd in zip(map(str, range(len(folders))), folders, strict=True)
        ]


def processes(count: int, cwd: Path, *arguments: str) -> AbstractContextManager[list[Process]]:
    """Start so many processes of one training in one folder."""
    return processes_in([cwd] * count, *arguments)


def done_by(count: int, cwd: Path, *arguments: str) -> list[str]:
    """Run a training in so many processes to its end; return what each has written."""
    with processes(count, cwd, *arguments) as members:
        codes = [member.end() for member in members]
        assert codes == [0] * count, [member.err for member in members]
        return [member.out + member.err for member in members]


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path / "last.pt").weights)


def perplexities(path: Path) -> list[float]:
    records = [json.loads(line) for line in RunFolder(path).metrics.read_text().splitlines()]
    return [
        record[key]
        for record in records
        for key in ("train/perplexity", "valid/perplexity")
        if key in record
    ]


def require_same(ours: Path, theirs: Path) -> None:
    """Hold a run against one of a single process: figures, weights, state and random numbers."""
    assert perplexities(ours) == pytest.approx(perplexities(theirs), rel=1e-9)
    first, second = (load_checkpoint(path / "last.pt") for path in (ours, theirs))
    for name, weight in first.weights.items():
        torch.testing.assert_close(weight, second.weights[name], rtol=1e-9, atol=1e-9)
    assert first.state is not None
    assert second.state is not None
    for our_layer, their_layer in zip(first.state.hidden, second.state.hidden, strict=True):
        for part, expected in zip(our_layer, their_layer, strict=True):
            torch.testing.assert_close(part, expected, rtol=1e-9, atol=1e-9)
    assert first.random_states["cpu"].equal(second.random_states["cpu"])


@pytest.mark.parametrize(
    ("count", "changes"),
    [(3, {}), (2, REGULARIZED), (3, VARIATIONAL), (2, TIED), (2, AVERAGED)],
    ids=["3, none dropped", "2, the paper's dropout", "3, variational", "2, tied", "2, Adam, EMA"],
)
def test_fifty_steps_are_those_of_one_process(
    workplace: Path, count: int, changes: dict[str, Any]
) -> None:
    name = "-".join(map(str, (count, *changes.values())))
    arguments = ["--max-steps", "50"]
    done_by(1, workplace, *command(f"one-{name}", *arguments, **changes))
    done_by(count, workplace, *command(name, *arguments, **changes))
    require_same(workplace / name, workplace / f"one-{name}")
    assert len(perplexities(workplace / name)) == 50


@pytest.fixture(scope="module")
def whole(workplace: Path) -> Path:
    """A run of one process, to its end."""
    done_by(1, workplace, *command("whole", **REGULARIZED))
    return workplace / "whole"


def test_a_run_moves_between_processes_and_only_the_first_speaks(
    workplace: Path, whole: Path
) -> None:
    moved = command("moved", "--resume", **REGULARIZED)
    done_by(2, workplace, *moved, "--max-steps", "13")
    done_by(4, workplace, *moved, "--max-steps", "27")
    done_by(1, workplace, *moved, "--max-steps", "41")
    first, *others = done_by(3, workplace, *moved)
    require_same(workplace / "moved", whole)
    assert "Resuming moved after step 41." in first
    assert first.count("test   perplexity") == 1
    assert others == ["", ""]
    for split in ("valid", "test"):
        ours, theirs = (
            load_scores(run / f"scores-{split}.npz").log_probabilities
            for run in (workplace / "moved", whole)
        )
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    environments = json.loads((workplace / "moved/environment.json").read_text())
    assert [each["processes"] for each in environments] == [2, 4, 1, 3]


@pytest.mark.parametrize(("receiver", "number"), [(0, signal.SIGTERM), (2, signal.SIGINT)])
def test_a_signal_to_any_process_stops_all_at_the_same_step(
    workplace: Path, whole: Path, receiver: int, number: signal.Signals
) -> None:
    run = workplace / f"signalled-{receiver}"
    arguments = command(run.name, **REGULARIZED, training__epochs=1000)
    with processes(3, workplace, *arguments) as members:
        assert members[0].wait_until(lambda: steps_in_log(run) >= 3)
        members[receiver].send(number)
        assert [member.end() for member in members] == [128 + number] * 3
        assert members[0].err.endswith(f"stopped by {NAMES[number]}\n")
        assert [member.err.count("stopped") for member in members[1:]] == [0, 0]
    state = load_checkpoint(run / "last.pt").state
    assert state is not None
    assert steps_in_log(run) == state.epochs_done * WINDOWS + state.windows_done
    # As far as it came, it is the run of one process.
    expected = perplexities(whole)
    ours = perplexities(run)[: len(expected)]
    assert ours == pytest.approx(expected[: len(ours)], rel=1e-9)


@pytest.mark.parametrize("receiver", [0, 1])
def test_a_signal_to_any_process_before_the_first_step_stops_all(
    workplace: Path, receiver: int
) -> None:
    """The first process has its run folder already, and the others wait to be told of it."""
    run = workplace / f"early-{receiver}"
    with processes(3, workplace, *command(run.name, training__epochs=1000)) as members:
        assert members[0].wait_until(run.exists)
        with members[receiver].frozen():
            members[receiver].send(signal.SIGTERM)
        assert [member.end() for member in members] == [143] * 3
        assert [member.out for member in members] == [""] * 3
        assert members[0].err.splitlines()[-1] == "stopped by SIGTERM"
        assert [member.err for member in members[1:]] == [""] * 2


@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_ends_the_job_and_leaves_what_resumes(
    workplace: Path, killed: int
) -> None:
    """Under torchrun, whose part it is to end the rest: the safety net of `end` is the minute."""
    run = workplace / f"killed-{killed}"
    arguments = command(run.name, *OFTEN_SAVED, training__epochs=1000)
    with started(torchrun(*arguments), workplace) as job:
        assert job.wait_until(lambda: steps_in_log(run) >= 3 and (run / "last.pt").exists())
        os.kill(process_of_rank(job.popen.pid, killed), signal.SIGKILL)
        assert job.popen.wait(60) != 0
        assert not ranks_of(job.popen.pid)
    saved = load_checkpoint(run / "last.pt")
    assert saved.state is not None
    at = saved.state.epochs_done * WINDOWS + saved.state.windows_done
    done_by(2, workplace, *arguments, "--resume", "--max-steps", str(at + 2))
    assert steps_in_log(run) == at + 2


def test_torchrun_has_a_training_go_on_when_a_process_was_killed(workplace: Path) -> None:
    run = workplace / "restarted"
    arguments = command(run.name, "--resume", *OFTEN_SAVED, training__epochs=1000)
    anew = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}  # as docs/DISTRIBUTED.md says
    with started(torchrun(*arguments, restarts=1), workplace, anew) as job:
        assert job.wait_until(lambda: steps_in_log(run) >= 3 and (run / "last.pt").exists())
        os.kill(process_of_rank(job.popen.pid, 1), signal.SIGKILL)
        job.wait_for("Resuming restarted after step")
        resumed_at = steps_in_log(run)
        assert job.wait_until(lambda: steps_in_log(run) > resumed_at)
        job.send(signal.SIGTERM)
        job.end()
        assert "Stopped after step" in job.err
        assert not ranks_of(job.popen.pid)


def torchrun(*arguments: str, restarts: int = 0) -> list[str]:
    """The command of two processes of a training."""
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    options = ["--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return [*program, *options, "-m", "ptb_lm", *arguments]


def ranks_of(torchrun: int) -> dict[int, int]:
    """The processes that a torchrun has started, by their rank."""
    found = {}
    for process in Path("/proc").iterdir():
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            variables = (process / "environ").read_text().split("\0")
        except (OSError, IndexError):
            continue
        rank = [each.partition("=")[2] for each in variables if each.startswith("RANK=")]
        if int(parent) == torchrun and rank:
            found[int(rank[0])] = int(process.name)
    return found


def process_of_rank(torchrun: int, rank: int) -> int:
    return ranks_of(torchrun)[rank]


def outcomes(count: int, cwd: Path, *arguments: str) -> list[tuple[int, str]]:
    with processes(count, cwd, *arguments) as members:
        return [(member.end(), member.out + member.err) for member in members]


def test_a_refusal_is_said_once_and_ends_all(workplace: Path, whole: Path) -> None:
    first, second = outcomes(2, workplace, *command("whole"))
    assert first == (2, f"error: whole: {THERE}")
    assert second == (2, "")


def test_another_text_on_one_of_the_machines_is_refused(workplace: Path) -> None:
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "text").symlink_to(workplace / "other")
    with processes_in([workplace, elsewhere], *command("mixed")) as members:
        codes = [member.end() for member in members]
        assert codes == [1, 2]
        assert members[0].err.splitlines()[-1].startswith("error: process 0 has lost the others: ")
        assert members[1].err.startswith(
            "error: --data text: the texts here are not those of the first process"
        )


def test_half_of_what_torchrun_says_is_refused(workplace: Path) -> None:
    with started(
        [sys.executable, "-m", "ptb_lm", *command("half")], workplace, {"WORLD_SIZE": "2"}
    ) as process:
        assert process.end() == 2
        assert process.err.startswith(
            "error: WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set; "
        )


def test_more_processes_than_streams_are_refused(workplace: Path) -> None:
    first, *others = outcomes(3, workplace, *command("few", training__batch_size=2))
    message = (
        "error: 3 processes for 2 streams: training.batch_size must be at least the number of "
        "processes\n"
    )
    assert first == (2, message)
    assert others == [(2, "")] * 2
    assert not (workplace / "few").exists()


def test_a_share_is_that_of_its_rank_and_all_shares_are_the_batch() -> None:
    class Member(World):
        def __init__(self, rank: int, size: int) -> None:
            self.rank, self.size = rank, size

    for size in range(1, 8):
        shares = [Member(rank, size).share(7) for rank in range(size)]
        covered = [stream for share in shares for stream in range(share.first, share.stop)]
        assert covered == list(range(7))
        widths = [share.streams for share in shares]
        assert max(widths) - min(widths) <= 1
    with pytest.raises(InputError, match="8 processes for 7 streams"):
        Member(0, 8).share(7)


@pytest.mark.parametrize("dropout", [Dropout(0.5), WindowDropout(0.5), WindowDropout(0.5, 4)])
def test_the_masks_of_all_shares_are_those_of_the_batch(dropout: Dropout) -> None:
    x = torch.ones(3, 5, 6)

    def masks(share: Share | None, part: torch.Tensor) -> torch.Tensor:
        dropout.share = share
        torch.manual_seed(1)
        return dropout.draw(part.shape, part)

    whole = masks(None, x)
    parts = [masks(Share(a, b, 5), x[:, a:b]) for a, b in ((0, 2), (2, 3), (3, 5))]
    assert torch.cat(parts, dim=-2).equal(whole)
    assert 0 < whole.eq(0).sum() < whole.numel()


def test_the_dropped_words_of_all_shares_are_those_of_the_batch() -> None:
    dropout = WordDropout(0.5)
    embedded, words = torch.ones(3, 5, 6), torch.arange(15).view(3, 5) % 4

    def kept(share: Share | None, a: int, b: int) -> torch.Tensor:
        dropout.share = share
        torch.manual_seed(1)
        return dropout.of_words(embedded[:, a:b], words[:, a:b], vocabulary_size=4)

    parts = [kept(Share(a, b, 5), a, b) for a, b in ((0, 2), (2, 5))]
    assert torch.cat(parts, dim=1).equal(kept(None, 0, 5))


def test_a_process_takes_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "WORLD_SIZE": "3",
        "RANK": "2",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "x",
        "MASTER_PORT": "1",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    taken: list[int] = []

    def no_connection(*arguments: object, **more: object) -> None:
        raise RuntimeError("nobody is there")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", no_connection)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="process 1 of this machine has no GPU of its own"):
        joined_world("auto", told).__enter__()
    assert taken == []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(PtbLmError, match="process 2 has lost the others: nobody is there"):
        joined_world("auto", told).__enter__()
    assert taken == [1]
    with pytest.raises(PtbLmError, match="nobody is there"):
        joined_world("cpu", told).__enter__()
    assert taken == [1]


def test_what_the_first_process_fails_of_is_said_though_the_others_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nobody_hears(world: World, value: object) -> None:
        raise PtbLmError("process 0 has lost the others")

    def missing() -> None:
        raise InputError("no such text")

    monkeypatch.setattr(TorchrunWorld, "_broadcast_object", nobody_hears)
    world = object.__new__(TorchrunWorld)
    world.rank, world.size = 0, 2
    with pytest.raises(InputError, match="no such text"):
        world.broadcast_result(missing)
