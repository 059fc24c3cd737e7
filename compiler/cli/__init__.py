"""The command line. `main` is the entry point: it turns every way to end into an exit code (docs/cli.md)."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import FrameType

OK, ERROR, USAGE, VERIFICATION, TOOLCHAIN, INTERNAL, INTERRUPTED, PIPE, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 141, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never raises for what the user, the model or a plugin did wrong."""
    gc.set_threshold(
        100_000, 50, 100
    )  # graphs are many long-lived objects; Python's default scans them again and again
    atexit.register(gc.freeze)  # and once more at exit: 0.05 s
    _end_on_sigterm()
    _open_closed_streams()
    _print_any_name()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `edgec targets | head -1`: the reader has gone, that is no error of ours
        _discard_stdout()
        return PIPE
    except OSError as e:
        return _cannot_print(e)
    return code


def _run(args: list[str]) -> int:
    from typer import Abort

    from edgec.cli.app import app
    from edgec.cli.console import StdoutError
    from edgec.cli.failures import Interrupted, crash, failure, out_of_memory, stopped, stopped_within
    from edgec.diagnostics import EdgecError

    try:
        result = app()(args, prog_name="edgec", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except EdgecError as e:
        return failure(e)
    except (KeyboardInterrupt, Interrupted, Abort, SystemExit) as e:
        if isinstance(e.__context__, BrokenPipeError):  # the parser turns a closed pipe into exit(1)
            raise e.__context__ from None
        if isinstance(e, SystemExit) and e.code != TERMINATED:
            raise
        return stopped(e)
    except (BrokenPipeError, StdoutError):
        raise
    except MemoryError as e:
        return out_of_memory(e)
    except Exception as e:  # noqa: BLE001  the last line of defence: a bug becomes a report, not a bare traceback
        if (stop := stopped_within(e)) is not None:
            return stopped(stop)
        show, code = getattr(e, "show", None), getattr(e, "exit_code", None)
        if show is not None and isinstance(code, int):  # how the parser says that the command line is wrong
            show()
            return code
        return crash(e)


def _end_on_sigterm() -> None:
    """End through exceptions, so that temporary folders are removed and vendor processes stopped."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    try:
        signal.signal(signal.SIGTERM, end)
    except ValueError:  # not in the main thread: whoever embeds us handles signals
        return


def _open_closed_streams() -> None:
    """`edgec ... >&-`: Python then has no stream at all; printing goes nowhere instead of failing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  open until we end


def _print_any_name() -> None:
    """A file or value name that the terminal's encoding lacks is shown escaped; it must not end the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _cannot_print(e: OSError) -> int:
    """The disk that stdout goes to is full: the results were made, but cannot be shown."""
    print(f"edgec: cannot write to the standard output: {e.strerror or e}", file=sys.stderr)
    _discard_stdout()
    return ERROR


def _discard_stdout() -> None:
    """What is still buffered for stdout must not fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
