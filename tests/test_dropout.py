"""The four ways of dropout: what each drops, which masks last, and all of it for every cell."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch
from cli_support import done, done_json, ptb_lm, train_arguments, write_texts
from networks import layer_of, log_probs_of, objective_of, reference_forward, sgd_step
from torch import Tensor
from torch.nn.functional import embedding, linear

from ptb_lm.config import ModelConfig, resolve
from ptb_lm.evaluation.trained import load
from ptb_lm.evaluation.ways import monte_carlo
from ptb_lm.model import scoring
from ptb_lm.model.dropout import Dropout, WindowDropout, WordDropout
from ptb_lm.model.layers import LAYERS, AffineLayer, State
from ptb_lm.model.network import LanguageModel, parameter_count
from ptb_lm.model.scoring import (
    monte_carlo_log_probabilities,
    nll_sum,
    target_log_probabilities,
)
from ptb_lm.report import summary
from ptb_lm.report.published import VARIATIONAL
from ptb_lm.training.checkpoint import load_checkpoint

V, T, B, H = 19, 12, 30, 16
RATES = "{ words = 0.1, input = 0.2, between = 0.3, output = 0.4, recurrent = 0.5 }"
FUSED = [name for name, layer in LAYERS.items() if layer.is_fused]


def make_network(dropout_on: str, dropout: object = 0.5, **changes: object) -> LanguageModel:
    torch.manual_seed(2)
    values = {"cell": "lstm", "layers": 2, "hidden_size": H, "init_range": 0.4} | changes
    config = ModelConfig(dropout=dropout, dropout_on=dropout_on, **values)
    return LanguageModel(config, V).double()


def window() -> Tensor:
    return torch.randint(V, (T, B), generator=torch.Generator().manual_seed(3))


@contextmanager
def masks_seen(network: LanguageModel) -> Iterator[dict[str, list[Tensor]]]:
    """What the factors of a forward pass are, by place, as (…, B, H)."""
    seen: dict[str, list[Tensor]] = {place: [] for place in ("input", "between", "output")}
    seen["recurrent"] = []
    draw_masks = AffineLayer.draw_masks
    hooks = []
    for place, drop in network.drop.items():

        def note(module: object, args: tuple[Tensor], output: Tensor, at: str = place) -> None:
            seen[at].append((output / args[0]).detach())

        hooks.append(drop.register_forward_hook(note))

    def noting(layer: AffineLayer, x: Tensor) -> Tensor | None:
        masks = draw_masks(layer, x)
        if masks is not None:
            seen["recurrent"].append(masks)
        return masks

    AffineLayer.draw_masks = noting
    try:
        yield seen
    finally:
        del AffineLayer.draw_masks
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("cell", LAYERS)
def test_in_the_papers_way_no_mask_is_on_the_recurrent_connection(cell: str) -> None:
    network = make_network("non-recurrent", cell=cell)
    with masks_seen(network) as seen:
        network(window(), network.zero_state(B))
    assert seen.pop("recurrent") == []
    assert [len(masks) for masks in seen.values()] == [1, 1, 1]  # L + 1
    for (mask,) in seen.values():
        changes = (mask[1:] != mask[:-1]).double().mean()
        assert changes.item() == pytest.approx(0.5, abs=0.05)  # fresh at every step


@pytest.mark.parametrize("cell", LAYERS)
def test_with_all_a_fresh_mask_at_each_step_is_on_h_too(cell: str) -> None:
    network = make_network("all", cell=cell)
    with masks_seen(network) as seen:
        network(window(), network.zero_state(B))
    assert [len(masks) for masks in seen.values()] == [1, 1, 1, 2]
    for masks in seen.values():
        for mask in masks:
            assert mask.shape == (T, B, H)
            assert (mask[1:] != mask[:-1]).double().mean().item() == pytest.approx(0.5, abs=0.05)
            assert mask.unique().tolist() == [0.0, 2.0]
    first, second = seen["recurrent"]
    assert not torch.equal(first, second)


@pytest.mark.parametrize("cell", LAYERS)
def test_variational_masks_are_one_a_window_and_stream(cell: str) -> None:
    """The same at every step, another one in each stream, layer, place and window."""
    rates = {"words": 0.0, "input": 0.5, "between": 0.5, "output": 0.5, "recurrent": 0.5}
    network = make_network("variational", rates, cell=cell)
    windows = []
    for _ in range(2):
        with masks_seen(network) as seen:
            network(window(), network.zero_state(B))
        masks = [mask for of_place in seen.values() for mask in of_place]
        assert len(masks) == 5
        for mask in masks:
            assert (mask == mask[:1]).all()  # for all of its steps
            assert (mask[0, 1:] != mask[0, :-1]).double().mean().item() == pytest.approx(
                0.5, abs=0.1
            )
        windows += [mask[0] for mask in masks]
    for index, mask in enumerate(windows):
        assert all(not torch.equal(mask, other) for other in windows[index + 1 :])


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_masks_of_its_own_for_each_gate(cell: str) -> None:
    gates = LAYERS[cell].gates
    network = make_network("variational", masks_per_gate=True, cell=cell)
    with masks_seen(network) as seen:
        network(window(), network.zero_state(B))
    for place in ("input", "between"):
        (mask,) = seen[place]
        assert mask.shape == (gates, T, B, H)
        kept = mask.nan_to_num(0)  # of words that were dropped nothing can be told
        assert all(not torch.equal(kept[0], kept[gate]) for gate in range(1, gates))
    for mask in seen["recurrent"]:
        assert mask.shape == (gates, 1, B, H)
    assert seen["output"][0].shape == (T, B, H)


@pytest.mark.parametrize("dropout_on", ["none", "non-recurrent", "all", "variational"])
def test_in_evaluation_nothing_is_dropped(dropout_on: str) -> None:
    network = make_network(dropout_on).eval()
    words = window()
    with masks_seen(network) as seen:
        ours = network(words, network.zero_state(B))
    assert seen["recurrent"] == []
    expected = reference_forward(network, words, network.zero_state(B))
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dropout_on", ["none", "non-recurrent", "all", "variational"])
def test_the_fused_kernel_runs_wherever_the_masks_allow(
    dropout_on: str, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, run_fused = [], AffineLayer._run_fused

    def counted(layer: AffineLayer, x: Tensor, state: State) -> tuple[Tensor, State]:
        calls.append(1)
        return run_fused(layer, x, state)

    monkeypatch.setattr(AffineLayer, "_run_fused", counted)
    network = make_network(dropout_on).train(training)
    network(window(), network.zero_state(B))
    masks_within = training and dropout_on in ("all", "variational")
    assert len(calls) == (0 if masks_within else 2)


def test_words_are_dropped_from_what_the_network_reads() -> None:
    """With every word dropped it cannot tell one text from another; in evaluation it can."""
    rates = {"words": 1 - 1e-9, "input": 0.0, "between": 0.0, "output": 0.0, "recurrent": 0.0}
    network = make_network("variational", rates)
    words = window()
    read, other = (network(text, network.zero_state(B))[0] for text in (words, words.flip(0)))
    assert torch.equal(read, other)
    network.eval()
    read, other = (network(text, network.zero_state(B))[0] for text in (words, words.flip(0)))
    assert not torch.equal(read, other)


def test_none_is_no_dropout_whatever_the_rate() -> None:
    network = make_network("none").train()
    words = window()
    one = network(words, network.zero_state(B))
    other = network.eval()(words, network.zero_state(B))
    assert torch.equal(one.dropped, other.dropped)


@pytest.mark.parametrize("cell", LAYERS)
def test_every_cells_network_is_its_formula_step_by_step(cell: str) -> None:
    """Outputs, states and gradients, the fused kernel beside the reference cell."""
    network = make_network("none", cell=cell)
    words = window()
    results = []
    for forward in (network, lambda *inputs: reference_forward(network, *inputs)):
        output = forward(words, network.zero_state(B))
        kept, after = output.dropped.detach(), output.state
        objective_of(network, output, words.flip(0)).backward()
        gradients = [p.grad.to_dense().clone() for p in network.parameters()]
        results.append([kept, *(part for layer in after for part in layer), *gradients])
        network.zero_grad()
    for ours, reference in zip(*results, strict=True):
        assert ours.abs().max() > 0
        torch.testing.assert_close(ours, reference, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("cell", FUSED)
@pytest.mark.parametrize("per_gate", [False, True])
def test_steps_under_masks_of_ones_are_the_fused_kernel(cell: str, per_gate: bool) -> None:
    layer, inputs = layer_of(cell, H + 3, H), H + 3
    torch.manual_seed(5)
    x = torch.randn(T, B, inputs).double()
    state = tuple(torch.randn(B, H).double() for _ in range(layer.states))
    expected, expected_state = layer._run_fused(x, state)
    gates = (layer.gates,) if per_gate else ()
    masks = torch.ones(*gates, 1, B, H).double()
    ours, our_state = layer.run_stepwise(x.expand(*gates, *x.shape), state, masks)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(our_state, expected_state, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("masked", ["never", "each step", "window", "gate"])
def test_every_gradient_through_steps_under_masks_is_the_numerical_one(
    cell: str, masked: str
) -> None:
    steps, streams, inputs, width = 3, 2, 3, 2
    torch.manual_seed(6)
    layer = layer_of(cell, inputs, width)
    gates = (layer.gates,) if masked == "gate" else ()
    shape = {"never": None, "each step": (steps,), "window": (1,), "gate": (*gates, 1)}[masked]
    masks = None
    if shape is not None:
        masks = (torch.rand(*shape, streams, width) > 0.3).double() / 0.7

    def run(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        outputs, after = layer.run_stepwise(x, rest[: layer.states], masks)
        return outputs, *after

    shapes = [(*gates, steps, streams, inputs), *[(streams, width)] * layer.states]
    values = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(run, [*values, *layer.parameters()])


def test_the_mask_is_on_what_the_affine_map_takes_and_not_on_what_is_carried() -> None:
    """One step of a GRU by hand: its z * h has the whole h."""
    layer = layer_of("gru", H, H)
    x, h = torch.randn(1, 3, H).double(), torch.randn(3, H).double()
    mask = (torch.rand(1, 3, H) > 0.5).double() * 2
    (ours,), _ = layer.run_stepwise(x, (h,), mask)
    from_x = linear(x[0], layer.weight_ih_l0, layer.bias_ih_l0).chunk(3, 1)
    from_h = linear(h * mask[0], layer.weight_hh_l0, layer.bias_hh_l0).chunk(3, 1)
    r, z = (torch.sigmoid(from_x[gate] + from_h[gate]) for gate in (0, 1))
    n = torch.tanh(from_x[2] + r * from_h[2])
    torch.testing.assert_close(ours, (1 - z) * n + z * h)
    torch.testing.assert_close(layer.step(x[0], (h,), mask[0])[0], ours)


def test_a_word_is_dropped_in_a_stream_each_time_or_never() -> None:
    drop = WordDropout(0.5).train()
    words = torch.randint(V, (200, B))
    kept = drop.of_words(torch.ones(200, B, H), words, V)[..., 0]  # (T, B)
    share = []
    for word in range(V):
        for stream in range(B):
            factors = kept[:, stream][words[:, stream] == word].unique().tolist()
            assert factors in ([0.0], [2.0], [])
            share += [factor == 0 for factor in factors]
    assert sum(share) / len(share) == pytest.approx(0.5, abs=0.1)
    again = drop.of_words(torch.ones(200, B, H), words, V)[..., 0]
    assert not torch.equal(kept, again)
    assert torch.equal(drop.eval().of_words(torch.ones(3), words, V), torch.ones(3))


@pytest.mark.parametrize("kind", [Dropout, WindowDropout])
def test_what_is_kept_is_scaled_so_that_the_mean_stays(kind: type[Dropout]) -> None:
    torch.manual_seed(6)
    drop = kind(0.35).train()
    out = drop(torch.ones(4, 400, 200))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / 0.65])
    assert out.mean().item() == pytest.approx(1, abs=0.02)


def test_tied_is_one_matrix_whose_gradient_is_the_sum_of_both() -> None:
    tied = make_network("none", tied=True)
    untied = make_network("none")
    untied.load_state_dict(tied.state_dict())
    assert parameter_count(untied) - parameter_count(tied) == V * H
    words = window()
    for network in (tied, untied):
        output = network(words, network.zero_state(B))
        objective_of(network, output, words.flip(0)).backward()
    of_both = untied.embedding.weight.grad.to_dense() + untied.softmax.weight.grad
    torch.testing.assert_close(tied.embedding.weight.grad, of_both, rtol=1e-12, atol=1e-13)
    sgd_step(tied.parameters(), 0.1)
    assert tied.softmax.weight is tied.embedding.weight
    torch.testing.assert_close(
        embedding(words, tied.softmax.weight), tied.embedding(words), rtol=0, atol=0
    )


def test_a_tied_medium_has_one_matrix_less() -> None:
    with torch.device("meta"):
        network = LanguageModel(resolve("medium", ["model.tied=true"]).model, 10_000)
    assert parameter_count(network) == 19_780_400 - 6_500_000


@pytest.mark.parametrize("weight_decay", [0.0, 0.25])
def test_decay_takes_its_share_after_the_step_whatever_the_rate(weight_decay: float) -> None:
    parameter = torch.nn.Parameter(torch.tensor([4.0, -8.0]))
    parameter.grad = torch.tensor([1.0, 1.0])
    sgd_step([parameter], 0.5, weight_decay)
    expected = [3.5 * (1 - weight_decay), -8.5 * (1 - weight_decay)]
    assert parameter.tolist() == pytest.approx(expected)


def test_a_decay_smaller_than_what_float32_tells_from_one_still_acts() -> None:
    """That of the published models: of many weights together, to within a tenth."""
    torch.manual_seed(1)
    parameter = torch.nn.Parameter(torch.rand(100_000) + 0.5)
    before = parameter.detach().double()
    for _ in range(10):
        sgd_step([parameter], 0.5, 1e-7)
    lost = 1 - float(parameter.detach().double().sum() / before.sum())
    assert lost == pytest.approx(10 * 1e-7, rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {"model__cell": "gru"},
        {"model__cell": "rnn-sigmoid", "model__dropout_on": "all"},
        {"model__cell": "rnn-tanh", "model__dropout_on": "variational"},
        {
            "model__dropout_on": "variational",
            "model__masks_per_gate": True,
            "model__dropout": RATES,
        },
        {"model__tied": True, "model__dropout_on": "none", "training__weight_decay": 1e-4},
    ],
    ids=str,
)
def test_every_kind_trains_resumes_to_the_bit_and_is_evaluated(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", [*"abcdefgh"], seed=1)
    whole = done(*train_arguments("whole", **changes))
    for stop_at in ("7", "29", "40"):
        done(*train_arguments("run", "--resume", "--max-steps", stop_at, **changes))
    resumed = done(*train_arguments("run", "--resume", **changes))
    assert resumed.out.replace("run folder: run", "") == whole.out.replace("run folder: whole", "")
    ours, theirs = (load_checkpoint(Path(name, "last.pt")).weights for name in ("run", "whole"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert "perplexity" in done("eval", "run/last.pt").out
    assert len(done("generate", "run/last.pt", "--words", "5").out.split()) <= 5


@pytest.fixture
def dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_texts(tmp_path / "text", [*"abcdefgh"], seed=1)
    done(*train_arguments("run", model__dropout_on="variational"))
    return tmp_path


def test_monte_carlo_averages_the_probabilities_of_passes_with_dropout(dropped: Path) -> None:
    """By streams of training mode that read all words of a text, each with masks of its own."""
    checkpoint = load_checkpoint(Path("run/last.pt"))
    network = checkpoint.network()
    tokens = torch.randint(len(checkpoint.vocabulary), (201,))
    text = tokens.numpy().astype("int32")
    torch.manual_seed(9)
    together = monte_carlo_log_probabilities(network, text, 1, samples=4, unrolled_steps=5)
    assert network.training
    network.drop_words.eval()
    torch.manual_seed(9)
    scored, hidden = [], network.zero_state(4)
    for start in range(0, 200, 5):
        window = tokens[start : start + 6, None].repeat(1, 4)
        log_p, hidden = log_probs_of(network, window[:-1], hidden)
        scored.append(log_p.gather(2, window[1:].unsqueeze(2)).squeeze(2).detach())
    passes = torch.cat(scored)  # (200, 4)
    torch.testing.assert_close(together.exp().float(), passes.exp().mean(1))
    assert len({round(nll_sum(each), 6) for each in passes.T}) == 4
    assert nll_sum(together) < max(nll_sum(each) for each in passes.T)
    plain = target_log_probabilities(network, text, 1)
    assert nll_sum(plain) != pytest.approx(nll_sum(together), rel=1e-6)


def test_more_passes_than_a_window_holds_are_made_after_one_another(
    dropped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load_checkpoint(Path("run/last.pt")).network()
    text = torch.randint(8, (61,)).numpy().astype("int32")
    monkeypatch.setattr(scoring, "TARGETS_PER_WINDOW", 34)
    torch.manual_seed(9)
    seven = monte_carlo_log_probabilities(network, text, 2, samples=7, unrolled_steps=5)
    torch.manual_seed(9)
    parts = [
        monte_carlo_log_probabilities(network, text, 2, samples=samples, unrolled_steps=5).exp()
        for samples in (3, 3, 1)
    ]
    torch.testing.assert_close(seven.exp(), (3 * parts[0] + 3 * parts[1] + parts[2]) / 7)


@pytest.mark.parametrize("streams", [1, 3, 4])
def test_passes_of_which_nothing_is_dropped_are_the_usual_one(dropped: Path, streams: int) -> None:
    """In columns of one length or two."""
    network = load_checkpoint(Path("run/last.pt")).network()
    for module in network.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    text = torch.randint(8, (62,)).numpy().astype("int32")
    usual = target_log_probabilities(network, text, streams)
    passes = monte_carlo_log_probabilities(network, text, streams, samples=5, unrolled_steps=7)
    torch.testing.assert_close(passes.float(), usual)


def test_a_pass_with_dropout_draws_masks_for_each_window_of_training(dropped: Path) -> None:
    """By windows of T steps run one after the other in training mode, all words there."""
    checkpoint = load_checkpoint(Path("run/last.pt"))
    network = checkpoint.network()
    network.train().drop_words.eval()
    tokens = torch.randint(len(checkpoint.vocabulary), (18,))
    torch.manual_seed(9)
    expected, hidden = [], network.zero_state(1)
    for start in (0, 5, 10, 15):  # the last has two targets
        window = tokens[start : start + 6]
        log_p, hidden = log_probs_of(network, window[:-1, None], hidden)
        expected.append(log_p[:, 0].gather(1, window[1:, None]).flatten())
    torch.manual_seed(9)
    text = tokens.numpy().astype("int32")
    passed = monte_carlo_log_probabilities(network, text, 1, samples=1, unrolled_steps=5)
    torch.testing.assert_close(passed.float(), torch.cat(expected).detach())
    scorer = monte_carlo(3).scorer(load("run", "cpu"), Path())
    assert isinstance(scorer, partial)
    assert scorer.keywords == {"samples": 3, "unrolled_steps": 5}


@pytest.mark.parametrize("training", [False, True])
def test_passes_with_dropout_drop_no_words(dropped: Path, training: bool) -> None:
    """And the network is left in its mode, in which words are dropped in training."""
    network = load_checkpoint(Path("run/last.pt")).network().train(training)
    assert network.drop_words.p == 0.25
    read: list[Tensor] = []
    network.drop["input"].register_forward_pre_hook(lambda module, args: read.append(args[0]))
    text = torch.randint(8, (61,)).numpy().astype("int32")
    monte_carlo_log_probabilities(network, text, 1, samples=20, unrolled_steps=5)
    words = torch.from_numpy(text[:-1]).long()
    assert len(read) == 12
    assert torch.equal(torch.cat(read), network.embedding(words)[:, None].expand(-1, 20, -1))
    modes = {module.training for module in network.modules()}
    assert modes == {training}


def test_certainty_by_the_mean_of_many_passes_is_no_more_than_certainty() -> None:
    """The rounding of ln(20 / 20) is above 0, which no log-probability is."""
    network = make_network("non-recurrent")
    with torch.no_grad():
        network.softmax.bias[0] = 1e4
    tokens = torch.zeros(9, dtype=torch.int32).numpy()
    for samples in (20, 25):
        scored = monte_carlo_log_probabilities(
            network, tokens, 1, samples=samples, unrolled_steps=4
        )
        assert scored.tolist() == [0.0] * 8


def test_mc_samples_stand_beside_the_usual_figure_and_can_be_had_again(
    dropped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = done("eval", "run/last.pt").out
    first, again = (done("eval", "run/last.pt", "--mc-samples", "3").out for _ in range(2))
    assert first == again
    assert first.startswith(usual)
    assert "by the mean probability of 3 passes with dropout:\nrun/last.pt: " in first
    figures = done_json("eval", "run/last.pt", "--mc-samples", "3")
    sampled = figures.pop("monte_carlo")
    assert figures == done_json("eval", "run/last.pt")
    assert sampled["samples"] == 3
    assert sampled["members"][0]["tokens"] == figures["members"][0]["tokens"]
    assert sampled["members"][0]["nll"] != figures["members"][0]["nll"]
    monkeypatch.setattr(summary, "published_for", lambda config: VARIATIONAL["gal-medium-tied"])
    by_scaling, _, by_passes = done("eval", "run/last.pt", "--mc-samples", "3").out.splitlines()
    assert "; paper: 79.7 (" in by_scaling
    assert "; paper: 79.0 (" in by_passes
    done("eval", "run/last.pt", "--mc-samples", "3", "--save-scores", "mc.npz")
    (kept,) = done_json("average", "mc.npz")["members"]
    assert kept["nll"] == pytest.approx(sampled["members"][0]["nll"], rel=1e-6)


def test_a_model_without_dropout_or_with_words_alone_has_nothing_to_sample(
    dropped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(*train_arguments("plain", model__dropout=0.0))
    outcome = ptb_lm("eval", "plain/last.pt", "--mc-samples", "3")
    assert outcome.code == 2
    assert outcome.err.endswith("was trained without dropout of units; nothing to sample\n")
    words_alone = "{ words = 0.5, input = 0, between = 0, output = 0, recurrent = 0 }"
    done(*train_arguments("words", model__dropout_on="variational", model__dropout=words_alone))
    refused = ptb_lm("eval", "words/last.pt", "--mc-samples", "3")
    assert refused.err == outcome.err.replace("plain", "words")
    monkeypatch.setattr("ptb_lm.evaluation.evaluate.score_text", None)  # known before it is scored
    assert ptb_lm("eval", "plain/last.pt", "--mc-samples", "3") == outcome
