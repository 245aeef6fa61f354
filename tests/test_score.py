"""Text scored line by line: each figure against its definition, and any amount of text."""

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_support import Outcome, done, done_json, furnish, ptb_lm
from networks import reference_forward
from small_models import LETTERS, decided_model

from ptb_lm import SentenceScore, score
from ptb_lm.config import resolve
from ptb_lm.corpus import reading
from ptb_lm.corpus.batching import batches_by_length, padded_windows
from ptb_lm.corpus.reading import read_lines
from ptb_lm.corpus.text import EOS, decoded
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation import nbest
from ptb_lm.evaluation.nbest import rank, read_hypotheses
from ptb_lm.evaluation.score import LINES_AT_ONCE
from ptb_lm.evaluation.trained import TrainedModel
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.scoring import (
    TARGETS_PER_WINDOW,
    target_log_probabilities,
    targets_per_window,
)
from ptb_lm.stop import StopFlag, Stopped
from ptb_lm.training.checkpoint import load_checkpoint, save_checkpoint

LAST = "runs/a/last.pt"
LINE_HEADER = ["line", "words", "tokens", "unknown", "log_probability_nats", "perplexity"]
WORD_HEADER = ["line", "position", "word", "surprisal_bits", "unknown"]
SAFETY_SECONDS = 300.0


def random_lines(count: int, longest: int, seed: int = 1) -> list[str]:
    """Lines of 0 to so many words, some of them unknown."""
    rng = random.Random(seed)
    types = [*LETTERS, "xyzzy", "<unk>"]
    return [" ".join(rng.choices(types, k=rng.randint(0, longest))) for _ in range(count)]


@torch.no_grad()
def by_definition(model: TrainedModel, line: str) -> list[float]:
    """ln p of each word and of <eos>: a pass of the reference cell in float64 over <eos>, words."""
    network = LanguageModel(model.config.model, len(model.vocabulary)).double().eval()
    network.load_weights({name: value.double() for name, value in model.network.weights().items()})
    tokens = torch.from_numpy(model.vocabulary.encode([EOS, *line.split(), EOS])).long()
    output = reference_forward(network, tokens[:-1, None], network.zero_state(1))
    log_probs = network.decoder.log_probs(output.dropped)
    return log_probs[:, 0].gather(1, tokens[1:, None])[:, 0].tolist()


# The figures of a sentence


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn-tanh", "rnn-sigmoid"])
def test_each_line_is_scored_as_if_it_stood_alone(cell: str) -> None:
    model = decided_model(cell=cell)
    lines = random_lines(60, 25)
    scores = list(score(model, lines))
    assert len(scores) == 60
    for line, scored in zip(lines, scores, strict=True):
        assert scored.words == line.split()
        assert scored.log_probabilities == pytest.approx(by_definition(model, line), abs=1e-5)


def test_side_by_side_gives_what_one_at_a_time_does() -> None:
    """Some so long that a batch of them takes several windows, out of which the shorter fall."""
    model = decided_model()
    rng = random.Random(2)
    lines = random_lines(300, 30) + random_lines(40, 400)
    rng.shuffle(lines)
    together = list(score(model, lines))
    for line, scored in zip(lines, together, strict=True):
        (alone,) = score(model, [line])
        assert alone.words == scored.words
        np.testing.assert_allclose(scored.log_probabilities, alone.log_probabilities, atol=1e-5)
        assert scored.log_probability == pytest.approx(alone.log_probability, rel=1e-6, abs=1e-5)


def test_what_a_sentence_adds_up_to() -> None:
    model = decided_model()
    (scored,) = score(model, ["a  xyzzy\tb <unk> c"])
    assert isinstance(scored, SentenceScore)
    log_probabilities = by_definition(model, "a <unk> b <unk> c")
    assert scored.words == ["a", "xyzzy", "b", "<unk>", "c"]
    assert scored.unknown.tolist() == [False, True, False, True, False]
    assert (scored.unknown_words, scored.tokens) == (2, 6)
    assert scored.log_probability == pytest.approx(sum(log_probabilities), rel=1e-6)
    assert scored.perplexity == pytest.approx(math.exp(-sum(log_probabilities) / 6), rel=1e-6)
    assert scored.surprisals.tolist() == pytest.approx(
        [-math.log2(math.exp(each)) for each in log_probabilities], rel=1e-5
    )


def test_a_line_of_no_words_is_eos_alone() -> None:
    model = decided_model()
    for line in ("", "  \t"):
        (scored,) = score(model, [line])
        assert (scored.words, scored.tokens, scored.unknown_words) == ([], 1, 0)
        assert scored.log_probability == pytest.approx(by_definition(model, "")[0], rel=1e-6)


def test_a_model_of_equal_weights_finds_each_word_log2_of_the_vocabulary_surprising() -> None:
    (scored,) = score(decided_model(words="abcdef", width=0.0), ["a b f", "b"][:1])
    assert scored.surprisals.tolist() == pytest.approx([3.0] * 4)  # of 8 types
    assert scored.perplexity == pytest.approx(8.0)


def test_the_lines_of_a_stream_are_one_text_whose_first_token_is_given() -> None:
    model = decided_model()
    for lines in (random_lines(50, 12), ["", "a b", ""], [""], ["a"]):
        text = [word for line in lines for word in [*line.split(), EOS]]
        expected: list[float] = []
        if len(text) > 1:
            tokens = model.vocabulary.encode(text)
            expected = target_log_probabilities(model.network, tokens, 1).tolist()
        for at_once in (1, 7, 1000):
            scores = list(score(model, lines, continuous=True, lines_at_once=at_once))
            joined = np.concatenate([scored.log_probabilities for scored in scores])
            assert [scored.words for scored in scores] == [line.split() for line in lines]
            assert math.isnan(joined[0])
            assert joined[1:].tolist() == pytest.approx(expected, abs=1e-5)
            assert sum(scored.tokens for scored in scores) == len(text) - 1
            total = sum(scored.log_probability for scored in scores)
            assert total == pytest.approx(sum(expected), abs=1e-4)


def test_a_stream_that_begins_with_an_empty_line_has_no_perplexity_there() -> None:
    first, second = score(decided_model(), ["", "a"], continuous=True)
    assert (first.tokens, first.log_probability) == (0, 0.0)
    assert math.isnan(first.perplexity)
    assert second.tokens == 2


def test_dropout_is_off_and_the_network_is_left_as_it_was() -> None:
    model = decided_model(dropout=0.5)
    model.network.train()
    one, other = (next(score(model, ["a b c"])).log_probability for _ in range(2))
    assert one == other
    assert model.network.training


def test_a_text_instead_of_lines_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="splitlines"):
        score(decided_model(), "a b c")


@pytest.mark.parametrize("continuous", [False, True])
def test_a_diverged_model_is_an_error_and_not_a_figure(continuous: bool) -> None:
    model = decided_model()
    with torch.no_grad():
        model.network.softmax.weight[0, 0] = torch.nan
    with pytest.raises(PtbLmError, match="no probabilities: NaN"):
        list(score(model, ["a b"], continuous=continuous))


# Any amount of text


@pytest.mark.parametrize("continuous", [False, True])
def test_no_more_lines_are_taken_than_are_scored_at_once(continuous: bool) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield "a b c"

    scores = score(decided_model(), endless(), continuous=continuous, lines_at_once=10)
    assert taken == 0
    for number in range(35):
        next(scores)
        assert taken == 10 * (number // 10 + 1)


@pytest.mark.parametrize(
    ("words", "targets"), [(50, 1000), (10_000, 1000), (20_000, 500), (5_000_000, 16)]
)
def test_a_window_of_a_large_vocabulary_holds_fewer_targets(words: int, targets: int) -> None:
    network = LanguageModel(resolve("small", ["model.hidden_size=1"]).model, words)
    assert targets_per_window(network) == targets


class Watched(LanguageModel):
    """Notes how many words a pass is given."""

    most = 0

    def forward(self, words: torch.Tensor, hidden: Any) -> Any:
        self.most = max(self.most, words.numel())
        return super().forward(words, hidden)


@pytest.mark.parametrize("continuous", [False, True])
def test_a_very_long_line_is_scored_in_windows_of_bounded_size(continuous: bool) -> None:
    model = decided_model()
    model.network.__class__ = Watched
    rng = random.Random(3)
    words = rng.choices(LETTERS, k=100_000)
    scored, short = score(model, [" ".join(words), "a b"], continuous=continuous)
    assert model.network.most == TARGETS_PER_WINDOW  # type: ignore[comparison-overlap]
    text = [*words, EOS] if continuous else [EOS, *words, EOS]
    expected = target_log_probabilities(model.network, model.vocabulary.encode(text), 1)
    ours = scored.log_probabilities[1:] if continuous else scored.log_probabilities
    np.testing.assert_allclose(ours, expected.numpy(), atol=1e-5)
    assert short.tokens == 3


def test_a_signal_is_heard_between_windows() -> None:
    stop = StopFlag()
    scores = score(decided_model(), ["a"] * 30, lines_at_once=10, stop=stop)
    for _ in range(10):
        next(scores)
    stop.signal_number = signal.SIGTERM
    with pytest.raises(Stopped):
        next(scores)


def test_each_target_has_its_place_in_a_window_once_and_in_order() -> None:
    rng = random.Random(4)
    for _ in range(50):
        lengths = torch.tensor(
            [rng.choice([1, 2, 3, 9, 40, 70]) for _ in range(rng.randint(1, 60))]
        )
        starts = lengths.cumsum(0) - lengths
        max_targets, least_streams = rng.randint(20, 60), rng.randint(1, 20)
        seen: list[int] = []
        for batch in batches_by_length(lengths, max_targets, least_streams):
            columns: list[list[int]] = [[] for _ in batch]
            assert len(batch) <= max(max_targets // int(lengths[batch].max()), least_streams)
            for places, counted in padded_windows(starts[batch], lengths[batch], max_targets):
                assert places.shape == counted.shape
                assert places.numel() <= max_targets
                for column in range(places.shape[1]):
                    in_column = counted[:, column]
                    assert in_column[0], "a sentence that has ended has no column"
                    own = range(
                        starts[batch[column]], starts[batch[column]] + lengths[batch[column]]
                    )
                    assert all(int(place) in own for place in places[:, column])
                    columns[column] += places[in_column, column].tolist()
            for column, sentence in enumerate(batch):
                start = int(starts[sentence])
                assert columns[column] == list(range(start, start + int(lengths[sentence])))
            seen += [place for column in columns for place in column]
        assert sorted(seen) == list(range(int(lengths.sum())))


def test_sorting_leaves_little_padding() -> None:
    rng = random.Random(5)
    lengths = torch.tensor([1 + min(int(rng.gammavariate(4, 5)), 80) for _ in range(LINES_AT_ONCE)])
    starts = lengths.cumsum(0) - lengths
    places = sum(
        window.numel()
        for batch in batches_by_length(lengths, TARGETS_PER_WINDOW, 16)
        for window, _ in padded_windows(starts[batch], lengths[batch], TARGETS_PER_WINDOW)
    )
    assert places < 1.1 * int(lengths.sum())


# Reading


def test_lines_end_at_a_line_feed_alone_and_a_byte_order_mark_is_none_of_the_text() -> None:
    data = "\ufeffa b\r\nc\x85d\n\n\ufeffe\u2028f".encode()
    lines = list(read_lines(io.BytesIO(data), "note"))
    assert lines == ["a b\r", "c\x85d", "", "\ufeffe\u2028f"]
    assert "\n".join(lines) == "".join(decoded([data], "note"))


@pytest.mark.parametrize("wrong", [b"\xff", b"\0"])
def test_a_line_that_is_no_text_is_named_as_in_a_whole_file(wrong: bytes) -> None:
    data = "é b\nc\n".encode() + b"d " + wrong + b" e\nf\n"
    with pytest.raises(InputError) as of_the_whole:
        list(decoded([data], "note"))
    lines = read_lines(io.BytesIO(data), "note")
    assert [next(lines), next(lines)] == ["é b", "c"]
    with pytest.raises(InputError) as of_the_line:
        next(lines)
    assert str(of_the_line.value) == str(of_the_whole.value)
    assert str(of_the_line.value).startswith("note: line 3, byte 9: ")


# The command


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual workplace, and sharp.pt, whose words depend strongly on those before."""
    folder = furnish(tmp_path_factory.mktemp("score"))
    checkpoint = load_checkpoint(folder / LAST)
    generator = torch.Generator().manual_seed(1)
    for tensor in checkpoint.weights.values():
        tensor.uniform_(-1, 1, generator=generator)
    save_checkpoint(checkpoint, folder / "sharp.pt")
    return folder


@pytest.fixture(autouse=True)
def workplace(template: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(template)


def with_input(text: str, *arguments: str) -> Outcome:
    """Run a command that must succeed on a text on its standard input."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        return done(*arguments)


def table(outcome: Outcome) -> list[list[str]]:
    assert outcome.out.endswith("\n")
    return [line.split("\t") for line in outcome.out.removesuffix("\n").split("\n")]


TEXT = "a b xyzzy\n\nc <unk> d e\n"


def test_a_row_for_each_line(tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text(TEXT)
    outcome = done("score", "sharp.pt", str(tmp_path / "note.txt"))
    header, *rows = table(outcome)
    assert outcome.err.endswith(
        "1 of 10 tokens (10.0 %) are not in the vocabulary and count as <unk>\n"
    )
    assert header == LINE_HEADER
    assert [row[:4] for row in rows] == [list("1341"), list("2010"), list("3451")]
    import ptb_lm

    expected = list(ptb_lm.score(ptb_lm.load("sharp.pt"), TEXT.splitlines()))
    for row, scored in zip(rows, expected, strict=True):
        assert float(row[4]) == pytest.approx(scored.log_probability, rel=1e-7)
        assert float(row[5]) == pytest.approx(scored.perplexity, rel=1e-7)
    assert float(rows[0][5]) == pytest.approx(math.exp(-float(rows[0][4]) / 4), rel=1e-6)


def test_standard_input_and_files_are_read_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "1").write_text("a b xyzzy\n\nc <unk>")
    (tmp_path / "2").write_text("d e\n")
    first, second = str(tmp_path / "1"), str(tmp_path / "2")
    whole = with_input("a b xyzzy\n\nc <unk>\nd e", "score", "sharp.pt")
    assert with_input("a b xyzzy\n\nc <unk>\nd e\n", "score", "sharp.pt", "-") == whole
    assert done("score", "sharp.pt", first, second).out == whole.out
    mixed = with_input("a b xyzzy\n\nc <unk>\n", "score", "sharp.pt", "-", second)
    assert mixed.out == whole.out
    assert len(table(whole)) == 5


@pytest.mark.parametrize("continuous", [[], ["--continuous"]])
def test_the_rows_of_words_add_up_to_those_of_lines(continuous: list[str]) -> None:
    _, *lines = table(with_input(TEXT, "score", "sharp.pt", *continuous))
    word_header, *words = table(with_input(TEXT, "score", "sharp.pt", "--per-word", *continuous))
    assert word_header == WORD_HEADER
    assert [row[2] for row in words] == [
        *["a", "b", "xyzzy", EOS],
        EOS,
        *["c", "<unk>", "d", "e", EOS],
    ]
    assert [row[:2] for row in words[:5]] == [
        ["1", "1"],
        ["1", "2"],
        ["1", "3"],
        ["1", "4"],
        ["2", "1"],
    ]
    assert [row[4] for row in words] == list("0010001000")
    assert (words[0][3] == "") == bool(continuous)  # nothing predicts the first of a stream
    for line in lines:
        bits = sum(float(row[3] or 0) for row in words if row[0] == line[0])
        assert float(line[4]) == pytest.approx(-bits * math.log(2), rel=1e-6)


@pytest.mark.parametrize("options", [[], ["--per-word"], ["--continuous", "--per-word"]])
def test_json_lines_hold_what_the_table_does(options: list[str]) -> None:
    header, *rows = table(with_input(TEXT, "score", "sharp.pt", *options))
    outcome = with_input(TEXT, "score", "sharp.pt", "--json-lines", *options)
    objects = [json.loads(line) for line in outcome.out.splitlines()]
    assert len(objects) == len(rows)
    for row, each in zip(rows, objects, strict=True):
        assert list(each) == header
        for written, value in zip(row, each.values(), strict=True):
            if isinstance(value, bool):
                assert written == str(int(value))
            elif isinstance(value, float):
                assert float(written) == pytest.approx(value, rel=1e-7)
            else:
                assert written == ("" if value is None else str(value))


def test_an_input_without_a_line_gives_a_table_without_a_row() -> None:
    assert with_input("", "score", LAST).out == "\t".join(LINE_HEADER) + "\n"
    assert with_input("", "score", LAST, "--per-word").out == "\t".join(WORD_HEADER) + "\n"
    assert with_input("", "score", LAST, "--json-lines").out == ""


def test_a_stream_adds_up_to_what_eval_finds() -> None:
    for path in (LAST, "sharp.pt"):
        (member,) = done_json("eval", path, "--text", "text/test.txt")["members"]
        outcome = done("score", path, "text/test.txt", "--continuous", "--json-lines")
        rows = [json.loads(line) for line in outcome.out.splitlines()]
        assert sum(row["tokens"] for row in rows) == member["tokens"]
        total = -sum(row["log_probability_nats"] for row in rows)
        assert total == pytest.approx(member["nll"], rel=1e-6)
        apart = done("score", path, "text/test.txt", "--json-lines")
        rows = [json.loads(line) for line in apart.out.splitlines()]
        assert sum(row["tokens"] for row in rows) == member["tokens"] + 1
        total = -sum(row["log_probability_nats"] for row in rows)
        assert total != pytest.approx(member["nll"], rel=1e-4)


# N-best lists

HYPOTHESES = ["a b", "c xyzzy d", "", "e e e", "f", "a b", "a b c d e f g h"]


def expected_ranks(model: TrainedModel, texts: list[str]) -> list[tuple[int, str, float]]:
    """(rank, text, ln p) by the definition, the likeliest first."""
    totals = [(text, sum(by_definition(model, text))) for text in texts]
    ordered = sorted(totals, key=lambda pair: -pair[1])
    return [(place, text, total) for place, (text, total) in enumerate(ordered, 1)]


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("convention", ["numbered", "repeated"])
def test_each_utterances_hypotheses_are_ranked_by_log_probability(
    convention: str, at_once: int
) -> None:
    model = decided_model()
    utterances = {"spk1-utt-0001": HYPOTHESES[:3], "b": HYPOTHESES[3:4], "c-2": HYPOTHESES[4:]}
    lines = [
        f"{name}-{number}  {text}" if convention == "numbered" else f"{name} {text}"
        for name, texts in utterances.items()
        for number, text in enumerate(texts, 1)
    ]
    hypotheses = read_hypotheses(lines, convention)
    ranked = list(rank(model, hypotheses, lines_at_once=at_once))
    assert [each.hypothesis.utterance for each in ranked] == ["spk1-utt-0001"] * 3 + ["b"] + [
        "c-2"
    ] * 3
    given = iter(ranked)
    for name, texts in utterances.items():
        for place, text, total in expected_ranks(model, texts):
            each = next(given)
            assert (each.rank, each.hypothesis.text) == (place, text)
            assert each.score.log_probability == pytest.approx(total, rel=1e-5)
            number = texts.index(text) + 1
            id_ = f"{name}-{number}" if convention == "numbered" else name
            assert each.hypothesis.id == id_


def test_equal_hypotheses_keep_their_order() -> None:
    lines = ["u-1 a b", "u-2 a b", "u-3 a b"]
    ranked = rank(decided_model(), read_hypotheses(lines, "numbered"), lines_at_once=1)
    assert [(each.hypothesis.id, each.rank) for each in ranked] == [
        ("u-1", 1),
        ("u-2", 2),
        ("u-3", 3),
    ]


def test_ids_that_end_in_a_number_do_not_join_utterances_of_the_other_convention() -> None:
    lines = ["1089-134686-1 a b", "1089-134686-2 c"]
    model = decided_model()
    for convention, ranks in (("numbered", [1, 2]), ("repeated", [1, 1])):
        ranked = rank(model, read_hypotheses(lines, convention), lines_at_once=1000)
        assert [each.rank for each in ranked] == ranks


def test_an_utterance_in_two_pieces_is_told_and_not_ranked_as_two(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["u-1 a b", "v-1 c", "u-2 d"]
    Path("pieces.txt").write_text("\n".join(lines))
    outcome = ptb_lm("score", "sharp.pt", "pieces.txt", "--nbest", "numbered")
    assert outcome.code == 2
    assert outcome.err.splitlines()[-1] == (
        "error: --nbest: line 3: the hypotheses of 'u' do not stand together; sort the list"
    )
    monkeypatch.setattr(nbest, "UTTERANCES_REMEMBERED", 1)  # and no more are kept
    far = [*lines[:2], "w-1 d", lines[2]]
    ranked = rank(decided_model(), read_hypotheses(far, "numbered"), lines_at_once=1000)
    assert [each.rank for each in ranked] == [1] * 4


def test_the_command_ranks_an_n_best_list() -> None:
    text = "u-1 a b\nu-2\tc <unk>\nv-1\n"
    header, *rows = table(with_input(text, "score", "sharp.pt", "--nbest", "numbered"))
    assert header == ["id", "rank", "log_probability_nats", "text", "words", "unknown"]
    _, *scored = table(with_input("a b\nc <unk>\n\n", "score", "sharp.pt"))
    totals = {"u-1": float(scored[0][4]), "u-2": float(scored[1][4]), "v-1": float(scored[2][4])}
    assert {row[0]: float(row[2]) for row in rows} == pytest.approx(totals, rel=1e-6)
    assert [row[0] for row in rows] == [
        *sorted(["u-1", "u-2"], key=lambda id_: -totals[id_]),
        "v-1",
    ]
    assert [row[1] for row in rows] == ["1", "2", "1"]
    assert {row[0]: row[3] for row in rows} == {"u-1": "a b", "u-2": "c <unk>", "v-1": ""}
    outcome = with_input(text, "score", "sharp.pt", "--nbest", "numbered", "--json-lines")
    assert [json.loads(line)["id"] for line in outcome.out.splitlines()] == [row[0] for row in rows]


# Processes


@contextmanager
def scoring(*options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "ptb_lm", "score", "sharp.pt", *options]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        watchdog = threading.Timer(SAFETY_SECONDS, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def peak_megabytes(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to read the peak from")
@pytest.mark.parametrize("options", [[], ["--continuous"], ["--nbest", "numbered"]])
def test_results_come_while_lines_do_and_memory_does_not_grow_with_them(options: list[str]) -> None:
    """Of 21,000 lines, which would take over 20 MB if they, or their scores, were kept."""
    rng = random.Random(6)
    chunk = [" ".join(rng.choices(LETTERS, k=rng.randint(10, 14))) for _ in range(LINES_AT_ONCE)]
    id_ = "u{}-{} " if options[:1] == ["--nbest"] else ""

    def written(number: int) -> bytes:
        lines = (f"{id_.format(number * 100 + i // 10, i % 10)}{x}\n" for i, x in enumerate(chunk))
        return "".join(lines).encode()

    with scoring(*options) as process:
        assert process.stdin is not None and process.stdout is not None
        peaks = []
        for number in range(21):
            # More is written only when all that can be known of what was has been read.
            process.stdin.write(written(number))
            process.stdin.flush()
            held_back = 10 if options[:1] == ["--nbest"] else 0  # of an utterance that may go on
            rows = LINES_AT_ONCE + (1 - held_back if number == 0 else 0)
            for _ in range(rows):
                assert process.stdout.readline()
            peaks.append(peak_megabytes(process))
        process.stdin.close()
        assert len(process.stdout.readlines()) == held_back
        assert process.wait(SAFETY_SECONDS) == 0
    assert peaks[-1] - peaks[5] < 10, peaks


def test_line_buffered_answers_before_the_next_line() -> None:
    with scoring("--line-buffered") as process:
        assert process.stdin is not None and process.stdout is not None
        for line in (b"a b c\n", b"d\n"):
            process.stdin.write(line)
            process.stdin.flush()
            row = process.stdout.readline()
            if row.startswith(b"line\t"):
                row = process.stdout.readline()
            assert row.split(b"\t")[1] == str(len(line.split())).encode()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_heard_while_a_line_is_waited_for(number: int, code: int) -> None:
    with scoring("--line-buffered") as process:
        assert (
            process.stdin is not None and process.stdout is not None and process.stderr is not None
        )
        process.stdin.write(b"a b c\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.readline()  # it has answered, and reads on
        process.send_signal(number)
        assert process.wait(SAFETY_SECONDS) == code
        assert process.stdout.read() == b""
        line = process.stderr.read().decode().splitlines()[-1]
        assert line == f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}"


def test_a_reader_that_goes_away_ends_it_quietly() -> None:
    """As `| head` does, while there is still much to score."""
    with scoring() as process:
        assert (
            process.stdin is not None and process.stdout is not None and process.stderr is not None
        )
        process.stdin.write(b"a b c d e\n" * LINES_AT_ONCE)
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"line\t")
        process.stdout.close()
        for _ in range(100):
            try:
                process.stdin.write(b"a b c d e\n" * LINES_AT_ONCE)
                process.stdin.flush()
            except BrokenPipeError:
                break
        else:
            pytest.fail("it reads on")
        assert process.wait(SAFETY_SECONDS) == 0
        assert process.stderr.read() == b""
        with suppress(BrokenPipeError):
            process.stdin.close()


def test_a_diverged_checkpoint_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(LAST))
    checkpoint.weights["softmax.bias"][0] = torch.inf
    save_checkpoint(checkpoint, tmp_path / "bad.pt")
    outcome = ptb_lm("score", str(tmp_path / "bad.pt"), "text/test.txt")
    assert outcome.code == 1
    assert outcome.out == ""
    place = f"error: {tmp_path / 'bad.pt'}: softmax.bias has a weight that is NaN or infinite; "
    assert outcome.err.startswith(place)
    assert outcome.err.count("\n") == 1


def test_many_files_are_opened_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [str(tmp_path / f"{number}.txt") for number in range(9)]
    for file in files:
        Path(file).write_text("a b\n")
    is_open, most, opened = 0, 0, reading.opened

    @contextmanager
    def noted(path: Path, stop: StopFlag) -> Iterator[Any]:
        nonlocal is_open, most
        with opened(path, stop) as file:
            is_open += 1
            most = max(most, is_open)
            yield file
            is_open -= 1

    monkeypatch.setattr(reading, "opened", noted)
    assert len(done("score", LAST, *files).out.splitlines()) == 1 + 9
    assert most == 1
    outcome = ptb_lm("score", LAST, *files, str(tmp_path), "missing.txt")
    assert (outcome.code, outcome.out) == (2, "")  # known before the first is read
    assert (
        outcome.err
        == f"error: {tmp_path}: cannot be read: Is a directory; name the text files in it\n"
    )
