"""Ctrl-C and SIGTERM as a flag that the loop looks at between two steps."""

import signal
from types import FrameType, TracebackType


class StopFlag:
    """While entered, the first SIGINT or SIGTERM only raises the flag; a second one ends at once.

    Attributes:
        signal_number: the signal that came, or None.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def __bool__(self) -> bool:
        return self.signal_number is not None

    @property
    def exit_code(self) -> int:
        """128 and the number of the signal, as a shell reports it: 130 or 143."""
        return 128 + (self.signal_number or 0)

    def __enter__(self) -> "StopFlag":
        self._before = {
            number: signal.signal(number, self._raise_flag)
            for number in (signal.SIGINT, signal.SIGTERM)
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
        self.signal_number = number
        for each, handler in self._before.items():
            signal.signal(each, handler)
