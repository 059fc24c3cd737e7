"""What the linter of Q/DQ graphs finds: its rules, and one finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostic, Location, Severity

if TYPE_CHECKING:
    from edgec.graph import ir
    from edgec.specs.scheme import Scheme

RULES: dict[str, tuple[str, Severity]] = {
    "dtype": ("EC0771", Severity.ERROR),
    "zero-point": ("EC0772", Severity.ERROR),
    "implicit-zero-point": ("EC0773", Severity.WARNING),
    "granularity": ("EC0774", Severity.ERROR),
    "scale": ("EC0775", Severity.ERROR),
    "bias": ("EC0776", Severity.ERROR),
    "shared": ("EC0777", Severity.ERROR),
    "fixed": ("EC0778", Severity.ERROR),
    "pair": ("EC0779", Severity.ERROR),
    "double": ("EC0780", Severity.WARNING),
    "unit": ("EC0781", Severity.WARNING),
    "residual": ("EC0782", Severity.WARNING),
    "float-op": ("EC0783", Severity.WARNING),
    "missing": ("EC0784", Severity.NOTE),
    "form": ("EC0785", Severity.ERROR),
    "range": ("EC0850", Severity.WARNING),
    "narrow": ("EC0786", Severity.NOTE),
}
"""Rule -> code of its page, and how grave a breach is unless the rule or the scheme says otherwise."""


@dataclass(frozen=True)
class Finding:
    """One breach of a rule of a scheme, at one node. `message` and `hint` are as in a diagnostic."""

    node: str
    rule: str
    message: str
    hint: str | None
    severity: Severity

    @property
    def code(self) -> str:
        return RULES[self.rule][0]

    def diagnostic(self, file: str | None = None) -> Diagnostic:
        return Diagnostic(self.code, self.severity, self.message, Location(file, node=self.node), self.hint)


@dataclass
class Report:
    """Collects findings; the same one about the same node is kept once. `order`: nodes in execution order."""

    scheme: Scheme
    order: dict[ir.Node, int]
    found: dict[tuple[int, str, str], Finding] = field(default_factory=dict)

    def add(
        self, node: ir.Node, rule: str, message: str, hint: str | None = None, severity: Severity | None = None
    ) -> None:
        """`severity`: another than the rule's; what the scheme tolerates is a warning at most."""
        grave = severity if severity is not None else RULES[rule][1]
        if severity is None and rule in self.scheme.tolerates:
            grave = min(grave, Severity.WARNING)
        name = node.name or (node.outputs[0].name if node.outputs else None) or node.op_type
        self.found.setdefault((self.order[node], rule, message), Finding(name, rule, message, hint, grave))

    def in_order(self) -> list[Finding]:
        return [self.found[k] for k in sorted(self.found, key=lambda k: k[0])]


def summarise(findings: list[Finding], file: str | None = None, shown: int = 3) -> list[Diagnostic]:
    """One diagnostic for all findings of a rule that give the same advice: the first node's, and how many more."""
    groups: dict[tuple[str, Severity, str | None], list[Finding]] = {}
    for f in findings:
        groups.setdefault((f.rule, f.severity, f.hint), []).append(f)
    out = []
    for same in groups.values():
        first, rest = same[0], same[1:]
        message = first.message
        if rest:
            names = ", ".join(f.node for f in rest[:shown]) + (" ..." if len(rest) > shown else "")
            message += f"; the same at {len(rest)} more: {names}"
        out.append(Diagnostic(first.code, first.severity, message, Location(file, node=first.node), first.hint))
    return sorted(out, key=lambda d: -d.severity)
