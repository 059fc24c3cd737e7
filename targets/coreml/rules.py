"""Lowering rules: one for each ONNX op, declared beside the function that emits it.

    @lowers("Softmax")
    def softmax(n: NodeLowering) -> None:
        n.result(n.emit("softmax", x=n.x(), axis=n.attr("axis")))

A rule says which element types the MIL operations take (`dtypes`), which others are computed in a wider type (`via`), and
the oldest system that has them (`since`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.targets.coreml.node import NodeLowering

Emit = Callable[["NodeLowering"], None]

FLOAT = ("fp16", "fp32")
NUMBERS = (*FLOAT, "int32")
ANY = (*NUMBERS, "bool")

BOOL_AS_INT: Mapping[str, str] = {"bool": "int32"}
"""For operations that only move data and take no bool."""

SYSTEMS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
"""coremltools' deployment targets, oldest first; macOS 12 to 15 and 26 are the same, in order."""


@dataclass(frozen=True)
class LoweringRule:
    """How one ONNX op becomes MIL operations.

    `dtypes`: MIL types of input 0 that are taken as they are. `via`: other types that are computed in the type named, with
    casts around; exact where the wider type holds all values. `since`: the oldest of SYSTEMS. `wraps`: integers of 8 and 16
    bits may leave their range, and come back as ONNX's do; others never leave it.
    """

    op: str
    emit: Emit
    dtypes: tuple[str, ...] = FLOAT
    via: Mapping[str, str] = field(default_factory=dict)
    since: str = "iOS15"
    wraps: bool = False


RULES: dict[str, LoweringRule] = {}
"""Op type (of the default domain) -> its rule. Filled by the modules of `edgec.targets.coreml.ops`."""


def lowers(
    *ops: str,
    dtypes: tuple[str, ...] = FLOAT,
    via: Mapping[str, str] | None = None,
    since: str = "iOS15",
    wraps: bool = False,
) -> Callable[[Emit], Emit]:
    """Register a function as the rule of `ops`."""

    def register(emit: Emit) -> Emit:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} has two lowering rules")
            RULES[op] = LoweringRule(op, emit, dtypes, via or {}, since, wraps)
        return emit

    return register
