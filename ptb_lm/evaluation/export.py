"""A trained model into a folder that other programs open: the weights, what they are of, a README.

The perplexities that the README gives are measured on the very weights that it stands beside. The
scores in a run folder would spare that, but nothing in them proves whose they are.
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ptb_lm.arguments import require_path
from ptb_lm.corpus.load import Corpus, data_directory, require_corpus
from ptb_lm.corpus.ptb import is_installed
from ptb_lm.durable import current_folder_is_in, durable_folder, still_stands
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.evaluation.evaluate import score_text, scored_text
from ptb_lm.evaluation.exported_readme import exported_readme
from ptb_lm.evaluation.scores import PAPER_PROTOCOL, Scores
from ptb_lm.evaluation.texts import corpus_of
from ptb_lm.evaluation.trained import TrainedModel, read_model, trained_model
from ptb_lm.lock import place_held
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.paths import path_name
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.training.checkpoint import Checkpoint
from ptb_lm.training.environment import choose_device
from ptb_lm.training.exported import (
    CONFIG,
    VOCABULARY,
    WEIGHTS,
    exported_files,
    is_exported,
    load_exported,
)
from ptb_lm.training.run_folder import SCORED_SPLITS

logger = logging.getLogger(__name__)

ONNX, README = "model.onnx", "README.md"


@dataclass(frozen=True)
class Export:
    """What :func:`export` has made.

    Attributes:
        files: in the folder.
        measured: the scores whose perplexities stand in the README; none where the data that the
            model was trained on is not here.
    """

    files: list[Path]
    measured: list[Scores]


def export(
    path: Path | str,
    folder: Path | str,
    *,
    onnx: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    data: Path | str | None = None,
    data_dir: Path | str | None = None,
    stop: StopFlag = NEVER,
) -> Export:
    """Write a trained model into a folder, as a whole or not at all.

    Args:
        path: what :func:`~ptb_lm.evaluation.trained.load` takes.
        folder: where to; it must be new or empty.
        onnx: write ``model.onnx`` too.
        overwrite: replace an exported model that is there.
        device: to measure the perplexities on.
        data: where the data that it was trained on lies now: ``ptb``, ``synthetic`` or a folder;
            by default where its config says, without which nothing is measured.
        data_dir: the data folder; by default ``$PTB_LM_DATA_DIR``, else ``./data``. Nothing is
            fetched.
        stop: checked while the data is read, and before each window that is scored.

    Raises:
        TypeError: a path is of the wrong type.
        InputError: there is no such model or device, it is damaged, ``data`` is not what it was
            trained on, there is something else in the folder, or a library is missing.
        PtbLmError: memory does not suffice, or the folder could not be written.
        Stopped: a signal came; nothing has been written.
    """
    path = require_path(path, "path", "name the model by its path, as for load()")
    folder = require_path(folder, "folder")
    name_of_data = None if data is None else path_name(require_path(data, "data"))
    directory = data_directory(None if data_dir is None else require_path(data_dir, "data_dir"))
    chosen = choose_device(device)
    _require_place(folder, overwrite=overwrite)
    if name_of_data is not None:
        require_corpus(name_of_data)
    name, checkpoint = read_model(path)
    with memory_errors_explained(checkpoint.config, "nothing was written"):
        files = exported_files(checkpoint)
        if onnx:
            files[ONNX] = _onnx_bytes(checkpoint)
    model = trained_model(name, checkpoint, chosen)
    measured = _measured(model, name_of_data, directory, stop)
    stop.check()
    files[README] = exported_readme(checkpoint, measured, chosen.type, onnx=onnx).encode()
    with place_held(folder, stop):
        _require_place(folder, overwrite=overwrite)  # as another may have been quicker
        _write(files, folder, replace=overwrite)
    return Export([folder / name for name in files], measured)


def _require_place(folder: Path, *, overwrite: bool) -> None:
    """Raise InputError if there is something that the call would put out of sight."""
    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):  # noqa: PTH112 - Path's raises of a name that is too long
        raise InputError(f"{folder}: not a folder; name a folder for the model")
    if current_folder_is_in(folder):
        raise InputError(f"{folder}: the current folder is in it; name a folder of its own")
    there = {entry.name for entry in folder.iterdir()}
    if not there:
        return
    foreign = sorted(there - {WEIGHTS, CONFIG, VOCABULARY, ONNX, README})
    if foreign or not is_exported(folder):
        raise InputError(
            f"{folder}: not empty, and more or other than an exported model: "
            f"{(foreign or sorted(there))[0]} is in it; name another folder"
        )
    if not overwrite:
        raise InputError(
            f"{folder}: a model is there already; use --overwrite to replace it, or name another "
            "folder"
        )


def _onnx_bytes(checkpoint: Checkpoint) -> bytes:
    try:
        from ptb_lm.model.onnx_graph import onnx_model
    except ImportError:
        raise InputError("--onnx: needs onnx: pip install 'ptb-lm[onnx]'") from None
    return bytes(onnx_model(checkpoint.config.model, checkpoint.weights).SerializeToString())


def _measured(
    model: TrainedModel, data: str | None, data_dir: Path, stop: StopFlag
) -> list[Scores]:
    """Score valid and test under the paper's protocols, where they are here.

    Args:
        model: to score with.
        data: where its data lies, if that was said; None: where its config says.
        data_dir: the data folder.
        stop: checked while the data is read, and before each window.

    Raises:
        InputError: what was said is not the data that it was trained on.
        Stopped: a signal came.
    """
    if data is not None:
        model = model.with_data(data)
    try:
        corpus = _corpus_here(model, data_dir, stop)
    except PtbLmError as error:
        if data is not None:
            raise
        logger.warning("not measured: %s", error)
        return []
    scores = []
    for split in SCORED_SPLITS:
        if split not in corpus.splits:  # a folder need not have a test text
            continue
        tokens = corpus.splits[split]
        text = scored_text(
            corpus.vocabulary,
            tokens,
            split=split,
            protocol=PAPER_PROTOCOL[split],
            batch_size=model.config.training.batch_size,
        )
        with model.at_work() as network:
            scores.append(score_text(network, tokens, text, model.name, stop))
    return scores


def _corpus_here(model: TrainedModel, data_dir: Path, stop: StopFlag) -> Corpus:
    """Do as :func:`~ptb_lm.evaluation.texts.corpus_of`, but fetch nothing."""
    if model.config.run.data == "ptb" and not is_installed(data_dir):
        raise InputError(
            f"{model.name}: the Penn Treebank, which it was trained on, is not in {data_dir}; "
            "`ptb-lm data fetch` gets it"
        )
    return corpus_of(model, data_dir, stop)


def _write(files: Mapping[str, bytes], folder: Path, *, replace: bool) -> None:
    with durable_folder(folder, replace=replace) as temporary:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        try:
            load_exported(temporary)
        except InputError as error:
            raise PtbLmError(
                f"{folder}: cannot be written: its bytes do not come back as they were written"
                f"{still_stands(folder)}; check the disk"
            ) from error
