"""What the command line says when a command fails, and the exit code that tells a script why."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from types import TracebackType

from edgec import __version__
from edgec.cli import ERROR, INTERNAL, INTERRUPTED, TERMINATED, TOOLCHAIN, VERIFICATION
from edgec.cli.console import print_diagnostics
from edgec.diagnostics import Diagnostic, EdgecError, Severity

_CODES = {"EC06": TOOLCHAIN, "EC08": VERIFICATION, "EC0755": VERIFICATION}
"""Codes, or the areas they begin with, that have an exit code of their own; EC0755: no choice reaches the accuracy."""


def failure(e: EdgecError) -> int:
    """Print every diagnostic of the error, and the notes that were put on it."""
    print_diagnostics(e.diagnostics)
    for note in getattr(e, "__notes__", ()):
        print(f"  note: {note}", file=sys.stderr)
    return exit_code(e.diagnostics)


def exit_code(found: Iterable[Diagnostic]) -> int:
    """Of a failed command, by the area of its first error."""
    first = next((d for d in found if d.severity >= Severity.ERROR), None)
    return _CODES.get(first.code, _CODES.get(first.code[:4], ERROR)) if first is not None else ERROR


class Interrupted(BaseException):
    """Ctrl-C, in a form that the parser of the command line does not swallow; its cause is the KeyboardInterrupt."""


def stopped(e: BaseException) -> int:
    """Ctrl-C or SIGTERM: one line, and the notes on the exception (where the log is)."""
    terminated = isinstance(e, SystemExit)
    print(f"edgec: {'terminated' if terminated else 'interrupted'}; no half-written output is left", file=sys.stderr)
    for note in getattr(e.__cause__ if isinstance(e, Interrupted) else e, "__notes__", ()):
        print(f"  note: {note}", file=sys.stderr)
    return TERMINATED if terminated else INTERRUPTED


def stopped_within(e: BaseException) -> BaseException | None:
    """The Ctrl-C or SIGTERM that `e` hides: extension modules being imported turn it into an ImportError."""
    seen: BaseException | None = e
    while seen is not None:
        if isinstance(seen, KeyboardInterrupt) or (isinstance(seen, SystemExit) and seen.code == TERMINATED):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def out_of_memory(e: MemoryError) -> int:
    """A model or an input shape too large for this machine."""
    d = Diagnostic(
        "EC0931",
        Severity.ERROR,
        f"this machine has too little memory for it: {e or 'out of memory'}",
        hint="smaller input shapes (--input-shape) or fewer samples need less",
    )
    print_diagnostics([d])
    return exit_code([d])


def crash(e: BaseException) -> int:
    """A bug, of ours or of a plugin: the traceback, and where to take it."""
    traceback.print_exception(e)
    plugin = _plugin_in(e.__traceback__)
    if plugin:
        print(f"\nedgec: this looks like a bug in the plugin {plugin}: please tell its authors", file=sys.stderr)
    else:
        print(
            f"\nedgec: this is a bug in edgec {__version__}: please report it, with the lines above and, if you may "
            "share it, the model",
            file=sys.stderr,
        )
    return INTERNAL


def _plugin_in(tb: TracebackType | None) -> str | None:
    """The installed plugin whose code is innermost in the traceback, if any."""
    from importlib.metadata import entry_points

    owners = {}
    for ep in entry_points(group="edgec"):
        top = ep.value.partition(":")[0].partition(".")[0]
        if top != "edgec":
            owners[top] = ep.dist.name if ep.dist is not None else ep.name
    found = None
    while tb is not None:
        top = str(tb.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        found = owners.get(top, found)
        tb = tb.tb_next
    return found
