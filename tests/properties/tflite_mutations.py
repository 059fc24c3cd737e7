"""Small damage to an ONNX model, of the kind that still loads: attributes, constants, shapes, element types, scales, wiring."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

Mutation = Callable[[onnx.ModelProto, random.Random], None]

SCALES = (0.0, -1.0, 1e-38, 1e-12, 1e-3, 0.5, 3.0, 1e4, 1e30, float("inf"), float("nan"))
INTEGERS = (-129, -128, -2, -1, 0, 1, 2, 3, 5, 127, 128, 2**31, 2**62)
UNARY = (
    "Relu",
    "Sigmoid",
    "Tanh",
    "HardSwish",
    "HardSigmoid",
    "Softmax",
    "Abs",
    "Neg",
    "Sqrt",
    "Elu",
    "LeakyRelu",
    "Gelu",
)
BINARY = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Pow", "PRelu", "MatMul", "Concat")
TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.BOOL)  # fmt: skip


def mutate(proto: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """A copy with one to four changes; value infos inside the graph are dropped, shapes are inferred again."""
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.value_info[:]
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(MUTATIONS)(made, rng)
    return made


def _attribute(m: onnx.ModelProto, rng: random.Random) -> None:
    found = [(n, a) for n in m.graph.node for a in n.attribute if a.type in (AttributeProto.INT, AttributeProto.INTS, AttributeProto.FLOAT)]  # fmt: skip
    if not found:
        return
    node, a = rng.choice(found)
    if rng.random() < 0.15:
        node.attribute.remove(a)
    elif a.type == AttributeProto.FLOAT:
        a.f = rng.choice((0.0, -1.0, 1.0, 0.01, 1e30, a.f * 2))
    elif a.type == AttributeProto.INT:
        a.i = rng.choice((*INTEGERS[:-2], a.i + 1, a.i - 1))
    elif a.ints:
        at = rng.randrange(len(a.ints))
        if rng.random() < 0.2:
            del a.ints[at]
        else:
            a.ints[at] = rng.choice((*INTEGERS[2:-2], a.ints[at] + 1, a.ints[at] * 2))


def _linear(m: onnx.ModelProto, rng: random.Random) -> list[onnx.NodeProto]:
    return [n for n in m.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]


def _replace(m: onnx.ModelProto, name: str, change: Callable[[Any], Any]) -> None:
    """Change a constant for whoever reads it."""
    for i, w in enumerate(m.graph.initializer):
        if w.name == name:
            m.graph.initializer[i].CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(w))), name))


def _scale(m: onnx.ModelProto, rng: random.Random) -> None:
    nodes = _linear(m, rng)
    if nodes:
        factor = rng.choice(SCALES)
        at = rng.randrange(1 << 16)

        def change(a: Any) -> Any:
            flat = np.array(a, copy=True).reshape(-1)
            flat[at % flat.size] = (
                np.float32(factor) if rng.random() < 0.5 else flat[at % flat.size] * np.float32(factor)
            )
            return flat.reshape(a.shape).astype(a.dtype)

        with np.errstate(all="ignore"):
            _replace(m, rng.choice(nodes).input[1], change)


def _zero_point(m: onnx.ModelProto, rng: random.Random) -> None:
    nodes = [n for n in _linear(m, rng) if len(n.input) > 2]
    if nodes:
        to = rng.choice((-128, -1, 1, 7, 127))
        _replace(m, rng.choice(nodes).input[2], lambda a: np.full_like(a, to if a.dtype != np.uint8 else to % 256))


def _quantised_type(m: onnx.ModelProto, rng: random.Random) -> None:
    """The zero point decides the element type."""
    nodes = [n for n in _linear(m, rng) if len(n.input) > 2]
    if nodes:
        to = rng.choice((np.int8, np.uint8, np.int16, np.uint16, np.int32))
        _replace(m, rng.choice(nodes).input[2], lambda a: np.zeros_like(a, to))


def _per_channel(m: onnx.ModelProto, rng: random.Random) -> None:
    nodes = _linear(m, rng)
    if nodes:
        node, count = rng.choice(nodes), rng.choice((1, 2, 3, 8, 16))
        for name in node.input[1:]:
            _replace(m, name, lambda a: np.resize(a, (count,)).astype(a.dtype))
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", rng.choice((-1, 0, 1, 3))))


def _constant(m: onnx.ModelProto, rng: random.Random) -> None:
    if not m.graph.initializer:
        return
    w = rng.choice(m.graph.initializer)
    kind, at = rng.randrange(4), rng.randrange(1 << 16)

    def change(a: Any) -> Any:
        if a.size == 0:
            return a
        if kind == 0 and a.ndim:
            return a[..., : max(1, a.shape[-1] - 1)]
        if kind == 1:
            return a[None] if rng.random() < 0.5 else a.reshape(-1)
        flat = np.array(a, copy=True).reshape(-1)
        with np.errstate(all="ignore"):
            extreme = (
                rng.choice(INTEGERS[:-2]) if a.dtype.kind in "iu" else rng.choice((0.0, 1e38, -1e38, float("nan")))
            )
            flat[at % flat.size] = np.asarray(extreme).astype(a.dtype) if a.dtype != np.bool_ else True
        return flat.reshape(a.shape)

    _replace(m, w.name, change)


def _constant_type(m: onnx.ModelProto, rng: random.Random) -> None:
    if m.graph.initializer:
        to = helper.tensor_dtype_to_np_dtype(rng.choice(TYPES))
        with np.errstate(all="ignore"):
            _replace(m, rng.choice(m.graph.initializer).name, lambda a: np.nan_to_num(a).astype(to))


def _operator(m: onnx.ModelProto, rng: random.Random) -> None:
    node = rng.choice(m.graph.node)
    kinds = UNARY if len(node.input) == 1 else BINARY
    node.op_type = rng.choice(kinds)
    if node.op_type == "Concat":
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("axis", rng.choice((-1, 0, 1))))


def _wiring(m: onnx.ModelProto, rng: random.Random) -> None:
    """An input taken from another place above."""
    at = rng.randrange(len(m.graph.node))
    node = m.graph.node[at]
    above = [o for n in list(m.graph.node)[:at] for o in n.output] + [i.name for i in m.graph.input]
    if node.input and above:
        node.input[rng.randrange(len(node.input))] = rng.choice((*above, ""))


def _input_shape(m: onnx.ModelProto, rng: random.Random) -> None:
    dims = rng.choice(m.graph.input).type.tensor_type.shape.dim
    if dims:
        rng.choice(dims).dim_value = rng.choice((1, 2, 3, 7, 16, 33))
    for o in m.graph.output:
        o.type.tensor_type.ClearField("shape")


def _input_type(m: onnx.ModelProto, rng: random.Random) -> None:
    rng.choice(m.graph.input).type.tensor_type.elem_type = rng.choice(TYPES)


def _output(m: onnx.ModelProto, rng: random.Random) -> None:
    """A value inside becomes an output as well: of a quantised region too."""
    names = [o for n in m.graph.node for o in n.output if o]
    m.graph.output.append(onnx.ValueInfoProto(name=rng.choice(names)))


def _removed(m: onnx.ModelProto, rng: random.Random) -> None:
    """A node with one data input goes away; its readers read what it read."""
    nodes = [n for n in m.graph.node if n.input and len(n.output) == 1]
    outputs = {o.name for o in m.graph.output}
    nodes = [n for n in nodes if n.output[0] not in outputs]
    if not nodes:
        return
    gone = rng.choice(nodes)
    for n in m.graph.node:
        for i, name in enumerate(n.input):
            if name == gone.output[0]:
                n.input[i] = gone.input[0]
    m.graph.node.remove(gone)


MUTATIONS: tuple[Mutation, ...] = (
    _attribute, _attribute, _scale, _scale, _zero_point, _quantised_type, _per_channel, _constant, _constant, _constant_type,
    _operator, _operator, _wiring, _input_shape, _input_type, _output, _removed,
)  # fmt: skip
