"""Lowering rules: one for each ONNX op, declared beside the function that emits it.

    @lowers("MaxPool", sides=last, quantised=SAME_SCALE)
    def max_pool(n: NodeLowering) -> None:
        n.emit("MAX_POOL_2D", [n.x(0)], n.y(0), padding="VALID", ...)

A rule says what storage it wants (`sides`), which element types the TFLite kernels take, and how scales of an integer
kernel relate; `absorb`, `layout` and `NodeLowering` do the rest, so the function only emits operators.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from edgec.graph import ir
from edgec.targets.tflite.layout import Side, Sides

if TYPE_CHECKING:
    from edgec.targets.tflite.node import NodeLowering

Emit = Callable[["NodeLowering"], None]
Scales = Literal["own", "same", "as-output"]


@dataclass(frozen=True)
class Quantised:
    """The integer kernel of an op.

    `scales`: "own": each input and output has its own; "same": outputs have the scale of input 0 (pooling, data movement);
    "as-output": all inputs must have the scale of the output (CONCATENATION); inputs are requantised for it.
    `inputs`: which inputs are activations; None is all that are no weights. `weights`, `bias`: positions of those.
    `has_weights`: None, or whether a node has weights there; else what is there is an activation (MatMul).
    `fixed`: element type -> the (scale, zero point) the kernel gives its output whatever is asked for.
    `when`: None, or a check of the node that returns why it has no integer kernel, else None.
    `hybrid`: None, or which stored types of `weights` the float kernel of a node reads as they are, quantising its input
    for itself. Others are dequantised in the file.
    """

    scales: Scales = "own"
    dtypes: frozenset[str] = frozenset({"int8", "int16"})
    inputs: tuple[int, ...] | None = None
    weights: int | None = None
    bias: int | None = None
    fixed: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    when: Callable[[ir.Node], str | None] | None = None
    hybrid: Callable[[ir.Node], Collection[str]] | None = None
    has_weights: Callable[[ir.Node], bool] | None = None


OWN_SCALE = Quantised()
SAME_SCALE = Quantised("same", inputs=(0,))

FLOAT = ("float32",)
NUMBERS = ("float32", "int32", "int64")
ANY = ("float32", "int8", "int16", "int32", "int64", "uint8", "bool")
"""Types of kernels that only move data."""


@dataclass(frozen=True)
class LoweringRule:
    """How one ONNX op becomes TFLite operators.

    `dtypes`: element types of input 0 that the kernels take as they are (without quantisation). `via`: other types that
    are computed in the type named, with CASTs around; exact where the wider type holds all values.
    `activation`: whether a RELU, RELU6 or RELU_N1_TO_1 behind it can be fused. `bias`: whether an Add of a constant
    vector behind it can be (MatMul).
    """

    op: str
    emit: Emit
    sides: Callable[[ir.Node], Sides]
    dtypes: tuple[str, ...] = FLOAT
    via: Mapping[str, str] = field(default_factory=dict)
    quantised: Quantised | None = None
    activation: bool = False
    bias: bool = False


RULES: dict[str, LoweringRule] = {}
"""Op type (of the default domain) -> its rule. Filled by the modules of `edgec.targets.tflite.ops`."""


def lowers(
    *ops: str,
    sides: Callable[[ir.Node], Sides] | None = None,
    dtypes: tuple[str, ...] = FLOAT,
    via: Mapping[str, str] | None = None,
    quantised: Quantised | None = None,
    activation: bool = False,
    bias: bool = False,
) -> Callable[[Emit], Emit]:
    """Register a function as the rule of `ops`."""

    def register(emit: Emit) -> Emit:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} has two lowering rules")
            RULES[op] = LoweringRule(op, emit, sides or raw, dtypes, via or {}, quantised, activation, bias)
        return emit

    return register


# --- common wishes ----------------------------------------------------------------------------------------------------


def raw(node: ir.Node) -> Sides:
    """Everything as the ONNX model has it."""
    return Sides([Side.RAW] * len(node.inputs), [Side.RAW] * len(node.outputs))


def last(node: ir.Node) -> Sides:
    """Input 0 and the outputs channels last; weights and parameters raw."""
    return Sides([Side.LAST] + [Side.RAW] * (len(node.inputs) - 1), [Side.LAST] * len(node.outputs))


def follow(node: ir.Node) -> Sides:
    """Inputs and outputs of the largest rank alike, either way; inputs of smaller rank are broadcast (`operand`)."""
    ranks = [_rank(v) for v in (*node.inputs, *node.outputs)]
    top = max(ranks, default=0)
    sides = [Side.FOLLOW if r == top else Side.RAW for r in ranks]
    return Sides(sides[: len(node.inputs)], sides[len(node.inputs) :])


def follow_first(node: ir.Node) -> Sides:
    """Input 0 and the outputs alike, either way; other inputs are parameters."""
    return Sides([Side.FOLLOW] + [Side.RAW] * (len(node.inputs) - 1), [Side.FOLLOW] * len(node.outputs))


def without(node: ir.Node, axes: Collection[int]) -> Sides:
    """The outputs are input 0 without `axes`: either way where the axes left are stored alike."""
    rank = _rank(node.inputs[0]) if node.inputs else 0
    gone = frozenset(a % rank for a in axes) if rank else frozenset()
    return Sides([Side.RAW] * len(node.inputs), [Side.RAW] * len(node.outputs), gone)


def _rank(v: ir.Value | None) -> int:
    return 0 if v is None or v.shape is None else v.shape.rank()
