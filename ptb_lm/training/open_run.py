"""A run opened in its folder: begun, or taken up where its last checkpoint stands."""

import logging
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import torch

from ptb_lm.config import Config
from ptb_lm.corpus.batching import require_columns, training_columns, windows_per_epoch
from ptb_lm.corpus.load import Corpus, load_corpus
from ptb_lm.errors import InputError
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.model.network import LanguageModel, parameter_count
from ptb_lm.stop import NEVER, StopFlag
from ptb_lm.training.averaging import Averager
from ptb_lm.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    require_finite_weights,
    restore_random_states,
)
from ptb_lm.training.environment import choose_device, describe_environment, settled
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.tensor_file import DamagedFileError

logger = logging.getLogger(__name__)


@contextmanager
def open_run(
    config: Config,
    data_dir: Path,
    path: Path,
    stop: StopFlag = NEVER,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[Run]:
    """Begin a run in a folder, or go on with the one that is there, and hold the folder.

    With ``resume`` a folder without a checkpoint begins anew: a job that was stopped before its
    first checkpoint is taken up by the same command as any other. The data of a run that goes on
    may lie elsewhere than before; the config in the folder then says where.

    Raises:
        InputError: the folder, the data, the device or the resumed run does not fit the call, or
            another training is at work in the folder. Nothing has been written then.
        PtbLmError: the data could not be fetched, the folder not be written, or memory or disk
            space do not suffice.
        Stopped: a signal came while the data was fetched.
    """
    folder = RunFolder(path)
    folder.require_usable(resume=resume, overwrite=overwrite)  # known before the corpus is read
    device, config = choose_device(config.run.device), settled(config)
    with memory_errors_explained(config, f"the checkpoints in {path} are as they were"):
        configure_backends(config.run.precision, deterministic=config.run.deterministic)
        corpus = load_corpus(config.run.data, data_dir, stop)
        run = new_run(config, corpus, folder, device)
        if not (resume and folder.resumable):
            folder.require_space(_checkpoint_bytes(run))
        with folder.claimed():
            # Again, as another training may have been quicker.
            folder.require_usable(resume=resume, overwrite=overwrite)
            if resume and folder.resumable:
                environments = folder.read_environments()
                made = _take_up(run, stop)
                if run.finished:  # it stays recorded how it was made; its data may lie elsewhere
                    config = made.with_options(data=config.run.data)
            else:
                if resume:
                    logger.info("%s: no checkpoint in it to go on from; a new run begins.", path)
                environments = []
                folder.clear()
            folder.write_config(config)
            if not run.finished:
                folder.forget_scores()
                here = {
                    "from_step": run.step,
                    "steps_per_epoch": run.windows,
                    "precision": config.run.precision,
                    **describe_environment(device),
                }
                folder.write_environments([*environments, here])
                logger.info("%s", _headline(run, device))
            yield run


def new_run(config: Config, corpus: Corpus, folder: RunFolder, device: torch.device) -> Run:
    """Build a run at its beginning; nothing is written."""
    training = config.training
    columns = training_columns(
        corpus.splits["train"],
        training.batch_size,
        training.unrolled_steps,
        f"{corpus.place('train')}: the training text",
    )
    require_columns(
        len(corpus.splits["valid"]),
        training.batch_size,
        f"{corpus.place('valid')}: the validation text",
        "lower training.batch_size, or give more text",
    )
    torch.manual_seed(config.run.seed)
    # Drawn on the CPU, so that a seed gives the same weights on every device.
    network = LanguageModel(config.model, len(corpus.vocabulary), config.run.precision)
    return Run(
        config=config,
        corpus=corpus,
        folder=folder,
        network=network.to(device),
        columns=columns.to(device),
        windows=windows_per_epoch(columns, training.unrolled_steps),
        averager=Averager(config.averaging),
    )


def _checkpoint_bytes(run: Run) -> int:
    """Return about how large ``last.pt`` will be: mostly weights."""
    state = run.network.zero_state(run.config.training.batch_size)
    hidden = sum(part.numel() for layer in state for part in layer)
    words = sum(len(word.encode()) + 20 for word in run.corpus.vocabulary.words)
    return 4 * (parameter_count(run.network) + hidden) + words + 100_000


def _take_up(run: Run, stop: StopFlag) -> Config:
    """Put a run where its last checkpoint stood, or the one before it where that is damaged.

    Returns:
        the config of that checkpoint.
    """
    folder = run.folder
    checkpoint, where, damage = _load_good_checkpoint(folder)
    _require_same_run(run, checkpoint, where)
    require_finite_weights(checkpoint.weights, where)
    state = checkpoint.state
    if state is None:
        raise InputError(f"{where}: holds weights only, nothing to resume from")
    if state.windows_done > run.windows:
        raise DamagedFileError(where, "damaged: it stands beyond the end of an epoch")
    if state.epochs_done < run.config.training.epochs:
        folder.require_space(_checkpoint_bytes(run))
    # Only here is the call accepted; all that may refuse it stands above.
    folder.tidy()
    if damage is not None:
        logger.warning("%s; going on from %s, the one before it", damage, where)
        folder.restore_previous()
    run.network.load_weights(checkpoint.raw_weights or checkpoint.weights)
    run.averager.state = checkpoint.averager
    checkpoint.averager.average = {
        name: weight.to(run.network.device, copy=True)
        for name, weight in checkpoint.averager.average.items()
    }
    # A copy, as the tensors of a checkpoint are views of its file.
    like = run.network.zero_state(1)[0][0]
    state.hidden = [tuple(part.to(like, copy=True) for part in layer) for layer in state.hidden]
    run.state, run.resumed_optimizer = state, checkpoint.optimizer
    run.saved_step = run.step
    restore_random_states(checkpoint.random_states)
    with stop.while_waiting():  # metrics may have any length
        folder.forget_metrics_after(run.step, state.epochs_done)
    if not run.finished:
        logger.info("Resuming %s after step %s.", folder.path, f"{run.step:,}")
    return checkpoint.config


def _load_good_checkpoint(folder: RunFolder) -> tuple[Checkpoint, Path, InputError | None]:
    """Load the last checkpoint, or the one before it where that is damaged or gone.

    Returns:
        it, its file, and what is wrong with the last where this is the one before.
    """
    try:
        return load_checkpoint(folder.last), folder.last, None
    except InputError as error:
        damaged = isinstance(error, DamagedFileError) or not folder.last.exists()
        if not (damaged and folder.previous.exists()):
            raise
        try:
            checkpoint = load_checkpoint(folder.previous)
        except DamagedFileError:
            raise InputError(
                f"{error}; {folder.previous.name} beside it is damaged too; bring back a copy of "
                "either, or begin anew with --overwrite"
            ) from None
        return checkpoint, folder.previous, error


def _require_same_run(run: Run, checkpoint: Checkpoint, where: Path) -> None:
    """Raise InputError if a checkpoint was made with another recipe or on another text."""
    same_texts = checkpoint.corpus_sha256 == run.corpus.sha256
    # The same texts may lie elsewhere by now, or be named by another path.
    free = FREE_ON_RESUMPTION | ({("run", "data")} if same_texts else set())
    differences = _differences(checkpoint.config, run.config, free)
    if differences:
        raise InputError(
            f"{where}: the run there was made otherwise: {'; '.join(differences)}; "
            "resume it with its own config.toml, or begin a new run in another --run-dir"
        )
    data = f"--data {run.config.run.data}"
    otherwise = "bring the old texts back, or begin a new run in another --run-dir"
    if checkpoint.vocabulary.sha256 != run.corpus.vocabulary.sha256:
        differs = checkpoint.vocabulary.differs_from(run.corpus.vocabulary, data)
        raise InputError(f"{where}: {differs}; {otherwise}")
    if not same_texts:
        raise InputError(f"{where}: the texts of {data} have changed since; {otherwise}")


FREE_ON_RESUMPTION = {
    ("run", "config"),
    ("run", "device"),
    ("run", "log_steps"),
    ("run", "checkpoint_minutes"),
}
"""Keys that a resumed run may change, as its figures do not depend on them.

So may ``run.data``, where the texts there are the same."""


def _differences(made: Config, asked: Config, free: Set[tuple[str, str]]) -> list[str]:
    """List what is another recipe; more epochs are not, as they only go on with this one.

    Args:
        made: the config of the checkpoint.
        asked: that of the call.
        free: keys that may differ.
    """
    before, now = made.model_dump(), asked.model_dump()
    differences = []
    for section, values in before.items():
        # The keys of another kind are others.
        is_same_kind = values.get("kind") == now[section].get("kind")
        for key in values if is_same_kind else ["kind"]:
            value, wanted = values[key], now[section][key]
            longer = (section, key) == ("training", "epochs") and wanted > value
            if wanted != value and not longer and (section, key) not in free:
                differences.append(f"{section}.{key} was {value!r}, asked for {wanted!r}")
    return differences


def _headline(run: Run, device: torch.device) -> str:
    options, training = run.config.run, run.config.training
    return (
        f"{options.config} on {options.data}, seed {options.seed}, {device}, {options.precision}: "
        f"{parameter_count(run.network):,} parameters, {len(run.corpus.vocabulary):,} words, "
        f"{len(run.corpus.splits['train']):,} training tokens, "
        f"{training.epochs} epochs of {run.windows:,} steps, in {run.folder.path}"
    )
