"""The network against the formulas, and the paper's claim about dropout as a number."""

import math

import pytest
import torch
from networks import layer_of, log_probs_of, objective_of, reference_forward
from torch import Tensor, nn

from ptb_lm.config import ModelConfig, resolve
from ptb_lm.model.decoder import Softmax
from ptb_lm.model.layers import LAYERS
from ptb_lm.model.network import LanguageModel, parameter_count, parameter_shapes
from ptb_lm.model.perplexity import perplexity
from ptb_lm.model.scoring import nll_sum, target_log_probabilities
from ptb_lm.model.state import HiddenState, first_streams

VOCABULARY = 23


def make_network(layers: int = 2, hidden: int = 6, dropout: float = 0.0) -> LanguageModel:
    torch.manual_seed(3)
    config = ModelConfig(
        cell="lstm", layers=layers, hidden_size=hidden, dropout=dropout, init_range=0.5
    )
    return LanguageModel(config, VOCABULARY).double()


def random_words(steps: int, streams: int) -> Tensor:
    return torch.randint(VOCABULARY, (steps, streams), generator=torch.Generator().manual_seed(5))


def random_state(network: LanguageModel, streams: int) -> HiddenState:
    return [
        tuple(torch.rand_like(part) - 0.5 for part in layer)
        for layer in network.zero_state(streams)
    ]


def drop_by(network: LanguageModel, module: nn.Module) -> None:
    """Drop by a module of the test's in each place of the paper's."""
    for place in network.drop:
        network.drop[place] = module


def float64(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


class FixedMasks(nn.Module):
    """Dropout whose masks are drawn once: the k-th place of a forward pass has the k-th mask."""

    def __init__(self, places: int, steps: int, streams: int, hidden: int) -> None:
        super().__init__()
        self.masks = 2.0 * (torch.rand(places, steps, streams, hidden) > 0.5).double()
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        places, steps = self.masks.shape[:2]
        if x.dim() == 3:  # all steps at once: place after place
            mask = self.masks[self.calls % places]
        else:  # one step: all places of a step after another
            mask = self.masks[self.calls % places, self.calls // places % steps]
        self.calls += 1
        return x * mask


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dropped", [False, True])
def test_fused_equals_reference_in_outputs_states_and_all_gradients(
    layers: int, dropped: bool
) -> None:
    steps, streams = 7, 4
    network = make_network(layers)
    words, targets = random_words(steps, streams), random_words(steps, streams).flip(0)
    results = []
    for forward in (network, lambda *inputs: reference_forward(network, *inputs)):
        if dropped:
            torch.manual_seed(9)
            drop_by(network, FixedMasks(layers + 1, steps, streams, 6))
        torch.manual_seed(11)
        state = [tuple(part.requires_grad_() for part in pair) for pair in random_state(network, 4)]
        output = forward(words, state)
        kept, after = output.dropped.detach(), output.state
        objective = objective_of(network, output, targets)
        (objective + sum(c.square().sum() for _, c in after)).backward()
        gradients = [parameter.grad.to_dense().clone() for parameter in network.parameters()]
        gradients += [part.grad for pair in state for part in pair]
        results.append([kept, *(part for pair in after for part in pair), *gradients])
        network.zero_grad()
    for fused, reference in zip(*results, strict=True):
        assert fused.abs().max() > 0
        torch.testing.assert_close(fused, reference, rtol=1e-12, atol=1e-13)


def test_the_lstm_cell_is_the_papers_formula_by_hand() -> None:
    """One unit, one input: the formulas worked out with math alone."""
    weights = [
        float64([[0.1], [0.2], [0.3], [0.4]]),
        float64([[0.5], [-0.6], [0.7], [-0.8]]),
        float64([0.01, 0.02, 0.03, 0.04]),
        float64([0.1, 0.2, -0.3, 0.4]),
    ]
    x, h, c = 1.5, 0.25, -0.75
    affine = [
        wx * x + wh * h + b
        for wx, wh, b in zip(
            (0.1, 0.2, 0.3, 0.4), (0.5, -0.6, 0.7, -0.8), (0.11, 0.22, -0.27, 0.44), strict=True
        )
    ]

    def sigm(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    c_after = sigm(affine[1]) * c + sigm(affine[0]) * math.tanh(affine[2])
    h_after = sigm(affine[3]) * math.tanh(c_after)
    lstm = layer_of("lstm", 1, 1, weights)
    ours = lstm.step(float64([[x]]), (float64([[h]]), float64([[c]])))
    assert [part.item() for part in ours] == pytest.approx([h_after, c_after], rel=1e-14)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_the_classic_cell_is_f_of_one_affine_map(activation: str) -> None:
    torch.manual_seed(1)
    x, h = torch.randn(3, 4).double(), torch.randn(3, 5).double()
    layer = layer_of(f"rnn-{activation}", 4, 5)
    weight_ih, weight_hh, bias_ih, bias_hh = layer.parameters()
    affine = x @ weight_ih.T + bias_ih + h @ weight_hh.T + bias_hh
    expected = 1 / (1 + (-affine).exp()) if activation == "sigmoid" else affine.tanh()
    (ours,) = layer.step(x, (h,))
    torch.testing.assert_close(ours, expected)


def test_the_classic_tanh_cell_is_pytorchs() -> None:
    torch.manual_seed(1)
    fused = nn.RNN(4, 5).double()
    x, h = torch.randn(6, 3, 4).double(), torch.randn(3, 5).double()
    expected, _ = fused(x, h[None])
    layer = layer_of("rnn-tanh", 4, 5, list(fused.parameters()))
    for step in range(6):
        (h,) = layer.step(x[step], (h,))
        torch.testing.assert_close(h, expected[step])


def test_every_gradient_of_the_objective_is_the_numerical_one() -> None:
    network = make_network(hidden=3)
    words, targets = random_words(4, 2), random_words(4, 2).flip(0)
    state = random_state(network, 2)

    def objective() -> Tensor:
        return objective_of(network, network(words, state), targets)

    objective().backward()
    step = 1e-6
    for parameter in network.parameters():
        values, gradient = parameter.data.view(-1), parameter.grad.to_dense().view(-1)
        for place, value in enumerate(values.tolist()):
            values[place] = value + step
            above = objective().item()
            values[place] = value - step
            below = objective().item()
            values[place] = value
            assert gradient[place].item() == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_a_second_backward_pass_through_an_objective_is_an_error() -> None:
    """Its gradient has taken the place of what it was made from."""
    nll = Softmax(4, 7).nll(torch.randn(5, 3, 4), torch.randint(7, (5, 3)))
    nll.sum().backward(retain_graph=True)
    with pytest.raises(AttributeError):
        nll.sum().backward()


def test_softmax_nll_and_gradients_are_pytorchs_cross_entropy() -> None:
    """Each target has an upstream gradient of its own."""
    targets, weights = torch.randint(7, (5, 3)), torch.rand(5, 3)
    results = []
    for ours in (True, False):
        torch.manual_seed(4)
        decoder, h = Softmax(4, 7), (30 * torch.randn(5, 3, 4)).requires_grad_()
        if ours:
            nll = decoder.nll(h, targets)
        else:
            nll = nn.functional.cross_entropy(decoder(h).movedim(2, 1), targets, reduction="none")
        (weights * nll).sum().backward()
        gradients = [parameter.grad for parameter in decoder.parameters()]
        results.append([nll.detach(), h.grad, *gradients])
        assert nll.shape == (5, 3)
    torch.testing.assert_close(*results)


def test_softmax_log_probs_agree_with_its_nll() -> None:
    decoder, h, targets = Softmax(4, 7), torch.randn(5, 3, 4), torch.randint(7, (5, 3))
    log_probs = decoder.log_probs(h)
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(5, 3))
    at_targets = log_probs.gather(2, targets.unsqueeze(2)).squeeze(2)
    torch.testing.assert_close(decoder.nll(h, targets), -at_targets)


def test_certain_target_has_no_nll() -> None:
    """However large the logits are: in float32, a logit of 1e4 has an error of 1e-3."""
    decoder = Softmax(4, 7)
    with torch.no_grad():
        decoder.bias[3] = 1e4
    assert decoder.nll(torch.randn(2, 3, 4), torch.full((2, 3), 3)).tolist() == [[0.0] * 3] * 2


class DoubleTheGradient(torch.autograd.Function):
    """A mask that leaves a tracer: the identity forward, twice the gradient backward."""

    @staticmethod
    def forward(context: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return 2 * gradient


class Tracer(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return DoubleTheGradient.apply(x)


def influence(network: LanguageModel, forward: object, distance: int) -> Tensor:
    """d (a logit at step t + distance) / d (the embedded word at step t), the words all alike."""
    steps = distance + 1
    words = torch.arange(steps)[:, None]
    logits = network.softmax(forward(words, random_state(network, 1)).dropped)
    (gradient,) = torch.autograd.grad(logits[-1, 0, 5], network.embedding.weight)
    return gradient[0]  # of the first step's word


@pytest.mark.parametrize("layers", [1, 2, 4])
@pytest.mark.parametrize("distance", [0, 1, 4, 9])
def test_a_perturbation_passes_dropout_exactly_l_plus_one_times(layers: int, distance: int) -> None:
    """Each mask on a path doubles its gradient: 2**(L+1) in all says that every path has L+1."""
    ratios = []
    for forward_of in (lambda n: n, lambda n: lambda *args: reference_forward(n, *args)):
        network = make_network(layers)
        torch.manual_seed(0)
        plain = influence(network, forward_of(network), distance)
        drop_by(network, Tracer())
        torch.manual_seed(0)
        traced = influence(network, forward_of(network), distance)
        assert plain.abs().min() > 0
        ratios.append(traced / plain)
    for ratio in ratios:
        torch.testing.assert_close(ratio, torch.full_like(ratio, 2.0 ** (layers + 1)))


@pytest.mark.parametrize("distance", [1, 4])
def test_masks_on_the_recurrent_connection_too_would_break_that_count(distance: int) -> None:
    """The contrast: with h[l, t-1] masked as well, paths have up to L + 1 + distance masks."""
    network = make_network(layers=1)
    (layer,) = network.layers
    embedded = network.embedding(torch.arange(distance + 1)).detach().requires_grad_()

    def read(mask: nn.Module) -> Tensor:
        h = c = torch.zeros(1, 6).double()
        for x in embedded:
            h, c = layer.step(mask(x[None]), (mask(h), c))
        (gradient,) = torch.autograd.grad(network.softmax(mask(h))[0, 5], embedded)
        return gradient[0]

    ratio = read(Tracer()) / read(nn.Identity())
    assert ((ratio - 4).abs() > 1e-3).all()  # no longer 2**(L+1) for every path


def test_dropout_has_the_papers_rate_and_scale_in_training_and_none_in_evaluation() -> None:
    network = make_network(dropout=0.65)
    seen: list[Tensor] = []
    for place in network.drop.values():
        place.register_forward_hook(lambda module, args, output: seen.append(output / args[0]))
    words = random_words(50, 20)
    network(words, network.zero_state(20))
    assert len(seen) == 3  # L + 1
    for factors in seen:
        kept = factors[factors != 0]
        torch.testing.assert_close(kept, torch.full_like(kept, 1 / 0.35))
        assert (factors == 0).double().mean().item() == pytest.approx(0.65, abs=0.02)
    seen.clear()
    network.eval()
    network(words, network.zero_state(20))
    assert all((factors == 1).all() for factors in seen)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("small", 4_653_200),
        ("medium", 19_780_400),
        ("large", 66_034_000),
        ("gal-medium-tied", 19_780_400),
        ("gal-medium-untied", 19_780_400),
    ],
)
def test_parameter_counts_are_the_papers(preset: str, count: int) -> None:
    with torch.device("meta"):
        assert parameter_count(LanguageModel(resolve(preset).model, 10_000)) == count


def test_every_parameter_is_drawn_from_the_whole_range_biases_too() -> None:
    config = ModelConfig(cell="lstm", layers=2, hidden_size=200, dropout=0, init_range=0.1)
    network = LanguageModel(config, 1000)
    for name, parameter in network.named_parameters():
        assert parameter.min() >= -0.1, name
        assert parameter.max() <= 0.1, name
        assert parameter.min() < -0.095, name
        assert parameter.max() > 0.095, name
        assert parameter.mean().abs() < 0.01, name  # no forget-gate offset either
        assert parameter.std().item() == pytest.approx(0.1 / math.sqrt(3), rel=0.1), name


def test_a_chunked_pass_with_carried_state_equals_one_long_pass() -> None:
    network = make_network()
    words = random_words(12, 3)
    whole, end = log_probs_of(network, words, network.zero_state(3))
    state, parts = network.zero_state(3), []
    for chunk in words.split(5):
        log_probs, state = log_probs_of(network, chunk, state)
        parts.append(log_probs)
    torch.testing.assert_close(torch.cat(parts), whole)
    for ours, expected in zip(state, end, strict=True):
        torch.testing.assert_close(ours, expected)


def test_uniform_logits_give_the_vocabulary_size_as_perplexity() -> None:
    network = make_network()
    with torch.no_grad():
        network.softmax.weight.zero_()
        network.softmax.bias.zero_()
    tokens = random_words(50, 1).flatten().int().numpy()
    scores = target_log_probabilities(network, tokens, 3)
    assert len(scores) == 49
    assert perplexity(nll_sum(scores), 49) == pytest.approx(VOCABULARY, rel=1e-12)


@pytest.mark.parametrize("streams", [1, 4])
def test_scores_are_those_of_each_column_run_by_itself_in_the_order_of_the_text(
    streams: int,
) -> None:
    network = make_network(dropout=0.5)
    tokens = random_words(48, 1).flatten()  # 47 targets: columns of 12, 12, 12 and 11
    lengths = [12, 12, 12, 11] if streams == 4 else [47]
    network.eval()
    expected, start = [], 0
    for length in lengths:
        part = tokens[start : start + length + 1]
        log_probs, _ = log_probs_of(network, part[:-1, None], network.zero_state(1))
        expected.append(log_probs[:, 0].gather(1, part[1:, None]).squeeze(1))
        start += length
    network.train()
    scores = target_log_probabilities(network, tokens.int().numpy(), streams)
    torch.testing.assert_close(scores, torch.cat(expected))
    assert network.training  # left as it was


def test_a_diverged_model_has_an_infinite_perplexity_and_no_overflow() -> None:
    assert perplexity(1e6, 10) == math.inf


def test_the_first_streams_of_a_state_are_views_of_it() -> None:
    state = [(torch.rand(4, 2), torch.rand(4, 2))]
    ((h, c),) = first_streams(state, 3)
    for part, whole in zip((h, c), state[0], strict=True):
        assert torch.equal(part, whole[:3])
        assert part.data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("cell", LAYERS)
@pytest.mark.parametrize("tied", [False, True])
def test_parameter_shapes_take_no_random_numbers(cell: str, tied: bool) -> None:
    changes = [f"model.cell={cell}", "model.hidden_sizes=[3,5,4]", "model.embedding_size=4"]
    config = resolve("small", [*changes, f"model.tied={str(tied).lower()}"]).model
    network, before = LanguageModel(config, 7), torch.get_rng_state()
    shapes = parameter_shapes(config, 7)
    assert shapes == {name: weight.shape for name, weight in network.weights().items()}
    assert torch.equal(torch.get_rng_state(), before)
    gates = {"lstm": 4, "gru": 3}.get(cell, 1)
    assert shapes["layers.1.weight_ih_l0"] == (gates * 5, 3)
    assert ("softmax.weight" in shapes) != tied


@pytest.mark.parametrize("cell", LAYERS)
def test_layers_of_different_widths_are_their_formulas(cell: str) -> None:
    """Outputs, states and gradients of the fused kernel are those of the formula."""
    config = resolve("small", [f"model.cell={cell}", "model.hidden_sizes=[5,7,4]"]).model
    torch.manual_seed(1)
    network = LanguageModel(config, VOCABULARY).double()
    words, state, results = random_words(6, 3), random_state(network, 3), []
    for forward in (network, lambda *inputs: reference_forward(network, *inputs)):
        output = forward(words, state)
        objective_of(network, output, words.flip(0)).backward()
        gradients = [parameter.grad.to_dense() for parameter in network.parameters()]
        parts = [part for layer in output.state for part in layer]
        results.append([output.raw.detach(), *parts, *gradients])
        network.zero_grad()
    assert results[0][0].shape == (6, 3, 4)
    assert {part.shape[-1] for part in results[0][1:4]} <= {5, 7, 4}
    torch.testing.assert_close(*results)
