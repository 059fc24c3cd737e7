"""Random graphs of the kind networks are made of: a seed gives a model, always the same one.

Blocks are drawn one after another onto a pool of live values, so that values have several users, several are outputs,
and a pattern of one pass meets the neighbours of another. Constants are kept small and away from poles: what a float
pass may change is rounding, and rounding should not be amplified.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSETS = (13, 15, 17, 18, 20, 22, 24)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Live:
    """A value and its shape, the batch as it will be at run time."""

    name: str
    shape: Shape


@dataclass
class Build:
    """A model while it grows."""

    rng: random.Random
    opset: int
    half: bool
    batch: int
    dynamic: bool
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    pool: list[Live] = field(default_factory=list)
    count: int = 0

    @property
    def dtype(self) -> Any:
        return np.float16 if self.half else np.float32

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}{self.count}"

    def weight(self, shape: Sequence[int], low: float = -0.5, high: float = 0.5) -> str:
        data = np.random.default_rng(self.rng.randrange(1 << 30)).uniform(low, high, shape)
        return self.const(np.asarray(data, self.dtype))

    def const(self, data: Any) -> str:
        """A constant: an initializer, or (one in four) a Constant node, as exporters write them."""
        name = self.name("c")
        tensor = numpy_helper.from_array(np.asarray(data), name)
        if self.rng.random() < 0.25:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def scalar(self, value: float) -> str:
        """A number: 0-d or of one element."""
        shape = self.rng.choice([(), (1,)])
        return self.const(np.full(shape, value, self.dtype))

    def scalar0(self, value: float) -> str:
        """A 0-d number, where the operator wants one."""
        return self.const(np.asarray(value, self.dtype))

    def ints(self, *values: int) -> str:
        return self.const(np.asarray(values, np.int64))

    def op(self, op_type: str, *inputs: str, **attrs: Any) -> str:
        out = self.name("t")
        self.nodes.append(helper.make_node(op_type, list(inputs), [out], name=self.name("n"), **attrs))
        return out

    def either(self, op_type: str, a: str, b: str) -> str:
        """A commutative op, either way round."""
        return self.op(op_type, *((a, b) if self.rng.random() < 0.5 else (b, a)))

    def add(self, name: str, shape: Sequence[int]) -> Live:
        live = Live(name, tuple(shape))
        self.pool.append(live)
        return live

    def pick(self, accept: Callable[[Live], bool] = lambda v: True) -> Live | None:
        """A live value, the newest ones likelier."""
        found = [v for v in self.pool if accept(v)]
        if not found:
            return None
        return found[-1] if self.rng.random() < 0.6 else self.rng.choice(found)


Block = Callable[[Build], None]


def model(seed: int, *, size: int | None = None) -> onnx.ModelProto:
    """The random model of this seed: 3 to 18 blocks, one or two inputs, one to four outputs."""
    from blocks import BLOCKS  # beside this file

    rng = random.Random(seed)
    b = Build(
        rng, rng.choice(OPSETS), half=rng.random() < 0.1, batch=rng.choice([1, 1, 2]), dynamic=rng.random() < 0.25
    )
    inputs = _inputs(b)
    names = [fn for fn, weight in BLOCKS for _ in range(weight)]
    for _ in range(size or rng.randint(3, 18)):
        rng.choice(names)(b)
    made = {o for n in b.nodes for o in n.output}
    used = {i for n in b.nodes for i in n.input}
    ends = [v for v in b.pool if v.name in made and v.name not in used]
    inner = [v for v in b.pool if v.name in made and v.name in used]
    outputs = ends[-3:] + rng.sample(inner, min(len(inner), rng.choice([0, 0, 1])))
    if not outputs:
        outputs = [b.add(b.op("Relu", inputs[0].name), inputs[0].shape)]
    return _finish(b, inputs, outputs)


def _inputs(b: Build) -> list[Live]:
    rng = b.rng
    kinds: list[Shape] = [(b.batch, rng.choice([2, 4, 6, 8]), rng.randint(5, 10), rng.randint(5, 10))]
    if rng.random() < 0.3:
        kinds.append((b.batch, rng.choice([4, 6, 8])))
    if rng.random() < 0.3:
        kinds.append((b.batch, rng.randint(3, 6), rng.choice([4, 6, 8])))
    return [b.add(f"x{i}", s) for i, s in enumerate(kinds)]


def _finish(b: Build, inputs: list[Live], outputs: list[Live]) -> onnx.ModelProto:
    kind = TensorProto.FLOAT16 if b.half else TensorProto.FLOAT

    def info(v: Live, known: bool) -> onnx.ValueInfoProto:
        shape = ["N", *v.shape[1:]] if b.dynamic else list(v.shape)
        return helper.make_tensor_value_info(v.name, kind, shape if known else [None] * len(shape))

    graph = helper.make_graph(
        b.nodes,
        "random",
        [info(v, True) for v in inputs],
        [info(v, b.rng.random() < 0.7) for v in outputs],
        b.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", b.opset)], ir_version=9)


def feeds(proto: onnx.ModelProto, seed: int, batch: int = 2) -> dict[str, Any]:
    """Inputs by name; an unknown batch is `batch`."""
    rng = np.random.default_rng(seed)
    out: dict[str, Any] = {}
    for v in proto.graph.input:
        shape = [d.dim_value or batch for d in v.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(v.type.tensor_type.elem_type)
        out[v.name] = rng.standard_normal(shape).astype(dtype)
    return out
