"""Small Q/DQ models for the tests of the linter, one call a part; and the linter as those tests call it."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edgec.diagnostics import Severity
from edgec.graph import Graph
from edgec.quantization.lint import Finding, lint
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme

Array = Any
rng = np.random.default_rng(0)

INT4, UINT4, FP8, FP8_E5M2 = ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2
ZERO, FIVE, MINUS_THREE, STEP = np.int8(0), np.int8(5), np.int8(-3), np.float32(0.02)


class Build:
    """Nodes and initializers of a small model, one call a part."""

    def __init__(self, opset: int = 21) -> None:
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []

    def const(self, name: str, data: Array) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def input(self, name: str, shape: list[int], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: list[int], dtype: int = TensorProto.FLOAT) -> None:
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def op(self, op: str, inputs: list[str], out: str, **attrs: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], name=f"{out}_node", **attrs))
        return out

    def pair(self, x: str, zero: Array | None = ZERO, scale: Array = STEP, out: str = "", **attrs: Any) -> str:
        """x -> Q -> DQ. `zero` None: left out."""
        given = [self.const(f"{x}_s", scale)] + ([] if zero is None else [self.const(f"{x}_z", zero)])
        self.op("QuantizeLinear", [x, *given], f"{x}_q", **attrs)
        return self.op("DequantizeLinear", [f"{x}_q", *given], out or f"{x}_dq", **attrs)

    def weight(
        self, name: str, data: Array, axis: int | None = 0, scale: Array | None = None, zero: Array | None = None,
        block: int = 0,
    ) -> str:  # fmt: skip
        """Stored weight -> DQ, one scale a channel of `axis`."""
        if scale is None:
            scale = np.float32(0.01) if axis is None else np.full(data.shape[axis], 0.01, np.float32)
        if zero is None:
            zero = np.zeros(np.shape(scale), data.dtype)
        inputs = [self.const(f"{name}_q", data), self.const(f"{name}_s", scale), self.const(f"{name}_z", zero)]
        attrs = {} if axis is None else {"axis": axis}
        return self.op("DequantizeLinear", inputs, name, **attrs, **({"block_size": block} if block else {}))

    def graph(self) -> Graph:
        g = helper.make_graph(self.nodes, "g", self.inputs, self.outputs, self.weights)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return Graph.from_proto(helper.make_model(g, opset_imports=opsets, ir_version=10))


def small(shape: tuple[int, ...], dtype: Any = np.int8) -> Array:
    low, high = (0, 15) if dtype in (UINT4, np.uint8) else (-7, 7)
    return rng.integers(low, high, shape).astype(np.float32).astype(dtype)


def check(graph: Graph, scheme: str, opset: int | None = None) -> list[Finding]:
    return lint(graph, builtin_scheme(scheme), Setting("int8", "", graph.opset), newest_opset=opset)


def errors(found: list[Finding]) -> set[str]:
    return {f.rule for f in found if f.severity is Severity.ERROR}


def warnings(found: list[Finding]) -> set[str]:
    return {f.rule for f in found if f.severity is Severity.WARNING}
