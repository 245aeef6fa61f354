"""The processes that share a training under ``torchrun``, and all that they say to one another.

The B streams are independent of each other: each process has some of them, and what they have in
common, the sum of their gradients, is made before the clip. So any number of processes computes
what one does, but for the order in which numbers are added.

Shapes: B streams, H hidden units, N words of the windows of one process.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.model.memory import is_out_of_memory
from ptb_lm.model.share import Share
from ptb_lm.model.state import HiddenState
from ptb_lm.stop import NEVER, SIGNALS, StopFlag, Stopped
from ptb_lm.training.rendezvous import LONGEST_WAIT, Place, met_in_store, place_from
from ptb_lm.training.signal_watch import SignalWatch

T = TypeVar("T")


class World:
    """The processes of a training: here a single one, which waits for nobody.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that reads and writes the run folder."""
        return self.rank == 0

    def share(self, streams: int) -> Share:
        """Return which of B streams this process has; the first ones have one more.

        Raises:
            InputError: there are more processes than streams.
        """
        if streams < self.size:
            raise InputError(
                f"{self.size} processes for {streams} streams: training.batch_size must be at "
                "least the number of processes"
            )
        each, longer = divmod(streams, self.size)
        first = self.rank * each + min(self.rank, longer)
        return Share(first, first + each + (self.rank < longer), streams)

    def broadcast_result(self, make: Callable[[], T]) -> T:
        """Return to every process what the first one makes.

        Raises:
            SystemExit: in the others, with its exit code, where it fails; it says why itself.
        """
        return make()

    def broadcast_flag(self, answer: bool) -> bool:
        """Return the first process's answer to every process."""
        return answer

    def all_reduce_gradients_(self, parameters: Iterable[nn.Parameter]) -> None:
        """Put the sum of all processes' gradients in the place of each, the same bits in all."""

    def all_reduce_(self, values: Tensor) -> None:
        """Put the sum of all processes' values in the place of each."""

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """Put the first process's values in the place of the others'."""

    def gather_streams(self, hidden: HiddenState) -> HiddenState:
        """Join the states of all processes' streams: (B, H) each."""
        return hidden

    def shared(self, stop: StopFlag) -> StopFlag:
        """Return a flag that is up where that of any process is; all check it at once."""
        return stop

    def barrier(self) -> None:
        """Go on when every process has come here."""


SINGLE_PROCESS = World()


class TorchrunWorld(World):
    """Several processes, connected by :mod:`torch.distributed`.

    Args:
        watch: ends this process by a signal that comes while it waits in vain for the others.
    """

    def __init__(self, watch: SignalWatch) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._watch = watch

    def broadcast_result(self, make: Callable[[], T]) -> T:
        """See :meth:`World.broadcast_result`."""
        if not self.is_first:
            made = self._broadcast_object(None)
            if isinstance(made, _Failure):
                raise SystemExit(made.exit_code)
            return cast(T, made)
        try:
            value = make()
        except BaseException as error:
            with suppress(PtbLmError):  # where they have gone as well, this stays the cause
                self._broadcast_object(_Failure(getattr(error, "exit_code", 1)))
            raise
        self._broadcast_object(value)
        return value

    def _broadcast_object(self, value: Any) -> Any:
        box = [value]
        with _connected(self.rank, self._watch):
            dist.broadcast_object_list(box, src=0)
        return box[0]

    def broadcast_flag(self, answer: bool) -> bool:
        """See :meth:`World.broadcast_flag`."""
        said = torch.tensor(float(answer and self.is_first))
        self.all_reduce_(said)
        return bool(said)

    def all_reduce_gradients_(self, parameters: Iterable[nn.Parameter]) -> None:
        """See :meth:`World.all_reduce_gradients_`."""
        with _connected(self.rank, self._watch):
            under_way = []
            for parameter in parameters:
                gradient = cast(Tensor, parameter.grad)
                if gradient.is_sparse:
                    parameter.grad = self._all_rows(gradient)
                else:
                    under_way.append(dist.all_reduce(gradient, async_op=True))
            for work in under_way:
                work.wait()

    def _all_rows(self, gradient: Tensor) -> Tensor:
        """Return a sparse gradient with the rows of all processes, by rank: of V words each.

        It is as small as the windows are, where the dense one has V rows.
        """
        (words,), rows = gradient._indices(), gradient._values()  # (N,), (N, H)
        most = torch.tensor(len(words), device=rows.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        missing = int(most) - len(words)
        # Of fewer streams there are fewer rows: zeros for the word 0 make up for them.
        words = torch.cat([words, words.new_zeros(missing)])
        rows = torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])
        all_words, all_rows = _gathered(words, self.size), _gathered(rows, self.size)
        return torch.sparse_coo_tensor(
            torch.cat(all_words)[None], torch.cat(all_rows), gradient.shape, check_invariants=False
        )

    def all_reduce_(self, values: Tensor) -> None:
        """See :meth:`World.all_reduce_`."""
        with _connected(self.rank, self._watch):
            dist.all_reduce(values)

    def broadcast_(self, tensors: Iterable[Tensor]) -> None:
        """See :meth:`World.broadcast_`."""
        with _connected(self.rank, self._watch):
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather_streams(self, hidden: HiddenState) -> HiddenState:
        """See :meth:`World.gather_streams`."""
        with _connected(self.rank, self._watch):
            shares: list[Any] = [None] * self.size
            local = [tuple(part.cpu() for part in layer) for layer in hidden]
            dist.all_gather_object(shares, local)
        return [
            tuple(torch.cat(parts) for parts in zip(*layers, strict=True))
            for layers in zip(*shares, strict=True)
        ]

    def shared(self, stop: StopFlag) -> StopFlag:
        """See :meth:`World.shared`."""
        return _SharedStopFlag(stop, self)

    def barrier(self) -> None:
        """See :meth:`World.barrier`."""
        with _connected(self.rank, self._watch):
            dist.barrier()


class _Failure:
    """What the first process sends in the place of a value that it could not make."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


class _SharedStopFlag(StopFlag):
    """A flag for work in which every process does as many steps as any other."""

    def __init__(self, own: StopFlag, world: World) -> None:
        super().__init__()
        self._own, self._world = own, world

    def check(self) -> None:
        """Raise Stopped in every process if a signal has come to any."""
        raised = torch.tensor([float(self._own.signal_number == each) for each in SIGNALS])
        self._world.all_reduce_(raised)
        for number, count in zip(SIGNALS, raised.tolist(), strict=True):
            if count:
                raise Stopped(number)


def _gathered(tensor: Tensor, size: int) -> list[Tensor]:
    """Return the tensor of each process, all of one shape."""
    tensors = [torch.empty_like(tensor) for _ in range(size)]
    dist.all_gather(tensors, tensor.contiguous())
    return tensors


@contextmanager
def _connected(rank: int, watch: SignalWatch) -> Iterator[None]:
    """Wait for the other processes, and turn the loss of one into one line.

    Raises:
        PtbLmError: in place of the error of PyTorch.
    """
    try:
        with watch.waiting():
            yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise PtbLmError(
            f"process {rank} has lost the others: {_first_line(error)}; start the training again "
            "with --resume"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


@contextmanager
def joined_world(
    device: str, environment: Mapping[str, str] = os.environ, *, stop: StopFlag = NEVER
) -> Iterator[World]:
    """Join the other processes, where ``torchrun`` has started several, and leave them at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``: whether they talk by NCCL or by Gloo.
        environment: where ``torchrun`` says who is there.
        stop: ends the wait for the others.

    Raises:
        InputError: what ``torchrun`` says is not all there or makes no sense, or the GPUs are too
            few.
        PtbLmError: they do not find each other.
        Stopped: a signal came while they were waited for.
    """
    place = place_from(environment)
    if place is None:
        yield SINGLE_PROCESS
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _take_gpu(place.local_rank)
    watch = SignalWatch(place.notice(place.size - 1))
    with watch.watching():
        with _connected(place.rank, watch), stop.while_waiting():
            _join(place, on_gpu, watch)
            watch.notice = ""
        world = TorchrunWorld(watch)
        if not world.is_first:
            logging.getLogger("ptb_lm").setLevel(logging.WARNING)  # of progress one tells
        try:
            yield world
        except Stopped as stopped:
            if world.is_first:
                raise
            raise SystemExit(stopped.exit_code) from None
        finally:
            dist.destroy_process_group()


def _join(place: Place, on_gpu: bool, watch: SignalWatch) -> None:
    """Connect this process with the others."""
    # Gloo beside NCCL, as some of what is said is on the CPU.
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    if place.agent_hosts:
        dist.init_process_group(backend, timeout=LONGEST_WAIT)
        return
    store = met_in_store(place, watch)
    dist.init_process_group(
        backend, store=store, rank=place.rank, world_size=place.size, timeout=LONGEST_WAIT
    )


def _take_gpu(local_rank: int) -> None:
    """Have ``cuda`` be this process's own GPU.

    Raises:
        InputError: the machine has fewer GPUs than processes.
    """
    if local_rank >= torch.cuda.device_count():
        raise InputError(
            f"process {local_rank} of this machine has no GPU of its own: start at most "
            f"{torch.cuda.device_count()} (--nproc-per-node), or train with --device cpu"
        )
    torch.cuda.set_device(local_rank)
