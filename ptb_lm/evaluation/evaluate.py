"""A network on a text: the paper's two protocols."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ptb_lm.config import Config
from ptb_lm.corpus.load import BUILT_IN, SPLITS, load_corpus
from ptb_lm.corpus.text import from_command_line, read_words
from ptb_lm.corpus.vocabulary import TokenIds, Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.evaluation.scores import (
    PROTOCOLS,
    ScoredText,
    Scores,
    load_scores,
    save_scores,
    text_sha256,
)
from ptb_lm.model.libraries import set_libraries
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.scoring import (
    Scorer,
    monte_carlo_log_probabilities,
    target_log_probabilities,
)
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.training.checkpoint import Checkpoint, load_checkpoint
from ptb_lm.training.environment import choose_device
from ptb_lm.training.memory import memory_errors_explained
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import SCORED_SPLITS

logger = logging.getLogger(__name__)

PAPER_PROTOCOL = {"train": "columns", "valid": "columns", "test": "stream"}
"""How the paper's figure of each split is made; a text of the user's is one stream."""


def scored_text(
    vocabulary: Vocabulary, tokens: TokenIds, *, split: str, protocol: str, batch_size: int
) -> ScoredText:
    """Describe what a text is scored as.

    Args:
        vocabulary: that the tokens are indices of.
        tokens: (N,).
        split: what to call the text.
        protocol: ``stream`` or ``columns``.
        batch_size: B of the protocol ``columns``.
    """
    return ScoredText(
        split=split,
        protocol=protocol,
        streams=1 if protocol == "stream" else batch_size,
        text_sha256=text_sha256(vocabulary.decode(tokens)),
        vocabulary_size=len(vocabulary),
    )


def score_text(
    network: LanguageModel,
    tokens: TokenIds,
    text: ScoredText,
    name: str,
    stop: StopFlag,
    scorer: Scorer = target_log_probabilities,
) -> Scores:
    """Score a text under the protocol of its description.

    Args:
        network: on any device.
        tokens: (N,).
        text: what :func:`scored_text` says of it.
        name: what to call the member.
        stop: looked at before each window.
        scorer: without dropout, or the mean of passes with it.

    Raises:
        InputError: the text is too short for the protocol.
        Stopped: a signal came.
    """
    log_probabilities = scorer(network, tokens, text.streams, stop)
    return Scores(name, text, log_probabilities.numpy().astype(np.float32))


def score_finished_run(run: Run, stop: StopFlag = NEVER) -> dict[str, Scores]:
    """Score valid and test with the last weights, under the paper's protocols, and keep both.

    What is kept already is not made again: a run that trains on removes its scores first, so that
    those in a run folder are always its last weights'.

    Raises:
        Stopped: a signal came; the same call goes on with the split that is missing.
    """
    scores = {}
    for split in SCORED_SPLITS:
        tokens, path = run.corpus.splits[split], run.folder.scores(split)
        text = scored_text(
            run.corpus.vocabulary,
            tokens,
            split=split,
            protocol=PAPER_PROTOCOL[split],
            batch_size=run.config.training.batch_size,
        )
        kept = _kept_scores(path, text)
        if kept is None:
            kept = score_text(run.network, tokens, text, str(run.folder.last), stop)
            save_scores(kept, path)
        scores[split] = kept
    return scores


def _kept_scores(path: Path, text: ScoredText) -> Scores | None:
    """Return the scores in a file, if there are any and they are whole and of this text."""
    if not path.exists():
        return None
    try:
        kept = load_scores(path)
    except InputError as error:
        logger.warning("%s; scoring anew", error)
        return None
    return kept if kept.text == text else None


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate on, and how: a split of the checkpoint's own data, or a text file."""

    split: str
    text: Path | None
    protocol: str
    mc_samples: int
    """Passes under dropout, whose mean probability stands beside the usual score; 0 for none."""

    @classmethod
    def of(
        cls, split: str | None, text: Path | None, protocol: str | None, mc_samples: int
    ) -> "EvaluationRequest":
        """Fill in what was not asked for: the test split, and the paper's protocol of a split.

        Raises:
            InputError: there is no such split or protocol, or both a split and a text are given.
        """
        if split is not None and text is not None:
            raise InputError("--split and --text: choose one")
        if split not in (None, *SPLITS):
            raise InputError(f"--split {split}: expected {', '.join(SPLITS)}")
        if protocol not in (None, *PROTOCOLS):
            raise InputError(f"--protocol {protocol}: expected {' or '.join(PROTOCOLS)}")
        if text is not None:
            name = f"text {from_command_line(text.name)}"
            return cls(name, text, protocol or "stream", mc_samples)
        split = split or "test"
        return cls(split, None, protocol or PAPER_PROTOCOL[split], mc_samples)


def evaluate_checkpoints(
    paths: Sequence[Path],
    request: EvaluationRequest,
    data_dir: Path,
    device: str,
    stop: StopFlag = NEVER,
) -> tuple[list[Scores], list[Scores], list[Config]]:
    """Score one text with each checkpoint.

    Returns:
        for each checkpoint its scores; where passes with dropout are asked for, the scores of
        their mean probability; and its config.

    Raises:
        InputError: a checkpoint, the text or the data is not there or not right, or the
            checkpoints' vocabularies differ, so that their figures could not be compared.
        PtbLmError: memory does not suffice.
        Stopped: a signal came.
    """
    torch_device = choose_device(device)
    members: list[Scores] = []
    sampled: list[Scores] = []
    configs: list[Config] = []
    first: Checkpoint | None = None
    for path in paths:
        checkpoint = load_checkpoint(path)
        first = first or checkpoint
        if checkpoint.vocabulary.sha256 != first.vocabulary.sha256:
            raise InputError(
                f"{path}: its vocabulary ({len(checkpoint.vocabulary):,} words) is not that of "
                f"{paths[0]} ({len(first.vocabulary):,} words); evaluate them one at a time"
            )
        if request.mc_samples and not checkpoint.config.model.has_dropout:
            raise InputError(f"--mc-samples: {path} was trained without dropout; nothing to sample")
        tokens = _tokens(checkpoint, path, request, data_dir, stop)
        text = scored_text(
            checkpoint.vocabulary,
            tokens,
            split=request.split,
            protocol=request.protocol,
            batch_size=checkpoint.config.training.batch_size,
        )
        with memory_errors_explained(checkpoint.config, "nothing was written"):
            set_libraries(checkpoint.config.run.precision)
            network = checkpoint.network().to(torch_device)
            members.append(score_text(network, tokens, text, str(path), stop))
            if request.mc_samples:
                sampler = _sampler(checkpoint.config, request.mc_samples)
                sampled.append(score_text(network, tokens, text, str(path), stop, sampler))
        configs.append(checkpoint.config)
    return members, sampled, configs


def _sampler(config: Config, mc_samples: int) -> Scorer:
    """Return the scoring by passes with dropout, from the run's own seed: a figure comes again."""
    torch.manual_seed(config.run.seed)
    return partial(
        monte_carlo_log_probabilities,
        samples=mc_samples,
        unrolled_steps=config.training.unrolled_steps,
    )


def _tokens(
    checkpoint: Checkpoint,
    path: Path,
    request: EvaluationRequest,
    data_dir: Path,
    stop: StopFlag,
) -> TokenIds:
    """Return the text to score, in the checkpoint's indices."""
    if request.text is not None:
        return _tokens_of_file(checkpoint.vocabulary, request.text)
    data = checkpoint.config.run.data
    if data not in BUILT_IN and not os.path.isdir(data):  # noqa: PTH112 - see load_corpus
        raise InputError(
            f"{path}: it was trained on the folder {data}, which is not here; evaluate it from the "
            "folder that the run was started in, or use --text FILE"
        )
    corpus = load_corpus(data, data_dir, stop)
    if corpus.vocabulary.sha256 != checkpoint.vocabulary.sha256:
        raise InputError(
            f"{path}: its vocabulary ({len(checkpoint.vocabulary):,} words) is not that of the "
            f"data {corpus.name} ({len(corpus.vocabulary):,} words); use --text FILE to evaluate "
            "it on another text"
        )
    return corpus.splits[request.split]


def _tokens_of_file(vocabulary: Vocabulary, path: Path) -> TokenIds:
    words = read_words(path)
    unknown = sum(word not in vocabulary.index for word in words)
    if unknown:
        logger.warning(
            "%s: %s of %s tokens (%.1f %%) are not in the vocabulary and count as <unk>",
            path,
            f"{unknown:,}",
            f"{len(words):,}",
            100 * unknown / len(words),
        )
    return vocabulary.encode(words)
