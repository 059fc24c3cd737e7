"""One spelling of Q/DQ, whoever wrote the model.

* A float weight behind QuantizeLinear (ModelOpt, fake quantisation of PyTorch) is stored in integers at once.
* Transpose, Reshape, Squeeze, Unsqueeze and Flatten of a stored weight are done to the stored weight: kernels look for
  DequantizeLinear right before the Conv or MatMul.
* Zero points are given, and one scale is a scalar.

All of it is bit-exact: stored numbers do not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, is_constant, static_shape
from edgec.passes.quantize.qdq_nodes import dequantize, typed
from edgec.passes.quantize.quantized_input import params_of
from edgec.pattern import Match, P, const, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

Array = npt.NDArray[Any]


@rule(P.QuantizeLinear(const("x"), const("scale"), rest("zero")))
def store_weight(m: Match, rw: Rewriter) -> Result:
    x, params = m.array("x"), params_of(m.root)
    if params is None or x.dtype != np.float32 or m.array("scale").dtype != np.float32:
        return Reject("not float32, or a type this pass does not round to")
    if m.root.outputs[0].is_graph_output():
        return Reject("it is an output of the model")
    if not np.isfinite(x).all() or not (params.scale > 0).all():
        return Reject("a value is not finite, or a scale is not positive")
    if params.dtype == "float8e4m3fn":
        if params.zero_point.any():
            return Reject("a zero point of float8")
        scale = params.dequantize(np.ones(x.shape, np.float32)).astype(np.float32)
        data = np.clip(x / scale, *params.limits)
    else:
        data = params.quantize(x)
    data = data.astype(_stored_type(m.root).numpy())
    return rw.const(np.asarray(data), f"{m.value('x').name}_q")


def _stored_type(node: ir.Node) -> ir.DataType:
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    found = zero.dtype if zero is not None else node.outputs[0].dtype
    return found or ir.DataType.UINT8


_REORDER = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten")
_weight = P.DequantizeLinear(const("stored"), const("scale"), rest("zero"), as_="dq", shared_=True)


@rule(P.op(*_REORDER)(_weight, rest("how")))
def move_weight(m: Match, rw: Rewriter) -> Result:
    node, dq = m.root, m.node("dq")
    shape = static_shape(node.outputs[0])
    old = static_shape(m.value("stored"))
    if shape is None or old is None:
        return Reject("the shape is not known at compile time")
    if any(v is not None and not is_constant(v) for v in m.rest("how")):
        return Reject("the shape is computed at run time")
    if node.outputs[0].is_graph_output():
        return Reject("it is an output of the model")
    scale = m.array("scale")
    zero = m.rest("zero")[0] if m.rest("zero") else None
    perm = _permutation(node, len(old)) if node.op_type == "Transpose" else None
    if scale.size == 1:
        axis, block = None, 0
    else:
        axis, block = int(attribute(dq, "axis")) % len(old), int(attribute(dq, "block_size") or 0)
        if perm is None:
            if block:
                return Reject("the weight is stored in blocks")
            kept = _same_axis(old, shape, axis)
            if kept is None:
                return Reject("the axis of the scales does not stay an axis")
            axis = kept
        else:
            axis = perm.index(axis)
    data = m.array("stored")
    moved = data.transpose(perm) if perm is not None else data.reshape(shape)
    new = rw.const(np.ascontiguousarray(moved), m.value("stored").name or "w_q")
    if block and perm is not None:  # scales and zero points are laid out as the weight is
        parts = [m.value("scale"), *([zero] if zero is not None else [])]
        moved_parts = [rw.const(np.ascontiguousarray(_data(p).transpose(perm)), p.name or "scale") for p in parts]
        return rw.op("DequantizeLinear", new, *moved_parts, attrs={"axis": axis, "block_size": block})
    return dequantize(rw, new, m.value("scale"), zero, axis, block)


def _data(v: ir.Value) -> Array:
    return np.asarray(constant(v))


def _permutation(node: ir.Node, rank: int) -> list[int]:
    perm = node.attributes.get("perm")
    return list(perm.as_ints()) if perm is not None else list(range(rank))[::-1]


def _same_axis(old: tuple[int, ...], new: tuple[int, ...], axis: int) -> int | None:
    """Where the axis is after a Reshape: as long as before, and with as many elements in front of it."""
    before, length = math.prod(old[:axis]), old[axis]
    for i, d in enumerate(new):
        if d == length and math.prod(new[:i]) == before:
            return i
    return None


@rule(P.op("QuantizeLinear", "DequantizeLinear")(var("x"), const("scale"), rest("zero")))
def write_out_params(m: Match, rw: Rewriter) -> Result:
    scale, node = m.array("scale"), m.root
    zero = m.rest("zero")[0] if m.rest("zero") else None
    if zero is not None and (zero.shape is None or not is_constant(zero)):
        return Reject("the zero point is computed at run time")
    vector = scale.size == 1 and scale.ndim > 0 and not attribute(node, "block_size")
    if zero is not None and not vector:
        return Reject("they are written out")
    dtype = _stored_type(node) if node.op_type == "QuantizeLinear" else m.value("x").dtype
    if dtype is None:
        return Reject("the stored type is not known")
    one = () if vector or not scale.ndim else scale.shape
    name = m.value("scale").name or "scale"
    s = rw.const(scale.reshape(one), name) if vector else m.value("scale")
    data = np.zeros(one, dtype.numpy()) if zero is None else _data(zero).reshape(one)
    z = rw.const(data, f"{name.removesuffix('_scale')}_zp") if zero is None or vector else zero
    drop = ("axis",) if vector else ()
    attrs = {k: a for k, a in node.attributes.items() if k not in drop}
    new = rw.op(node.op_type, m.value("x"), s, z, attrs=attrs)
    return typed(new, z.dtype if node.op_type == "QuantizeLinear" else s.dtype, m.value("x"))


@dataclass(frozen=True)
class CanonicalQdq(RewritePass):
    name: ClassVar[str] = "canonical-qdq"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet([store_weight, move_weight, write_out_params])
