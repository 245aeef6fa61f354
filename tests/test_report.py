"""The report: figures by hand, which runs go together, what each form of it shows, mistakes."""

import html
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from cli_support import Outcome, contents, done, ptb_lm
from reproduction_page import monte_carlo_block, schedule_block
from schedule_study import schedule_member

from ptb_lm.config import presets_folder, resolve, to_toml, toml_value
from ptb_lm.errors import InputError
from ptb_lm.evaluation.score_file import save_scores
from ptb_lm.evaluation.scores import MONTE_CARLO, USUAL, ScoredText, Scores
from ptb_lm.report import curves as drawings
from ptb_lm.report.averages import Estimate, disjoint_groups
from ptb_lm.report.comparison import NOT_YET_RUN
from ptb_lm.report.curves import PAPER_WHITE, Curve, mean_curve
from ptb_lm.report.evidence import read_evidence, read_run, read_runs
from ptb_lm.report.groups import grouped
from ptb_lm.report.published import AVERAGED, ELSEWHERE, PUBLISHED, TABLE_1
from ptb_lm.report.summary import evaluation_summary
from ptb_lm.report.table import results_table
from ptb_lm.training.run_folder import SCORED_SPLITS

pytestmark = pytest.mark.usefixtures("empty_workplace")

TARGETS = {"valid": 5, "test": 7}
BAD_NAME = "../<b>x</b>"


def log_probabilities(seed: int, split: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What a made-up model gives the targets of a split, unlike any other's."""
    rng = np.random.default_rng([seed, TARGETS[split]])
    return -rng.uniform(3, 6, TARGETS[split]).astype(np.float32)


def make_run(
    path: str,
    preset: str = "small",
    epochs: int = 3,
    scored: Sequence[str] = SCORED_SPLITS,
    **options: Any,
) -> Path:
    """Write a run folder by hand, with an option ``sets`` of --set and others of [run]."""
    sets = options.pop("sets", [])
    config = resolve(preset, sets, {"seed": 1, "data": "ptb", "precision": "fp32", **options})
    folder = Path(path)
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    lines = [{"step": 1, "epoch": 1, "train/perplexity": 900.0, "lr": 1.0}]  # within an epoch
    lines += [
        {
            "step": 10 * epoch,
            "epoch": epoch,
            "train/perplexity": 300.0 / epoch + config.run.seed,
            "valid/perplexity": 200.0 / epoch + config.run.seed,
            "lr": 1.0 / epoch,
            "seconds": 60.0 * epoch * config.run.seed,
        }
        for epoch in range(1, epochs + 1)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    environment = [{"device": "cpu", "threads": 1, "processor": "Z80"}]
    (folder / "environment.json").write_text(json.dumps(environment))
    for split in scored:
        streams = 20 if split == "valid" else 1
        protocol = "columns" if split == "valid" else "stream"
        text = ScoredText(split, protocol, streams, f"{config.run.data}-{split}", 10_000)
        scores = Scores("x", text, log_probabilities(config.run.seed, split))
        save_scores(scores, folder / f"scores-{split}.npz")
    return folder


def make_seeds(count: int, preset: str = "small") -> None:
    for seed in range(1, count + 1):
        make_run(f"results/{preset}-fp32-{seed}", preset, seed=seed)


def perplexity_of(seeds: Sequence[int], split: str) -> float:
    """The perplexity of the mean of the probabilities, computed as its definition says."""
    scores = np.stack([log_probabilities(seed, split).astype(np.float64) for seed in seeds])
    return math.exp(-np.log(np.exp(scores).mean(axis=0)).mean())


def rows(*arguments: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of both tables together by their titles, as --json has them."""
    record = json.loads(done("report", *arguments, "--json").out)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in (*record["paper"], *record["others"]):
        found.setdefault(row["model"], []).append(row)
    return found


def row(title: str, *arguments: str) -> dict[str, Any]:
    (only,) = rows(*arguments)[title]
    return only


# The numbers


def test_mean_and_sample_deviation_as_by_hand() -> None:
    estimate = Estimate.of([110.0, 112.0, 117.0])  # deviations -3, -1, 4: 26 over 2
    assert estimate.mean == pytest.approx(113.0)
    assert estimate.deviation == pytest.approx(math.sqrt(13))
    assert str(estimate) == "113.00 ± 3.61"
    assert str(Estimate.of([113.456])) == "113.46"


def test_a_diverged_seed_leaves_no_deviation() -> None:
    assert Estimate.of([math.inf, 100.0]) == Estimate(math.inf, None)


def test_groups_are_disjoint_in_order_and_whole() -> None:
    assert disjoint_groups([1, 2, 3, 4, 5], 2) == [(1, 2), (3, 4)]
    assert disjoint_groups([1, 2, 3, 4], 4) == [(1, 2, 3, 4)]
    assert disjoint_groups([1], 2) == []


def test_several_seeds_are_a_mean_and_a_deviation_beside_the_paper() -> None:
    make_seeds(3)
    small = row("small, non-regularized")
    for split in SCORED_SPLITS:
        values = [perplexity_of([seed], split) for seed in (1, 2, 3)]
        mean = sum(values) / 3
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / 2)
        assert small[split]["mean"] == pytest.approx(mean, rel=1e-12)
        assert small[split]["deviation"] == pytest.approx(deviation, rel=1e-9)
        paper = getattr(TABLE_1["small"], split)
        assert small["paper"][split] == paper
        percent = 100 * (mean - paper) / paper
        assert small["difference_percent"][split] == pytest.approx(percent, rel=1e-12)
    assert (small["valid"]["protocol"], small["valid"]["streams"]) == ("columns", 20)
    assert (small["test"]["protocol"], small["test"]["streams"]) == ("stream", 1)
    assert (small["valid"]["tokens"], small["test"]["tokens"]) == (5, 7)
    assert small["seeds"] == [[1], [2], [3]]


def test_averages_are_of_probabilities_over_disjoint_groups() -> None:
    make_seeds(7)
    found = rows()
    (pairs,), (fives,), (sevens,) = (found[f"small, average of {n}"] for n in (2, 5, 7))
    assert pairs["seeds"] == [[1, 2], [3, 4], [5, 6]]
    assert fives["seeds"] == [[1, 2, 3, 4, 5]]
    assert sevens["seeds"] == [[1, 2, 3, 4, 5, 6, 7]]
    for average in (pairs, fives, sevens):
        for split in SCORED_SPLITS:
            values = [perplexity_of(seeds, split) for seeds in average["seeds"]]
            mean = average[split]["mean"]
            assert mean == pytest.approx(sum(values) / len(values), rel=1e-12)
            singles = found["small, non-regularized"][0][split]["mean"]
            assert mean < singles * (1 - 1e-3)
    assert pairs["test"]["deviation"] == pytest.approx(
        np.std([perplexity_of(seeds, "test") for seeds in pairs["seeds"]], ddof=1), rel=1e-9
    )
    assert fives["test"]["deviation"] is None
    assert pairs["paper"] == {"valid": 100.4, "test": 96.1}
    assert sevens["paper"] is None
    assert sevens["difference_percent"] is None
    assert found["small, average of 10"][0]["status"] == f"{NOT_YET_RUN} (7 of 10 seeds)"
    assert "small, average of 38" not in found


def test_the_average_of_all_is_no_second_row_where_the_paper_has_as_many() -> None:
    make_seeds(5)
    assert [len(rows()[f"small, average of {n}"]) for n in (2, 5, 10)] == [1, 1, 1]
    assert "2 groups of 2" in done("report").out


def test_every_figure_of_the_paper_is_a_row_before_there_is_a_run_of_it() -> None:
    make_seeds(1)
    found = rows()
    given = {
        (published.title if members == 1 else f"{name}, average of {members}"): figures
        for name, published in TABLE_1.items()
        for members in (1, *AVERAGED)
        if (figures := published.of_members(members)) is not None
    }
    assert len(given) == 12  # as the paper's table has them
    for title, figures in given.items():
        (line,) = found[title]
        assert line["paper"] == {"valid": figures.valid, "test": figures.test}
        if title != "small, non-regularized":
            assert line["status"].startswith(NOT_YET_RUN)
            assert line["test"] is None
    assert "large, average of 5" not in found  # which the paper does not give


def test_the_papers_figures_are_those_of_its_table() -> None:
    """Table 1 of arXiv 1409.2329, validation and test, copied from the paper once more."""
    table = {
        "small": {1: (120.7, 114.5), 2: (100.4, 96.1), 5: (87.9, 84.1), 10: (83.5, 80.0)},
        "medium": {1: (86.2, 82.7), 2: (80.6, 77.0), 5: (76.7, 73.3), 10: (75.2, 72.0)},
        "large": {1: (82.2, 78.4), 2: (76.9, 73.6), 10: (72.8, 69.5), 38: (71.9, 68.7)},
    }
    for name, figures in table.items():
        for members, pair in figures.items():
            published = TABLE_1[name].of_members(members)
            assert published is not None
            assert (published.valid, published.test) == pair, (name, members)
        assert figures.keys() - {1} == TABLE_1[name].averages.keys()


def test_what_others_have_published_stands_beside_ours() -> None:
    make_seeds(2)
    make_run("results/bf16", precision="bf16")
    figures = json.loads(done("report", "--json").out)["elsewhere"]
    small, medium, large, *variational = figures
    assert [each["test"] for each in (small, medium, large)] == [115.91, 82.07, 78.29]
    assert [row["precision"] for row in small["ours"]] == ["fp32", "bf16"]
    assert small["ours"] == rows()["small, non-regularized"]
    assert not any(each["ours"] for each in (medium, large, *variational))


def test_a_variational_model_stands_beside_its_own_paper() -> None:
    """And a run of it that was changed does not."""
    make_run("runs/gal", "gal-medium-untied")
    make_run("runs/other", "gal-medium-untied", sets=["training.weight_decay=0.0"])
    found = rows("runs/gal", "runs/other")
    (ours,) = found["medium, variational (untied)"]
    assert (ours["paper"], ours["runs"]) == ({"valid": 81.9, "test": 79.7}, ["gal"])
    (tied,) = found["medium, variational (tied)"]
    assert (tied["paper"], tied["status"]) == ({"valid": 81.8, "test": 79.7}, NOT_YET_RUN)
    (changed,) = found["gal-medium-untied, weight_decay=0.0"]
    assert changed["paper"] is None


def test_a_figure_stands_beside_the_paper_of_its_own_way() -> None:
    """And beside none where the paper does not score so."""

    def end_of_line(preset: str, split: str, way: str) -> str:
        text = ScoredText(split, "stream", 1, "0" * 64, 10_000)
        scores = Scores("last.pt", text, np.full(5, -math.log(80), dtype=np.float32))
        return evaluation_summary([scores], [resolve(preset)], way).partition("5 tokens)")[2]

    assert end_of_line("gal-medium-untied", "valid", USUAL) == "; paper: 81.9 (-2.3 %)"
    assert end_of_line("gal-medium-untied", "test", USUAL) == "; paper: 79.7 (+0.4 %)"
    assert end_of_line("gal-medium-untied", "test", MONTE_CARLO) == "; paper: 78.6 (+1.8 %)"
    assert end_of_line("gal-medium-tied", "test", MONTE_CARLO) == "; paper: 79.0 (+1.3 %)"
    assert end_of_line("gal-medium-tied", "valid", MONTE_CARLO) == ""
    assert end_of_line("medium", "test", USUAL) == "; paper: 82.7 (-3.3 %)"
    assert end_of_line("medium", "test", MONTE_CARLO) == ""
    assert end_of_line("medium", "test", "cache") == ""
    assert end_of_line("medium", "text -", USUAL) == ""


def test_monte_carlo_stands_beside_weight_scaling_of_the_run_it_is_named_after() -> None:
    make_run("results/gal", "gal-medium-tied")
    make_run("results/medium", "medium")
    runs = read_evidence(Path("results"))
    (text,) = [run.scores["test"].text for run in runs if run.name == "gal"]
    folder = Path("results/monte-carlo")
    folder.mkdir()

    def table(name: str, text: ScoredText) -> str:
        sampled = replace(text, way="the mean probability of 9 passes")
        save_scores(Scores("x", sampled, log_probabilities(2, "test")), folder / f"{name}.npz")
        return monte_carlo_block(Path("results"), runs)

    (line,) = map(cells, table("gal", text).splitlines()[2:])
    ours = f"{perplexity_of([1], 'test'):.2f} / {perplexity_of([2], 'test'):.2f}"
    assert line[1:] == ["gal", "79.7 / 79.0", ours, "the mean probability of 9 passes"]
    with pytest.raises(InputError, match=r"gal.npz: expected scores of the text that gal scored"):
        table("gal", replace(text, text_sha256="another"))
    table("gal", text)
    for name in ("medium", "unknown"):
        with pytest.raises(InputError, match=rf"{name}.npz: expected the name of a run of a varia"):
            table(name, text)
        (folder / f"{name}.npz").unlink()


@pytest.mark.parametrize("preset", PUBLISHED)
def test_the_header_of_a_preset_gives_the_figures_that_are_published(preset: str) -> None:
    header = (presets_folder() / f"{preset}.toml").read_text(encoding="utf-8").partition("[")[0]
    published = PUBLISHED[preset]
    assert f"Published: valid {published.valid}, test {published.test}" in header
    assert f"{published.parameters:,}" in header
    if published.monte_carlo:
        assert f"test {published.monte_carlo} by Monte Carlo" in header


def test_small_by_the_schedule_of_the_authors_code_stands_beside_that_of_their_text() -> None:
    make_seeds(2)
    for seed in (1, 2):
        change = ["schedule.constant_epochs=5"]
        make_run(f"results/schedule-study/small-seed{seed}", seed=seed, sets=change)
    make_run("results/bf16", precision="bf16")
    _, _, paper, by_text, by_code = map(cells, schedule_block(Path("results")).splitlines())
    assert paper[1:] == ["120.7 / 114.5", "100.4 / 96.1", "87.9 / 84.1", "83.5 / 80.0", ""]
    for line in (by_text, by_code):
        pair = " / ".join(f"{perplexity_of([1, 2], split):.2f}" for split in SCORED_SPLITS)
        assert line[2:] == [pair, NOT_YET_RUN, NOT_YET_RUN, "2"]
    make_run("results/schedule-study/small-seed3", seed=3)
    with pytest.raises(
        InputError, match=r"small-seed3: expected small, schedule.constant_epochs=5"
    ):
        schedule_block(Path("results"))


def test_a_member_of_the_schedule_study_is_small_with_an_epoch_more_at_1() -> None:
    _, _, *command, _, _ = schedule_member(7).command
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert command[0] == "small"
    assert options == {
        "--set": "schedule.constant_epochs=5",
        "--seed": "7",
        "--precision": "fp32",
        "--name": "schedule-study/small-seed7",
    }


# Which runs go together


def test_runs_of_a_sweep_are_told_apart_by_what_was_changed() -> None:
    for size in (16, 32):
        make_run(f"runs/{size}", sets=[f"model.hidden_size={size}", "model.tied=true"])
    many = ["model.layers=1", "training.epochs=3", "training.decay=3.0", "training.clip_norm=9.0"]
    make_run("runs/many", sets=many)
    names = {
        line["model"]: line["group"]
        for title in rows("runs/16", "runs/32", "runs/many").values()
        for line in title
        if line["group"]
    }
    assert names == {
        "small, hidden_size=16, tied=true": "small-hidden_size-16-tied-true",
        "small, hidden_size=32, tied=true": "small-hidden_size-32-tied-true",
        "small, layers=1, epochs=3, clip_norm=9.0, …": "small-layers-1-epochs-3-clip_norm-9-0",
    }


def test_configs_of_ones_own_are_told_apart_by_what_differs_between_them() -> None:
    Path("own.toml").write_text(presets_folder().joinpath("small.toml").read_text())
    make_run("runs/one", "own.toml")
    assert "own" in rows("runs/one")
    make_run("runs/two", "own.toml", sets=["model.dropout=0.5"])
    assert {"own, dropout=0.0", "own, dropout=0.5"} <= rows("runs/one", "runs/two").keys()


def test_of_models_that_no_paper_has_no_papers_table_is_shown() -> None:
    make_run("runs/text", data="my/text")
    done("report", "runs/text", "--out", "report")
    for name in ("report.md", "report.html"):
        text = Path("report", name).read_text(encoding="utf-8")
        assert NOT_YET_RUN not in text
        assert "arXiv" not in text
        assert "my/text" in text


def test_precisions_are_rows_of_their_own_and_never_averaged_together() -> None:
    for seed, precision in enumerate(("fp32", "bf16", "tf32", "bf16"), start=1):
        make_run(f"runs/{seed}", seed=seed, precision=precision)
    found = rows(*(f"runs/{seed}" for seed in range(1, 5)))
    singles = [(line["precision"], line["seeds"]) for line in found["small, non-regularized"]]
    assert singles == [("fp32", [[1]]), ("bf16", [[2], [4]]), ("tf32", [[3]])]
    (pair,) = found["small, average of 2"]
    assert (pair["precision"], pair["seeds"]) == ("bf16", [[2, 4]])


def test_a_run_that_is_not_the_papers_is_in_the_other_table() -> None:
    make_run("runs/own", sets=["model.hidden_size=201"])
    make_run("runs/text", data="my/text", seed=2)
    make_run("runs/text-again", data="my/text", seed=3)
    make_run("runs/away", data="/home/someone/corpus")
    record = json.loads(
        done("report", "runs/own", "runs/text", "runs/text-again", "runs/away", "--json").out
    )
    assert all(line["status"] == NOT_YET_RUN for line in record["paper"])
    others = [(line["model"], line["data"], line["runs"]) for line in record["others"]]
    assert sorted(others) == [
        ("small", "corpus", ["away"]),  # no path that is a machine's own
        ("small", "my/text", ["text", "text-again"]),
        ("small, average of 2", "my/text", ["text", "text-again"]),
        ("small, hidden_size=201", "ptb", ["own"]),
    ]
    assert all(line["paper"] is None for line in record["others"])
    names = [curve["group"] for curve in record["curves"]]
    assert sorted(names) == ["small", "small-2", "small-hidden_size-201"]
    shown = done("report", "runs/text").out.split("## Other runs")[1]
    assert "| my/text | 10,000 | text |" in shown


def test_without_a_run_named_it_is_those_under_results() -> None:
    make_seeds(2)
    Path("results/speed").mkdir()
    assert done("report").out == done("report", "results/small-fp32-2", "results/small-fp32-1").out


@pytest.mark.parametrize(
    ("environment", "machine"),
    [
        ({"device": "cpu", "threads": 1, "processor": "Z80"}, "1 thread, Z80"),
        ({"device": "cpu", "threads": 2, "processor": "Z80", "processes": 1}, "2 threads, Z80"),
        (
            {"device": "cpu", "threads": 1, "processor": "Z80", "processes": 4},
            "4 processes, 1 thread each, Z80",
        ),
        ({"device": "Voodoo", "threads": 8, "processes": 2}, "2 processes, Voodoo"),
    ],
)
def test_the_machine_is_named_with_what_it_gave(environment: Any, machine: str) -> None:
    folder = make_run("runs/a")
    (folder / "environment.json").write_text(json.dumps([environment]))
    assert read_run(folder).machine == machine


def test_a_folder_of_something_else_beside_runs_is_left_out() -> None:
    """As ``runs/*/`` names the folders of the studies too."""
    make_run("runs/a")
    Path("runs/a-study/text").mkdir(parents=True)
    outcome = done("report", "runs/a", "runs/a-study", "--json")
    assert outcome.err == "runs/a-study: no run folder, as it has no config.toml; left out\n"
    assert json.loads(outcome.out) == json.loads(done("report", "runs/a", "--json").out)


def test_a_run_named_twice_counts_once() -> None:
    make_run("runs/a")
    assert done("report", "runs/a", "runs/../runs/a/").out == done("report", "runs/a").out


def test_an_unfinished_run_has_a_row_and_a_curve_and_no_figure() -> None:
    make_run("runs/a")
    for path, epochs, scored in (("b", 2, ()), ("c", 0, ()), ("d", 13, ("valid",))):
        make_run(f"runs/{path}", seed=ord(path), epochs=epochs, scored=scored)
    outcome = done("report", "runs/a", "runs/b", "runs/c", "runs/d", "--json")
    record = json.loads(outcome.out)
    lines = [line for line in record["paper"] if line["model"] == "small, non-regularized"]
    assert [line["status"] for line in lines] == [
        "reached",
        "b unfinished, epoch 2 of 13",
        "c unfinished, epoch 0 of 13",
        "d unfinished, epoch 13 of 13",
    ]
    assert [line["seeds"] for line in lines] == [[[1]], None, None, None]
    assert all(line["test"] is None and line["valid"] is None for line in lines[1:])
    (curves,) = record["curves"]
    assert [(run["run"], run["finished"], len(run["valid"])) for run in curves["runs"]] == [
        ("a", True, 3),
        ("b", False, 2),
        ("c", False, 0),
        ("d", False, 13),
    ]
    assert len(outcome.err.splitlines()) == 3
    assert "`ptb-lm train --resume --run-dir runs/b` goes on with it" in outcome.err
    assert NOT_YET_RUN not in [line["status"] for line in lines]


def test_paths_in_advice_are_typed_as_they_stand() -> None:
    make_run("my runs/ü b", scored=())
    err = done("report", "my runs/ü b").err
    assert "`ptb-lm train --resume --run-dir 'my runs/ü b'` goes on with it" in err
    assert "name the runs in it: 'my runs'/*/" in ptb_lm("report", "my runs").err


def test_runs_on_data_without_a_test_text_are_finished_with_their_validation_text() -> None:
    for seed in (1, 2):
        make_run(f"runs/{seed}", seed=seed, data="my/text", scored=("valid",))
    record = json.loads(done("report", "runs/1", "runs/2", "--json").out)
    single, average = record["others"]
    assert [single["status"], average["status"]] == ["reached", "reached"]
    assert single["valid"]["mean"] == pytest.approx(
        sum(perplexity_of([seed], "valid") for seed in (1, 2)) / 2, rel=1e-12
    )
    assert average["valid"]["mean"] == pytest.approx(perplexity_of([1, 2], "valid"), rel=1e-12)
    assert single["test"] is None and average["test"] is None
    done("report", "runs/1", "runs/2", "--out", "out")
    shown = Path("out/report.md").read_text(encoding="utf-8")
    line = f"| {single['valid']['mean']:.2f} ± {single['valid']['deviation']:.2f} / none | 2 seeds"
    assert line in shown
    assert "| 20 columns, 5 / none |" in shown
    assert '<td colspan="2" class="status">none</td>' in Path("out/report.html").read_text()


def test_runs_are_taken_in_the_order_of_their_seeds() -> None:
    for seed in (10, 9, 2):
        make_run(f"results/{seed}", seed=seed)
    runs = read_runs([], Path("results"))
    assert [run.config.run.seed for run in runs] == [2, 9, 10]
    (group,) = grouped(runs[::-1])
    assert [run.config.run.seed for run in group.runs] == [2, 9, 10]


def test_groups_of_one_name_have_files_of_their_own() -> None:
    for index, name in enumerate(("mine", "Mine", "mine!", "...")):
        make_run(f"results/{index}", config=name)
    assert [group.name for group in grouped(read_runs([], Path("results")))] == [
        *("run", "Mine", "mine-2", "mine-3")
    ]


# Its forms


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_shows_what_json_holds() -> None:
    make_seeds(4)
    make_run("results/bf16", precision="bf16")
    make_run("results/own", sets=["training.decay=3.0"])
    make_run("results/unfinished", "large", scored=())
    record = json.loads(done("report", "--json").out)
    shown = [cells(line) for line in done("report").out.splitlines() if line.startswith("|")]
    heads = [index for index, line in enumerate(shown) if line[0] == "model"]
    lines = [line for index, line in enumerate(shown) if index - 1 not in heads]
    tables = [line for line in lines if line[0] != "model" and len(line) > 4]
    assert [line[:2] for line in lines if len(line) == 4 and line[0] != "model"] == [
        [figure.model, figure.source] for figure in ELSEWHERE
    ]
    expected = [*record["paper"], *record["others"]]
    assert len(tables) == len(expected)
    for line, held in zip(tables, expected, strict=True):
        assert line[0] == held["model"]
        if held["paper"]:
            assert line[1] == f"{held['paper']['valid']} / {held['paper']['test']}"
        if held["status"] != "reached":
            assert held["status"] in line
            continue
        figures = []
        for split in SCORED_SPLITS:
            deviation = held[split]["deviation"]
            spread = "" if deviation is None else f" ± {deviation:.2f}"
            figures.append(f"{held[split]['mean']:.2f}{spread}")
        assert " / ".join(figures) in line
        if held["difference_percent"]:
            percents = held["difference_percent"]
            assert f"{percents['valid']:+.1f} / {percents['test']:+.1f} %" in line
        assert held["precision"] in line
        assert line[-1] == "20 columns, 5 / one stream, 7"


def test_on_a_terminal_it_is_what_json_holds_in_80_columns() -> None:
    make_seeds(10)
    for seed in (1, 2):
        make_run(f"results/bf16-{seed}", precision="bf16", seed=seed)
    make_run("results/own", sets=["training.decay=3.0"])
    make_run("results/text", data="my/text", scored=["valid"])
    make_run("results/unfinished", "large", scored=())
    record = json.loads(done("report", "--json").out)
    lines = done("report", on_terminal=True).out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "valid: 20 columns, 5 tokens; test: one stream, 7 tokens" in lines
    words = [line.split() for line in lines]
    for held in (*record["paper"], *record["others"]):
        title, paper = held["model"].split(), held["paper"]
        if held["group"] is None:
            assert [
                *title,
                str(paper["valid"]),
                str(paper["test"]),
                *held["status"].split(),
            ] in words
            continue
        if held["status"] != "reached":
            assert held["status"].split() in words
            continue
        if paper:
            assert [*title, str(paper["valid"]), str(paper["test"])] in words
        figures = []
        for split in SCORED_SPLITS:
            if held[split] is None:
                figures.append("none")
                continue
            deviation = held[split]["deviation"]
            spread = [] if deviation is None else ["±", f"{deviation:.2f}"]
            figures += [f"{held[split]['mean']:.2f}", *spread]
        percents = held["difference_percent"]
        if percents:
            figures += [f"{percents['valid']:+.1f}", "/", f"{percents['test']:+.1f}"]
        (line,) = (line for line in words if line[-len(figures) :] == figures)
        assert held["precision"] == line[-len(figures) - 1]
    for figure in ELSEWHERE:
        assert [*figure.source.split(), f"{figure.valid or '-'}", f"{figure.test}"] in words


def test_on_a_terminal_runs_that_no_paper_has_are_told_apart_by_what_they_are() -> None:
    for seed in (1, 2):
        make_run(f"runs/text{seed}", data="my/text", seed=seed)
    shown = done("report", "runs/text1", "runs/text2", on_terminal=True).out.splitlines()
    assert shown[:7] == [
        "Perplexity",
        "",
        "                       valid            test",
        "small",
        "  data my/text, 10,000 words",
        "  runs text1, text2",
        "  valid: 20 columns, 5 tokens; test: one stream, 7 tokens",
    ]


class Page(HTMLParser):
    """Collects what a page holds; a tag that closes none or another is an error."""

    EMPTY = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.open and self.open[-1] in ("td", "th"):
            self.cells[-1][-1] += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """A report of several groups, one of them with names that mean to be more than names."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        make_seeds(3)
        make_run("results/bf16", precision="bf16")
        make_run("results/bad", config=BAD_NAME, data="<script>alert(1)</script> | $x$ $")
        make_run("results/just-begun", "large", epochs=0, scored=())
        outcome = done("report", "--out", "report/of/mine")
    return folder / "report" / "of" / "mine", outcome


GROUPS = ("small", "small-bf16", "b-x-b")


def test_the_folder_holds_every_form_and_the_command_says_so(
    written: tuple[Path, Outcome],
) -> None:
    folder, outcome = written
    names = {f"curves-{group}.{form}" for group in GROUPS for form in ("png", "svg")}
    names |= {"report.md", "report.json", "report.html"}
    assert {path.name for path in folder.iterdir()} == names
    place, _, listed = outcome.out.strip().partition(": ")
    assert place == "report/of/mine"
    assert set(listed.split(", ")) == names
    markdown = (folder / "report.md").read_text()
    for group in GROUPS:
        assert f"](curves-{group}.png)" in markdown
    assert "<script>" not in markdown.replace("\\<", "")
    assert json.loads((folder / "report.json").read_text())["others"][0]["model"] == BAD_NAME


def test_the_page_is_whole_and_needs_nothing_beside_it(written: tuple[Path, Outcome]) -> None:
    text = (written[0] / "report.html").read_text()
    page = Page(text)
    assert page.count("svg") == page.count("figure") == len(GROUPS)
    assert page.count("script") == page.count("link") == page.count("img") == page.count("b") == 0
    assert "<script>alert(1)</script> | $x$ $" in "".join(page.texts)
    assert not re.search(r"https?:|@import|url\([^#]", re.sub(r'xmlns(:\w+)?="[^"]*"', "", text))
    identifiers = [value for _, attributes in page.elements if (value := attributes.get("id"))]
    assert len(identifiers) == len(set(identifiers))
    references = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert references
    assert set(references) <= set(identifiers)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_pages_tables_have_the_figures(written: tuple[Path, Outcome]) -> None:
    folder, _ = written
    page = Page((folder / "report.html").read_text())
    record = json.loads((folder / "report.json").read_text())
    models = {row["model"] for row in record["paper"]}
    lines = [line for line in page.cells if line[0] in models and len(line) > 6]
    assert len(lines) == len(record["paper"])
    for line, held in zip(lines, record["paper"], strict=True):
        assert line[0] == held["model"]
        if held["status"] != "reached":
            assert held["status"] in line
            continue
        valid, test = (held[split] for split in SCORED_SPLITS)
        for place, seen in ((5, valid), (7, test)):
            spread = "" if seen["deviation"] is None else f"± {seen['deviation']:.2f}"
            assert line[place : place + 2] == [f"{seen['mean']:.2f}", spread]
        percent = held["difference_percent"]
        assert line[9:11] == [
            f"{percent[split]:+.1f}" if percent else "" for split in SCORED_SPLITS
        ]
        assert line[-2:] == ["20 columns, 5", "one stream, 7"]


def test_a_title_is_drawn_as_it_is_whatever_it_says() -> None:
    make_run("runs/a")
    name = f'id="q" href="#z" {PAPER_WHITE} \x07'
    text = Path("runs/a/config.toml").read_text()
    Path("runs/a/config.toml").write_text(
        text.replace('config = "small"', f"config = {toml_value(name)}")
    )
    done("report", "runs/a", "--out", "out")
    (svg,) = Path("out").glob("*.svg")
    ElementTree.parse(svg)
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert f'id="q" href="#z" {PAPER_WHITE}' in html.unescape(page.partition("<svg")[2])


def test_curves_are_the_same_bytes_each_time(written: tuple[Path, Outcome]) -> None:
    folder, _ = written
    shutil.copytree(folder.parents[2] / "results" / "bf16", "results/elsewhere")
    done("report", "--out", "again")
    for form in ("png", "svg"):
        name = f"curves-small-bf16.{form}"
        assert Path("again", name).read_bytes() == (folder / name).read_bytes()


def test_with_json_the_object_is_alone_on_standard_output() -> None:
    make_run("results/without-a-curve", epochs=0)
    outcome = done("report", "--out", "report", "--json")
    assert json.loads(outcome.out) == json.loads(Path("report/report.json").read_text())
    assert outcome.err == "report: report.md, report.json, report.html\n"


def test_the_curve_is_that_of_the_epochs_ends() -> None:
    folder = make_run("runs/a", epochs=2)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 3, "train/perplexity": null, "valid/perplexity": null}\n')
        file.write('{"step": 31, "ep')  # as a crash leaves it
    (run,) = read_runs([folder], Path())
    curve = Curve.of(run)
    assert curve.epochs == [1, 2, 3]
    assert curve.train[:2] == [301.0, 151.0]
    assert curve.valid[:2] == [201.0, 101.0]
    assert curve.learning_rate[:2] == [1.0, 0.5]
    assert all(math.isnan(column[2]) for column in (curve.train, curve.valid, curve.learning_rate))
    done("report", "runs/a", "--out", "diverged")


def test_what_is_drawn_is_what_was_recorded() -> None:
    from matplotlib.figure import Figure

    make_seeds(2)
    (group,) = [group for group in grouped(read_evidence(Path("results"))) if group.runs]
    figure = Figure()
    drawings._draw(figure, group)
    above, below = figure.axes
    drawn = {line.get_label(): np.asarray(line.get_ydata()) for line in above.get_lines()}
    of_runs = [Curve.of(run) for run in group.runs]
    for kind in ("train", "valid"):
        (label,) = [
            name for name in drawn if str(name).startswith(f"{kind}") and "paper" not in name
        ]
        np.testing.assert_allclose(drawn[label], mean_curve(of_runs, kind)[1])
        thin = [line for line in above.get_lines() if line.get_linewidth() == 0.8]
        for curve in of_runs:
            assert any(list(line.get_ydata()) == getattr(curve, kind) for line in thin)
    (paper,) = [name for name in drawn if "in the paper" in str(name)]
    assert set(drawn[paper]) == {TABLE_1["small"].valid}
    rates = [(list(line.get_xdata()), list(line.get_ydata())) for line in below.get_lines()]
    assert rates == [(curve.epochs, curve.learning_rate) for curve in of_runs]
    for line in above.get_lines():
        if line.get_label() != paper:
            assert list(line.get_xdata()) == [1, 2, 3]


def test_the_mean_curve_is_over_the_epochs_that_all_have() -> None:
    long, short = (
        Curve([1, 2, 3], [9, 5, 4], [8, 6, 4], [1, 1, 1]),
        Curve([1, 2], [7, 3], [4, 2], [1, 1]),
    )
    assert mean_curve([long, short], "valid") == ([1, 2], [6.0, 4.0])


def test_without_matplotlib_there_are_the_tables_and_a_line_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_seeds(1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    outcome = done("report", "--out", "report")
    assert outcome.err == "No curves: they need matplotlib: pip install 'ptb-lm[report]'\n"
    assert sorted(path.name for path in Path("report").iterdir()) == [
        "report.html",
        "report.json",
        "report.md",
    ]
    assert "curves" not in Path("report/report.md").read_text() + outcome.out
    assert Page(Path("report/report.html").read_text()).count("svg") == 0
    assert done("report").err == ""  # which draws none


def test_a_report_imports_no_torch() -> None:
    make_seeds(1)
    script = (
        "import sys\nfrom ptb_lm.__main__ import main\n"
        "try:\n    main(['report', '--out', 'report'])\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


# The table of the README


def test_several_seeds_are_one_row_of_the_readme() -> None:
    make_seeds(2)
    make_run("results/bf16", precision="bf16")
    shown = [cells(line) for line in results_table(read_evidence(Path("results"))).splitlines()]
    small, average, medium, large = shown[2:6]
    (mean, other), (both, both_test) = (
        [rows()[title][0][split] for split in SCORED_SPLITS]
        for title in ("small, non-regularized", "small, average of 2")
    )
    figures = " / ".join(f"{each['mean']:.2f} ± {each['deviation']:.2f}" for each in (mean, other))
    difference = rows()["small, non-regularized"][0]["difference_percent"]
    percent = f"{difference['valid']:+.1f} / {difference['test']:+.1f} %"
    assert small[1:] == ["120.7 / 114.5", figures, percent, "2 seeds", "fp32"]
    assert average[:2] == ["small, average of 2", "100.4 / 96.1"]
    assert average[2] == f"{both['mean']:.2f} / {both_test['mean']:.2f}"
    assert average[4:] == ["1 group of 2", "fp32"]
    assert [line[2] for line in (medium, large)] == [NOT_YET_RUN] * 2
    # No row of an average that is not made, or that the paper has not, or of another precision.
    assert len([line for line in shown if len(line) == 6]) == 3 + len(PUBLISHED)


def test_unfinished_evidence_makes_no_table() -> None:
    make_run("results/a", scored=())
    with pytest.raises(InputError, match="results/a: unfinished"):
        read_evidence(Path("results"))


# Mistakes


def scores_of_another_split() -> None:
    run = make_run("runs/a")
    shutil.copy(run / "scores-valid.npz", run / "scores-test.npz")


def scores_of_another_way() -> None:
    text = ScoredText("test", "stream", 1, "ptb-test", 10_000, "a cache of 50 states")
    save_scores(
        Scores("x", text, log_probabilities(1, "test")), make_run("runs/a") / "scores-test.npz"
    )


@pytest.mark.parametrize("make", [scores_of_another_split, scores_of_another_way])
@pytest.mark.parametrize("command", [["report"], ["watch", "--once"]])
def test_scores_that_are_not_a_runs_own_are_refused(
    make: Callable[[], None], command: list[str]
) -> None:
    make()
    outcome = ptb_lm(*command, "runs/a")
    assert outcome.code == 2
    assert "runs/a/scores-test.npz: holds scores of " in outcome.err
    assert "not a run's of test; remove it" in outcome.err


def seed_twice() -> None:
    make_run("runs/a")
    make_run("runs/b")


def other_text() -> None:
    make_run("runs/a", data="text")
    changed = ScoredText("valid", "columns", 20, "another", 10_000)
    scores = Scores("x", changed, log_probabilities(2, "valid"))
    save_scores(scores, make_run("runs/b", data="text", seed=2) / "scores-valid.npz")


def without_test_text() -> None:
    make_run("runs/a", data="text")
    make_run("runs/b", data="text", seed=2, scored=("valid",))


def damaged_scores() -> None:
    (make_run("runs/a") / "scores-test.npz").write_bytes(b"PK")


def damaged_config() -> None:
    (make_run("runs/a") / "config.toml").write_text("[model]\ncell = 'lstm'\n")


MISTAKES: dict[str, tuple[Any, list[str], list[str]]] = {
    "no folder": (
        lambda: None,
        ["runs/a"],
        ["runs/a: no such folder; name run folders, as in `ptb-lm report runs/*/`"],
    ),
    "a file": (
        lambda: Path("log").write_text(""),
        ["log"],
        ["log: not a folder; name run folders"],
    ),
    "a folder of something else": (
        lambda: Path("docs").mkdir(),
        ["docs"],
        ["docs: not a run folder: it has no config.toml; name what `ptb-lm train` has made"],
    ),
    "a folder of runs": (
        lambda: make_run("runs/a"),
        ["runs"],
        ["runs: not a run folder: it has no config.toml; name the runs in it: runs/*/"],
    ),
    "no results": (lambda: None, [], ["results: no run in it; name run folders"]),
    "a seed twice": (
        seed_twice,
        ["runs/a", "runs/b"],
        ["runs/b: the same run as runs/a, seed 1 of small in fp32; name one of them"],
    ),
    "two texts under one name": (
        other_text,
        ["runs/a", "runs/b"],
        ["runs/b: its valid text is not what runs/a scored", "report them one at a time"],
    ),
    "a test text that one of them had not": (
        without_test_text,
        ["runs/a", "runs/b"],
        ["runs/b: its test text is not what runs/a scored", "report them one at a time"],
    ),
    "damaged scores": (damaged_scores, ["runs/a"], ["runs/a/scores-test.npz: not a score file"]),
    "a config that is not whole": (damaged_config, ["runs/a"], ["runs/a/config.toml: model."]),
    "a file as --out": (
        lambda: (make_run("runs/a") / "note").write_text(""),
        ["runs/a", "--out", "runs/a/note"],
        ["--out runs/a/note: not a folder; name a folder for the report"],
    ),
    **{
        f"another's {name} in --out": (
            lambda name=name: (make_run("runs/a").parent / name).write_text("<!DOCTYPE html>\n"),
            ["runs/a", "--out", "runs"],
            [f"--out runs: {name} in it was not written by ptb-lm report and would go"],
        )
        for name in ("report.md", "report.json", "report.html")
    },
}


@pytest.mark.parametrize(("before", "arguments", "fragments"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_helps_and_changes_nothing(
    before: Any, arguments: list[str], fragments: list[str], empty_workplace: Path
) -> None:
    before()
    there = contents(empty_workplace)
    outcome = ptb_lm("report", *arguments)
    assert outcome.code == 2, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert len(outcome.err.splitlines()) == 1, outcome.err
    for fragment in fragments:
        assert fragment in outcome.err
    assert contents(empty_workplace) == there


def test_curves_that_no_report_has_left_are_not_replaced() -> None:
    make_run("runs/a")
    Path("docs").mkdir()
    Path("docs/curves-small.svg").write_text("mine")
    outcome = ptb_lm("report", "runs/a", "--out", "docs")
    assert outcome.code == 2
    assert "curves-small.svg in it was not written by ptb-lm report" in outcome.err
    assert contents(Path("docs")) == {"curves-small.svg": b"mine"}


def test_a_report_is_replaced_by_the_next() -> None:
    """Of runs with a paper's table beside them, then of others, that have none."""
    make_run("runs/ours", epochs=0)
    make_run("runs/own", epochs=0, data="text")
    for run, has_table in {"runs/ours": True, "runs/own": False}.items():
        done("report", run, "--out", "report")
        assert ("arXiv 1409.2329" in Path("report/report.md").read_text()) is has_table
    done("report", "runs/ours", "--out", "report")


def test_a_folder_that_cannot_be_made_is_one_line() -> None:
    make_run("results/without-a-curve", epochs=0)
    Path("note").write_text("")
    outcome = ptb_lm("report", "--out", "note/report")
    assert outcome.code == 1
    assert outcome.err == "error: note/report: cannot be created: Not a directory\n"
