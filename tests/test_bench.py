"""The bench: its arithmetic, and one real measurement of a tiny model from end to end."""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import shared_training
import torch
import without
from cli_support import done, ptb_lm
from processes import free_port
from speed_page import cuda_block

from ptb_lm.bench import measure, timed_process, worker
from ptb_lm.bench.timed_process import Spread, TimedProcess
from ptb_lm.config import preset_headline, recipe_of, resolve, to_toml
from ptb_lm.errors import PtbLmError
from ptb_lm.model import backends, network
from ptb_lm.model.decoder import Softmax

TINY = {"hidden_size = 200": "hidden_size = 16", "batch_size = 20": "batch_size = 4"}


@pytest.mark.parametrize(
    ("preset", "millions"), [("small", 15.8), ("medium", 79.6), ("large", 306)]
)
def test_the_operations_of_a_word_are_those_of_its_products(preset: str, millions: float) -> None:
    """Two a weight and word, forward, and twice that backward; the embedding is no product."""
    config = resolve(preset)
    hidden = config.model.hidden_size
    weights = config.model.layers * 2 * 4 * hidden**2 + hidden * 10_000
    assert measure.operations_per_word(config) == 3 * 2 * weights
    assert measure.operations_per_word(config) / 1e6 == pytest.approx(millions, rel=0.005)


def test_a_spread_is_median_least_and_greatest() -> None:
    assert Spread.of([5.0, 1.0, 2.0]) == Spread(2.0, 1.0, 5.0)


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    text = Path(__file__).parents[1].joinpath("configs", "small.toml").read_text(encoding="utf-8")
    for old, new in TINY.items():
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    monkeypatch.setattr(timed_process, "ROUND_SECONDS", 0.01)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_bench_against_stock_measures_what_it_says(tiny: Path) -> None:
    command = ("bench", "tiny.toml", "--against-stock", "--rounds", "2")
    (row,) = json.loads(done(*command, "--json").out)["presets"]
    assert row["preset"] == "tiny.toml"
    for key in ("training", "evaluation", "stock", "against_stock"):
        assert 0 < row[key]["least"] <= row[key]["median"] <= row[key]["greatest"]
    config = resolve("tiny.toml")
    operations = row["training"]["median"] * measure.operations_per_word(config)
    assert row["share_of_limit"] == pytest.approx(operations / row["limit"])
    assert 0 < row["share_of_limit"] < 1
    low, high = row["training"], row["stock"]
    assert row["against_stock"]["least"] >= low["least"] / high["greatest"] * 0.999
    assert row["against_stock"]["greatest"] <= low["greatest"] / high["least"] * 1.001
    for key in ("training_bytes", "evaluation_bytes"):
        assert 100e6 < row[key] < 2e9
    assert not list(tiny.glob("ptb-lm-*")), "a text is left over"


def test_the_processes_that_share_a_training_are_measured_together(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    measured = shared_training.measure("tiny.toml", rounds=2)
    alone, together = (measured[name] for name in shared_training.WAYS)
    assert 0 < together["least"] <= together["median"]
    assert measured["ratio"]["greatest"] <= together["greatest"] / alone["least"] * 1.001
    assert not list(tiny.glob("ptb-lm-*")), "a text is left over"


@pytest.mark.usefixtures("tiny")
def test_the_processes_that_share_a_training_need_each_other() -> None:
    command = worker.Subject("tiny.toml", "cpu", "fp32").command("training")
    told = shared_training.as_torchrun_tells(2, free_port())
    with (
        timed_process.timed_process(command, **told[0]) as first,
        timed_process.timed_process(command, **told[1]) as second,
    ):
        with ThreadPoolExecutor(2) as pool:
            words = [
                each["words"] for each in pool.map(lambda member: member.work(3), (first, second))
            ]
        assert words == [3 * 4 * 20] * 2  # each counts those of all
        second.process.kill()
        with pytest.raises(PtbLmError, match="ended with code"):
            first.work(1)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("undone", list(without.ON_CPU))
def test_the_trainer_trains_without_each_step_towards_speed(
    undone: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "TRAINING_TOKENS", 1_000)
    for owner, name in (
        *((backends, "_is_amd"), (backends, "_keep_large_buffers"), (network, "Embedding")),
        *((Softmax, "nll"), (network.Dropout, "forward")),
    ):
        monkeypatch.setattr(owner, name, getattr(owner, name))  # to be put back
    without.ON_CPU[undone]()
    with worker.training(worker.Subject("tiny.toml", "cpu", "fp32")) as train:
        assert train(2)["words"] == 2 * 4 * 20


def test_rounds_go_on_where_an_epoch_would_end(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU makes an epoch of small in less than a round."""
    monkeypatch.setattr(worker, "TRAINING_TOKENS", 1_000)
    with worker.training(worker.Subject("tiny.toml", "cpu", "fp32")) as steps:
        rounds = [steps(50) for _ in range(6)]  # of 137 windows
    assert [each["words"] for each in rounds] == [50 * 4 * 20] * 6
    assert all(each["seconds"] > 0 for each in rounds)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc to read memory from")
def test_a_thousand_steps_take_no_more_memory_than_two_hundred(tiny: Path) -> None:
    with worker.training(worker.Subject("tiny.toml", "cpu", "fp32")) as steps:
        resident = []
        for _ in range(6):
            steps(200)
            resident.append(resident_bytes())
    growths = [after - before for before, after in pairwise(resident)]
    # The median, for a buffer may move once: the logits of one step alone take 3.2 MB.
    assert median(growths) < 0.4e6, growths


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def row_of_a_gpu() -> measure.BenchRow:
    spread = Spread(1234.5, 1200.0, 1300.0)
    return measure.BenchRow(
        preset="small",
        device="cuda",
        precision="fp32",
        training=spread,
        evaluation=spread,
        stock=spread,
        against_stock=Spread(1.25, 1.2, 1.3),
        stock_matched=spread,
        against_stock_matched=Spread(1.75, 1.7, 1.8),
        limit=2e11,
        share_of_limit=0.5,
        memory_floor=9e4,
        training_bytes=400_000_000,
        evaluation_bytes=300_000_000,
    )


def test_the_table_has_a_line_a_preset() -> None:
    head, line = measure.bench_table([row_of_a_gpu()]).splitlines()
    assert len(head) == len(line)
    for part in (
        "small fp32",
        "1,234",
        "1,200-1,300",
        "200",
        "50%",
        "90,000",
        "400",
        "300",
        "1.25",
        "1.75",
    ):
        assert part in line


def test_the_page_shows_a_gpu_once_there_is_evidence(tmp_path: Path) -> None:
    assert cuda_block(tmp_path) == "Not yet measured."
    environment = {"commit": "0" * 40, "system": "Linux", "processor": "none", "device": "GPU 7"}
    report = measure.bench_json([row_of_a_gpu()], {**environment, "threads": 4, "torch": "2.11"})
    (tmp_path / "bench-cuda-tf32.json").write_text(json.dumps(report))
    block = cuda_block(tmp_path)
    assert "GPU 7, 4 threads, PyTorch 2.11" in block
    head, _, line = [line.split("|") for line in block.splitlines()[:3]]
    assert len(head) == len(line)
    assert line[3].strip() == f"{929_589 / 1234.5:.2f}"  # seconds of an epoch


@pytest.mark.parametrize(
    ("arguments", "fragments"),
    [
        (["samll"], ["config 'samll': no such preset", "did you mean 'small'?"]),
        (
            ["small", "--precision", "fp8"],
            ["--precision", "'auto', 'fp32', 'tf32' or 'bf16'", "'fp8'"],
        ),
        (["small", "--rounds", "0"], ["--rounds"]),
        (["gal-medium-tied", "--against-stock"], ["--against-stock: stock is", '"variational"']),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], fragments: list[str]) -> None:
    outcome = ptb_lm("bench", *arguments)
    assert outcome.code == 2
    error = outcome.err.splitlines()[-1]
    assert error.startswith("error: ")
    assert all(fragment in error for fragment in fragments), error


@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn-tanh", 1)])
def test_a_cell_has_the_recurrent_weights_of_its_gates(cell: str, gates: int) -> None:
    changes = [f"model.cell={cell}", "model.layers=3", "model.hidden_size=10"]
    config = resolve("small", changes)
    assert measure.recurrent_weights(config) == gates * 3 * 10**2
    shapes = network.parameter_shapes(config.model, 50)
    of_steps = [shape for name, shape in shapes.items() if "weight_hh" in name]
    assert sum(rows * columns for rows, columns in of_steps) == gates * 3 * 10**2


@pytest.mark.parametrize(
    "changed",
    [
        "tied = true",
        "dropout = { words = 0.0, input = 0.5, between = 0.0, output = 0.5, recurrent = 0.0 }",
        'cell = "gru"',
        "weight_decay = 1e-7",
    ],
)
def test_stock_is_not_set_against_another_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    monkeypatch.setattr(measure, "_limits", None)  # nothing is measured
    recipe = to_toml(recipe_of(resolve("medium")))
    key = changed.partition(" ")[0]
    (tmp_path / "other.toml").write_text(re.sub(rf"(?m)^{key} = .*$", changed, recipe))
    outcome = ptb_lm("bench", str(tmp_path / "other.toml"), "--against-stock")
    assert outcome.code == 2
    section = "optimizer" if "decay" in key else "model"
    value = changed.partition(" = ")[2].replace("1e-7", "1e-07")
    assert outcome.err.endswith(f"no weight decay, not one with {section}.{key} = {value}\n")


def test_a_process_that_dies_while_it_is_timed_is_one_line() -> None:
    timed = TimedProcess(["false"])
    timed.process.wait()
    with pytest.raises(PtbLmError, match="false: ended with code 1 while it was timed"):
        timed.work(1)
    timed.process.communicate()


def test_every_task_and_preset_of_the_bench_is_there() -> None:
    assert set(worker.TASKS) == {"training", "evaluation", "limit"}
    assert all(preset_headline(preset) for preset in measure.PAPER_PRESETS)


@pytest.mark.usefixtures("tiny")
def test_nothing_is_measured_before_every_preset_is_seen_to_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "bench", None)
    outcome = ptb_lm("bench", "tiny.toml", "nonesuch")
    assert outcome.code == 2
    assert outcome.err.startswith("error: config 'nonesuch': no such preset or file")


def test_a_process_that_cannot_measure_says_so_in_a_line() -> None:
    command = worker.Subject("nonesuch", "cpu", "fp32").command("limit")
    ended = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert ended.returncode == 1
    assert ended.stderr.startswith("config 'nonesuch': no such preset or file")
    assert ended.stderr.count("\n") == 1
