"""What edgec says to people: one type for notes, warnings and errors.

Codes are stable. The first two digits name the area: 00 model files, 01 plugins, 02 pipelines, 03 rewrites,
04 targets and placement, 05 specs, 06 toolchains, 07 samples, 08 verification, 09 output and reports.
`edgec explain EC0202` prints the page `explain/EC0202.md`.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any


class Severity(enum.IntEnum):
    NOTE = 10
    WARNING = 20
    ERROR = 30


@dataclass(frozen=True, slots=True)
class Location:
    """Where: a file position, a model node, or both."""

    file: str | None = None
    line: int | None = None
    column: int | None = None
    node: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(p) for p in (self.file, self.line, self.column) if p is not None)
        if self.node is None:
            return place
        return f"{place} (node {self.node})" if place else f"node {self.node}"


NOWHERE = Location()


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message. `message` is lower case, one sentence, no full stop; `hint` says what to do about it."""

    code: str
    severity: Severity
    message: str
    location: Location = NOWHERE
    hint: str | None = None

    def __str__(self) -> str:
        head = f"{self.severity.name.lower()}[{self.code}]: {self.message}"
        where = f"\n  --> {self.location}" if str(self.location) else ""
        return head + where + (f"\n  hint: {self.hint}" if self.hint else "")

    def to_json(self) -> dict[str, Any]:
        out: dict[str, Any] = {"code": self.code, "severity": self.severity.name.lower(), "message": self.message}
        place = {k: getattr(self.location, k) for k in ("file", "line", "column", "node")}
        if any(v is not None for v in place.values()):
            out["location"] = {k: v for k, v in place.items() if v is not None}
        if self.hint:
            out["hint"] = self.hint
        return out


def error(code: str, message: str, location: Location = NOWHERE, hint: str | None = None) -> EdgecError:
    """The usual way to fail: `raise error("EC0001", "cannot read the model: ...")`."""
    return EdgecError(Diagnostic(code, Severity.ERROR, message, location, hint))


class EdgecError(Exception):
    """A mistake of the user's, of a plugin's or of the model's. Carries every diagnostic, not just the first."""

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("\n".join(str(d) for d in diagnostics))
        self.diagnostics = diagnostics


@dataclass
class Diagnostics:
    """Collects; never prints. The command line prints, an embedder does as it likes."""

    items: list[Diagnostic] = field(default_factory=list)

    def add(
        self, code: str, severity: Severity, message: str, location: Location = NOWHERE, hint: str | None = None
    ) -> Diagnostic:
        """Append one message; the same message about the same place is kept once."""
        d = Diagnostic(code, severity, message, location, hint)
        if d not in self.items:
            self.items.append(d)
        return d

    def note(self, code: str, message: str, location: Location = NOWHERE, hint: str | None = None) -> Diagnostic:
        return self.add(code, Severity.NOTE, message, location, hint)

    def warn(self, code: str, message: str, location: Location = NOWHERE, hint: str | None = None) -> Diagnostic:
        return self.add(code, Severity.WARNING, message, location, hint)

    def error(self, code: str, message: str, location: Location = NOWHERE, hint: str | None = None) -> Diagnostic:
        return self.add(code, Severity.ERROR, message, location, hint)

    def raise_if_errors(self) -> None:
        errors = [d for d in self.items if d.severity >= Severity.ERROR]
        if errors:
            raise EdgecError(*errors)

    def __iter__(self) -> Iterator[Diagnostic]:
        return iter(self.items)


def did_you_mean(name: str, known: list[str], otherwise: str) -> str:
    """A hint for a misspelt name: the nearest known one, else `otherwise`."""
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else otherwise
