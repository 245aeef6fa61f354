"""The metrics again as TensorBoard reads them: an event file in the run folder.

``metrics.jsonl`` is what counts. The event file is written from it when a training starts and then
follows it, so that whatever happened before no point is doubled and none is missing.

TensorBoard, an extra, is imported inside what needs it. Its ``RecordWriter`` and its messages
suffice: ``SummaryWriter``, its own as PyTorch's, takes a thread, a queue that is lost with the
process, and a file that is named after the machine.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, Any

from ptb_lm.config import FLOAT32_MAX
from ptb_lm.errors import InputError, PtbLmError
from ptb_lm.training.elapsed import TrainingClock
from ptb_lm.training.metrics import Record, iterate_metrics, number_in
from ptb_lm.training.run_folder import RunFolder

logger = logging.getLogger(__name__)

LOGS = ("tensorboard",)
"""What the metrics can be written for beside their own file."""


def require_log(name: str) -> None:
    """Raise InputError if the metrics cannot be written for a program of this name."""
    if name not in LOGS:
        raise InputError(f"--log {name}: expected {' or '.join(LOGS)}")
    try:
        import tensorboard.compat.proto.event_pb2
        import tensorboard.summary.writer.record_writer  # noqa: F401 - whether it is there
    except ImportError as error:
        raise InputError(
            f"--log tensorboard: TensorBoard cannot be imported ({error}); "
            "pip install 'ptb-lm[tensorboard]'"
        ) from None


@contextmanager
def events_follow_metrics(folder: RunFolder, targets_per_step: int) -> Iterator[None]:
    """Write the metrics of a run for TensorBoard, and those that are added within.

    Each number of a line but its step is a scalar of the same name. What is not finite, as after a
    divergence, is left out, as the metrics have it as null. The time of a line that was there
    before is reckoned back from now as if the run had never been stopped.

    Args:
        folder: one that is held; what its older event files hold is removed.
        targets_per_step: T * B.

    Raises:
        PtbLmError: the file could not be written. If only later it cannot, a warning says so and
            the training goes on.
    """
    began = time.time() - max(
        (seconds for _, seconds in _timed(folder, targets_per_step)), default=0.0
    )
    path = folder.path
    with ExitStack() as stack:
        try:
            path = folder.next_event_file()
            # Unbuffered, so that a point is there for others at once.
            events = EventFile(stack.enter_context(path.open("xb", buffering=0)), began)
            for record, seconds in _timed(folder, targets_per_step):
                events.add(record, began + seconds)
        except OSError as error:
            raise PtbLmError(f"{path}: cannot be written: {error.strerror}") from None

        def follow(record: Record) -> None:
            try:
                events.add(record, time.time())
            except OSError as error:
                logger.warning(
                    "%s: cannot be written: %s; the training goes on without it, and "
                    "`--resume --log tensorboard` writes it anew",
                    *(path, error.strerror),
                )
                folder.followers.remove(follow)

        folder.followers.append(follow)
        try:
            yield
        finally:
            if follow in folder.followers:
                folder.followers.remove(follow)


def _timed(folder: RunFolder, targets_per_step: int) -> Iterator[tuple[Record, float]]:
    """Yield the lines of the metrics, and after how many seconds of training each was written."""
    clock = TrainingClock()
    for record in iterate_metrics(folder.metrics, warn=False):
        clock.add(record)
        yield record, clock.seconds(targets_per_step)


class EventFile:
    """An event file from its beginning on."""

    def __init__(self, file: IO[bytes], wall_time: float) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        self._writer = RecordWriter(file)
        self._last_step: dict[str, int] = {}
        self._write(wall_time, file_version="brain.Event:2")
        # What a reader has read of an earlier file of this run does not hold any more.
        start = SessionLog(status=SessionLog.START)
        self._write(wall_time, step=0, session_log=start)

    def add(self, record: Record, wall_time: float) -> None:
        """Write the numbers of a line of the metrics.

        An epoch's end may have two lines of one step; a name has one point at each step.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        step = record["step"]
        figures = {
            key: number_in(record, key)
            for key in record
            if key != "step" and self._last_step.get(key, -1) < step
        }
        values = [
            Summary.Value(tag=key, simple_value=value)
            for key, value in figures.items()
            if abs(value) <= FLOAT32_MAX  # what TensorBoard holds; false of NaN
        ]
        for key in figures:
            self._last_step[key] = step
        self._write(wall_time, step=step, summary=Summary(value=values))

    def _write(self, wall_time: float, **content: Any) -> None:
        event = self._event(wall_time=wall_time, **content)
        self._writer.write(event.SerializeToString())
