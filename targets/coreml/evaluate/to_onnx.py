"""A decoded Program as an ONNX graph that computes the same."""

from __future__ import annotations

import importlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from edgec.graph import Graph, ir
from edgec.targets.coreml.evaluate.rules import RULES, NotEvaluated, OpReader
from edgec.targets.coreml.program import FLOATS, Array, Packed, Program, Value

FAMILIES = (
    "activations",
    "attention",
    "blocks",
    "constants",
    "convolution",
    "elementwise",
    "filling",
    "gathering",
    "normalization",
    "ordering",
    "pooling",
    "products",
    "quantization",
    "recurrent",
    "reductions",
    "resizing",
    "sampling",
    "scattering",
    "shapes",
    "slicing",
    "suppression",
)
_OPSET = 23
_BYTES = ("int8", "uint8")


def to_onnx(program: Program, *, half: bool, inside: Collection[str] = ()) -> Graph:
    """The graph. `half`: fp16 values are rounded to fp16 after each operation, else they are float32 with fp16 weights.
    `inside`: values to give besides the outputs, by name.

    Raises:
        NotEvaluated: an operation has no rule.
    """
    for family in FAMILIES:
        importlib.import_module(f"edgec.targets.coreml.evaluate.{family}")
    return Evaluator(program, half).graph(inside)


class Evaluator:
    """The ONNX graph being written."""

    def __init__(self, program: Program, half: bool) -> None:
        self.program, self.half = program, half
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self._at: dict[Value, ir.Value] = {}
        self._numbers: dict[Value, Array] = {}
        self._count = 0

    def graph(self, inside: Collection[str] = ()) -> Graph:
        missing = sorted({o.op for o in self.program.operations if o.op not in RULES and o.op != "const"})
        if missing:
            raise NotEvaluated(f"no evaluation rule for {', '.join(missing)}")
        inputs = [self._input(v) for v in self.program.inputs]
        for o in self.program.operations:
            if o.op == "const":
                data = o.inputs["val"]
                if isinstance(data, (np.ndarray, Packed)):
                    self._numbers[o.outputs[0]] = data.data if isinstance(data, Packed) else data
            else:
                RULES[o.op](OpReader(self, o))
        outputs = [self._output(v) for v in self.program.outputs]
        given = {v.name for v in self.program.outputs}
        more = (v for o in self.program.operations for v in o.outputs if v.name in inside and v.name not in given)
        outputs += [self._output(v) for v in more]
        g = ir.Graph(
            inputs,
            outputs,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports={"": _OPSET},
            name="decoded",
        )
        return Graph(ir.Model(g, ir_version=10), source="the decoded package")

    # --- MIL values ---------------------------------------------------------------------------------------------------

    def value(self, v: Value) -> ir.Value:
        """The ONNX value of a MIL value."""
        if v not in self._at:
            self._at[v] = self.constant(self._numbers[v])
        return self._at[v]

    def number(self, v: Value) -> Array | None:
        """The numbers of a constant; None where a value is computed."""
        return self._numbers.get(v)

    def keep(self, mil: Value, v: ir.Value, *, exact: bool = False) -> None:
        """`v` is the MIL value; rounded where fp16 is evaluated as such, unless it is `exact` in fp16 as it is."""
        if self.half and mil.dtype == "fp16" and not exact:
            (half,) = self.node("Cast", [v], 1, {"to": int(ir.DataType.FLOAT16)})
            (v,) = self.node("Cast", [half], 1, {"to": int(ir.DataType.FLOAT)})
        self._at[mil] = v

    def keep_number(self, mil: Value, data: Array) -> None:
        """The MIL value is known now."""
        self._numbers[mil] = data

    def _input(self, mil: Value) -> ir.Value:
        v = ir.Value(name=mil.name, shape=ir.Shape(mil.known), type=ir.TensorType(_kind(mil)))
        self._at[mil] = v
        if self.half and mil.dtype == "fp16":
            self.keep(mil, v)
        return v

    def _output(self, mil: Value) -> ir.Value:
        (v,) = self.node("Identity", [self.value(mil)], 1, {})
        v.name = mil.name
        v.type = ir.TensorType(_kind(mil))
        v.shape = ir.Shape(mil.known) if mil.shape is not None else None
        return v

    # --- ONNX ---------------------------------------------------------------------------------------------------------

    def constant(self, data: Array) -> ir.Value:
        if data.dtype.kind == "f":
            data = data.astype(np.float32)
        elif data.dtype.kind in "iu" and data.dtype.name not in _BYTES:
            data = data.astype(np.int64)
        return self.initializer(data)

    def initializer(self, data: Array) -> ir.Value:
        v = ir.Value(name=self._name("c"), const_value=ir.tensor(np.ascontiguousarray(data).reshape(data.shape)))
        assert v.const_value is not None  # just given
        v.type, v.shape = ir.TensorType(v.const_value.dtype), ir.Shape(data.shape)
        self.initializers.append(v)
        return v

    def node(
        self, op: str, inputs: Sequence[ir.Value | None], outputs: int, attributes: Mapping[str, Any]
    ) -> Sequence[ir.Value]:
        given = {k: a for k, a in attributes.items() if a is not None}
        made = ir.node(op, list(inputs), given, num_outputs=outputs)
        for v in made.outputs:
            v.name = self._name("v")
        self.nodes.append(made)
        return made.outputs

    def _name(self, prefix: str) -> str:
        self._count += 1
        return f"{prefix}.{self._count}"


def _kind(mil: Value) -> ir.DataType:
    if mil.dtype in FLOATS:
        return ir.DataType.FLOAT
    kinds = {"bool": ir.DataType.BOOL, "int8": ir.DataType.INT8, "uint8": ir.DataType.UINT8}
    return kinds.get(mil.dtype, ir.DataType.INT64)
