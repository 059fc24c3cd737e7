"""Zero points written as TensorRT reads them: given, int8, 0.

TensorRT takes a zero point that is left out, or of uint8 and 0, for int8 and 0, and clips at 127 where ONNX says 255:
wrong numbers without an error. Where a tensor never holds more than 127, both mean the same, and the file can say so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.diagnostics import Location
from edgec.graph import Graph, constant, ir, is_constant
from edgec.infer import infer_shapes
from edgec.passes.quantize.qdq_nodes import initializer
from edgec.passes.quantize.retype import Retype, stored_values
from edgec.passes.quantize.value_bounds import bounds
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.quantization.form import DEQUANTIZE, QUANTIZE
from edgec.quantization.pairs import DQ, Linear, linears


@dataclass(frozen=True)
class FixZeroPoints(Pass):
    """Every 8-bit Q and DQ gets an explicit zero point of int8 0 where that means the same, number for number.

    uint8 with zero point 128 becomes int8 with 0 (`retype`). uint8 with zero point 0, or none, does where no value above
    127 can be stored: a constant that holds none, or a range that follows from the ops before it (Sigmoid, Softmax,
    Clip ...). What is left is warned of (EC0864).

    `rescale`: those get a scale that covers the same range in int8 with zero point 0. That halves the steps or worse:
    numbers change, on purpose. Quantising again from the float model is better.
    """

    rescale: bool = False

    name: ClassVar[str] = "fix-zero-points"
    contract: ClassVar[Contract] = "exact"

    def __post_init__(self) -> None:
        if self.rescale:  # numbers change: no promise but to be measured
            object.__setattr__(self, "contract", "lossy")

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        infer_shapes(graph)  # the type of a stored value is that of its zero point, wherever that is written
        given = sum(_give(graph, lin) for lin in list(linears(graph)))
        retyped = _retype(graph, ctx)
        fixer = _Fixer(graph, self.rescale)
        counts = {"given": given, "retyped": sum(retyped.stats.values()), **fixer.run()}
        graph.remove_dead()
        for lin in linears(graph):
            if lin.dtype == "uint8" and lin.node.op_type == QUANTIZE:
                hint = "fix-zero-points{rescale=true} changes the scale; better: quantise the float model again"
                message = f"{lin.says()}: int8 with zero point 0 does not hold all it can store"
                ctx.diagnostics.warn("EC0864", message, Location(graph.source, node=lin.node.name), hint)
        return PassResult(any(counts.values()), {k: n for k, n in counts.items() if n})


def _give(graph: Graph, lin: Linear) -> int:
    """Write out a zero point that is left out, in the type it has."""
    node = lin.node
    if node.op_type == DEQUANTIZE and lin.stored.dtype is None:
        return 0
    if lin.zero_given or node.domain or lin.dtype not in ("int8", "uint8") or len(node.inputs) < 2:
        return 0
    scale = constant(node.inputs[1])
    if scale is None:
        return 0
    zero = initializer(graph, f"{node.name}_zero", np.zeros(np.shape(scale), np.dtype(lin.dtype)))
    node.resize_inputs(3)
    node.replace_input_with(2, zero)
    node.attributes.pop("output_dtype", None)
    return 1


def _middle(lin: Linear) -> bool:
    return lin.zero is not None and bool((lin.zero == 128).all())


def _retype(graph: Graph, ctx: PassContext) -> PassResult:
    """`retype`, on those whose zero point is 128 only: of the others it would make asymmetric int8."""
    hidden = [lin.node for lin in linears(graph) if lin.dtype == "uint8" and not _middle(lin)]
    return Retype(activations="int8", weights="int8", leave=tuple(n.name or "" for n in hidden)).run(graph, ctx)


class _Fixer:
    def __init__(self, graph: Graph, rescale: bool) -> None:
        self.graph, self.rescale = graph, rescale

    def run(self) -> dict[str, int]:
        counts = {"constants": 0, "activations": 0, "rescaled": 0}
        for node in list(self.graph.nodes()):
            if node.domain or node.op_type not in (QUANTIZE, DEQUANTIZE) or len(node.inputs) < 3:
                continue
            lin = Linear(node, self.graph.opset)
            if lin.dtype != "uint8" or lin.zero is None or lin.scale is None or lin.block:
                continue
            if node.op_type == DQ and is_constant(lin.stored):
                counts["constants"] += self._constant(lin)
            elif node.op_type == QUANTIZE:
                fixed = self._activation(lin)
                counts["activations"] += fixed == "equal"
                counts["rescaled"] += fixed == "rescaled"
        return counts

    def _constant(self, lin: Linear) -> bool:
        """Stored numbers of at most 127 with zero point 0 are the same in int8."""
        data = constant(lin.stored)
        if data is None or lin.zero is None or lin.zero.any() or (data.size and int(data.max()) > 127):
            return False
        lin.node.replace_input_with(0, initializer(self.graph, f"{lin.stored.name}_i8", data.astype(np.int8)))
        lin.node.replace_input_with(2, self._zero(lin.node))
        return True

    def _activation(self, lin: Linear) -> str | None:
        node, found = lin.node, stored_values(lin.node)
        if found is None or lin.scale is None or lin.zero is None:
            return None
        values, readers = found
        if any(not Linear(r, lin.opset).same(lin) for r in readers):
            return None
        low, high = bounds(lin.real)
        scale32 = lin.scale.astype(np.float32)
        equal = not lin.zero.any() and bool((np.rint(np.float32(high) / scale32) <= 127).all())
        equal = equal and bool((np.rint(np.float32(low) / scale32) >= 0).all())
        if not equal and not self.rescale:
            return None
        for n in (node, *readers):
            if not equal:
                farthest = np.maximum(lin.zero, 255 - lin.zero).astype(np.float64)
                old = constant(n.inputs[1])
                assert old is not None  # lin.scale was read from it
                new = np.asarray(lin.scale * farthest / 127, old.dtype).reshape(np.shape(old))
                n.replace_input_with(1, initializer(self.graph, f"{n.name}_scale", new))
            n.replace_input_with(2, self._zero(n))
        for v in values:
            v.type = ir.TensorType(ir.DataType.INT8)
        return "equal" if equal else "rescaled"

    def _zero(self, node: ir.Node) -> ir.Value:
        old = constant(node.inputs[2])
        assert old is not None  # Linear.zero was read from it
        return initializer(self.graph, f"{node.name}_zero", np.zeros(old.shape, np.int8))
