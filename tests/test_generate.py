"""Sampled text: what may be drawn, how likely, and the same again from the same seed."""

import math
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import torch
from cli_support import done, furnish
from networks import log_probs_of
from small_models import LETTERS, decided_model

from ptb_lm import Sampling, generate, load
from ptb_lm.corpus.text import EOS, UNK
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.generate import next_word_probabilities, sample_generator
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.decoder import Softmax
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.checkpoint import load_checkpoint, save_checkpoint

LAST = "runs/a/last.pt"
SAFETY_SECONDS = 300.0


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@torch.no_grad()
def log_p_after(model: TrainedModel, words: list[str]) -> torch.Tensor:
    """ln p of the word after a beginning of a text, float64 (V,)."""
    tokens = torch.from_numpy(model.vocabulary.encode([EOS, *words])).long()
    log_probs, _ = log_probs_of(model.network, tokens[:, None], model.network.zero_state(1))
    return log_probs[-1, 0].double()


def softmax(logits: list[float], temperature: float = 1.0) -> list[float]:
    scaled = [each / temperature for each in logits]
    weights = [math.exp(each - max(scaled)) for each in scaled]
    return [weight / sum(weights) for weight in weights]


def random_logits(seed: int, size: int = 30) -> torch.Tensor:
    return 2 * torch.randn(size, generator=seeded(seed), dtype=torch.float64)


def support(probabilities: torch.Tensor) -> set[int]:
    return set(probabilities.nonzero()[:, 0].tolist())


def require_renormalised(probabilities: torch.Tensor, of: list[float]) -> None:
    """What is kept stands to each other as before, and adds up to 1."""
    kept = support(probabilities)
    mass = sum(of[index] for index in kept)
    for index in kept:
        assert float(probabilities[index]) == pytest.approx(of[index] / mass, rel=1e-12)
    assert float(probabilities.sum()) == pytest.approx(1, rel=1e-12)


# The distribution


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_k", [1, 2, 7, 30, 1000])
def test_top_k_keeps_the_k_likeliest(top_k: int, temperature: float) -> None:
    for seed in range(20):
        logits = random_logits(seed)
        sampling = Sampling(top_k=top_k, temperature=temperature)
        probabilities = next_word_probabilities(logits, sampling)
        likeliest = sorted(range(30), key=lambda index: -float(logits[index]))
        assert support(probabilities) == set(likeliest[:top_k])
        require_renormalised(probabilities, softmax(logits.tolist(), temperature))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("top_p", [1e-9, 0.1, 0.5, 0.9, 0.999, 1.0])
def test_top_p_keeps_the_smallest_set_of_that_mass(top_p: float, temperature: float) -> None:
    for seed in range(20):
        logits = random_logits(seed)
        sampling = Sampling(top_p=top_p, temperature=temperature)
        probabilities = next_word_probabilities(logits, sampling)
        whole = softmax(logits.tolist(), temperature)
        kept = support(probabilities)
        ordered = sorted(whole, reverse=True)
        assert sum(whole[index] for index in kept) >= top_p - 1e-12
        assert {whole[index] for index in kept} == set(ordered[: len(kept)])
        require_renormalised(probabilities, whole)
        if top_p == 1:
            assert len(kept) == 30
        else:  # no fewer words have it
            assert sum(ordered[: len(kept) - 1]) < top_p


def test_a_nucleus_that_is_met_exactly_takes_no_word_more() -> None:
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64).log()
    for top_p, size in ((0.5, 1), (0.51, 2), (0.75, 2), (0.7501, 3), (0.875, 3), (0.9, 4)):
        probabilities = next_word_probabilities(logits, Sampling(top_p=top_p))
        assert support(probabilities) == set(range(size)), top_p


def test_of_equal_words_the_earlier_are_kept() -> None:
    logits = torch.zeros(1000, dtype=torch.float64)
    assert support(next_word_probabilities(logits, Sampling(top_k=3))) == {0, 1, 2}
    assert support(next_word_probabilities(logits, Sampling(top_p=0.0025))) == {0, 1, 2}


def test_what_is_excluded_temperature_top_k_and_top_p_act_in_this_order() -> None:
    for seed in range(20):
        logits = random_logits(seed)
        before = logits.clone()
        sampling = Sampling(temperature=0.7, top_k=6, top_p=0.8)
        likeliest = int(logits.argmax())
        probabilities = next_word_probabilities(logits, sampling, excluded=[likeliest])
        assert torch.equal(logits, before)
        values = logits.tolist()
        values[likeliest] = -math.inf
        whole = softmax(values, 0.7)
        six = sorted(range(30), key=lambda index: -whole[index])[:6]
        mass = sum(whole[index] for index in six)
        nucleus: list[int] = []
        while sum(whole[index] for index in nucleus) / mass < 0.8:
            nucleus.append(six[len(nucleus)])
        assert support(probabilities) == set(nucleus)
        require_renormalised(probabilities, whole)


@pytest.mark.parametrize("temperature", [1e-6, 5e-324])  # the least above 0 that a number can be
def test_a_temperature_near_zero_leaves_the_likeliest(temperature: float) -> None:
    logits = random_logits(1)
    probabilities = next_word_probabilities(logits, Sampling(temperature=temperature))
    assert probabilities.tolist() == torch.eye(len(logits))[int(logits.argmax())].tolist()


def test_many_draws_are_spread_as_the_distribution_says() -> None:
    """Of a model that remembers nothing, so that all words of a text are of one distribution."""
    model = decided_model(width=0.0)
    values = random_logits(1, len(model.vocabulary))
    with torch.no_grad():
        model.network.softmax.bias.copy_(values)
    sampling, draws = Sampling(temperature=1.3, top_k=6, top_p=0.9), 1500
    expected = next_word_probabilities(values, sampling, [model.vocabulary.index[UNK]])
    words = list(generate(model, ["a", "b"], draws, sampling, seeded(1)))
    counts = Counter(model.vocabulary.encode(words).tolist())
    assert set(counts) == support(expected)
    assert 3 <= len(counts) <= 6
    chi_square = sum(
        (counts[index] - draws * float(expected[index])) ** 2 / (draws * float(expected[index]))
        for index in counts
    )
    assert chi_square < 20.5  # of 5 degrees of freedom; one seed in a thousand exceeds it


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"top_p": math.nan},
    ],
)
def test_a_number_out_of_its_range_is_an_error(options: dict[str, float]) -> None:
    (name,) = options
    with pytest.raises(InputError, match=f"^{name.replace('_', '-')} .*expected"):
        Sampling(**options)  # type: ignore[arg-type]


# The text


@torch.no_grad()
def drawn_by_definition(
    model: TrainedModel, prompt: list[str], count: int, temperature: float, seed: int
) -> list[str]:
    """Each word drawn from the whole distribution but <unk>, the text read anew each time."""
    generator = seeded(seed)
    words = list(prompt)
    for _ in range(count):
        log_p = log_p_after(model, words)
        log_p[model.vocabulary.index[UNK]] = -math.inf
        weights = torch.softmax(log_p / temperature, dim=-1)
        drawn = int(torch.multinomial(weights, 1, generator=generator))
        words.append(model.vocabulary.words[drawn])
    return words[len(prompt) :]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_a_seed_draws_what_it_always_drew(temperature: float) -> None:
    model = decided_model()
    for seed in (1, 2):
        words = list(generate(model, ["c"], 60, Sampling(temperature=temperature), seeded(seed)))
        assert words == drawn_by_definition(model, ["c"], 60, temperature, seed)


def test_greedy_is_the_likeliest_word_at_each_step_whatever_the_seed() -> None:
    model = decided_model()
    words: list[str] = []
    for _ in range(30):
        log_p = log_p_after(model, words)
        log_p[model.vocabulary.index[UNK]] = -math.inf
        words.append(model.vocabulary.words[int(log_p.argmax())])
    for seed in (1, 2):
        assert list(generate(model, (), 30, Sampling(top_k=1), seeded(seed))) == words


def test_the_end_of_the_sentence_ends_the_text_where_it_is_asked_for() -> None:
    model = decided_model(width=0.3)
    for seed in range(1, 10):
        endless = list(generate(model, (), 60, generator=seeded(seed)))
        assert len(endless) == 60
        ended = list(generate(model, (), 60, Sampling(stop_at_eos=True), seeded(seed)))
        assert ended == endless[: endless.index(EOS) + 1]
    few = list(generate(model, (), 1, Sampling(stop_at_eos=True), seeded(2)))
    assert few == endless_of(model, 2)[:1] != [EOS]


def endless_of(model: TrainedModel, seed: int) -> list[str]:
    return list(generate(model, (), 10, generator=seeded(seed)))


def test_unk_is_drawn_where_it_is_allowed() -> None:
    model = decided_model()
    with torch.no_grad():
        model.network.softmax.bias[model.vocabulary.index[UNK]] = 50.0
    assert set(generate(model, (), 20, Sampling(allow_unknown=True), seeded(1))) == {UNK}
    assert UNK not in set(generate(model, (), 20, generator=seeded(1)))


def test_a_signal_is_heard_between_words() -> None:
    stop = StopFlag()
    words = generate(decided_model(), (), 1000, stop=stop)
    next(words)
    stop.signal_number = signal.SIGTERM
    with pytest.raises(Stopped):
        next(words)


def test_a_diverged_model_is_an_error() -> None:
    model = decided_model()
    with torch.no_grad():
        model.network.softmax.weight[0, 0] = torch.inf
    with pytest.raises(PtbLmError, match="no probabilities"):
        list(generate(model, (), 5))


def test_the_first_samples_random_numbers_are_the_seeds_own_and_no_others_are() -> None:
    def numbers(generator: torch.Generator) -> list[float]:
        return torch.rand(5, generator=generator).tolist()

    assert numbers(sample_generator(7, 0)) == numbers(seeded(7))
    assert numbers(sample_generator(7, 3)) == numbers(sample_generator(7, 3))
    streams = [
        numbers(sample_generator(seed, sample)) for seed in range(20) for sample in range(20)
    ]
    assert len({tuple(stream) for stream in streams}) == 400


# The command


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return furnish(tmp_path_factory.mktemp("generate"))


@pytest.fixture(autouse=True)
def workplace(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    command = ["generate", LAST, "--seed", "5", "--sentence", "--prompt", "a b"]
    lines = [done(*command, "--samples", str(count)).out.splitlines() for count in (1, 4, 9)]
    assert [len(each) for each in lines] == [1, 4, 9]
    assert lines[2][:4] == lines[1]
    assert lines[1][:1] == lines[0]
    assert len(set(lines[2])) > 1
    assert all(line.startswith("a b") for line in lines[2])


def test_several_texts_have_an_empty_line_between() -> None:
    model = load(LAST)
    ends = set()
    for seed in range(1, 9):
        drawn = [
            list(generate(model, (), 12, generator=sample_generator(seed, i))) for i in range(3)
        ]
        texts = [" ".join(words).replace(f" {EOS}", "\n").replace("\n ", "\n") for words in drawn]
        texts = [text.replace(f"{EOS} ", "\n") for text in texts]  # the first word may be one
        ends |= {text.endswith("\n") for text in texts}
        expected = "\n".join(text.removesuffix("\n") + "\n" for text in texts)
        last = "\n" if texts[-1].endswith("\n") else ""
        command = ["generate", LAST, "--words", "12", "--seed", str(seed), "--samples", "3"]
        assert done(*command).out == expected + last
    assert ends == {True, False}


def test_a_sentence_is_a_line_whether_it_ends_or_is_cut() -> None:
    command = ["generate", LAST, "--sentence", "--samples", "40", "--words"]
    for count in (1, 3, 1000):
        lines = done(*command, str(count)).out.split("\n")
        assert lines.pop() == ""
        assert len(lines) == 40
        assert max(len(line.split()) for line in lines) <= count


def test_the_options_reach_the_drawing() -> None:
    command = ["generate", LAST, "--words", "200", "--seed", "3"]
    greedy = {done(*command[:-1], seed, "--top-k", "1").out for seed in "123"}
    assert greedy == {done(*command, "--top-p", "1e-9").out}
    assert done(*command, "--top-k", "2").out != done(*command).out
    assert done(*command, "--top-p", "0.5").out != done(*command).out
    assert "<unk>" in done(*command, "--allow-unk").out
    for same in (["--top-k", "100"], ["--top-p", "1"]):
        assert done(*command, *same).out == done(*command).out


def test_words_of_a_prompt_that_are_not_known_are_said_to_be_unk() -> None:
    command = ["generate", LAST, "--words", "20", "--prompt"]
    outcome = done(*command, "xyzzy a plugh <unk>")
    assert outcome.err == (
        "--prompt: 2 of 4 words (50.0 %) are not in the vocabulary and count as <unk>: "
        "xyzzy plugh\n"
    )
    assert outcome.out.startswith("xyzzy a plugh <unk> ")
    known = done(*command, "<unk> a <unk> <unk>")
    assert known.err == ""
    assert outcome.out.split()[4:] == known.out.split()[4:]


def test_words_come_as_they_are_drawn_and_a_signal_ends_them(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(LAST))
    for name, value in checkpoint.weights.items():  # the same letter for ever
        value.zero_()
        if name == "softmax.bias":
            value[checkpoint.vocabulary.index[LETTERS[0]]] = 100.0
    save_checkpoint(checkpoint, tmp_path / "endless.pt")
    command = [sys.executable, "-m", "ptb_lm", "generate", str(tmp_path / "endless.pt")]
    with subprocess.Popen(
        [*command, "--words", "1000000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        watchdog = threading.Timer(SAFETY_SECONDS, process.kill)
        watchdog.start()
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read(8) == b"a a a a "
        process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()
        assert set(rest) <= set(b"a ")
        assert process.wait(SAFETY_SECONDS) == 143
        assert process.stderr.read() == b"stopped by SIGTERM\n"
        watchdog.cancel()


def test_only_the_last_word_of_a_prompt_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = decided_model()
    shapes, log_probs = [], Softmax.log_probs

    def noted(decoder: Softmax, h: torch.Tensor) -> torch.Tensor:
        shapes.append(h.shape[:-1])
        return log_probs(decoder, h)

    monkeypatch.setattr(Softmax, "log_probs", noted)
    assert len(list(generate(model, ["c"] * 5000, 3, generator=seeded(1)))) == 3
    assert shapes == [()] * 3
