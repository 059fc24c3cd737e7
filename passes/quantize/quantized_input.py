"""Models that arrive quantised: their parameters, and what a quantiser must leave alone.

Read-only. In which form they are: `edgec.quantization.form`. `qoperator-to-qdq` and `canonical-qdq` bring the other forms to Q/DQ,
`dequantize` goes back to float.
"""

from __future__ import annotations

import numpy as np

from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.quantization.form import CONTRIB, DEQUANTIZE, DYNAMIC_OPS, PACKED_OPS, QUANTIZE, STATIC_OPS
from edgec.quantization.params import QuantParams

_INTEGERS = frozenset(
    getattr(ir.DataType, n) for n in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN")
)
_DTYPES = {
    ir.DataType.INT4: "int4", ir.DataType.UINT4: "uint4", ir.DataType.INT8: "int8", ir.DataType.UINT8: "uint8",
    ir.DataType.INT16: "int16", ir.DataType.UINT16: "uint16", ir.DataType.INT32: "int32",
    ir.DataType.FLOAT8E4M3FN: "float8e4m3fn",
}  # fmt: skip


def already_quantized(graph: Graph) -> frozenset[str]:
    """Names of the values a quantiser must not store again: what QuantizeLinear reads and DequantizeLinear gives (weights
    and biases too), and everything in integers between them; for integer ops, all they read and give."""
    names: set[str | None] = set()
    for node in graph.nodes():
        if node.domain not in ("", "ai.onnx", CONTRIB) or not node.inputs:
            continue
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            names.update(v.name for v in (node.inputs[0], node.outputs[0]) if v is not None)
        elif node.op_type in STATIC_OPS or node.op_type in DYNAMIC_OPS or node.op_type in PACKED_OPS:
            names.update(v.name for v in (*node.inputs, *node.outputs) if v is not None and not is_constant(v))
        elif any(v.dtype in _INTEGERS and _between(v) for v in node.outputs):
            names.update(v.name for v in node.outputs)
    return frozenset(n for n in names if n)


def _between(v: ir.Value) -> bool:
    """Whether data movement on integers ends in DequantizeLinear."""
    return any(u.node.op_type == DEQUANTIZE or u.node.op_type in STATIC_OPS for u in v.uses())


def stored_weight(value: ir.Value | None) -> tuple[ir.Value, QuantParams] | None:
    """The integer constant behind a value that is DequantizeLinear of one, and its parameters; None if it is not that."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != DEQUANTIZE or not node.inputs or not is_constant(node.inputs[0]):
        return None
    params = params_of(node)
    stored = node.inputs[0]
    return (stored, params) if params is not None and stored is not None else None


def params_of(node: ir.Node) -> QuantParams | None:
    """What a QuantizeLinear or DequantizeLinear says; None where scale or zero point are not constant."""
    if len(node.inputs) < 2 or node.domain not in ("", "ai.onnx", CONTRIB):
        return None
    scale = constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    zero = constant(given)
    if scale is None or (given is not None and zero is None):
        return None
    stored = node.outputs[0] if node.op_type == QUANTIZE else node.inputs[0]
    dtype = given.dtype if given is not None else stored.dtype if stored is not None else None
    if dtype is None and node.op_type == QUANTIZE:
        dtype = ir.DataType.UINT8  # ONNX: the default output type
    if dtype is None or dtype not in _DTYPES:
        return None
    scale = np.asarray(scale, np.float32)
    zero = np.zeros(scale.shape, np.int32) if zero is None else np.asarray(zero).astype(np.int32)
    if scale.size == 1:
        return QuantParams(scale.reshape(()), zero.reshape(()), _DTYPES[dtype])
    block = int(attribute(node, "block_size") or 0) or None
    rank = node.inputs[0].shape.rank() if node.inputs[0] is not None and node.inputs[0].shape is not None else 0
    axis = int(attribute(node, "axis"))
    shape = static_shape(node.inputs[0])
    if (
        block is None
        and shape is not None
        and (not -rank <= axis < rank or scale.shape != (shape[axis],) or zero.shape != scale.shape)
    ):
        return None  # not one scale for each channel: no model ONNX allows
    return QuantParams(scale, zero, _DTYPES[dtype], axis % rank if rank else axis, block)
