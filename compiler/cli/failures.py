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

_CODES = {
    "EC06": TOOLCHAIN,
    "EC064": ERROR,  # what a lowering of our own refuses, and files it writes and reads
    "EC069": ERROR,  # a board that does not run the release asked for, shapes that do not fit
    **dict.fromkeys(("EC0650", "EC0651", "EC0652", "EC0653", "EC0660"), ERROR),
    "EC08": VERIFICATION,
    **dict.fromkeys(("EC0835", "EC0836"), ERROR),  # two files that cannot be compared
    "EC0755": VERIFICATION,  # no choice reaches the accuracy
}
"""Exit codes by the longest beginning of a diagnostic's code; the others are `ERROR`."""


def failure(e: EdgecError) -> int:
    """Print every diagnostic of the error, and the notes that were put on it."""
    print_diagnostics(e.diagnostics)
    for note in getattr(e, "__notes__", ()):
        print(f"  note: {note}", file=sys.stderr)
    return exit_code(e.diagnostics)


def exit_code(found: Iterable[Diagnostic]) -> int:
    """Of a failed command, by the area of its first error."""
    first = next((d for d in found if d.severity >= Severity.ERROR), None)
    if first is None:
        return ERROR
    return next((_CODES[first.code[:n]] for n in (6, 5, 4) if first.code[:n] in _CODES), ERROR)


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
