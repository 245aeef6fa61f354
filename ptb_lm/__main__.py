"""The entry point: runs the command line and turns errors into one line and an exit code."""

import atexit
import logging
import os
import signal
import sys
import traceback
from contextlib import suppress
from types import TracebackType

from ptb_lm.errors import RESERVE_BYTES, PtbLmError
from ptb_lm.stop import SIGNALS, Stopped
from ptb_lm.streams import open_streams
from ptb_lm.terminal import drop_unusable_sizes, for_stream, printable
from ptb_lm.urls import text_without_secrets

SIGINT_EXIT_CODE = 130
LONGEST_MESSAGE = 2000
COMPLETION = "_PTB_LM_COMPLETE"
"""In the environment of a call in which a shell asks what may follow."""


def main(arguments: list[str] | None = None) -> None:
    """Run a command line and exit: 0 done, 1 it failed, 2 the call or its input is wrong."""
    is_whole_process = arguments is None  # a script that calls goes on afterwards
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    open_streams(is_whole_process=is_whole_process)
    drop_unusable_sizes(os.environ)
    # Of a program that is none of ours at MASTER_PORT, PyTorch prints a C++ trace at each try.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if COMPLETION in os.environ:
        # typer breaks descriptions at the terminal's width, and a shell takes each line for a word.
        os.environ["COLUMNS"] = str(LONGEST_MESSAGE)
    if is_whole_process:
        sys.excepthook = _show_traceback
        sys.unraisablehook = _end_if_interrupted
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_StreamFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("ptb_lm").setLevel(logging.INFO)
    reserve = bytearray(RESERVE_BYTES)
    try:
        rest = [argument for argument in arguments if argument != "--debug"]
        code = _run(rest, debug, is_whole_process)
        atexit.register(_stop_no_more)
        sys.exit(code)
    except KeyboardInterrupt:
        _complain("stopped by Ctrl-C")
        sys.exit(SIGINT_EXIT_CODE)
    except MemoryError:
        del reserve
        if debug:
            raise
        _complain("error: out of memory; free memory and repeat the command")
        sys.exit(1)
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split())  # some of PyTorch's have many lines
        _complain(f"error: {type(error).__name__}: {text}; --debug shows where")
        sys.exit(1)


def _run(arguments: list[str], debug: bool, is_whole_process: bool) -> int:
    # Here, as importing it takes long enough for a Ctrl-C to come.
    import typer

    from ptb_lm.cli import app

    command = typer.main.get_command(app)
    try:
        code = int(command.main(arguments, prog_name="ptb-lm", standalone_mode=False) or 0)
        if is_whole_process:  # before the flush: whoever has read the result reads of success
            _stop_no_more()
        sys.stdout.flush()
        if code == SIGINT_EXIT_CODE:  # what typer makes of a KeyboardInterrupt
            raise KeyboardInterrupt
        return code
    except Stopped as stopped:
        _complain(str(stopped))
        return stopped.exit_code
    except PtbLmError as error:
        if debug:
            raise
        _complain(f"error: {error}")
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except (BrokenPipeError, SystemExit) as end:
        # The reader of our output has gone, as in `… | head`: typer makes an exit of that.
        if isinstance(end, SystemExit) and not isinstance(end.__context__, BrokenPipeError):
            raise
        _write_no_more()
        return 0
    except OSError as error:
        if debug or error.filename is not None:
            raise
        _write_no_more()
        _complain(f"error: the output cannot be written: {error.strerror}")
        return 1
    except Exception as error:
        usage = getattr(error, "format_message", None)
        if usage is None:
            raise
        help_was_asked_for = type(error).__name__ == "NoArgsIsHelpError"
        command_path = getattr(getattr(error, "ctx", None), "command_path", "ptb-lm")
        advice = f"see `{command_path} --help`"
        _complain(usage() if help_was_asked_for else f"error: {usage().rstrip('.')}; {advice}")
        return int(getattr(error, "exit_code", 2))


def _stop_no_more() -> None:
    """Let a signal that comes while the process exits change nothing of what it has said."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _write_no_more() -> None:
    """Let what is still to be written to standard output go nowhere, without another error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(message: str) -> None:
    """Write one line, whatever a file that a message quotes from may hold."""
    message = text_without_secrets(message)
    line = message if len(message) <= LONGEST_MESSAGE else f"{message[:LONGEST_MESSAGE]}…"
    with suppress(OSError):  # the reader may have gone, with the signal that stopped us
        sys.stderr.write(printable(line) + "\n")
        sys.stderr.flush()


class _StreamFormatter(logging.Formatter):
    """Makes a message of the log harmless where standard error is a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return for_stream(super().format(record), sys.stderr)


def _end_if_interrupted(ignored: "sys.UnraisableHookArgs") -> None:
    """End at a Ctrl-C that came within a callback of the interpreter, where Python ignores it."""
    if not isinstance(ignored.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(ignored)
        return
    _complain("stopped by Ctrl-C")
    os._exit(SIGINT_EXIT_CODE)


def _show_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Write what ``--debug`` shows of an error."""
    text = "".join(traceback.format_exception(kind, error, trace))
    sys.stderr.write(for_stream(text, sys.stderr))


if __name__ == "__main__":
    main()
