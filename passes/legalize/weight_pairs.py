"""Stored int8 weights as float32 weights behind a pair of QuantizeLinear and DequantizeLinear.

TensorRT up to 8.6 takes no int8 initializers ("invalid weights type of Int8", microsoft/onnxruntime#11535; optimum#812: weights
"stored in float32 with a QDQ pair"); it quantises such weights itself, when the engine is built. Every later TensorRT reads
this form too. The float weight is stored x scale, and dividing it by the scale gives the stored number back, which is
checked element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, attribute, constant, ir
from edgec.passes.quantize.qdq_nodes import initializer
from edgec.pipeline import Contract, Pass, PassContext, PassResult


@dataclass(frozen=True)
class WeightPairs(Pass):
    """No DequantizeLinear of an int8 constant with float32 scales and zero points of 0: the constant is float32, a
    QuantizeLinear stands between. What every node computes stays the same, bit for bit.

    Raises:
        EdgecError: EC0245 a scale so large that stored x scale is no float32.
    """

    name: ClassVar[str] = "weight-pairs"
    contract: ClassVar[Contract] = "exact"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        made = 0
        pairs: dict[tuple[int, ...], ir.Value] = {}
        for node in list(graph.nodes()):
            if node.op_type != "DequantizeLinear" or node.domain or attribute(node, "block_size", graph.opset):
                continue
            stored, scale = node.inputs[0], node.inputs[1]
            zero = node.inputs[2] if len(node.inputs) > 2 else None
            numbers, scales = constant(stored), constant(scale)
            if (
                stored is None
                or numbers is None
                or scales is None
                or numbers.dtype != np.int8
                or scales.dtype != np.float32
            ):
                continue
            zeros = constant(zero)
            if zero is not None and (zeros is None or np.any(zeros)):
                continue
            assert scale is not None  # it has a value
            if zero is None:  # what QuantizeLinear stores in is told by its zero point
                zero = initializer(graph, f"{stored.name}_zero_point", np.zeros(np.shape(scales), np.int8))
                node.resize_inputs(3)
                node.replace_input_with(2, zero)
            axis = int(attribute(node, "axis", graph.opset) or 0)
            key = (id(stored), id(scale), axis)
            if key not in pairs:
                pairs[key] = self._quantized(graph, node, numbers, scales, axis, (stored, scale, zero))
            node.replace_input_with(0, pairs[key])
            made += 1
        if made:
            graph.remove_dead()
        return PassResult(bool(made), {"weights": made} if made else {})

    def _quantized(
        self,
        graph: Graph,
        node: ir.Node,
        numbers: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float32],
        axis: int,
        inputs: tuple[ir.Value, ir.Value, ir.Value],
    ) -> ir.Value:
        """The stored weight, computed from a float one."""
        stored, scale, zero = inputs
        along = (
            scales.reshape([-1 if i == axis % numbers.ndim else 1 for i in range(numbers.ndim)])
            if scales.size > 1
            else scales.reshape(())
        )
        real = (numbers.astype(np.float32) * along).astype(np.float32)
        with np.errstate(all="ignore"):
            back = np.clip(np.rint(real / along), -128, 127)
        if not np.array_equal(back, numbers):
            raise error(
                "EC0245", f"weight {stored.name!r} cannot be written as float32: its scale is too large",
                Location(graph.source, node=node.name), "start from the float model",
            )  # fmt: skip
        weight = initializer(graph, f"{stored.name}_real", real)
        attributes = [ir.AttrInt64("axis", axis)] if scales.size > 1 else []
        pair = ir.Node(
            "", "QuantizeLinear", [weight, scale, zero], attributes,
            name=graph.fresh(f"{node.name or stored.name}_weight_quantize"),
            outputs=[ir.Value(name=graph.fresh(f"{stored.name}_stored"), type=stored.type, shape=stored.shape)],
            metadata_props={"edgec.rule": self.name, "edgec.from": node.name or ""},
        )  # fmt: skip
        assert isinstance(node.graph, ir.Graph)
        node.graph.insert_before(node, pair)
        return pair.outputs[0]
