"""What of a Q/DQ graph becomes integer kernels, and what a kernel takes in besides its own node.

A node is an integer kernel where every activation it reads comes from DequantizeLinear and every float it writes is read by
QuantizeLinear alone, as the kernels compute it: this never changes what the graph says. All else stays float, with
DEQUANTIZE and QUANTIZE around, and `why_float` says why.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.targets.tflite.model import Quant
from edgec.targets.tflite.rules import LoweringRule, Quantised

Q, DQ = "QuantizeLinear", "DequantizeLinear"
ACTIVATIONS = {"int8", "int16"}
"""Element types of quantised activations."""


@dataclass(frozen=True)
class Fused:
    """What a kernel takes in behind its own node. `output`: the value it then writes in place of its node's output."""

    output: ir.Value
    activation: str = "NONE"
    bias: ir.Value | None = None
    nodes: tuple[ir.Node, ...] = ()


@dataclass(eq=False)
class Forms:
    """`integer`: node -> the element type of its kernel. `fused`: main node -> what it takes in; those nodes are in `inside`."""

    integer: dict[ir.Node, str] = field(default_factory=dict)
    fused: dict[ir.Node, Fused] = field(default_factory=dict)
    inside: set[ir.Node] = field(default_factory=set)
    why_float: dict[ir.Node, str] = field(default_factory=dict)

    def output(self, node: ir.Node, k: int = 0) -> ir.Value:
        """What the kernel of `node` writes as its output `k`."""
        return self.fused[node].output if k == 0 and node in self.fused else node.outputs[k]


def absorb(graph: Graph, rules: Mapping[str, LoweringRule]) -> Forms:
    """Decide for every node of the main graph."""
    forms = Forms()
    quantised_graph = any(n.op_type == DQ for n in graph.model.graph)
    for node in graph.model.graph:
        rule = rules.get(node.op_type)
        if rule is None or node.domain or node in forms.inside or node.op_type in (Q, DQ):
            continue
        fused = _fuse(node, rule)
        if quantised_graph:
            kernel = _integer(node, rule.quantised, fused)
            if kernel in ACTIVATIONS:
                forms.integer[node] = kernel
            elif kernel:
                forms.why_float[node] = kernel
        if node not in forms.integer and fused is not None and _only_in_range(fused):
            fused = _fuse(node, rule, in_range=False)
        if fused is not None:
            forms.fused[node] = fused
            forms.inside.update(fused.nodes)
    return forms


# --- activations and biases -------------------------------------------------------------------------------------------


def _fuse(node: ir.Node, rule: LoweringRule, *, in_range: bool = True) -> Fused | None:
    if len(node.outputs) != 1 or not (rule.activation or rule.bias):
        return None
    if node.op_type == "MatMul" and not constant_matrix(node):
        return None  # BATCH_MATMUL takes nothing in
    out, bias, taken, activation = node.outputs[0], None, [], "NONE"
    while (reader := _only_reader(out)) is not None:
        if rule.bias and bias is None and (found := _bias(reader, out)) is not None:
            bias = found
        elif rule.activation and (kind := _activation(reader, in_range=in_range)) is not None:
            activation = kind
            taken.append(reader)
            out = reader.outputs[0]
            break
        else:
            break
        taken.append(reader)
        out = reader.outputs[0]
    return Fused(out, activation, bias, tuple(taken)) if taken else None


def _only_reader(v: ir.Value) -> ir.Node | None:
    uses = list(v.uses())
    if len(uses) != 1 or v.is_graph_output() or uses[0].node.domain:
        return None
    return uses[0].node


def constant_matrix(node: ir.Node) -> bool:
    """Whether a MatMul is rows times a constant matrix, which FULLY_CONNECTED computes."""
    right, rows, shape = node.inputs[1], static_shape(node.inputs[0]), static_shape(node.inputs[1])
    if shape is None or len(shape) != 2 or rows is None or len(rows) < 2 or right is None:
        return False
    return is_constant(right) or is_constant(stored_value(right))


def _bias(node: ir.Node, product: ir.Value) -> ir.Value | None:
    """The constant vector an Add adds to each row of a product."""
    if node.op_type != "Add":
        return None
    other = node.inputs[1] if node.inputs[0] is product else node.inputs[0]
    shape, whole = static_shape(other), static_shape(product)
    if other is None or shape is None or whole is None or not (is_constant(other) or is_constant(stored_value(other))):
        return None
    fits = math.prod(shape) == whole[-1] and bool(shape) and shape[-1] == whole[-1] and len(shape) <= len(whole)
    return other if fits else None


def _activation(node: ir.Node, *, in_range: bool) -> str | None:
    """The fused activation that a node is. "RANGE": a Clip that the saturation of the quantised output does already."""
    if node.op_type == "Relu":
        return "RELU"
    limits = clip_limits(node)
    if limits is None:
        return None
    known = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1", (0.0, math.inf): "RELU"}.get(limits)
    if known is not None:
        return known
    uses = list(node.outputs[0].uses())
    if not in_range or node.outputs[0].is_graph_output() or not uses or any(u.node.op_type != Q for u in uses):
        return None
    for u in uses:
        found = params(u.node)
        if found is None or not found[0].per_tensor:
            return None
        low, high = (-128, 127) if found[1] == "int8" else (-32768, 32767)
        scale, zero = float(found[0].scale[0]), int(found[0].zero_point[0])
        if (low - zero) * scale < limits[0] - scale / 2 or (high - zero) * scale > limits[1] + scale / 2:
            return None
    return "RANGE"


def _only_in_range(fused: Fused) -> bool:
    return fused.activation == "RANGE"


def clip_limits(node: ir.Node) -> tuple[float, float] | None:
    """The constant limits of a Clip; infinite where there is none."""
    if node.op_type != "Clip":
        return None
    found = []
    for i, absent in ((1, -math.inf), (2, math.inf)):
        v = node.inputs[i] if i < len(node.inputs) else None
        data: Any = absent if v is None else constant(v)
        if data is None:
            return None
        found.append(float(np.asarray(data).reshape(())))
    return found[0], found[1]


# --- integer kernels --------------------------------------------------------------------------------------------------


def _integer(node: ir.Node, q: Quantised | None, fused: Fused | None) -> str:
    """The element type of the integer kernel, or why there is none; empty where nothing about the node is quantised."""
    outputs = [fused.output if fused is not None and k == 0 else v for k, v in enumerate(node.outputs)]
    read = [_params_of(v) for v in node.inputs]
    written = [[u.node for u in v.uses() if u.node.op_type == Q and not u.node.domain] for v in outputs]
    if not any(read) and not any(written):
        return ""
    if q is None:
        return f"{node.op_type} has no integer kernel"
    weights = q.weights if q.has_weights is None or q.has_weights(node) else None
    parameters = {weights, q.bias}
    found = set()
    for i in q.inputs if q.inputs is not None else range(len(node.inputs)):
        v = node.inputs[i] if i < len(node.inputs) else None
        if v is None or i in parameters or (not _is_float(v)):
            continue
        p = read[i]
        if p is None or p[1] not in ACTIVATIONS:
            return f"its input {v.name!r} is not quantised"
        if not p[0].per_tensor:
            return f"its input {v.name!r} has a scale for each channel"
        found.add(p[1])
    if len(found) != 1:
        return "its inputs are quantised in different types" if found else "no input is quantised"
    dtype = found.pop()
    if dtype not in q.dtypes:
        return f"{node.op_type} has no {dtype} kernel"
    if weights is not None and weights < len(node.inputs):
        w = read[weights]
        if w is None or not is_constant(stored_value(node.inputs[weights])) or w[1] not in ("int8", "int4"):
            return "its weights are not stored in int8 or int4"
        if np.any(w[0].zero_point):
            return "its weights have a zero point"
    for v, quantisers in zip(outputs, written, strict=True):
        if not v.uses() and not v.is_graph_output():
            continue
        if not _is_float(v):
            continue
        if not quantisers or len(quantisers) != len(list(v.uses())) or v.is_graph_output():
            return f"its output {v.name!r} is read in float"
        kinds = [params(x) for x in quantisers]
        first = kinds[0]
        if first is None or first[1] != dtype or not first[0].per_tensor:
            return f"its output {v.name!r} is not quantised to {dtype} by one scale"
        if any(k is None or k[1] != dtype or not k[0].same(first[0]) for k in kinds[1:]):
            return f"its output {v.name!r} is quantised in several ways"
        if _too_coarse(node, read, first[0], dtype):
            return f"the scale of its output {v.name!r} is too small beside those of its inputs"
    return (q.when(node) if q.when is not None else None) or dtype


def _too_coarse(node: ir.Node, read: Sequence[tuple[Quant, str] | None], out: Quant, dtype: str) -> bool:
    """Whether a step of the inputs is more steps of the output than kernels can say.

    Measured with LiteRT 2.3.0: XNNPACK refuses a file with a product of 256 steps or more (BATCH_MATMUL ends the process),
    ADD and SUB end the process at 2^19 (int8) or 2^14 (int16). Frameworks give values that are always zero such scales.
    """
    scales = [float(np.max(p[0].scale)) for p in read[:2] if p is not None]
    if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul") and len(scales) == 2:
        return scales[0] * scales[1] >= 256 * float(out.scale[0])
    if node.op_type in ("Add", "Sub"):
        return max(scales) >= (2**19 if dtype == "int8" else 2**14) * float(out.scale[0])
    return False


def params(node: ir.Node) -> tuple[Quant, str] | None:
    """Scale, zero point and stored type of a QuantizeLinear or DequantizeLinear; None where they are not constant."""
    scale = constant(node.inputs[1])
    if scale is None or (node.attributes.get("block_size") is not None and attribute(node, "block_size")):
        return None
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    z = np.zeros((), np.int64) if zero is None else constant(zero)
    if z is None:
        return None
    stored = node.inputs[0].dtype if node.op_type == DQ and node.inputs[0] is not None else node.outputs[0].dtype
    if stored is None:
        return None
    rank = 0 if node.inputs[0] is None or node.inputs[0].shape is None else node.inputs[0].shape.rank()
    axis = int(attribute(node, "axis") or 0)
    if np.size(z) not in (1, np.size(scale)):
        return None
    found = Quant.of(scale, np.asarray(z).astype(np.int64), axis % rank if rank else 0)
    if not found.per_tensor and not _one_each(node.inputs[0], found):
        return None
    return found, stored.name.lower()


def _one_each(v: ir.Value | None, q: Quant) -> bool:
    """Whether there is one scale for each channel, as ONNX wants it."""
    shape = static_shape(v)
    return shape is None or (q.axis < len(shape) and shape[q.axis] == q.scale.size)


def stored_value(v: ir.Value | None) -> ir.Value | None:
    """The stored numbers that `v` is the real form of: the input of its DequantizeLinear; None where it has none."""
    producer = v.producer() if v is not None else None
    return producer.inputs[0] if producer is not None and producer.op_type == DQ and not producer.domain else None


def _params_of(v: ir.Value | None) -> tuple[Quant, str] | None:
    producer = v.producer() if v is not None else None
    return params(producer) if producer is not None and producer.op_type == DQ and not producer.domain else None


def _is_float(v: ir.Value) -> bool:
    return v.dtype is None or v.dtype.is_floating_point()
