"""What the command line says when a command fails, and the exit code that tells a script why."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable
from types import TracebackType

from edgec import __version__
from edgec.cli import ERROR, INTERNAL, TOOLCHAIN, VERIFICATION
from edgec.cli.console import print_diagnostics
from edgec.diagnostics import Diagnostic, EdgecError, Severity

_CODES = {"EC06": TOOLCHAIN, "EC08": VERIFICATION}


def failure(e: EdgecError) -> int:
    """Print every diagnostic of the error, and the notes that were put on it."""
    print_diagnostics(e.diagnostics)
    for note in getattr(e, "__notes__", ()):
        print(f"  note: {note}", file=sys.stderr)
    return exit_code(e.diagnostics)


def exit_code(found: Iterable[Diagnostic]) -> int:
    """Of a failed command, by the area of its first error."""
    first = next((d for d in found if d.severity >= Severity.ERROR), None)
    return _CODES.get(first.code[:4], ERROR) if first is not None else ERROR


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
