"""The few lines that a run and an evaluation end with."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ptb_lm.config import Config
from ptb_lm.corpus.synthetic import optimal_nll, synthetic_words
from ptb_lm.evaluation.scores import USUAL, Figure, ScoredText, Scores, average, figure
from ptb_lm.model.perplexity import figure_text, perplexity
from ptb_lm.report.averages import DIVERGED
from ptb_lm.report.published import percent_above, published_for

if TYPE_CHECKING:  # it imports torch, which what only reads score files does without
    from ptb_lm.training.run import Run


def run_summary(run: "Run", scores: Mapping[str, Scores]) -> str:
    """Say what a finished run reached, beside the best that is known to be possible or published.

    The figures are the last epoch's weights', as the paper's are; the best epoch is named.
    """
    state = run.state
    lines = last_epoch_lines(state.epochs_done, run.config, scores)
    if run.averager.state.average:
        lines[0] = f"last epoch ({state.epochs_done}), averaged weights:"
    vocabulary = run.corpus.vocabulary
    unknown = {split: vocabulary.share_unknown(run.corpus.splits[split]) for split in scores}
    lines.append(comparable_line(run.config.run.data, len(vocabulary), unknown))
    best = figure_text(state.best_valid_perplexity)
    lines.append(f"best epoch ({state.best_epoch}): valid {best}, in best.pt")
    lines.append(f"run folder: {run.folder.path}")
    return "\n".join(lines)


def last_epoch_lines(epoch: int, config: Config, scores: Mapping[str, Scores]) -> list[str]:
    """Say what a finished run's last weights reach on each split, beside what is known."""
    lines = [f"last epoch ({epoch}):"]
    for split, member in scores.items():
        reached = figure(member.log_probabilities)
        known = _beside(config, member.text, reached, USUAL)
        lines.append(f"  {split:5}  {describe(reached, member.text)}{known}")
    return lines


def comparable_line(data: str, words: int, unknown: Mapping[str, float]) -> str:
    """Say what perplexities can be compared with: none over another vocabulary.

    A model that may answer ``<unk>`` for more of a text has the easier task.

    Args:
        data: the corpus's name.
        words: of the vocabulary.
        unknown: the share of ``<unk>`` in each split that was scored; of the Penn Treebank, whose
            files are known to the byte, it is left out.
    """
    vocabulary = f"  vocabulary {words:,} words"
    if data == "ptb":
        return f"{vocabulary}: comparable with the paper"
    shares = " and ".join(f"{share:.2%} of {split}" for split, share in unknown.items())
    return f"{vocabulary}, <unk> is {shares}: comparable over the same words and texts alone"


def evaluation_summary(members: list[Scores], configs: list[Config], way: str) -> str:
    """Say what each checkpoint reaches, beside what is known, and the average of several.

    Args:
        members: the scores, one of each checkpoint.
        configs: what the checkpoints were trained by.
        way: the key of the way they were scored, see :mod:`ptb_lm.evaluation.ways`.
    """
    lines = []
    for member, config in zip(members, configs, strict=True):
        reached = figure(member.log_probabilities)
        lines.append(_member_line(member) + _beside(config, member.text, reached, way))
    return "\n".join(lines + _average_lines(members))


def average_summary(members: list[Scores]) -> str:
    """Say what each score file holds, and the average of several."""
    lines = [_member_line(member) for member in members] + _average_lines(members)
    way = members[0].text.way
    return "\n".join(lines if way == USUAL else [f"by {way}:", *lines])


def _member_line(member: Scores) -> str:
    reached = figure(member.log_probabilities)
    return f"{member.name}: {member.text.split} {describe(reached, member.text)}"


def _average_lines(members: list[Scores]) -> list[str]:
    if len(members) == 1:
        return []
    text = members[0].text
    return [f"average of {len(members)}: {text.split} {describe(average(members), text)}"]


def describe(reached: Figure, text: ScoredText) -> str:
    """Name a perplexity with its protocol and how many tokens it counts: never one alone.

    Only a run of an earlier version can have scores that give none: later ones end with an error.
    """
    is_number = math.isfinite(reached.perplexity)
    shown = f"perplexity {figure_text(reached.perplexity)}" if is_number else DIVERGED
    return f"{shown} ({text.layout}, {reached.tokens:,} tokens)"


def _beside(config: Config, text: ScoredText, reached: Figure, way: str) -> str:
    """Return the figure to hold against, as the end of a line, or nothing."""
    if not math.isfinite(reached.perplexity):
        return ""
    published = published_for(config)
    paper = published.by_way(text.split, way) if published else None
    if paper is not None:
        return f"; paper: {paper} ({percent_text(reached.perplexity, paper)})"
    if config.run.data == "synthetic" and text.split in ("valid", "test"):
        best = optimal_perplexity(text.split)
        return (
            f"; best possible for any model: {best:.2f} ({percent_text(reached.perplexity, best)})"
        )
    return ""


def percent_text(reached: float, other: float) -> str:
    """Write by how many percent a perplexity is above another."""
    return f"{figure_text(percent_above(reached, other), 1, '+')} %"


def optimal_perplexity(split: str) -> float:
    """Return the perplexity of the synthetic language's own source on a split."""
    words = synthetic_words()[split]
    return perplexity(optimal_nll(words), len(words) - 1)
