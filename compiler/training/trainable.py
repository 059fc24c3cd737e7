"""Which initialisers of a graph training may change: weights and biases, and the scales of Q/DQ on request."""

from __future__ import annotations

from edgec.graph import Graph, ir

_WEIGHTS: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (0, 1, 2), "MatMul": (0, 1), "BatchNormalization": (1, 2),
    "InstanceNormalization": (1, 2), "GroupNormalization": (1, 2), "LayerNormalization": (1, 2),
    "RMSNormalization": (1,), "PRelu": (1,), "LSTM": (1, 2, 3), "GRU": (1, 2, 3), "Einsum": (0, 1, 2), "Gather": (0,),
    "Add": (0, 1), "Mul": (0, 1),
}  # fmt: skip
"""Op -> the inputs that are weights where they are constant. Of Add and Mul only vectors: a lone number is a formula's."""

_MOVES = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Cast", "Flatten", "Expand"})
"""Between an initialiser and the node that reads it as a weight."""


def trainable_names(graph: Graph) -> list[str]:
    """Floating-point initialisers of the main graph that are weights or biases, directly or through Q/DQ; in order.

    Integer weights behind a DequantizeLinear are in `stored_weights`.
    """
    return [name for name, v in graph.model.graph.initializers.items() if _is_float(v) and _is_weight(v)]


def stored_weights(graph: Graph) -> dict[str, ir.Node]:
    """Integer initialisers that are weights or biases -> the DequantizeLinear that reads each of them (the only reader)."""
    found: dict[str, ir.Node] = {}
    for name, v in graph.model.graph.initializers.items():
        uses = list(v.uses())
        if v.is_graph_input() or len(uses) != 1 or uses[0].node.op_type != "DequantizeLinear" or uses[0].idx != 0:
            continue
        if _is_weight(uses[0].node.outputs[0], v):
            found[name] = uses[0].node
    return found


def scale_names(graph: Graph) -> list[str]:
    """Floating-point initialisers that are scales of QuantizeLinear or DequantizeLinear nodes."""
    found = []
    for name, v in graph.model.graph.initializers.items():
        uses = list(v.uses())
        if _is_float(v) and uses and all(
            u.idx == 1 and u.node.op_type in ("QuantizeLinear", "DequantizeLinear") for u in uses
        ):  # fmt: skip
            found.append(name)
    return found


def _is_float(v: ir.Value) -> bool:
    t = v.const_value
    return t is not None and t.dtype.is_floating_point() and not v.is_graph_input()


def _is_weight(v: ir.Value, initializer: ir.Value | None = None) -> bool:
    """Whether some node reads `v` as a weight."""
    stored = (initializer if initializer is not None else v).const_value
    for node, index in v.uses():
        if node.domain not in ("", "ai.onnx"):
            continue
        if index in _WEIGHTS.get(node.op_type, ()) and (
            node.op_type not in ("Add", "Mul") or (stored is not None and stored.size > 1)
        ):
            return True
        through = node.op_type in _MOVES or node.op_type in ("QuantizeLinear", "DequantizeLinear")
        if through and index == 0 and _is_weight(node.outputs[0], initializer if initializer is not None else v):
            return True
    return False
