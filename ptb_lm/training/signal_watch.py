"""Ends a process by a signal that comes while it waits for others in native code.

There Python runs no signal handler: PyTorch's waits take up to half an hour. The interpreter still
writes the number of each signal to a pipe when it arrives, and a thread reads that pipe.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from ptb_lm.stop import SIGNALS, Stopped

GRACE_SECONDS = 20.0
"""How long the other processes may take to come to the step after which all stop together.

Less than the 30 seconds that ``torchrun`` waits before it kills.
"""

FIRST_NOTICE_SECONDS = 5.0
NEXT_NOTICE_SECONDS = 120.0
_POLL_SECONDS = 0.2


class SignalWatch:
    """A thread that watches over the waits of the main thread.

    Attributes:
        notice: what standard error is told of a wait for processes to join, again and again; empty
            once they all have. While it is not, a signal ends the process at once.
    """

    def __init__(self, notice: str) -> None:
        self.notice = notice
        self._lock = threading.Lock()  # held while the process ends, so that no wait does
        self._waiting_since: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Within, the main thread waits for the other processes.

        After a first signal a Ctrl-C has its default effect, which would end the process without a
        word. Here it is left to the thread, which says why the process ends.
        """
        is_default = signal.getsignal(signal.SIGINT) is signal.SIG_DFL
        if is_default:
            signal.signal(signal.SIGINT, _end_by_default)
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            with self._lock:
                self._waiting_since = None
            if is_default:
                signal.signal(signal.SIGINT, signal.SIG_DFL)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within, the thread runs. To be entered in the main thread."""
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        thread = threading.Thread(target=self._watch, args=(reader,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writer)  # which ends the thread
            thread.join()
            os.close(reader)

    def _watch(self, reader: int) -> None:
        signals: list[int] = []
        came_at, next_notice = 0.0, time.monotonic() + FIRST_NOTICE_SECONDS
        while True:
            has_time_limit = bool(signals or self.notice)
            ready, _, _ = select.select([reader], [], [], _POLL_SECONDS if has_time_limit else None)
            now = time.monotonic()
            if ready:
                byte = os.read(reader, 1)
                if not byte:
                    return
                came_at = came_at if signals else now
                signals += [number for number in byte if number in SIGNALS]
            if signals:
                is_urgent = bool(self.notice) or signal.SIGINT in signals[1:]
                self._end_if_waiting(signals[0], came_at, 0.0 if is_urgent else GRACE_SECONDS)
            elif self.notice and now >= next_notice:
                next_notice = now + NEXT_NOTICE_SECONDS
                _write(self.notice)

    def _end_if_waiting(self, number: int, came_at: float, grace: float) -> None:
        """End the process if it has waited for longer than the grace since the signal came."""
        with self._lock:
            since = self._waiting_since
            if since is not None and time.monotonic() >= max(since, came_at) + grace:
                stopped = Stopped(number)
                cause = "" if self.notice else "; the other processes did not answer"
                _write(f"{stopped}{cause}")
                os._exit(stopped.exit_code)


def _end_by_default(number: int, frame: FrameType | None) -> None:
    """Handle a signal that came as the wait ended: the thread has not ended the process."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _write(line: str) -> None:
    os.write(sys.stderr.fileno(), f"{line}\n".encode(errors="backslashreplace"))
