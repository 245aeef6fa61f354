"""Ctrl-C, SIGTERM and a closed terminal as a flag that everything that takes long checks."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}
_SECOND_CTRL_C = b"\nstopping; a second Ctrl-C ends at once\n"


class Stopped(Exception):  # noqa: N818 - no error
    """The program was asked to stop and does so; no error.

    Attributes:
        exit_code: 128 and the number of the signal, as a shell reports it: 130, 143 or 129.
    """

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {_NAMES[signal.Signals(signal_number)]}")
        self.exit_code = 128 + signal_number


class StopFlag:
    """While entered, a signal only raises the flag; a second Ctrl-C ends the process at once.

    A second Ctrl-C gets the default handler, so it also interrupts native calls; files are safe
    because each is renamed into place. Other signals count once: ``timeout``, closing terminals
    and systemd send two by themselves. A signal that was ignored when the program began
    (``nohup``) stays ignored.

    Attributes:
        signal_number: the first signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._is_waiting = False

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.signal_number is not None:
            raise Stopped(self.signal_number)

    @contextmanager
    def while_waiting(self) -> Iterator[None]:
        """Within, a signal raises Stopped at once: even in the midst of waiting for a server.

        For work that leaves nothing behind wherever it is interrupted.
        """
        self._is_waiting = True
        try:
            self.check()
            yield
        finally:
            self._is_waiting = False

    def __enter__(self) -> "StopFlag":
        self._before = {
            number: signal.signal(number, self._raise_flag)
            for number in SIGNALS
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _raise_flag(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number = number
        if signal.SIGINT in self._before:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._is_waiting:
            raise Stopped(self.signal_number)
        if number == signal.SIGINT:
            with suppress(OSError):  # not through sys.stderr, which may be in the midst of a write
                os.write(2, _SECOND_CTRL_C)


NEVER = StopFlag()
"""For work that no signal is to stop."""
