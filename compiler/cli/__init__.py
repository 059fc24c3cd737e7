"""The command line. `main` is the entry point: it turns every way to end into an exit code (docs/cli.md)."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

OK, ERROR, USAGE, VERIFICATION, TOOLCHAIN, INTERNAL, INTERRUPTED, PIPE, TERMINATED = 0, 1, 2, 3, 4, 70, 130, 141, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; never raises for what the user, the model or a plugin did wrong."""
    _end_on_sigterm()
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # `edgec targets | head -1`: the reader has gone, that is no error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE
    return code


def _run(args: list[str]) -> int:
    from typer import Abort

    from edgec.cli.app import app
    from edgec.cli.failures import crash, failure
    from edgec.diagnostics import EdgecError

    try:
        result = app()(args, prog_name="edgec", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except EdgecError as e:
        return failure(e)
    except (KeyboardInterrupt, Abort):
        print("edgec: interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as e:
        if isinstance(e.__context__, BrokenPipeError):  # the parser turns a closed pipe into exit(1)
            raise e.__context__ from None
        raise
    except BrokenPipeError:
        raise
    except Exception as e:  # noqa: BLE001  the last line of defence: a bug becomes a report, not a bare traceback
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
