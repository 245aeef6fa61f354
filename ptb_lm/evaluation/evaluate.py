"""A network on a text: the paper's two protocols."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ptb_lm.arguments import require_path, require_type
from ptb_lm.config import Config
from ptb_lm.corpus.batching import require_columns
from ptb_lm.corpus.load import data_directory, require_corpus
from ptb_lm.corpus.splits import SPLITS
from ptb_lm.corpus.text import from_command_line
from ptb_lm.corpus.tokens import TokenIds
from ptb_lm.corpus.vocabulary import Vocabulary
from ptb_lm.errors import InputError
from ptb_lm.evaluation.adaptive import DivergedError
from ptb_lm.evaluation.score_file import load_scores, save_scores
from ptb_lm.evaluation.scores import (
    PAPER_PROTOCOL,
    PROTOCOLS,
    USUAL,
    ScoredText,
    Scores,
    figure,
    require_each_once,
    require_figure,
    text_sha256,
)
from ptb_lm.evaluation.texts import EncodedText, encoded_file, encoded_split
from ptb_lm.evaluation.trained import (
    TrainedModel,
    file_kind,
    load,
    model_place,
    read_model,
    require_model,
)
from ptb_lm.evaluation.ways import AS_THE_PAPER, Way
from ptb_lm.model.network import LanguageModel
from ptb_lm.model.perplexity import TRAIN_AGAIN
from ptb_lm.model.scoring import Scorer, target_log_probabilities
from ptb_lm.paths import path_name
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.training.run import Run

logger = logging.getLogger(__name__)


def scored_text(
    vocabulary: Vocabulary,
    tokens: TokenIds,
    *,
    split: str,
    protocol: str,
    batch_size: int,
    way: str = USUAL,
) -> ScoredText:
    """Describe what a text is scored as.

    Args:
        vocabulary: that the tokens are indices of.
        tokens: (N,).
        split: what to call the text.
        protocol: ``stream`` or ``columns``.
        batch_size: B of the protocol ``columns``.
        way: that it is scored in, with its settings.
    """
    return ScoredText(
        split=split,
        protocol=protocol,
        streams=1 if protocol == "stream" else batch_size,
        text_sha256=text_sha256(vocabulary.decode_text(tokens)),
        vocabulary_size=len(vocabulary),
        way=way,
    )


def score_text(
    network: LanguageModel,
    tokens: TokenIds,
    text: ScoredText,
    name: str,
    stop: StopFlag,
    scorer: Scorer = target_log_probabilities,
    remedy: str = TRAIN_AGAIN,
) -> Scores:
    """Score a text under the protocol of its description.

    Args:
        network: on any device.
        tokens: (N,).
        text: what :func:`scored_text` says of it.
        name: what to call the member.
        stop: checked before each window.
        scorer: without dropout, or the mean of passes with it.
        remedy: what to do where the perplexity is not a number, for the error message.

    Raises:
        InputError: the text is too short for the protocol.
        PtbLmError: the perplexity is not a number.
        Stopped: a signal came.
    """
    try:
        log_probabilities = scorer(network, tokens, text.streams, stop)
    except DivergedError as error:
        raise DivergedError(f"{name}: {text.split}: {error}") from None
    scores = log_probabilities.numpy().astype(np.float32, copy=False)
    return require_figure(Scores(name, text, scores), remedy)


def score_finished_run(run: Run, stop: StopFlag = NEVER) -> dict[str, Scores]:
    """Score valid and test with the last weights, under the paper's protocols, and keep both.

    Where the weights are averaged, the last average is scored.

    What is kept already is not made again: a run that trains on removes its scores first, so that
    those in a run folder are always its last weights'. Valid comes last: a run folder that has its
    scores has all that there are to be, with or without a test text.

    Returns:
        the scores of valid and, where the corpus has it, of test.

    Raises:
        PtbLmError: a perplexity is not a number; its scores are not kept.
        Stopped: a signal came; the same call goes on with the split that is missing.
    """
    scores = {}
    for split in reversed(run.scored_splits):
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
            with run.averager.applied(run.network):
                kept = score_text(run.network, tokens, text, str(run.folder.last), stop)
            save_scores(kept, path)
        scores[split] = kept
    return {split: scores[split] for split in run.scored_splits}


def _kept_scores(path: Path, text: ScoredText) -> Scores | None:
    """Return the scores in a file, if they are whole, of this text, and have a perplexity."""
    if not path.exists():
        return None
    try:
        kept = load_scores(path)
    except InputError as error:
        logger.warning("%s; scoring anew", error)
        return None
    is_good = kept.text == text and math.isfinite(figure(kept.log_probabilities).perplexity)
    return kept if is_good else None


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate on, and how: a split of the model's own data, or a text file.

    Attributes:
        split: the split, or what to call the text.
        text: the text file; None: a split.
        protocol: ``stream`` or ``columns``.
        data: where the model's data lies; None: where its config says.
        data_dir: the data folder.
    """

    split: str
    text: Path | None
    protocol: str
    data: str | None
    data_dir: Path

    @classmethod
    def of(
        cls,
        split: str | None,
        text: Path | None,
        protocol: str | None,
        data: str | None,
        data_dir: Path | None,
        ways: Sequence[Way] = (AS_THE_PAPER,),
    ) -> "EvaluationRequest":
        """Fill in what was not asked for: the test split, and the paper's protocol of a split.

        Where one of the ways reads a text as one stream, so do all, that they can be compared.

        Raises:
            InputError: there is no such split, protocol or data, or both a split and a text are
                given, or a way has not the protocol.
        """
        if split is not None and text is not None:
            raise InputError("--split and --text: choose one")
        if split not in (None, *SPLITS):
            raise InputError(f"--split {split}: expected {', '.join(SPLITS)}")
        if protocol not in (None, *PROTOCOLS):
            raise InputError(f"--protocol {protocol}: expected {' or '.join(PROTOCOLS)}")
        for way in ways:
            if way.one_stream and protocol == "columns":
                raise InputError(f"--protocol columns: {way.title} is of one stream; leave it out")
            protocol = "stream" if way.one_stream else protocol
        if data is not None:
            data = path_name(data)
            require_corpus(data)
        directory = data_directory(data_dir)
        if text is not None:
            kind = file_kind(text)
            if kind is not None:
                raise InputError(f"--text {text}: {kind}, and not a text; name the text to read")
            name = f"text {from_command_line(text.name)}"
            return cls(name, text, protocol or "stream", data, directory)
        split = split or "test"
        return cls(split, None, protocol or PAPER_PROTOCOL[split], data, directory)


def evaluate(
    model: TrainedModel,
    split: str | None = None,
    *,
    text: Path | str | None = None,
    protocol: str | None = None,
    data: Path | str | None = None,
    data_dir: Path | str | None = None,
    way: Way = AS_THE_PAPER,
    stop: StopFlag = NEVER,
) -> Scores:
    """Score a text with a model; ``evaluate(model).perplexity`` is the paper's test figure.

    Args:
        model: see :func:`~ptb_lm.evaluation.trained.load`.
        split: ``train``, ``valid`` or ``test`` (the default) of the data it was trained on, which
            need not have a test text, or may have another by now.
        text: a file of another text, instead of a split; ``-`` is standard input.
        protocol: ``stream`` or ``columns``; by default the paper's for the split, or the way's.
        data: where the data that it was trained on lies now: ``ptb``, ``synthetic`` or a folder;
            by default where its config says.
        data_dir: the data folder; by default ``$PTB_LM_DATA_DIR``, else ``./data``.
        way: how to score: as the paper, or as one of :mod:`ptb_lm.evaluation.ways`.
        stop: checked before each window.

    Returns:
        ln p of each target, with what it was made from.

    Raises:
        TypeError: an argument is of the wrong type.
        InputError: the text or the data is not there or not right, or the way is not the model's.
        PtbLmError: the perplexity is not a number, or memory does not suffice.
        Stopped: a signal came.
    """
    require_model(model)
    require_type(way, Way, "way", "try adaptive(Dynamic.tuned('rms'), Cache.tuned(2000))")
    require_type(stop, StopFlag, "stop")
    advice = "score(model, lines) takes the lines of a text themselves"
    if split is not None:
        require_type(split, str, "split", f"text= takes the path of a text; {advice}")
    file = None if text is None else require_path(text, "text", advice)
    if file is not None and "\n" in str(file):
        raise InputError(f"text: expected the path of a text file, got a text; {advice}")
    directory = None if data_dir is None else require_path(data_dir, "data_dir")
    name = None if data is None else path_name(require_path(data, "data"))
    request = EvaluationRequest.of(split, file, protocol, name, directory, [way])
    model = _with_data(model, request)
    return _evaluate(model, _text(model, request, stop, set()), request, way, stop)


def evaluate_checkpoints(
    paths: Sequence[Path],
    request: EvaluationRequest,
    ways: Sequence[Way],
    device: str,
    stop: StopFlag = NEVER,
) -> tuple[list[list[Scores]], list[Config]]:
    """Score one text with each checkpoint, in each way; a text file is read once for all.

    Returns:
        for each way the scores by each checkpoint, and the checkpoints' configs.

    Raises:
        InputError: as :func:`evaluate` does, or one of them is named twice, or their vocabularies
            differ, so that their figures could not be compared.
        PtbLmError: a perplexity is not a number, or memory does not suffice.
        Stopped: a signal came.
    """
    require_each_once((path, model_place(path)) for path in paths)
    if len(paths) > 1:  # known before the first is at work, for minutes or hours
        _require_one_vocabulary(paths)
    members: list[list[Scores]] = [[] for _ in ways]
    configs = []
    text: EncodedText | None = None
    said: set[str] = set()
    for path in paths:
        model = _with_data(load(path, device), request)
        for way in ways:
            way.scorer(model, request.data_dir)  # what it refuses is refused before a text is read
        if text is None or request.text is None:  # else each has data of its own
            text = _text(model, request, stop, said)
        for way, scores in zip(ways, members, strict=True):
            scores.append(_evaluate(model, text, request, way, stop))
        configs.append(model.config)
    return members, configs


def _require_one_vocabulary(paths: Sequence[Path]) -> None:
    """Raise InputError if one of several models is not there, damaged, or of other words."""
    _, first = read_model(paths[0])
    for path in paths[1:]:
        _, other = read_model(path)
        if other.vocabulary.sha256 != first.vocabulary.sha256:
            differs = other.vocabulary.differs_from(first.vocabulary, str(paths[0]))
            raise InputError(f"{path}: {differs}; evaluate them one at a time")


def _with_data(model: TrainedModel, request: EvaluationRequest) -> TrainedModel:
    return model if request.data is None else model.with_data(request.data)


def _text(
    model: TrainedModel, request: EvaluationRequest, stop: StopFlag, said: set[str]
) -> EncodedText:
    """Return the text to score, and warn of unknown words unless that has been said already."""
    if request.text is not None:
        text = encoded_file(model.vocabulary, request.text, stop)
    else:
        text = encoded_split(model, request.split, request.data_dir, stop)
    warning = text.unknown.message(text.name)
    if warning is not None and warning not in said:
        logger.warning("%s", warning)
        said.add(warning)
    return text


def _evaluate(
    model: TrainedModel, text: EncodedText, request: EvaluationRequest, way: Way, stop: StopFlag
) -> Scores:
    tokens, scorer = text.tokens, way.scorer(model, request.data_dir)
    described = scored_text(
        model.vocabulary,
        tokens,
        split=request.split,
        protocol=request.protocol,
        batch_size=model.config.training.batch_size,
        way=way.title,
    )
    remedy = "use --protocol stream, or give more text"
    require_columns(len(tokens), described.streams, text.name, remedy)
    with model.at_work() as network:
        scores = score_text(network, tokens, described, model.name, stop, scorer, way.remedy)
    return replace(scores, unknown=text.unknown.counts)
