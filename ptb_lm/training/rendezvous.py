"""How the processes of a training find each other: what the environment says, and the first wait.

Without ``torchrun``, process 0 hosts a store that the others connect to. PyTorch would wait for
them in native code; here the wait is a loop, so that it can say for whom it waits.
"""

import errno
import os
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.training.signal_watch import SignalWatch

TOLD_BY_TORCHRUN = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

LONGEST_WAIT = timedelta(minutes=30)
"""Time limit of each wait. Others may wait while one validates, saves or downloads the corpus."""

RESOLVE_SECONDS = 3.0
"""How long a host name may be unknown, as that of a container that is only just starting."""

_Address = tuple[socket.AddressFamily, tuple[Any, ...]]
_POLL_SECONDS = 0.1
_CONNECT_SECONDS = 2.0
_KEY = "ptb-lm"
_AGENT_HOSTS = "TORCHELASTIC_USE_AGENT_STORE"  # between torchrun and PyTorch; users do not set it


@dataclass(frozen=True)
class Place:
    """The place of this process among the others, as the environment has it.

    Attributes:
        rank: the number of this process, from 0.
        size: how many processes there are.
        local_rank: the number of this process on its machine, from 0.
        host, port: where process 0 listens.
        agent_hosts: whether ``torchrun`` itself listens there.
    """

    rank: int
    size: int
    local_rank: int
    host: str
    port: int
    agent_hosts: bool

    @property
    def address(self) -> str:
        """Host and port, for a message."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def notice(self, missing: int) -> str:
        """Return the line that says how many other processes this one waits for."""
        others = self.size - 1
        plural = "process" if others == 1 else "processes"
        awaited = f"{missing} of {others}" if missing < others else f"{others}"
        return (
            f"process {self.rank} waits for {awaited} other {plural} at {self.address} "
            f"(MASTER_ADDR, MASTER_PORT); start {'it' if missing == 1 else 'them'}, or unset "
            "WORLD_SIZE to train in one process; Ctrl-C ends the wait"
        )


def place_from(environment: Mapping[str, str]) -> Place | None:
    """Return what the environment says; None: this process trains alone.

    Raises:
        InputError: a variable is missing or has no meaning; the message names it.
    """
    size = _whole_number("WORLD_SIZE", environment.get("WORLD_SIZE", "1"), 1)
    if size == 1:
        return None
    missing = [name for name in TOLD_BY_TORCHRUN if name not in environment]
    if missing:
        raise InputError(
            f"WORLD_SIZE is {environment['WORLD_SIZE']}, but {', '.join(missing)} not set; start "
            "the training with `torchrun -m ptb_lm train …`, or unset WORLD_SIZE"
        )
    below = f"less than WORLD_SIZE = {size}"
    rank = _whole_number("RANK", environment["RANK"], 0, size - 1, below)
    local_rank = _whole_number("LOCAL_RANK", environment["LOCAL_RANK"], 0, size - 1, below)
    port = _whole_number("MASTER_PORT", environment["MASTER_PORT"], 1, 65535, "at most 65535")
    host = environment["MASTER_ADDR"].strip()
    if not host:
        raise InputError("MASTER_ADDR is empty: expected the name or address of process 0's host")
    agent_hosts = environment.get(_AGENT_HOSTS) == "True"
    return Place(rank, size, local_rank, host, port, agent_hosts)


def _whole_number(
    name: str, value: str, least: int, most: int | None = None, limit: str = ""
) -> int:
    text = value.strip()
    is_number = text.isascii() and text.isdecimal() and len(text) < 10
    if not is_number or int(text) < least or (most is not None and int(text) > most):
        raise InputError(
            f"{name}={value}: expected a whole number, {least} or more"
            f"{f' and {limit}' if limit else ''}; start the training with "
            "`torchrun -m ptb_lm train …`, or unset WORLD_SIZE to train in one process"
        )
    return int(text)


def met_in_store(place: Place, watch: SignalWatch) -> Any:
    """Return a ``torch.distributed.Store`` in which all processes have met.

    Raises:
        InputError: the host is unknown, or another process has this rank.
        PtbLmError: the port is in use, or the others have not come in time.
        RuntimeError: PyTorch's; the connection broke.
        Stopped: a signal came while the process was in Python code.
    """
    give_up_at = time.monotonic() + LONGEST_WAIT.total_seconds()
    addresses = _resolved(place)
    if place.rank == 0:
        _require_free_port(place, addresses)
    else:
        _wait_for_listener(place, give_up_at)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        place.host,
        place.port,
        place.size,
        is_master=place.rank == 0,
        timeout=LONGEST_WAIT,
        wait_for_workers=False,
    )
    if store.add(f"{_KEY}/rank-{place.rank}", 1) > 1:
        raise InputError(
            f"RANK={place.rank}: another process with this rank has joined at {place.address}; "
            "give each process its own, and start all of them again"
        )
    here = store.add(f"{_KEY}/here", 1)
    while here < place.size:
        watch.notice = place.notice(place.size - here)
        _pause(place, give_up_at)
        here = store.add(f"{_KEY}/here", 0)
    return store


def _resolved(place: Place) -> list[_Address]:
    """Return the addresses of process 0's host."""
    give_up_at = time.monotonic() + RESOLVE_SECONDS
    while True:
        try:
            found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            return [(family, address) for family, _, _, _, address in found]
        except (OSError, UnicodeError) as error:
            if isinstance(error, UnicodeError) or time.monotonic() > give_up_at:
                reason = getattr(error, "strerror", None) or "not a host name"
                raise InputError(
                    f"MASTER_ADDR={place.host}: {reason}; expected the name or address of the "
                    "machine of process 0"
                ) from None
        time.sleep(_POLL_SECONDS)


def _require_free_port(place: Place, addresses: list[_Address]) -> None:
    """Raise PtbLmError if this process cannot listen on its port."""
    everywhere: _Address = (socket.AF_INET, ("", place.port))
    for family, address in [everywhere, *addresses]:
        with closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PtbLmError(
                        f"port {place.port} on this machine is in use by another program; set "
                        "MASTER_PORT (or torchrun --master-port) to a free one, the same for all "
                        "processes"
                    ) from None
                if error.errno == errno.EACCES:
                    raise PtbLmError(
                        f"port {place.port} on this machine: {os.strerror(errno.EACCES)}; set "
                        "MASTER_PORT (or torchrun --master-port) to one above 1023"
                    ) from None
                # The host may have another address within a container than outside.


def _wait_for_listener(place: Place, give_up_at: float) -> None:
    """Wait until something listens where process 0 is to be."""
    while True:
        try:
            socket.create_connection((place.host, place.port), _CONNECT_SECONDS).close()
            return
        except OSError:
            _pause(place, give_up_at)


def _pause(place: Place, give_up_at: float) -> None:
    """Wait a little before the next look.

    Raises:
        PtbLmError: the wait has been long enough.
    """
    if time.monotonic() > give_up_at:
        minutes = LONGEST_WAIT.total_seconds() / 60
        raise PtbLmError(
            f"process {place.rank} of {place.size} has waited {minutes:.0f} minutes for the others "
            f"at {place.address}; start all processes of a training at about the same time"
        )
    time.sleep(_POLL_SECONDS)
