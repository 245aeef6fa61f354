"""What is fast computes what is plain: against float64, against PyTorch's own parts, over time."""

import pytest
import stock
import torch
from networks import clipped_step, objective_of, sgd_step

from ptb_lm.config import resolve
from ptb_lm.model import backends
from ptb_lm.model import layers as layers_module
from ptb_lm.model.backends import MAX_MATMUL_ERROR, configure_backends, matmul_error, matmul_routes
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.state import detach
from ptb_lm.training.optim import gradient_norm

V, T, B = 300, 12, 5


@pytest.mark.parametrize("preset", ["small", "medium", "large"])
def test_products_in_float32_are_of_float32_precision(preset: str) -> None:
    """The products of a window: of the softmax and its gradients, of a layer, of a step."""
    configure_backends("fp32")
    config = resolve(preset)
    hidden, streams = config.model.hidden_size, config.training.batch_size
    for m, k, n in ((400, hidden, 1000), (400, 1000, hidden), (streams, hidden, 4 * hidden)):
        assert matmul_error(m, k, n) < MAX_MATMUL_ERROR


def test_a_product_rounded_to_bfloat16_would_be_seen() -> None:
    """The probe that decides between the routes tells float32 from what is rounded."""
    assert matmul_error() < MAX_MATMUL_ERROR
    with torch.autocast("cpu", torch.bfloat16):
        assert matmul_error() > 1000 * MAX_MATMUL_ERROR
    assert set(matmul_routes()) >= {"ieee"}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_200_steps_are_those_of_pytorchs_own_parts(dropout: float) -> None:
    """The same weights, words and masks: each objective within 1e-5, by both in float32."""
    configure_backends("fp32")
    changes = [f"model.dropout={dropout}", "model.hidden_size=24"]
    model = resolve("small", changes).model
    torch.manual_seed(2)
    ours, theirs = LanguageModel(model, V), stock.StockModel(V, 24, model.layers, dropout)
    theirs.embedding.load_state_dict(ours.embedding.state_dict())
    theirs.softmax.load_state_dict(ours.softmax.state_dict())
    for number, layer in enumerate(ours.layers):
        for name, weight in layer.named_parameters():
            theirs.lstm.get_parameter(f"{name.removesuffix('0')}{number}").data.copy_(weight)

    for place in ours.drop:  # by masks that are those of nn.LSTM
        ours.drop[place] = torch.nn.Dropout(dropout)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1.0)
    words = torch.randint(V, (200 * T + 1, B)) ** 2 // V  # some far more frequent than others
    hidden = ours.zero_state(B)
    state = (torch.zeros(model.layers, B, 24), torch.zeros(model.layers, B, 24))
    clipped = 0
    for step in range(200):
        inputs, targets = words[step * T : step * T + T], words[step * T + 1 : step * T + T + 1]
        torch.manual_seed(step)  # so that both draw the same masks
        output = ours(inputs, detach(hidden))
        hidden, objective = output.state, objective_of(ours, output, targets)
        objective.backward()
        clipped += clipped_step(list(ours.parameters()), 0.5) > 0.5

        torch.manual_seed(step)
        optimizer.zero_grad()
        logits, (h, c) = theirs(inputs, state)
        state = (h.detach(), c.detach())
        expected = T * torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        expected.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.5)
        optimizer.step()
        assert objective.item() == pytest.approx(expected.item(), rel=1e-5), step
    assert clipped > 100


def test_the_rows_of_words_that_a_window_has_twice_are_one_in_the_norm() -> None:
    words = torch.tensor([[1, 2, 1], [1, 0, 2]])
    norms = []
    for sparse in (True, False):
        torch.manual_seed(3)
        embedding = torch.nn.Embedding(4, 5, sparse=sparse)
        (embedding(words) * torch.rand(2, 3, 5)).sum().backward()
        norms.append(gradient_norm(embedding.parameters()).item())
        sgd_step(embedding.parameters(), 0.5)
        norms.append(embedding.weight.norm().item())
    assert norms[:2] == pytest.approx(norms[2:], rel=1e-6)


def test_to_look_for_a_kernel_takes_none_of_a_training_s_random_numbers() -> None:
    """Else a resumed run, which looks anew, would go on with other masks."""
    before = torch.get_rng_state()
    backends.has_bfloat16_lstm.cache_clear()
    backends.has_bfloat16_lstm()
    assert torch.get_rng_state().equal(before)


def test_a_kernel_that_only_evaluates_is_none_to_train_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of oneDNN, those that train need more of a processor than those that evaluate."""

    def fails(*arguments: object) -> None:
        raise RuntimeError("could not create a primitive")

    monkeypatch.setattr(torch.Tensor, "backward", fails)
    backends.has_bfloat16_lstm.cache_clear()
    assert not backends.has_bfloat16_lstm()
    backends.has_bfloat16_lstm.cache_clear()


def test_an_evaluation_may_be_the_first_to_look_for_a_kernel() -> None:
    """It is where all layers are masked in training: these take their steps one by one."""
    found = []
    for context in (torch.enable_grad, torch.no_grad):
        backends.has_bfloat16_lstm.cache_clear()
        with context():
            found.append(backends.has_bfloat16_lstm())
    assert found[0] == found[1]


@pytest.mark.parametrize("has_kernel", [None, False], ids=["as it is here", "without a kernel"])
def test_bfloat16_changes_figures_little_and_leaves_weights_and_state_in_float32(
    monkeypatch: pytest.MonkeyPatch, has_kernel: bool | None
) -> None:
    if has_kernel is not None:
        monkeypatch.setattr(layers_module, "has_bfloat16_lstm", lambda: has_kernel)
    model = resolve("small", ["model.hidden_size=24"]).model
    words = torch.randint(V, (T + 1, B))
    objectives = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(6)
        network = LanguageModel(model, V, precision)
        output = network(words[:-1], network.zero_state(B))
        hidden, objective = output.state, objective_of(network, output, words[1:])
        objective.backward()
        objectives.append(objective.item())
        assert {part.dtype for pair in hidden for part in pair} == {torch.float32}
        assert {p.grad.dtype for p in network.parameters()} == {torch.float32}
    fp32, bf16 = objectives
    assert bf16 != fp32
    assert bf16 == pytest.approx(fp32, rel=1e-3)
