"""Ops that compute each element from those at the same place, with broadcasting."""

from __future__ import annotations

from edgec.passes.prune.groups.registry import Ties, ties

UNARY = (
    "Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "BitwiseNot", "Cast", "Ceil", "Celu", "Cos", "Cosh", "Dropout",
    "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log",
    "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus",
    "Softsign", "Sqrt", "Swish", "Tan", "Tanh", "ThresholdedRelu", "LRN",
)  # fmt: skip
"""LRN too: it sums over neighbouring channels, of which a cut leaves others."""

BROADCASTING = (
    "Add", "And", "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual",
    "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod", "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor", "CastLike",
)  # fmt: skip


@ties(*UNARY)
def unary(t: Ties) -> None:
    for out in t.node.outputs:
        t.same_but(t.input(0), out)


@ties(*BROADCASTING)
def broadcasting(t: Ties) -> None:
    """Axes are aligned from the last; where a value has one element, it goes with all of the others."""
    out = t.output()
    inputs = t.node.inputs[:1] if t.node.op_type == "CastLike" else t.node.inputs
    for v in inputs:
        for i in range(1, t.rank(v) + 1):
            t.same(v, -i, out, -i)
