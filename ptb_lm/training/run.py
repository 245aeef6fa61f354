"""A run: made new or taken up again, and saved."""

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ptb_lm.config import Config
from ptb_lm.corpus.batching import require_columns, training_columns, windows_per_epoch
from ptb_lm.corpus.load import Corpus, load_corpus
from ptb_lm.errors import InputError
from ptb_lm.model.network import LanguageModel, parameter_count
from ptb_lm.training.checkpoint import (
    Checkpoint,
    load_checkpoint,
    random_states,
    restore_random_states,
    save_checkpoint,
)
from ptb_lm.training.environment import choose_device, describe_environment, set_precision
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.state import TrainingState

logger = logging.getLogger(__name__)


@dataclass
class Run:
    """All that a training works on.

    Attributes:
        columns: the training text as int64 (N // B, B) on the device.
        windows: windows, and so steps, of an epoch.
    """

    config: Config
    corpus: Corpus
    folder: RunFolder
    network: LanguageModel
    columns: Tensor
    windows: int
    state: TrainingState

    @property
    def step(self) -> int:
        """Steps done since the run began."""
        return self.state.epochs_done * self.windows + self.state.windows_done

    @property
    def finished(self) -> bool:
        """Whether every epoch is trained and validated."""
        return self.state.epochs_done >= self.config.training.epochs

    def save(self) -> None:
        """Write ``last.pt``: this moment, complete."""
        checkpoint = self._checkpoint()
        checkpoint.state = self.state
        checkpoint.random_states = random_states()
        save_checkpoint(checkpoint, self.folder.last)

    def save_best(self) -> None:
        """Write ``best.pt``: the weights alone."""
        save_checkpoint(self._checkpoint(), self.folder.best)

    def _checkpoint(self) -> Checkpoint:
        return Checkpoint(
            config=self.config,
            vocabulary=self.corpus.vocabulary,
            corpus_sha256=self.corpus.sha256,
            weights=self.network.state_dict(),
            epoch=self.state.epochs_done,
            valid_perplexity=self.state.last_valid_perplexity,
        )


def open_run(
    config: Config, data_dir: Path, path: Path, *, resume: bool = False, overwrite: bool = False
) -> Run:
    """Begin a run in a folder, or go on with the one that is there.

    With ``resume`` a folder without a checkpoint begins anew: a job that was stopped before its
    first checkpoint is taken up by the same command as any other.

    Raises:
        InputError: the folder, the data, the device or the resumed run does not fit the call.
            Nothing has been written then.
        PtbLmError: the data could not be fetched, or the folder not be written.
    """
    folder = RunFolder(path)
    take_up = resume and folder.last.exists()
    if not take_up:
        folder.require_unused(overwrite or resume)
        if resume:
            folder.require_no_results()
    device = choose_device(config.run.device)
    set_precision(config.run.precision)
    corpus = load_corpus(config.run.data, data_dir)
    training = config.training
    columns = training_columns(corpus.splits["train"], training.batch_size, training.unrolled_steps)
    require_columns(len(corpus.splits["valid"]), training.batch_size)

    torch.manual_seed(config.run.seed)
    # Drawn on the CPU, so that a seed gives the same weights on every device.
    network = LanguageModel(config.model, len(corpus.vocabulary))
    run = Run(
        config=config,
        corpus=corpus,
        folder=folder,
        network=network.to(device),
        columns=columns.to(device),
        windows=windows_per_epoch(columns, training.unrolled_steps),
        state=TrainingState(),
    )
    if take_up:
        _take_up(run, load_checkpoint(folder.last))
    else:
        folder.create()
    folder.write_config(config)
    if not run.finished:
        folder.write_environment(describe_environment(device), run.step)
        logger.info("%s", _headline(run, device))
    return run


def _take_up(run: Run, checkpoint: Checkpoint) -> None:
    """Put a run where a checkpoint stood."""
    where = run.folder.last
    differences = _differences(checkpoint.config, run.config)
    if differences:
        raise InputError(
            f"{where}: the run there was made otherwise: {'; '.join(differences)}; "
            "resume it with its own config.toml, or begin a new run in another --run-dir"
        )
    if checkpoint.vocabulary.sha256 != run.corpus.vocabulary.sha256:
        raise InputError(
            f"{where}: its vocabulary ({len(checkpoint.vocabulary):,} words) is not that of "
            f"--data {run.config.run.data} ({len(run.corpus.vocabulary):,} words)"
        )
    if checkpoint.corpus_sha256 != run.corpus.sha256:
        raise InputError(
            f"{where}: the texts of --data {run.config.run.data} have changed since; bring them "
            "back, or begin a new run in another --run-dir"
        )
    if checkpoint.state is None:
        raise InputError(f"{where}: holds weights only, nothing to resume from")
    run.network.load_state_dict(checkpoint.weights)
    run.state = checkpoint.state
    device = run.columns.device
    run.state.hidden = [(h.to(device), c.to(device)) for h, c in run.state.hidden]
    restore_random_states(checkpoint.random_states)
    run.folder.forget_metrics_after(run.step)
    logger.info("Resuming %s after step %s.", run.folder.path, f"{run.step:,}")


def _differences(made: Config, asked: Config) -> list[str]:
    """List what is another recipe; more epochs, another device or log interval are not."""
    free = {("training", "epochs"), ("run", "config"), ("run", "device"), ("run", "log_steps")}
    before, now = made.model_dump(), asked.model_dump()
    return [
        f"{section}.{key} was {value!r}, asked for {now[section][key]!r}"
        for section, values in before.items()
        for key, value in values.items()
        if (section, key) not in free and value != now[section][key]
    ]


def _headline(run: Run, device: torch.device) -> str:
    options, training = run.config.run, run.config.training
    return (
        f"{options.config} on {options.data}, seed {options.seed}, {device}, {options.precision}: "
        f"{parameter_count(run.network):,} parameters, {len(run.corpus.vocabulary):,} words, "
        f"{len(run.corpus.splits['train']):,} training tokens, "
        f"{training.epochs} epochs of {run.windows:,} steps, in {run.folder.path}"
    )
