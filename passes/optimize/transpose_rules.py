"""Rules that move a Transpose from the inputs of an op to its output, and cancel Transposes that meet.

y = Transpose(x, p) has y.shape[i] = x.shape[p[i]]: axis a of y is axis p[a] of x. Source: ONNX operator definitions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.matching import reduction_axes
from edgec.pattern import Match, P, opt, rest, var
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

UNARY = [
    "Abs",
    "Cast",
    "Ceil",
    "Celu",
    "Clip",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tanh",
    "ThresholdedRelu",
]
BINARY = ["Add", "And", "Div", "Equal", "Greater", "Less", "Max", "Min", "Mul", "Or", "Pow", "PRelu", "Sub", "Xor"]
REDUCE = [f"Reduce{r}" for r in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")]

x = var("x")
_moved = P.Transpose(x, as_="t", shared_=True)


def permutation(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose; without the attribute it reverses the axes."""
    perm = node.attributes.get("perm")
    if perm is not None:
        return tuple(perm.as_ints())
    shape = node.outputs[0].shape
    return tuple(range(shape.rank()))[::-1] if shape is not None else None


def _transposed(v: ir.Value | None) -> tuple[ir.Value, tuple[int, ...]] | None:
    """What a value is the Transpose of, and how."""
    node = v.producer() if v is not None else None
    if node is None or node.op_type != "Transpose" or node.domain != "" or node.inputs[0] is None:
        return None
    perm = permutation(node)
    return (node.inputs[0], perm) if perm is not None else None


def _back(rw: Rewriter, value: ir.Value, perm: Sequence[int]) -> ir.Value:
    return rw.op("Transpose", value, attrs={"perm": list(perm)})


@rule(P.Transpose(P.Transpose(x, as_="t", shared_=True), as_="outer"))
def merge_transposes(m: Match, rw: Rewriter) -> Result:
    inner, outer = permutation(m.node("t")), permutation(m.node("outer"))
    if inner is None or outer is None:
        return Reject("the rank is not known")
    perm = [inner[i] for i in outer]
    return m.value("x") if perm == sorted(perm) else _back(rw, m.value("x"), perm)


@rule(P.Transpose(x))
def transpose_of_vector(m: Match, rw: Rewriter) -> Result:
    """Only dimensions of size 1 change places: no data moves."""
    shape, perm = static_shape(m.value("x")), permutation(m.root)
    if shape is None or perm is None:
        return Reject("the shape is not known at compile time")
    if list(perm) == sorted(perm):
        return m.value("x")
    kept = [i for i in perm if shape[i] != 1]
    if kept != sorted(kept):
        return Reject("data moves")
    target = rw.const(np.array([shape[i] for i in perm], np.int64), "shape")
    return rw.op("Reshape", m.value("x"), target)


@rule(P.op(*UNARY)(_moved, rest("more")))
def sink_through_unary(m: Match, rw: Rewriter) -> Result:
    perm = permutation(m.node("t"))
    if perm is None:
        return Reject("the rank is not known")
    return _back(rw, rw.op(m.root.op_type, m.value("x"), *m.rest("more"), attrs=m.root.attributes), perm)


def _aligned(rw: Rewriter, v: ir.Value, perm: tuple[int, ...]) -> ir.Value | None:
    """The other operand as it must be before the Transpose: None if that would cost a Transpose."""
    inverse = np.argsort(perm).tolist()
    rank = len(perm)
    shape = static_shape(v)
    if shape is None or len(shape) > rank:
        return None
    full = (1,) * (rank - len(shape)) + shape
    data = constant(v)
    if data is not None:
        return v if data.size == 1 else rw.const(data.reshape(full).transpose(inverse), f"{v.name}.transposed")
    if sum(d != 1 for d in full) > 1:
        return None
    if all(d == 1 for d in full):
        return v
    return rw.op("Reshape", v, rw.const(np.array([full[i] for i in inverse], np.int64), "shape"))


@rule(P.op(*BINARY)(var("a"), var("b")))
def sink_through_binary(m: Match, rw: Rewriter) -> Result:
    a, b = m.value("a"), m.value("b")
    first, second = _transposed(a), _transposed(b)
    if first is None and second is None:
        return Reject("no operand is a Transpose")
    perm = (first or second or (None, ()))[1]
    out = m.root.outputs[0].shape
    if out is not None and out.rank() != len(perm):
        return Reject("the other operand widens the shape")
    if first is not None and second is not None and first[1] != second[1]:
        return Reject("the operands are transposed differently")
    left = first[0] if first is not None else _aligned(rw, a, perm)
    right = second[0] if second is not None else _aligned(rw, b, perm)
    if left is None or right is None:
        return Reject("the other operand would need a Transpose of its own")
    return _back(rw, rw.op(m.root.op_type, left, right, attrs=m.root.attributes), perm)


@rule(P.Concat(rest("parts")))
def sink_through_concat(m: Match, rw: Rewriter) -> Result:
    parts = [_transposed(v) for v in m.rest("parts")]
    perms = {p[1] for p in parts if p is not None}
    if None in parts or len(perms) != 1:
        return Reject("not all inputs are transposed the same way")
    (perm,) = perms
    axis = perm[attribute(m.root, "axis") % len(perm)]
    return _back(rw, rw.op("Concat", *(p[0] for p in parts if p is not None), attrs={"axis": axis}), perm)


@rule(P.op(*REDUCE)(_moved, rest("axes"), keepdims=1))
def sink_through_reduction(m: Match, rw: Rewriter) -> Result:
    perm = permutation(m.node("t"))
    axes = reduction_axes(m.root, len(perm)) if perm is not None else None
    if perm is None or not axes:
        return Reject("the axes are not known at compile time")
    mapped = sorted(perm[a] for a in axes)
    attrs = {**m.root.attributes}
    inputs: list[ir.Value] = []
    if "axes" in attrs:
        attrs["axes"] = ir.AttrInt64s("axes", mapped)
    else:
        inputs.append(rw.const(np.array(mapped, np.int64), "axes"))
    return _back(rw, rw.op(m.root.op_type, m.value("x"), *inputs, attrs=attrs), perm)


@rule(P.op("Softmax", "LogSoftmax")(_moved))
def sink_through_softmax(m: Match, rw: Rewriter) -> Result:
    perm = permutation(m.node("t"))
    if perm is None or rw.opset < 13:
        return Reject("the rank is not known, or Softmax flattens its input in this opset")
    axis = perm[attribute(m.root, "axis") % len(perm)]
    return _back(rw, rw.op(m.root.op_type, m.value("x"), attrs={"axis": axis}), perm)


@rule(P.Pad(_moved, var("pads"), rest("more")))
def sink_through_pad(m: Match, rw: Rewriter) -> Result:
    perm, pads = permutation(m.node("t")), constant(m.value("pads"))
    if perm is None or pads is None or len(m.rest("more")) > 1 or pads.size != 2 * len(perm):
        return Reject("the pads are not known at compile time, or are for some axes only")
    inverse = np.argsort(perm)
    moved = np.concatenate([pads[: len(perm)][inverse], pads[len(perm) :][inverse]])
    padded = rw.op("Pad", m.value("x"), rw.const(moved, "pads"), *m.rest("more"), attrs=m.root.attributes)
    return _back(rw, padded, perm)


@rule(P.Resize(_moved, opt(var("roi")), opt(var("scales")), opt(var("sizes"))))
def sink_through_resize(m: Match, rw: Rewriter) -> Result:
    perm = permutation(m.node("t"))
    if perm is None or "axes" in m.root.attributes:
        return Reject("the rank is not known, or Resize names its axes")
    if attribute(m.root, "coordinate_transformation_mode") == "tf_crop_and_resize":
        return Reject("Resize crops a region")
    inverse = np.argsort(perm)
    inputs: list[ir.Value | None] = [m.value("x"), None]
    for name in ("scales", "sizes"):
        data = constant(m.get(name))
        if m.has(name) and data is None:
            return Reject(f"the {name} are computed at run time")
        given = data is not None and data.size == len(perm)
        inputs.append(rw.const(data[inverse], name) if data is not None and given else None)
    while inputs[-1] is None:
        inputs.pop()
    return _back(rw, rw.op("Resize", *inputs, attrs=m.root.attributes), perm)


def _stored_along(node: ir.Node, perm: Sequence[int], back: bool = False) -> dict[str, object] | Reject:
    """Attributes of a Q or DQ whose tensor is permuted: the axis of its scales goes along. `back`: the permutation is undone."""
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    if scale is None or scale.shape is None or "block_size" in node.attributes:
        return Reject("the shape of its scale is not known, or it stores in blocks")
    attrs: dict[str, object] = dict(node.attributes.items())
    if scale.shape.rank() == 0 or scale.shape[0] == 1:
        return attrs
    axis = int(attribute(node, "axis")) % len(perm)
    attrs["axis"] = list(perm).index(axis) if back else perm[axis]
    return attrs


@rule(P.op("QuantizeLinear", "DequantizeLinear")(_moved, rest("params")))
def sink_through_quantize(m: Match, rw: Rewriter) -> Result:
    perm = permutation(m.node("t"))
    if perm is None:
        return Reject("the rank is not known")
    attrs = _stored_along(m.root, perm)
    if isinstance(attrs, Reject):
        return attrs
    return _back(rw, rw.op(m.root.op_type, m.value("x"), *m.rest("params"), attrs=attrs), perm)


_pair = P.DequantizeLinear(P.QuantizeLinear(x, rest("q"), as_="q", shared_=True), rest("dq"), as_="dq", shared_=True)


@rule(P.Transpose(_pair))
def raise_above_quantize(m: Match, rw: Rewriter) -> Result:
    """A Transpose that sank through Q/DQ and no further goes back: integer kernels read DequantizeLinear directly."""
    perm = permutation(m.root)
    if perm is None:
        return Reject("the rank is not known")
    value = _back(rw, m.value("x"), perm)
    for name in ("q", "dq"):
        node = m.node(name)
        attrs = _stored_along(node, perm, back=True)
        if isinstance(attrs, Reject):
            return attrs
        value = rw.op(node.op_type, value, *m.rest(name), attrs=attrs)
    return value


CANCEL = RuleSet([merge_transposes, transpose_of_vector])
SINK = CANCEL + RuleSet(
    [
        sink_through_unary,
        sink_through_binary,
        sink_through_concat,
        sink_through_reduction,
        sink_through_softmax,
        sink_through_pad,
        sink_through_resize,
        sink_through_quantize,
    ]
)
RAISE = RuleSet([raise_above_quantize])
