"""Printing: results to stdout, everything else to stderr; colours and a moving line only where a person looks."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from edgec.diagnostics import Diagnostic, Severity

if TYPE_CHECKING:
    from edgec.summary import Line, Style

_ANSI: dict[Style, str] = {
    "title": "1;36", "heading": "1", "text": "", "good": "32", "warning": "33", "error": "31", "dim": "2",
}  # fmt: skip
_SEVERITY: dict[Severity, Style] = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "dim"}
_STAGES = {"load": "loading the model", "samples": "reading samples", "passes": "running passes",
           "emit": "making the artifact", "verify": "running and comparing it"}  # fmt: skip


def coloured(stream: TextIO) -> bool:
    """Whether `stream` is a terminal that wants colours (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: Style, stream: TextIO) -> str:
    code = _ANSI[style]
    return f"\x1b[{code}m{text}\x1b[0m" if code and coloured(stream) else text


def print_diagnostics(found: Iterable[Diagnostic], *, least: Severity = Severity.NOTE) -> None:
    """To stderr, in the order they were found."""
    for d in found:
        if d.severity >= least:
            head, _, rest = str(d).partition(": ")
            print(f"{paint(head, _SEVERITY[d.severity], sys.stderr)}: {rest}", file=sys.stderr)


class StdoutError(OSError):
    """What a command found cannot be shown: the disk that stdout goes to is full, for example."""


def _show(text: str, stream: TextIO) -> None:
    try:
        print(text, file=stream)
    except BrokenPipeError:
        raise
    except OSError as e:
        raise StdoutError(e.errno, e.strerror) from e


class Console:
    """What one command prints.

    `as_json`: stdout carries one JSON document and nothing else; lines for people go to stderr. `quiet`: results and
    errors only. `verbose`: notes too.
    """

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self.verbose = verbose
        self._stream = sys.stderr if as_json else sys.stdout

    def line(self, text: str = "", style: Style = "text") -> None:
        """One line of the result."""
        if not (self.quiet and self.as_json):
            _show(paint(text, style, self._stream), self._stream)

    def lines(self, lines: Iterable[Line]) -> None:
        for style, text in lines:
            self.line(text, style)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Aligned columns; the last one is as long as it likes."""
        rows = [tuple(r) for r in rows]
        widths = [max(len(r[i]) for r in [tuple(head), *rows]) for i in range(len(head))]
        for n, row in enumerate([tuple(head), *rows]):
            cells = [c.ljust(w) for c, w in zip(row, widths, strict=True)]
            self.line("  ".join(cells).rstrip(), "heading" if n == 0 else "text")

    def data(self, value: Any) -> None:
        """The JSON document of `--json`."""
        if self.as_json:
            from edgec.report import plain

            unicode = (sys.stdout.encoding or "").lower().startswith("utf")
            _show(json.dumps(plain(value), indent=2, ensure_ascii=not unicode), sys.stdout)

    def diagnostics(self, found: Iterable[Diagnostic]) -> None:
        """Warnings (all of it with `-v`, none with `-q`). Errors are raised, not printed here."""
        if not self.quiet:
            print_diagnostics(found, least=Severity.NOTE if self.verbose else Severity.WARNING)

    @contextmanager
    def progress(self) -> Iterator[Callable[[str], None]]:
        """A function to tell what is being done: a moving line on a terminal, plain lines on stderr otherwise."""
        if self.quiet:
            yield lambda text: None
        elif coloured(sys.stderr):
            from rich.console import Console as Rich

            with Rich(stderr=True).status("edgec") as status:
                yield lambda text: status.update(_STAGES.get(text, text)) if text != "done" else None
        else:
            yield self._tell

    def _tell(self, text: str) -> None:
        if text != "done":
            print(f"edgec: {_STAGES.get(text, text)}", file=sys.stderr, flush=True)
