"""The op table: which device runs an op, under which conditions, and who says so. Fused units stand beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from edgec.specs.conditions import Model, Setting, Unknown, When, applies
from edgec.specs.unit_pattern import parse

if TYPE_CHECKING:
    from edgec.graph import ir

Run = Literal["accelerator", "fallback", "impossible", "either"]
"""Who runs an op: the accelerator; the CPU beside it; nobody; the vendor's compiler decides in a way not predicted."""

Text = Annotated[str, Field(min_length=1)]

Confidence = Literal["low", "medium", "high"]  # in the order of Effort: typing keeps one of two that are equal
"""Of a prediction. High: several sources agree, or the op alone was run on the device; medium: one source saw it run there; low: hearsay."""


class OpCase(Model):
    """What happens when the conditions of `when` hold. Cases stand in order; the first that applies decides."""

    when: When
    run: Run
    reason: Text | None = None
    hint: Text | None = Field(None, description="what the user can do about it")
    rewrite: Text | None = Field(None, description="the pass that brings the node back to the accelerator")
    evidence: Text | None = Field(None, description="vendor document, or `measured with X`; else the row's")
    confidence: Confidence | None = Field(None, description="how sure a prediction is; else the row's")


class OpRow(Model):
    """One op: who runs it when no case applies, and the cases."""

    run: Run
    cases: tuple[OpCase, ...] = ()
    reason: Text | None = None
    hint: Text | None = None
    rewrite: Text | None = None
    evidence: Text | None = Field(None, description="vendor document, or `measured with X`; else the table's")
    confidence: Confidence | None = Field(
        None, description="how sure a prediction is, where the device's own partitioner decides"
    )
    note: Text | None = Field(None, description="what else is known; shown by `edgec targets NAME --ops`")


class UnitSpec(Model):
    """Nodes the vendor's compiler turns into one kernel.

    `pattern` is a chain, `Conv -> Add -> Relu|Clip`, or an expression, `Mul(x, Sigmoid(x))`: op types with `|`
    between alternatives, `x` any value, `#` a constant, a number a constant of that value, `...` any further inputs.
    Inner values must have one use and not be public. The main node is the one that feeds the chain, or `main`.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
    pattern: Text
    main: Text | None = Field(
        None, description="op type of the node the kernel is named after; else the first in order"
    )
    run: Run | None = Field(None, description="who runs the unit; else whoever runs its main node")
    when: When | None = Field(None, description="conditions on the main node")
    evidence: Text

    @field_validator("pattern")
    @classmethod
    def _readable(cls, text: str) -> str:
        parse(text)
        return text


class OpTable(Model):
    """The ops a device (or a family of devices) can run, and how its compiler fuses them.

    Keys of `ops` are op types, `domain::Op` outside the ONNX domain. With `extends`, rows replace inherited rows of the
    same op, `null` removes one; `units` and `general` replace the inherited list.
    """

    schema_version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
    description: Text
    evidence: Text = Field(description="who says so, for rows that do not say it themselves")
    predicted: Text | None = Field(
        None, description="where the device's own partitioner decides: who does, said with every answer of the table"
    )
    unlisted: OpRow = Field(description="what happens to an op that has no row")
    ops: dict[str, OpRow]
    units: tuple[UnitSpec, ...] = ()
    general: tuple[OpCase, ...] = Field(
        (),
        description="cases of every op that has a row, before the row's own; a row that does not run here skips them",
    )

    def decide(self, node: ir.Node, setting: Setting, key: str | None = None) -> Decision:
        """Who runs the node by its row, and why. `key`: the row of another op that does its work."""
        key = key or (f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
        row = self.ops.get(key)
        if row is None:
            row, reason = self.unlisted, self.unlisted.reason or f"{key} is not in the table"
            evidence = row.evidence or self.evidence
            return Decision(row.run, reason, row.hint, row.rewrite, evidence, listed=False, confidence=row.confidence)
        unknown: list[str] = []
        evidence = row.evidence or self.evidence
        for case in (*(self.general if _runs(row) else ()), *row.cases):
            holds = applies(case.when, node, setting)
            if isinstance(holds, Unknown):
                unknown.append(holds.why)
            elif holds:
                by, sure = case.evidence or evidence, case.confidence or row.confidence
                return Decision(case.run, case.reason, case.hint, case.rewrite, by, tuple(unknown), confidence=sure)
        return Decision(row.run, row.reason, row.hint, row.rewrite, evidence, tuple(unknown), confidence=row.confidence)


def _runs(row: OpRow) -> bool:
    """Whether the device runs the op in any case."""
    return any(run in ("accelerator", "either") for run in (row.run, *(case.run for case in row.cases)))


@dataclass(frozen=True)
class Decision:
    """What the table says of one node. `unknown`: why cases before this answer could not be decided."""

    run: Run
    reason: str | None
    hint: str | None
    rewrite: str | None
    evidence: str
    unknown: tuple[str, ...] = ()
    listed: bool = True
    confidence: Confidence | None = None
