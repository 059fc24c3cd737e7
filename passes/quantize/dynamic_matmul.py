"""Products with a stored weight take their other operand's range at run time: integers without calibration data.

    MatMul(x, DequantizeLinear(w))  ->  Mul(Cast(MatMulInteger(q, w)), x_scale * w_scale),  q, x_scale = DynamicQuantizeLinear(x)

ONNX Runtime fuses the right side into one kernel (DynamicQuantizeMatMul). Right for transformers, whose ranges differ from
input to input; the range is taken over the whole tensor, so batches share it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir
from edgec.pattern import Match, P, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

if TYPE_CHECKING:
    from edgec.pipeline import Contract

_weight = P.DequantizeLinear(rest("w"), as_="stored", shared_=True)


def _columns(node: ir.Node, rank: int) -> tuple[ir.Value, np.ndarray, ir.Value] | Reject:
    """The stored weight, its scales as one number or one a column, and its zero point."""
    stored, scale, *more = node.inputs
    scales = constant(scale)
    if stored is None or scales is None or constant(stored) is None:
        return Reject("the weight is not constant")
    if stored.dtype is not ir.DataType.INT8 or not more or more[0] is None:
        return Reject("the weight is not int8 with a zero point")
    if scales.ndim > 1:
        return Reject("the weight has a scale a block")
    if scales.ndim == 1 and int(attribute(node, "axis")) % rank != rank - 1:
        return Reject("scales do not belong to columns")
    return stored, np.asarray(scales), more[0]


def _product(rw: Rewriter, x: ir.Value, w: ir.Value, scale: np.ndarray, zero: ir.Value) -> ir.Value:
    q, x_scale, x_zero = rw.ops("DynamicQuantizeLinear", x, outputs=3)
    whole = rw.op("MatMulInteger", q, w, x_zero, zero)
    both = rw.op("Mul", x_scale, rw.const(scale, f"{w.name}_scale"))
    return rw.op("Mul", rw.op("Cast", whole, attrs={"to": ir.DataType.FLOAT.value}), both)


@rule(P.MatMul(var("x"), _weight))
def matmul(m: Match, rw: Rewriter) -> Result:
    x, node = m.value("x"), m.node("stored")
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    if x.dtype is not ir.DataType.FLOAT or shape is None or shape.rank() < 2:
        return Reject("it is no product of float32 matrices")
    found = _columns(node, shape.rank())
    if isinstance(found, Reject):
        return found
    if shape.rank() > 2 and found[1].ndim:
        return Reject("scales a column of a stack of matrices")
    return _product(rw, x, *found)


@rule(P.Gemm(var("x"), _weight, rest("bias")))
def gemm(m: Match, rw: Rewriter) -> Result:
    x, node, root = m.value("x"), m.node("stored"), m.root
    if x.dtype is not ir.DataType.FLOAT or attribute(root, "transA"):
        return Reject("its first operand is transposed, or not float32")
    if attribute(root, "alpha") != 1.0 or attribute(root, "beta") != 1.0:
        return Reject("it scales its operands")
    transposed = bool(attribute(root, "transB"))
    scales = constant(node.inputs[1])
    if scales is not None and scales.ndim == 1 and int(attribute(node, "axis")) % 2 != (0 if transposed else 1):
        return Reject("scales do not belong to columns")
    found = _columns(node, 2) if not transposed else _columns_of_rows(node)
    if isinstance(found, Reject):
        return found
    w, scale, zero = found
    if transposed:
        w = rw.const(np.ascontiguousarray(np.asarray(constant(w)).T), f"{w.name}_t")
    y = _product(rw, x, w, scale, zero)
    bias = next(iter(m.rest("bias")), None)
    return y if bias is None else rw.op("Add", y, bias)


def _columns_of_rows(node: ir.Node) -> tuple[ir.Value, np.ndarray, ir.Value] | Reject:
    """As `_columns` of a weight that is read transposed: its rows are the columns of the product."""
    stored, scale, *more = node.inputs
    scales = constant(scale)
    if stored is None or scales is None or constant(stored) is None or not more or more[0] is None:
        return Reject("the weight is not constant, or has no zero point")
    if stored.dtype is not ir.DataType.INT8 or scales.ndim > 1:
        return Reject("the weight is not int8 with one scale a row")
    return stored, np.asarray(scales), more[0]


@dataclass(frozen=True)
class DynamicMatMul(RewritePass):
    """Products with int8 weights quantise their activations at run time."""

    name: ClassVar[str] = "dynamic-matmul"
    contract: ClassVar[Contract] = "lossy"
    rules: ClassVar[RuleSet] = RuleSet([matmul, gemm])
