"""Runs side by side: what differs, by how much, and what cannot be compared."""

import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_support import contents, done, done_json, ptb_lm

from ptb_lm.compare.paired import PairedComparison
from ptb_lm.compare.seed_spread import STUDENTS_T
from ptb_lm.config import resolve, to_toml
from ptb_lm.evaluation.score_file import load_scores, save_scores
from ptb_lm.evaluation.scores import ScoredText, Scores

pytestmark = pytest.mark.usefixtures("empty_workplace")

RESULTS = Path(__file__).resolve().parents[1] / "results"
TARGETS = {"valid": 50, "test": 70}


def log_probabilities(seed: int, split: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    rng = np.random.default_rng([seed, TARGETS[split]])
    return -rng.uniform(3, 6, TARGETS[split]).astype(np.float32)


def valid_at(epoch: int, seed: int) -> float:
    return 200.0 / epoch + seed


def make_run(
    path: str,
    *sets: str,
    seed: int = 1,
    epochs: int = 3,
    scored: bool = True,
    streams: int = 20,
    vocabulary: int = 10_000,
    text: str = "ptb",
    **options: Any,
) -> Path:
    """Write a run's folder by hand; options are those of [run]."""
    given = {"seed": seed, "data": "ptb", "precision": "fp32", **options}
    folder = Path(path)
    folder.mkdir(parents=True)
    config = resolve("small", ["training.epochs=3", *sets], given)
    (folder / "config.toml").write_text(to_toml(config))
    lines = [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "train/perplexity": 300.0 / epoch,
            "valid/perplexity": valid_at(epoch, seed),
            "lr": 1.0,
            "words_per_second": 1000.0 * epoch,
            "seconds": 90.0 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_environment(folder, {})
    for split in TARGETS if scored else ():
        protocol = "columns" if split == "valid" else "stream"
        of = streams if split == "valid" else 1
        scored_text = ScoredText(split, protocol, of, f"{text}-{split}", vocabulary)
        scores = Scores("x", scored_text, log_probabilities(seed, split))
        save_scores(scores, folder / f"scores-{split}.npz")
    return folder


def write_environment(folder: Path, *changes: dict[str, Any]) -> None:
    usual = {"from_step": 0, "commit": "a" * 40, "torch": "2.13.0", "device": "cpu", "threads": 2}
    parts = [{**usual, "from_step": n, **change} for n, change in enumerate(changes)]
    (folder / "environment.json").write_text(json.dumps(parts))


def perplexity_of(seed: int, split: str) -> float:
    return math.exp(-log_probabilities(seed, split).astype(np.float64).mean())


def compared(*runs: str) -> dict[str, Any]:
    result = done_json("compare", *runs)
    assert isinstance(result, dict)
    return result


def difference(first: str, other: str, split: str) -> dict[str, Any]:
    (only,) = compared(first, other)["differences_from_first"]
    result = only[split]
    assert isinstance(result, dict)
    return result


# What differs


def test_only_the_keys_that_differ_are_shown_with_dotted_names() -> None:
    make_run("runs/a")
    make_run("runs/b", "model.hidden_size=300", seed=2)
    make_run("runs/c", "model.hidden_size=300", seed=3, deterministic=True)
    seen = compared("runs/a", "runs/b", "runs/c")
    assert seen["runs"] == ["a", "b", "c"]
    assert seen["config"] == {
        "model.hidden_size": [200, 300, 300],
        "run.seed": [1, 2, 3],
        "run.deterministic": [False, False, True],
    }
    assert seen["environment"] == {}
    lines = done("compare", "runs/a", "runs/b", "runs/c").out.splitlines()
    assert lines[0].split() == ["a", "b", "c"]
    cells = [line.split() for line in lines]
    assert ["model.hidden_size", "200", "300", "300"] in cells
    assert ["environment", "the", "same"] in cells
    assert ["run.deterministic", "false", "false", "true"] in cells


def test_rates_by_place_are_compared_with_one_rate() -> None:
    rates = "{ words = 0.1, input = 0.2, between = 0.2, output = 0.2, recurrent = 0.1 }"
    variational = ("model.dropout_on=variational",)
    make_run("runs/a", *variational)
    make_run("runs/b", *variational, f"model.dropout={rates}")
    config = compared("runs/a", "runs/b")["config"]
    assert config["model.dropout"] == [0.0, None]
    assert config["model.dropout.words"] == [None, 0.1]


def test_environments_that_differ_and_those_of_a_run_that_moved() -> None:
    write_environment(make_run("runs/a"), {"threads": 1}, {"threads": 1, "cuda": None})
    write_environment(make_run("runs/b", seed=2), {"device": "GPU 7"}, {"commit": "b" * 40}, {})
    seen = compared("runs/a", "runs/b")["environment"]
    assert seen == {
        "commit": ["a" * 40, ["a" * 40, "b" * 40]],
        "device": ["cpu", ["GPU 7", "cpu"]],
        "threads": [1, 2],
    }
    shown = done("compare", "runs/a", "runs/b").out
    assert f"{'a' * 10} then {'b' * 10}" in shown
    assert "GPU 7 then cpu" in shown
    assert "a" * 11 not in shown


def test_what_old_evidence_does_not_say_is_known_all_the_same() -> None:
    make_run("runs/a")
    write_environment(make_run("runs/b", precision="bf16"), {"precision": "bf16", "processes": 1})
    assert compared("runs/a", "runs/b")["environment"] == {"precision": ["fp32", "bf16"]}


def test_a_run_without_its_environment() -> None:
    make_run("runs/a")
    (make_run("runs/b", seed=2) / "environment.json").unlink()
    assert compared("runs/a", "runs/b")["environment"]["threads"] == [2, None]
    assert "  threads" in done("compare", "runs/a", "runs/b").out


# What they reach


def test_results_from_score_files_and_else_from_metrics() -> None:
    make_run("runs/a")
    make_run("runs/b", seed=2, scored=False)
    scored, unscored = compared("runs/a", "runs/b")["results"]
    for split in TARGETS:
        reached = scored["reached"][split]
        assert reached["perplexity"] == pytest.approx(perplexity_of(1, split))
        assert reached["scored"]["tokens"] == TARGETS[split]
    assert unscored["reached"]["valid"] == {"perplexity": valid_at(3, 2), "scored": None}
    assert unscored["reached"]["test"] == {"perplexity": None, "scored": None}
    assert (scored["best_epoch"], scored["epochs_done"], scored["epochs"]) == (3, 3, 3)
    assert scored["best_valid_perplexity"] == valid_at(3, 1)
    assert scored["words_per_second"] == pytest.approx(3 / (1 / 1000 + 1 / 2000 + 1 / 3000))
    assert scored["minutes"] == 4.5


def test_differences_are_from_the_first() -> None:
    make_run("runs/a")
    make_run("runs/b", seed=2)
    for split in TARGETS:
        seen = difference("runs/b", "runs/a", split)
        expected = perplexity_of(1, split) - perplexity_of(2, split)
        assert seen["perplexity"] == pytest.approx(expected)
        assert seen["percent"] == pytest.approx(100 * expected / perplexity_of(2, split))
        assert (seen["comparable"], seen["obstacle"], seen["remark"]) == (True, "", "")
    shown = done("compare", "runs/b", "runs/a").out
    expected = perplexity_of(1, "test") - perplexity_of(2, "test")
    assert f"  test   perplexity {expected:+.2f} (" in shown
    assert "a against b" in shown


def test_an_unfinished_run_is_compared_at_the_last_epoch_of_both() -> None:
    make_run("runs/a")
    make_run("runs/b", seed=2, scored=False, epochs=2)
    seen = compared("runs/a", "runs/b")
    assert seen["common_epoch"] == 2
    assert seen["valid_at_common_epoch"] == [valid_at(2, 1), valid_at(2, 2)]
    valid = seen["differences_from_first"][0]["valid"]
    assert (valid["perplexity"], valid["remark"]) == (1.0, "after epoch 2 of both")
    assert valid["paired"] is valid["seed_spread"] is None
    assert seen["differences_from_first"][0]["test"]["perplexity"] is None
    assert (
        "valid  perplexity +1.00 (+0.99 %), after epoch 2 of both\n"
        in done("compare", "runs/a", "runs/b").out
    )


def test_a_run_that_has_only_begun() -> None:
    make_run("runs/a")
    make_run("runs/b", seed=2, scored=False, epochs=0)
    (Path("runs/b") / "metrics.jsonl").unlink()
    seen = compared("runs/a", "runs/b")
    begun = seen["results"][1]
    assert (begun["epochs_done"], begun["best_epoch"], begun["minutes"]) == (0, None, None)
    assert seen["differences_from_first"][0]["valid"]["perplexity"] is None
    assert seen["common_epoch"] is None
    assert "0 of 3" in done("compare", "runs/a", "runs/b").out


def test_over_two_vocabularies_both_are_shown_and_not_compared() -> None:
    make_run("runs/a")
    make_run("runs/b", seed=2, vocabulary=8000)
    seen = difference("runs/a", "runs/b", "test")
    assert not seen["comparable"]
    assert seen["perplexity"] is seen["percent"] is seen["paired"] is seen["seed_spread"] is None
    shown = done("compare", "runs/a", "runs/b").out
    assert f"{perplexity_of(1, 'test'):.2f}" in shown
    assert f"{perplexity_of(2, 'test'):.2f}" in shown
    what = "perplexities cannot be compared: over vocabularies of 10,000 and 8,000 words"
    assert f"  test   {what}" in shown
    assert "+" not in shown


def test_nor_are_those_of_two_texts_or_of_unscored_runs_on_other_data() -> None:
    make_run("runs/a")
    make_run("runs/b", text="other")
    make_run("runs/c", data="mine", scored=False)
    assert difference("runs/a", "runs/b", "valid")["obstacle"] == "two texts"
    seen = difference("runs/a", "runs/c", "valid")
    assert (seen["obstacle"], seen["perplexity"]) == ("the vocabularies of ptb and of mine", None)


def test_one_text_in_other_columns_is_compared_with_a_remark() -> None:
    make_run("runs/a")
    make_run("runs/b", "training.batch_size=10", seed=2, streams=10)
    seen = difference("runs/a", "runs/b", "valid")
    assert seen["remark"] == "in 10 columns against 20 columns"
    assert seen["paired"]["targets"] == TARGETS["valid"]


def test_a_diverged_run_has_no_figure() -> None:
    make_run("runs/a")
    run = make_run("runs/b", scored=False)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    nulls = [{**line, "valid/perplexity": None} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in nulls))
    seen = compared("runs/a", "runs/b")
    assert seen["results"][1]["best_epoch"] is None
    assert seen["differences_from_first"][0]["valid"]["perplexity"] is None


def test_runs_of_one_name_are_called_by_their_paths() -> None:
    make_run("runs/a")
    make_run("results/a", seed=2)
    assert compared("runs/a", "results/a/")["runs"] == ["runs/a", "results/a"]


# The seed spread


def spread_of(seeds: Sequence[int], split: str) -> float:
    return statistics.stdev(perplexity_of(seed, split) for seed in seeds)


def test_the_quantiles_are_those_of_students_t() -> None:
    for degrees, quantile in enumerate(STUDENTS_T, start=1):
        factor = math.gamma((degrees + 1) / 2) / math.gamma(degrees / 2)
        # The integral of the density by Simpson's rule.
        x = np.linspace(0, quantile, 20_001)
        density = (
            factor / math.sqrt(degrees * math.pi) * (1 + x**2 / degrees) ** (-(degrees + 1) / 2)
        )
        weights = np.ones_like(x)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        within = 2 * float((weights * density).sum()) * x[1] / 3
        assert within == pytest.approx(0.95, abs=6e-5), degrees


def test_the_spread_of_both_recipes_is_taken_from_the_other_runs_beside_them() -> None:
    for seed in (1, 2, 3, 4):
        make_run(f"runs/a-{seed}", seed=seed)
    for seed in (5, 6, 7):
        make_run(f"runs/b-{seed}", "model.hidden_size=300", seed=seed)
    make_run("runs/c", "model.hidden_size=400")  # of another recipe
    make_run("runs/d", seed=9, scored=False)  # unfinished
    make_run("runs/g", seed=7, text="another")  # on what the texts were before
    (make_run("runs/e", seed=8) / "scores-test.npz").write_bytes(b"damaged")
    shutil.copytree("runs/a-1", "runs/f")  # a seed once
    seen = difference("runs/a-1", "runs/b-5", "test")["seed_spread"]
    # Of three others and of two: two degrees of freedom, and one. By Welch and Satterthwaite.
    a, b = spread_of([2, 3, 4], "test") ** 2, spread_of([6, 7], "test") ** 2
    assert seen["deviation"] == pytest.approx(math.sqrt(a + b))
    degrees = math.floor((a + b) ** 2 / (a**2 / 2 + b**2 / 1))
    assert seen["degrees_of_freedom"] == degrees
    assert degrees in (1, 2)
    assert seen["bound"] == pytest.approx({1: 12.706, 2: 4.303}[degrees] * seen["deviation"])
    assert seen["seeds"] == [3, 2]
    # Of a recipe of which there is but one seed, that of the other stands for it.
    seen = difference("runs/a-1", "runs/c", "test")["seed_spread"]
    assert seen["deviation"] == pytest.approx(math.sqrt(2) * spread_of([2, 3, 4], "test"))
    assert seen["seeds"] == [3, 0]


def test_two_runs_are_no_measure_of_themselves() -> None:
    for number, seed in enumerate((1, 2, 3)):
        make_run(f"runs/{'abc'[number]}", seed=seed)
    assert difference("runs/a", "runs/b", "test")["seed_spread"] is None
    unknown = "the seed spread is not known: too few other seeds"
    assert unknown in done("compare", "runs/a", "runs/b").out
    make_run("other/d", seed=4)
    seen = compared("runs/a", "runs/b", "other/d")["differences_from_first"][0]["test"]
    assert seen["seed_spread"]["seeds"] == [2]
    expected = math.sqrt(2) * spread_of([3, 4], "test")
    assert seen["seed_spread"]["deviation"] == pytest.approx(expected)


def test_a_run_beside_them_without_a_test_text_counts_where_it_can() -> None:
    for seed in (1, 2, 3, 4, 5):
        run = make_run(f"runs/{seed}", seed=seed, data="text")
        if seed == 5:  # made before there was a test text
            (run / "scores-test.npz").unlink()
    seen = compared("runs/1", "runs/2")["differences_from_first"][0]
    assert seen["valid"]["seed_spread"]["seeds"] == [3]
    assert seen["test"]["seed_spread"]["seeds"] == [2]


def test_a_folder_of_texts_is_one_however_its_path_is_written() -> None:
    for seed, data in ((1, "text"), (2, "./text"), (3, str(Path("text").absolute())), (4, "text/")):
        make_run(f"runs/{seed}", seed=seed, data=data)
    assert difference("runs/1", "runs/2", "test")["seed_spread"]["seeds"] == [2]
    shown = done_json("report", *(f"runs/{seed}" for seed in (1, 2, 3, 4)))
    assert len({row["group"] for row in shown["others"]}) == 1
    for seed, data in ((1, "text"), (2, "./text")):
        make_run(f"new/{seed}", seed=seed, data=data, scored=False)
    assert difference("new/1", "new/2", "valid")["obstacle"] == ""


@pytest.mark.parametrize(("shift", "within"), [(0.0, True), (1.0, False)])
def test_whether_a_difference_is_within_the_seed_spread(shift: float, within: bool) -> None:
    for seed in range(1, 7):
        make_run(f"runs/a-{seed}", seed=seed)
    run = make_run("runs/b", "model.hidden_size=300", seed=7)
    scores = load_scores(run / "scores-test.npz")
    better = Scores("x", scores.text, scores.log_probabilities + np.float32(shift))
    save_scores(better, run / "scores-test.npz")
    seen = difference("runs/a-1", "runs/b", "test")
    bound = 2.776 * math.sqrt(2) * spread_of(range(2, 7), "test")
    assert (abs(seen["perplexity"]) <= bound) is within
    assert seen["within_seed_spread"] is within
    word = "within" if within else "beyond"
    line = f"{word} the seed spread: 95 % of the differences that seeds alone make are at most"
    shown = done("compare", "runs/a-1", "runs/b").out
    assert f"{line} {bound:.2f} (from 5 and 0 other seeds, if both vary alike)" in shown


# Target by target


def scores_of(values: Sequence[float]) -> Scores:
    text = ScoredText("test", "stream", 1, "0", 10)
    return Scores("x", text, np.array(values, np.float32))


def test_a_paired_comparison_by_hand() -> None:
    first = scores_of([-1, -2, -3, -4])
    second = scores_of([-2, -2, -1, -8])
    seen = PairedComparison.of(first, second)
    # Differences 1, 0, -2, 4: blocks of two have the means 0.5 and 1.
    assert seen.nll_difference == 0.75
    assert seen.standard_error == pytest.approx(0.25)
    assert (seen.first_better, seen.second_better, seen.targets) == (0.5, 0.25, 4)
    turned = PairedComparison.of(second, first)
    assert (turned.nll_difference, turned.first_better) == (-0.75, 0.25)


def test_who_predicts_more_targets_better_is_said_of_whom_it_is_true() -> None:
    for name, seed in (("a", 1), ("b", 2)):
        make_run(f"runs/{name}", seed=seed)
    run = Path("runs/b")
    scores = load_scores(run / "scores-test.npz")
    better = Scores("x", scores.text, scores.log_probabilities + np.float32(0.7))
    save_scores(better, run / "scores-test.npz")
    paired = difference("runs/a", "runs/b", "test")["paired"]
    shares = paired["first_better"], paired["second_better"]
    assert shares[0] < shares[1]
    assert (
        f"a predicts {100 * shares[0]:.1f} % of them better, b {100 * shares[1]:.1f} %"
        in done("compare", "runs/a", "runs/b").out
    )


def test_a_paired_comparison_of_too_little_or_of_the_impossible() -> None:
    assert math.isnan(PairedComparison.of(scores_of([-1]), scores_of([-2])).standard_error)
    seen = PairedComparison.of(scores_of([-math.inf] * 4), scores_of([-math.inf, -1, -2, -3]))
    assert math.isnan(seen.nll_difference)
    assert (seen.first_better, seen.second_better) == (0.0, 0.75)


def test_the_standard_error_is_that_of_independent_targets_where_they_are() -> None:
    rng = np.random.default_rng(5)
    noise = rng.normal(0, 0.5, (2, 40_000))
    first, second = (scores_of(-5 + each.clip(-4, 4)) for each in noise)
    independent = math.sqrt(2) * 0.5 / math.sqrt(40_000)
    assert PairedComparison.of(first, second).standard_error == pytest.approx(independent, rel=0.2)


def test_the_standard_error_grows_where_neighbours_are_alike() -> None:
    rng = np.random.default_rng(6)
    shared = np.repeat(rng.normal(0, 0.5, 4000), 10)  # ten targets of one kind each
    first, second = scores_of(-5 + shared.clip(-4, 4)), scores_of(np.full(40_000, -5.0))
    of_kinds = 0.5 / math.sqrt(4000)
    assert PairedComparison.of(first, second).standard_error == pytest.approx(of_kinds, rel=0.2)


# The evidence of this repository


def test_the_committed_evidence_is_compared_without_torch_and_not_changed() -> None:
    runs = [RESULTS / name for name in ("small-seed1", "small-bf16-seed1")]
    before = [contents(run) for run in runs]
    code = (
        "import sys\nfrom ptb_lm.__main__ import main\n"
        "try:\n    main(['compare', '--json', *sys.argv[1:]])\n"
        "finally:\n    assert 'torch' not in sys.modules\n"
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, runs)], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    seen = json.loads(ran.stdout)
    assert seen["config"] == {"run.precision": ["fp32", "bf16"]}
    (only,) = seen["differences_from_first"]
    test = only["test"]
    first, second = (load_scores(run / "scores-test.npz").log_probabilities for run in runs)
    mean = float((first.astype(np.float64) - second).mean())
    assert test["paired"]["nll_difference"] == pytest.approx(mean)
    # The paired mean is the difference of the logarithms of the perplexities.
    perplexities = [result["reached"]["test"]["perplexity"] for result in seen["results"]]
    assert mean == pytest.approx(math.log(perplexities[1] / perplexities[0]))
    assert min(test["seed_spread"]["seeds"]) >= 2
    assert [contents(run) for run in runs] == before


def test_a_short_text_has_no_standard_error() -> None:
    for name, seed in (("a", 1), ("b", 2)):
        run = make_run(f"runs/{name}", seed=seed)
        scores = load_scores(run / "scores-test.npz")
        few = Scores("x", scores.text, scores.log_probabilities[:3])
        save_scores(few, run / "scores-test.npz")
    assert difference("runs/a", "runs/b", "test")["paired"]["standard_error"] is None
    assert " ± - nats over 3 targets" in done("compare", "runs/a", "runs/b").out


def test_metrics_that_cannot_be_read_are_a_line() -> None:
    make_run("runs/a")
    run = make_run("runs/b", seed=2)
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    outcome = ptb_lm("compare", "runs/a", "runs/b")
    assert outcome.code == 2
    assert outcome.err == "error: runs/b/metrics.jsonl: a folder, expected a regular file\n"
