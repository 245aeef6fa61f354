"""A run opened in each of the processes that share its training."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ptb_lm.config import Config
from ptb_lm.corpus.load import load_corpus
from ptb_lm.errors import InputError
from ptb_lm.model.backends import configure_backends
from ptb_lm.model.memory import memory_errors_explained
from ptb_lm.model.state import HiddenState
from ptb_lm.stop import NEVER, StopFlag, Stopped
from ptb_lm.training.averaging import AveragerState
from ptb_lm.training.environment import choose_device
from ptb_lm.training.open_run import new_run, open_run
from ptb_lm.training.optim import OptimizerState
from ptb_lm.training.run import Run
from ptb_lm.training.run_folder import RunFolder
from ptb_lm.training.state import TrainingState
from ptb_lm.training.world import World


@dataclass(frozen=True)
class _Opened:
    """What the first process tells the others of the run that it has opened."""

    config: Config
    corpus_sha256: str
    state: TrainingState
    optimizer: OptimizerState
    averager: AveragerState
    saved_step: int | None


@contextmanager
def open_shared_run(
    config: Config,
    data_dir: Path,
    path: Path,
    world: World,
    stop: StopFlag = NEVER,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> Iterator[Run]:
    """Do what :func:`~ptb_lm.training.open_run.open_run` does, in each of several processes.

    The first one alone reads and writes the run folder; the others have their weights and state
    from it, and need nothing but the corpus.

    Raises:
        InputError, PtbLmError, Stopped: as there; in a process other than the first also where its
            corpus is not the first one's.
        SystemExit: in the others, where the first one fails.
    """
    with ExitStack() as stack:
        own: list[Run] = []

        def open_first() -> _Opened:
            world.share(config.training.batch_size)
            opening = open_run(config, data_dir, path, stop, resume=resume, overwrite=overwrite)
            own.append(run := stack.enter_context(opening))
            state = replace(run.state, hidden=_moved(run.state.hidden, torch.device("cpu")))
            return _Opened(
                run.config,
                run.corpus.sha256,
                state,
                run.resumed_optimizer,
                run.averager.state,
                run.saved_step,
            )

        opened = world.broadcast_result(open_first)
        if not own:
            assurance = f"the checkpoints in {path} are as they were"
            stack.enter_context(memory_errors_explained(opened.config, assurance))
            with suppress(Stopped):  # of which all hear at once
                own.append(_joined(opened, data_dir, RunFolder(path), stop))
        if world.size > 1:  # alone, a signal of now is heard when there is a step to save
            world.shared(stop).check()
        (run,) = own
        _take_share(run, world)
        yield run


def _joined(opened: _Opened, data_dir: Path, folder: RunFolder, stop: StopFlag) -> Run:
    """Build in another process the run that the first one has opened, but for its weights."""
    options = opened.config.run
    device = choose_device(options.device)
    configure_backends(options.precision, deterministic=options.deterministic)
    corpus = load_corpus(options.data, data_dir, stop)
    if corpus.sha256 != opened.corpus_sha256:
        raise InputError(
            f"--data {options.data}: the texts here are not those of the first process; bring the "
            "same files to each machine"
        )
    run = new_run(opened.config, corpus, folder, device)
    run.state = replace(opened.state, hidden=_moved(opened.state.hidden, device))
    run.resumed_optimizer, run.saved_step = opened.optimizer, opened.saved_step
    run.averager.state = opened.averager
    return run


def _take_share(run: Run, world: World) -> None:
    """Keep this process's streams of a run, and begin with the first one's weights and masks."""
    run.world = world
    share = run.share
    run.columns = share.of(run.columns, dim=1)  # a view: a text is not to be in memory twice
    run.state.hidden = [
        tuple(share.of(part, dim=0).contiguous() for part in layer) for layer in run.state.hidden
    ]
    run.network.take_share(share)
    world.broadcast_(weight.detach() for weight in run.network.parameters())
    # The same numbers are drawn everywhere, for all streams: the masks do not depend on how many
    # processes there are.
    on_gpu = run.columns.device.type == "cuda"
    generator = torch.cuda if on_gpu else torch
    generator.set_rng_state(world.broadcast_result(generator.get_rng_state))


def _moved(hidden: HiddenState, device: torch.device) -> HiddenState:
    return [tuple(part.to(device) for part in layer) for layer in hidden]
