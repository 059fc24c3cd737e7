"""Models that arrive quantised: in which form, what of them, and what a quantiser must leave alone.

Read-only. `qoperator-to-qdq` and `canonical-qdq` bring the other forms to Q/DQ, `dequantize` goes back to float.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.quantization.params import QuantParams

Form = Literal["none", "weight-only", "qdq", "qoperator", "dynamic", "mixed"]

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own ops."""

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"

STATIC_OPS = frozenset(
    {
        "QLinearConv", "QLinearMatMul", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu",
        "QLinearGlobalAveragePool", "QLinearAveragePool", "QLinearConcat", "QLinearSoftmax", "QLinearWhere",
        "QLinearReduceMean", "QGemm", "MatMulIntegerToFloat", "QAttention", "QEmbedLayerNormalization",
        "ConvInteger", "MatMulInteger",
    }
)  # fmt: skip
"""Ops on integers with ranges fixed in the file (behind DynamicQuantizeLinear, the Integer ones count as dynamic)."""

DYNAMIC_OPS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})
"""Ops that take the range of their input from the very input."""

PACKED_OPS = frozenset({"MatMulNBits", "GatherBlockQuantized"})
"""Float ops with weights in few bits."""

_INTEGERS = frozenset(
    getattr(ir.DataType, n) for n in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4", "FLOAT8E4M3FN")
)
_DTYPES = {
    ir.DataType.INT4: "int4", ir.DataType.UINT4: "uint4", ir.DataType.INT8: "int8", ir.DataType.UINT8: "uint8",
    ir.DataType.INT16: "int16", ir.DataType.UINT16: "uint16", ir.DataType.INT32: "int32",
    ir.DataType.FLOAT8E4M3FN: "float8e4m3fn",
}  # fmt: skip


@dataclass(frozen=True)
class QuantizationForm:
    """How a model is quantised.

    weight-only: weights behind DequantizeLinear (or packed), activations in float. qdq: activations pass QuantizeLinear
    and DequantizeLinear, ops are float ops between them. qoperator: ops on integers. dynamic: the same, with ranges taken
    from every input anew. mixed: integer ops beside float ops with stored weights, or static beside dynamic.

    `counts`: activations (QuantizeLinear of something computed), weights and biases (constants behind DequantizeLinear),
    and each integer op by its name; only what there is.
    """

    form: Form
    counts: Mapping[str, int]

    def __str__(self) -> str:
        return f"{self.form} ({', '.join(f'{n} {k}' for k, n in self.counts.items())})" if self.counts else self.form


def quantization_form(graph: Graph) -> QuantizationForm:
    """Look at every node, at no weight."""
    counts: Counter[str] = Counter()
    for node in graph.nodes():
        counts.update(_kind(node))
    static = any(counts[op] for op in STATIC_OPS)
    dynamic = any(counts[op] for op in DYNAMIC_OPS)
    if dynamic:  # their integer ops belong to them, unless others have ranges of their own
        static = any(counts[op] for op in STATIC_OPS - {"ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"})
    stored = bool(counts["weights"] or counts["biases"])
    if static or dynamic:
        form: Form = "mixed" if (static and dynamic) or stored else "qoperator" if static else "dynamic"
    elif counts["activations"]:
        form = "qdq"
    else:
        form = "weight-only" if stored or any(counts[op] for op in PACKED_OPS) else "none"
    return QuantizationForm(form, {k: n for k, n in sorted(counts.items()) if n})


def _kind(node: ir.Node) -> list[str]:
    if node.domain not in ("", "ai.onnx", CONTRIB) or not node.inputs:
        return []
    if node.op_type in STATIC_OPS or node.op_type in DYNAMIC_OPS or node.op_type in PACKED_OPS:
        return [node.op_type]
    if node.op_type == QUANTIZE:
        return ["activations"] if not is_constant(node.inputs[0]) else []
    if node.op_type == DEQUANTIZE:
        kind = stored_kind(node)
        return [kind] if kind else []
    return []


def stored_kind(node: ir.Node) -> Literal["weights", "biases"] | None:
    """What constant a DequantizeLinear reads, directly, through data movement, or through QuantizeLinear; None: no constant."""
    value = node.inputs[0] if node.inputs else None
    while value is not None and not is_constant(value):
        producer = value.producer()
        if producer is None or producer.op_type not in (QUANTIZE, *_MOVES) or not producer.inputs:
            return None
        value = producer.inputs[0]
    if value is None:
        return None
    return "biases" if value.dtype == ir.DataType.INT32 else "weights"


_MOVES = ("Gather", "Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity")


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
