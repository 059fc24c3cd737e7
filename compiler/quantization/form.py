"""In which form a model arrives quantised, and what of it.

Read-only. `edgec.passes.quantize.quantized_input` reads the numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgec.graph import Graph, ir, is_constant

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
