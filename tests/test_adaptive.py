"""Dynamic evaluation and the cache: as in their papers, never ahead of the text, off by default."""

import copy
import json
import os
import signal
import zipfile
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import numpy as np
import numpy_adaptive
import pytest
import torch
from cli_support import done, done_json, furnish, ptb_lm
from doc_commands import commands

import ptb_lm as notebook
from ptb_lm.config import ModelConfig
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation import dynamic
from ptb_lm.evaluation.adaptive import adaptive_log_probabilities, read_text
from ptb_lm.evaluation.cache import Cache, empty_memory, interpolated, recall
from ptb_lm.evaluation.dynamic import (
    AdaptiveNetwork,
    Dynamic,
    gradient_mean_squares,
    rms_paces,
    sgd_paces,
)
from ptb_lm.evaluation.score_file import load_scores
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.scoring import target_log_probabilities
from ptb_lm.stop import NEVER, StopFlag, Stopped

V = 11
SGD = Dynamic("sgd", rate=0.1, decay=0.05, segment=3)
RMS = Dynamic("rms", rate=0.02, decay=0.05, segment=3, epsilon=1e-3)
CACHE = Cache(size=7, theta=2.0, weight=0.3)


def network_of(seed: int = 1, precision: str = "fp32", **changes: Any) -> LanguageModel:
    """A tiny network with weights that make a difference, in float64 where it is not bf16."""
    settings = {"cell": "lstm", "layers": 2, "hidden_size": 6, "dropout": 0.0, "init_range": 0.8}
    torch.manual_seed(seed)
    network = LanguageModel(ModelConfig(**{**settings, **changes}), V, precision)
    return network if precision == "bf16" else network.double()


def text_of(length: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).integers(0, V, length).astype(np.int32)


def oracle_parameters(network: LanguageModel) -> dict[str, torch.Tensor]:
    weights = network.weights()
    return {"softmax.weight": weights["embedding.weight"], **weights}


def sgd_update(name: str, weight: Any, trained: Any, gradient: Any) -> Any:
    return weight - SGD.rate * gradient + SGD.decay * (trained - weight)


def paces_of(network: LanguageModel, settings: Dynamic, training_text: Any) -> Any:
    if settings.form == "sgd":
        return sgd_paces(network, settings)
    mean_squares = gradient_mean_squares(network, training_text, settings.segment, NEVER)
    return rms_paces(mean_squares, settings)


def adapted(network: LanguageModel, tokens: Any, settings: Dynamic, **options: Any) -> torch.Tensor:
    paces = paces_of(network, settings, text_of(300, seed=9))
    return adaptive_log_probabilities(
        network, tokens, paces=paces, steps=settings.segment, **options
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cache", [None, CACHE], ids=["alone", "with a cache"])
def test_sgd_follows_the_formula(tied: bool, cache: Cache | None) -> None:
    network, tokens = network_of(tied=tied), text_of(101)
    expected = numpy_adaptive.scores(
        *(oracle_parameters(network), 2, tokens, SGD.segment, sgd_update),
        cache=cache and (cache.size, cache.theta, cache.weight),
        tied=tied,
    )
    ours = adapted(network, tokens, SGD, cache=cache)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)
    usual = target_log_probabilities(network, tokens, 1)
    assert abs(ours - usual).max() > 0.1  # what was followed was not nothing


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("decay", [0.005, 0.9], ids=["gently", "some weights all the way back"])
def test_rms_follows_the_formula(tied: bool, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dynamic, "STATISTICS_STREAMS", 4)
    network, tokens, training_text = network_of(tied=tied), text_of(101), text_of(203, seed=2)
    settings = Dynamic("rms", RMS.rate, decay, RMS.segment, RMS.epsilon)
    mean_squares = numpy_adaptive.mean_squares(
        oracle_parameters(network), 2, training_text, settings.segment, 4, tied
    )
    parameters = dict(mean_squares)
    if tied:
        del parameters["softmax.weight"]  # it is the embedding's, and counts once
    average = np.concatenate([np.sqrt(each).ravel() for each in parameters.values()]).mean()
    shares = {name: decay * np.sqrt(each) / average for name, each in mean_squares.items()}
    assert any((share > 1).any() for share in shares.values()) == (decay == 0.9)

    def update(name: str, weight: Any, trained: Any, gradient: Any) -> Any:
        step = gradient / (np.sqrt(mean_squares[name]) + settings.epsilon)
        back = np.minimum(shares[name], 1) * (trained - weight)
        return weight - settings.rate * step + back

    expected = numpy_adaptive.scores(
        oracle_parameters(network), 2, tokens, settings.segment, update, tied=tied
    )
    paces = paces_of(network, settings, training_text)
    ours = adaptive_log_probabilities(network, tokens, paces=paces, steps=settings.segment)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("steps", [1, 4, 1000])
@pytest.mark.parametrize("size", [1, 7, 40, 500])
def test_the_cache_follows_the_formula_however_the_text_is_cut(steps: int, size: int) -> None:
    network, tokens = network_of(), text_of(101)
    cache = Cache(size, theta=2.0, weight=0.3)
    expected = numpy_adaptive.scores(
        oracle_parameters(network), 2, tokens, 100, cache=(size, cache.theta, cache.weight)
    )
    ours = adaptive_log_probabilities(network, tokens, steps=steps, cache=cache)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("cell", "precision"),
    [*((cell, "fp32") for cell in ("lstm", "gru", "rnn-tanh", "rnn-sigmoid")), ("gru", "bf16")],
)
def test_a_rate_or_weight_of_zero_is_the_usual_way(cell: str, precision: str) -> None:
    network, tokens = network_of(cell=cell, precision=precision), text_of(200)
    usual = target_log_probabilities(network, tokens, 1)
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if precision == "fp32" else {"rtol": 0, "atol": 0.03}
    for settings in (Dynamic("sgd", 0.0, 0.1), Dynamic("rms", 0.0, 0.1)):
        torch.testing.assert_close(adapted(network, tokens, settings), usual, **tolerance)
    still = Cache(size=50, theta=1.0, weight=0.0)
    ours = adaptive_log_probabilities(network, tokens, cache=still)
    torch.testing.assert_close(ours, usual, **tolerance)


@pytest.mark.parametrize("settings", [SGD, RMS, None], ids=["sgd", "rms", "fixed weights"])
def test_a_later_token_changes_no_earlier_score(settings: Dynamic | None) -> None:
    """Whether it is the last of a segment, the first of the next, or in its midst."""
    network, tokens = network_of(), text_of(60)

    def scored(tokens: Any) -> torch.Tensor:
        if settings is None:
            return adaptive_log_probabilities(network, tokens, steps=7, cache=CACHE)
        return adapted(network, tokens, settings, cache=CACHE)

    before = scored(tokens)
    for place in (28, 29, 30, 31, 32):
        changed = tokens.copy()
        changed[place] = (tokens[place] + 1) % V
        after = scored(changed)
        assert torch.equal(after[: place - 1], before[: place - 1])
        assert (after[place - 1 :] != before[place - 1 :]).all()


LEARNS = [Dynamic("sgd", 0.2, 0.001), Dynamic("rms", 0.001, 0.001)]


@pytest.mark.parametrize("settings", LEARNS, ids=["sgd", "rms"])
def test_what_is_repeated_is_learnt(settings: Dynamic) -> None:
    network, tokens = network_of(init_range=0.1), np.tile(text_of(10), 40)
    usual = target_log_probabilities(network, tokens, 1)[-20:].mean()
    assert adapted(network, tokens, settings)[-20:].mean() > usual + 0.25


def test_words_that_came_are_remembered() -> None:
    network, tokens = network_of(), text_of(200) % 3
    usual = target_log_probabilities(network, tokens, 1)[20:].mean()
    cache = Cache(20, theta=0.0, weight=0.9)
    assert adaptive_log_probabilities(network, tokens, cache=cache)[20:].mean() > usual + 0.5


def test_without_updates_weights_go_back_to_the_trained_ones() -> None:
    """Rows of the embedding too that no segment has, when their word comes at last."""
    network = network_of()
    moved = AdaptiveNetwork(network, sgd_paces(network, Dynamic("sgd", rate=0.0, decay=0.25)))
    with torch.no_grad():
        for parameter in moved.copy.parameters():
            parameter += 1
    one, two, rare = (torch.full((3, 1), word) for word in (1, 2, 5))
    hidden = network.zero_state(1)
    for _ in range(8):
        _, _, hidden = moved.read(one, two, hidden)
    moved.read(rare, one, hidden)
    for name, weight in moved.copy.weights().items():
        seen = weight[[1, 5]] if name == "embedding.weight" else weight
        trained = network.weights()[name]
        trained = trained[[1, 5]] if name == "embedding.weight" else trained
        left = torch.full_like(seen, 0.75**9)
        if name == "embedding.weight":
            left[0] = 0.75**8  # the ninth is still to come, with its word
        torch.testing.assert_close(seen - trained, left)


@pytest.mark.parametrize("training", [False, True], ids=["in evaluation", "in training"])
@pytest.mark.parametrize("settings", [SGD, RMS], ids=["sgd", "rms"])
def test_the_network_is_left_as_it_is_and_dropout_stays_off(
    settings: Dynamic, training: bool
) -> None:
    plain, network = network_of(), network_of(dropout=0.5).train(training)
    weights = copy.deepcopy(network.weights())
    tokens = text_of(60)
    ours = adapted(network, tokens, settings, cache=CACHE)
    adaptive_log_probabilities(network, tokens, cache=CACHE)
    assert network.training is training
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(weights[name], now) for name, now in network.weights().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(ours, adapted(plain, tokens, settings, cache=CACHE))


@pytest.mark.parametrize("settings", [SGD, RMS], ids=["sgd", "rms"])
def test_a_signal_is_heard_at_the_next_segment(
    settings: Dynamic, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, tokens, read = network_of(), text_of(60), AdaptiveNetwork.read
    weights, segments = copy.deepcopy(network.weights()), []

    def read_and_signal(self: AdaptiveNetwork, *window: Any) -> Any:
        segments.append(1)
        if len(segments) == 4:
            signal.raise_signal(signal.SIGTERM)
        return read(self, *window)

    monkeypatch.setattr(AdaptiveNetwork, "read", read_and_signal)
    with StopFlag() as stop, pytest.raises(Stopped):
        adapted(network, tokens, settings, stop=stop)
    assert len(segments) == 4
    assert all(torch.equal(weights[name], now) for name, now in network.weights().items())


def test_a_signal_is_heard_while_statistics_are_made() -> None:
    with StopFlag() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            gradient_mean_squares(network_of(), text_of(300), 5, stop)


def test_a_rate_that_is_too_great_is_one_line_that_says_so() -> None:
    network = network_of().float()  # in which the rate is infinite; in float64 it may do no harm
    with pytest.raises(PtbLmError, match=r"no probabilities after \d+ tokens.*--dynamic-rate"):
        adapted(network, text_of(60), Dynamic("sgd", 1e300, 0.0))
    assert all(weight.isfinite().all() for weight in network.weights().values())


def test_p_cache_sums_to_one_and_so_does_the_interpolation() -> None:
    network, tokens = network_of(), text_of(30)
    seen = torch.from_numpy(tokens.astype("int64"))
    states = network(seen[:-1, None], network.zero_state(1)).raw.detach().squeeze(1)
    memory = empty_memory(states)
    for step in (slice(0, 20), slice(20, 28)):
        window = states[step], seen[1:][step]
        _, memory = recall(memory, *window, torch.zeros(len(window[0])), CACHE)
    assert len(memory.states) == len(memory.words) == CACHE.size  # and not more
    log_p_vocab = torch.log_softmax(torch.randn(V, dtype=torch.float64), 0)
    of_words = torch.empty(V, dtype=torch.float64)
    for word in range(V):
        asked = torch.tensor([word])
        of_words[word], _ = recall(memory, states[28:], asked, log_p_vocab[asked], CACHE)
    assert of_words.exp().sum().item() == pytest.approx(1, abs=1e-12)
    mixed = interpolated(log_p_vocab, of_words, CACHE.weight)
    assert mixed.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert (of_words > -torch.inf).sum() == len(set(memory.words.tolist())) < V


def test_the_parts_of_an_interpolation_do_for_any_weight() -> None:
    network, tokens = network_of(), text_of(60)
    parts = read_text(network, tokens, cache=CACHE)
    for weight in (0.0, 0.2, 0.9):
        cache = Cache(CACHE.size, CACHE.theta, weight)
        whole = adaptive_log_probabilities(network, tokens, cache=cache)
        assert torch.equal(interpolated(*parts, weight), whole)


def test_a_probability_is_at_most_one_however_it_is_rounded() -> None:
    certain = torch.zeros(1)
    assert all(interpolated(certain, certain, place / 1000) <= 0 for place in range(1000))
    # But for a clamp some would not be:
    assert torch.logaddexp(torch.tensor(0.998).log(), torch.tensor(0.002).log()) > 0


@pytest.fixture(scope="module", autouse=True)
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = furnish(tmp_path_factory.mktemp("adaptive"))
    with chdir(folder):
        yield folder


LAST = "runs/a/last.pt"
ASKED = {
    "dynamic": ["--dynamic", "sgd", "--dynamic-rate", "0.1", "--dynamic-decay", "0.01"],
    "cache": ["--cache", "20", "--cache-theta", "1.5", "--cache-weight", "0.2"],
    "dynamic_cache": ["--dynamic", "rms", "--cache", "20"],
}


@pytest.mark.parametrize("key", ASKED)
def test_eval_prints_the_way_beside_the_usual_one(key: str) -> None:
    usual, both = done("eval", LAST).out, done("eval", LAST, *ASKED[key])
    assert both.out.startswith(usual + "by ")
    figures = done_json("eval", LAST, *ASKED[key])
    ours = figures.pop(key)
    assert figures == done_json("eval", LAST)
    assert ours["members"][0]["tokens"] == figures["members"][0]["tokens"]
    assert ours["members"][0]["nll"] != figures["members"][0]["nll"]
    assert f"by {ours['way']}:\n{LAST}: test perplexity " in both.out
    assert f"{ours['members'][0]['perplexity']:.2f} (one stream" in both.out


def test_the_settings_are_named() -> None:
    both = done_json("eval", LAST, *ASKED["dynamic"], *ASKED["cache"])["dynamic_cache"]
    assert both["way"] == (
        "dynamic evaluation (SGD, rate 0.1, decay 0.01, segments of 5 tokens) and "
        "a continuous cache (20 states, theta 1.5, weight 0.2)"
    )
    named = {key: both[key] for key in both if key.startswith(("dynamic", "cache"))}
    assert named == {
        "dynamic": "sgd",
        "dynamic_rate": 0.1,
        "dynamic_decay": 0.01,
        "dynamic_segment": 5,
        "cache": 20,
        "cache_theta": 1.5,
        "cache_weight": 0.2,
    }
    rms = done_json("eval", LAST, "--dynamic", "rms")["dynamic"]
    tuned = Dynamic.tuned("rms")
    assert (rms["dynamic_rate"], rms["dynamic_decay"]) == dynamic.TUNED["rms"]
    assert rms["dynamic_epsilon"] == tuned.epsilon


def test_the_help_tells_the_defaults() -> None:
    help_of = {option.name: option.help or "" for option in commands()["eval"].params}
    sgd, rms, cache = Dynamic.tuned("sgd"), Dynamic.tuned("rms"), Cache.tuned(1)
    told = {
        "dynamic_rate": f"{sgd.rate:g} (sgd), {rms.rate:g} (rms)",
        "dynamic_decay": f"{sgd.decay:g} (sgd), {rms.decay:g} (rms)",
        "cache_theta": f"{cache.theta:g}",
        "cache_weight": f"{cache.weight:g}",
    }
    assert {name: help_of[name].partition("; default ")[2] for name in told} == {
        name: f"{default}." for name, default in told.items()
    }


def test_a_notebook_gets_what_the_command_prints() -> None:
    model = notebook.load(LAST, device="cpu")
    way = notebook.adaptive(notebook.Dynamic("sgd", 0.1, 0.01), notebook.Cache(20, 1.5, 0.2))
    printed = done_json("eval", LAST, *ASKED["dynamic"], *ASKED["cache"])["dynamic_cache"]
    assert notebook.evaluate(model, way=way).perplexity == printed["members"][0]["perplexity"]
    with pytest.raises(InputError, match="--protocol columns: dynamic evaluation"):
        notebook.evaluate(model, way=way, protocol="columns")
    with pytest.raises(InputError, match="nothing to adapt by"):
        notebook.adaptive()


def test_the_usual_figure_beside_it_is_of_one_stream_too() -> None:
    assert "3 columns" in done("eval", LAST, "--split", "valid").out
    both = done("eval", LAST, "--split", "valid", *ASKED["cache"]).out
    assert both.count("one stream") == 2
    assert "columns" not in both
    stream = done("eval", LAST, "--split", "valid", "--protocol", "stream").out
    assert both.startswith(stream)


def test_scores_say_the_way_and_are_no_others(workplace: Path) -> None:
    done("eval", LAST, "--save-scores", "usual.npz")
    for name, checkpoint in (("a", LAST), ("b", "runs/b/last.pt")):
        done("eval", checkpoint, *ASKED["cache"], "--save-scores", f"cache-{name}.npz")
    figures = done_json("eval", LAST, *ASKED["cache"])["cache"]
    kept = load_scores(Path("cache-a.npz"))
    assert kept.text.way == "a continuous cache (20 states, theta 1.5, weight 0.2)"
    assert kept.perplexity == pytest.approx(figures["members"][0]["perplexity"], rel=1e-6)

    together = done("average", "cache-a.npz", "cache-b.npz").out
    assert together.startswith(f"by {kept.text.way}:\ncache-a.npz: test perplexity ")
    assert done_json("average", "cache-a.npz")["way"] == kept.text.way
    outcome = ptb_lm("average", "usual.npz", "cache-a.npz")
    assert outcome.code == 2
    assert f"cache-a.npz: way is {kept.text.way}, but usual in usual.npz" in outcome.err


def test_the_usual_way_goes_without_saying() -> None:
    """So that score files stay what they were, and those of before are read."""
    done("eval", LAST, "--save-scores", "usual.npz")
    with np.load("usual.npz") as content:
        said = json.loads(content["description"].tobytes())
    assert said.keys() == {
        *("format", "split", "protocol", "streams", "text_sha256", "vocabulary_size")
    }
    assert load_scores(Path("usual.npz")).text.way == "usual"
    assert "way" not in done_json("average", "usual.npz")
    with zipfile.ZipFile("usual.npz") as ours, zipfile.ZipFile("runs/a/scores-test.npz") as run:
        assert ours.read("description.npy") == run.read("description.npy")


def test_mc_samples_are_named_in_their_scores_too() -> None:
    done("eval", LAST, "--mc-samples", "3", "--save-scores", "mc.npz")
    way = load_scores(Path("mc.npz")).text.way
    assert way == "the mean probability of 3 passes with dropout"


def test_another_text_is_read_with_the_models_own_training_text() -> None:
    of_text = done_json("eval", LAST, "--dynamic", "rms", "--text", "text/test.txt")["dynamic"]
    of_split = done_json("eval", LAST, "--dynamic", "rms")["dynamic"]
    assert of_text["members"] == of_split["members"]


def test_statistics_are_taken_of_few_streams_where_the_text_is_short() -> None:
    network = network_of()
    short = gradient_mean_squares(network, text_of(13), 5, NEVER)
    assert {name: each.shape for name, each in short.items()} == {
        name: weight.shape for name, weight in network.weights().items()
    }
    with pytest.raises(InputError, match="at least 6"):
        gradient_mean_squares(network, text_of(5), 5, NEVER)
