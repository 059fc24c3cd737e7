"""Random small networks from a seed: what exporters produce, in composite and decomposed spellings, with odd joints.

Every value is float32 N x C x H x W of a known shape; inputs, multi-use values, several outputs, outputs that are also
used inside, shared weights and branches of an If are all drawn. The same seed gives the same graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgec.graph import Graph

Shape = tuple[int, ...]


class Builder:
    """Draws one network. `values` are (name, shape) of what may be read next."""

    def __init__(self, seed: int, opset: int = 17) -> None:
        self.rng = np.random.default_rng(seed)
        self.opset = opset
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.values: list[tuple[str, Shape]] = []
        self.count = 0

    # --- pieces ------------------------------------------------------------------------------------------------------

    def op(self, kind: str, inputs: list[str], shape: Shape, **attrs: Any) -> str:
        self.count += 1
        name = f"v{self.count}"
        node_name = f"{kind}_{self.count}" if self.rng.random() < 0.9 else ""
        self.nodes.append(helper.make_node(kind, inputs, [name], name=node_name, **attrs))
        self.values.append((name, shape))
        return name

    def weight(self, shape: Shape, scale: float = 1.0, positive: bool = False) -> str:
        data = (self.rng.standard_normal(shape) * scale).astype(np.float32)
        return self.constant(np.abs(data) + np.float32(0.5) if positive else data)

    def constant(self, data: Any) -> str:
        self.count += 1
        name = f"c{self.count}"
        tensor = numpy_helper.from_array(np.asarray(data), name)
        if self.rng.random() < 0.3:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.weights.append(tensor)
        return name

    def scalar(self, number: float) -> str:
        return self.constant(np.float32(number) if self.rng.random() < 0.5 else np.full(1, number, np.float32))

    def ints(self, *numbers: int) -> str:
        return self.constant(np.array(numbers, np.int64))

    def pick(self) -> tuple[str, Shape]:
        """Late values are likelier, so that networks grow deep."""
        n = len(self.values)
        return self.values[min(n - 1, int(n * self.rng.power(3)))]

    # --- what may be drawn -------------------------------------------------------------------------------------------

    def conv(self) -> None:
        x, (n, c, h, w) = self.pick()
        groups = int(self.rng.choice([g for g in (1, 2, c) if c % g == 0]))
        out = groups * int(self.rng.integers(1, 4))
        k = int(self.rng.choice([k for k in (1, 3) if k <= min(h, w) + 2]))
        pad, stride = (k // 2 if self.rng.random() < 0.7 or k > min(h, w) else 0), int(self.rng.integers(1, 3))
        inputs = [x, self.weight((out, c // groups, k, k), 1 / (k * np.sqrt(c)))]
        if self.rng.random() < 0.5:
            inputs.append(self.weight((out,)))
        size = tuple((s + 2 * pad - k) // stride + 1 for s in (h, w))
        y = self.op("Conv", inputs, (n, out, *size), pads=[pad] * 4, strides=[stride] * 2, group=groups)
        if self.rng.random() < 0.5:
            self.batch_norm(y, (n, out, *size))

    def conv_transpose(self) -> None:
        x, (n, c, h, w) = self.pick()
        out = int(self.rng.integers(1, 4))
        y = self.op("ConvTranspose", [x, self.weight((c, out, 2, 2), 0.5)], (n, out, 2 * h, 2 * w), strides=[2, 2])
        if self.rng.random() < 0.5:
            self.batch_norm(y, (n, out, 2 * h, 2 * w))

    def batch_norm(self, x: str | None = None, shape: Shape = ()) -> None:
        if x is None:
            x, shape = self.pick()
        c = (shape[1],)
        stats = [self.weight(c), self.weight(c), self.weight(c, 0.3), self.weight(c, positive=True)]
        self.op("BatchNormalization", [x, *stats], shape)

    def activation(self) -> None:
        x, s = self.pick()
        kind = str(
            self.rng.choice(
                ["Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Identity", "Elu", "Softplus", "HardSigmoid"]
            )
        )
        self.op(kind, [x], s)

    def clip(self) -> None:
        x, s = self.pick()
        limits = [self.scalar(0.0), self.scalar(6.0)]
        if self.rng.random() < 0.3:
            low = self.op("Max", [x, limits[0]], s)
            self.op("Min", [low, limits[1]], s)
        else:
            self.op("Clip", [x, *limits], s)

    def spelled_activation(self) -> None:
        x, s = self.pick()
        which = int(self.rng.integers(4))
        if which == 0:  # SiLU
            self.op("Mul", [x, self.op("Sigmoid", [x], s)], s)
        elif which == 1:  # HardSwish
            shifted = self.op("Add", [x, self.scalar(3.0)], s)
            gate = self.op("Clip", [shifted, self.scalar(0.0), self.scalar(6.0)], s)
            if self.rng.random() < 0.5:
                self.op("Div", [self.op("Mul", [x, gate], s), self.scalar(6.0)], s)
            else:
                self.op("Mul", [x, self.op("Div", [gate, self.scalar(6.0)], s)], s)
        elif which == 2:  # GELU
            e = self.op("Erf", [self.op("Div", [x, self.scalar(float(np.sqrt(2)))], s)], s)
            half = self.op("Mul", [x, self.op("Add", [e, self.scalar(1.0)], s)], s)
            self.op("Mul", [half, self.scalar(0.5)], s)
        else:  # Mish
            self.op("Mul", [x, self.op("Tanh", [self.op("Softplus", [x], s)], s)], s)

    def layer_norm(self) -> None:
        x, s = self.pick()
        if s[-1] < 2:
            return
        r = (*s[:-1], 1)
        mean = self.op("ReduceMean", [x], r, axes=[-1])
        d = self.op("Sub", [x, mean], s)
        var = self.op("ReduceMean", [self.op("Pow", [d, self.scalar(2.0)], s)], r, axes=[-1])
        root = self.op("Sqrt", [self.op("Add", [var, self.scalar(1e-3)], r)], r)
        y = self.op("Div", [d, root], s)
        scaled = self.op("Mul", [y, self.weight((s[-1],))], s)
        self.op("Add", [scaled, self.weight((s[-1],))], s)

    def scale(self) -> None:
        x, s = self.pick()
        kind = str(self.rng.choice(["Mul", "Add", "Sub", "Div"]))
        shape = ((1, s[1], 1, 1), (s[1], 1, 1), (1,), ())[int(self.rng.integers(4))]
        w = self.weight(shape, positive=kind == "Div")
        order = [x, w] if self.rng.random() < 0.7 or kind == "Div" else [w, x]
        self.op(kind, order, s)

    def join(self) -> None:
        x, s = self.pick()
        same = [v for v, t in self.values if t == s]
        y = same[int(self.rng.integers(len(same)))]
        self.op(str(self.rng.choice(["Add", "Mul", "Sub", "Max"])), [x, y], s)

    def concat(self) -> None:
        x, s = self.pick()
        alike = [(v, t) for v, t in self.values if t[0] == s[0] and t[2:] == s[2:]]
        y, t = alike[int(self.rng.integers(len(alike)))]
        self.op("Concat", [x, y], (s[0], s[1] + t[1], *s[2:]), axis=1)

    def split(self) -> None:
        x, s = self.pick()
        if s[1] < 2:
            return
        a = int(self.rng.integers(1, s[1]))
        self.count += 1
        names = [f"s{self.count}a", f"s{self.count}b"]
        self.nodes.append(helper.make_node("Split", [x, self.ints(a, s[1] - a)], names, axis=1))
        self.values += [(names[0], (s[0], a, *s[2:])), (names[1], (s[0], s[1] - a, *s[2:]))]

    def slice(self) -> None:
        x, s = self.pick()
        axis, step = int(self.rng.integers(1, 4)), int(self.rng.integers(1, 3))
        start = int(self.rng.integers(0, s[axis]))
        end = int(self.rng.choice([s[axis], 2**31]))
        shape = tuple((s[i] - start + step - 1) // step if i == axis else s[i] for i in range(4))
        self.op("Slice", [x, self.ints(start), self.ints(end), self.ints(axis), self.ints(step)], shape)

    def transpose(self) -> None:
        x, s = self.pick()
        perm = [int(p) for p in (self.rng.permutation(4) if self.rng.random() < 0.3 else [0, 2, 3, 1])]
        if perm[0] != 0:
            return
        t = tuple(s[p] for p in perm)
        y = self.op("Transpose", [x], t, perm=perm)
        if self.rng.random() < 0.5:
            z = self.op("Relu", [y], t)
            self.op("Transpose", [z], s, perm=[int(p) for p in np.argsort(perm)])

    def reshape(self) -> None:
        x, (n, c, h, w) = self.pick()
        flat = self.op(
            "Reshape",
            [x, self.ints(0, -1, 1, 1) if self.rng.random() < 0.5 else self.ints(n, c * h * w, 1, 1)],
            (n, c * h * w, 1, 1),
        )
        if self.rng.random() < 0.5:
            self.op("Reshape", [flat, self.ints(n, c, h, w)], (n, c, h, w))

    def shaped(self) -> None:
        """Shape arithmetic as exporters write it: Shape, Gather, Concat, Reshape."""
        x, (n, c, h, w) = self.pick()
        self.count += 1
        k = self.count
        self.nodes += [
            helper.make_node("Shape", [x], [f"sh{k}"]),
            helper.make_node("Gather", [f"sh{k}", self.constant(np.int64(0))], [f"g{k}"]),
            helper.make_node("Unsqueeze", [f"g{k}", self.ints(0)], [f"u{k}"]),
            helper.make_node("Concat", [f"u{k}", self.ints(c, h * w, 1)], [f"t{k}"], axis=0),
        ]
        self.op("Reshape", [x, f"t{k}"], (n, c, h * w, 1))

    def pool(self) -> None:
        x, (n, c, h, w) = self.pick()
        if min(h, w) < 2:
            return
        kind = str(self.rng.choice(["MaxPool", "AveragePool"]))
        self.op(kind, [x], (n, c, h // 2, w // 2), kernel_shape=[2, 2], strides=[2, 2])

    def reduce(self) -> None:
        x, (n, c, *_) = self.pick()
        if self.rng.random() < 0.5:
            self.op("GlobalAveragePool", [x], (n, c, 1, 1))
        else:
            self.op("ReduceMean", [x], (n, c, 1, 1), axes=[2, 3], keepdims=1)

    def pad(self) -> None:
        x, (n, c, h, w) = self.pick()
        value = float(self.rng.choice([0.0, 0.0, 0.5]))
        pads = [0, 0, 1, 1, 0, 0, 1, 1] if self.rng.random() < 0.7 else [0] * 8
        shape = (n, c, h + pads[2] + pads[6], w + pads[3] + pads[7])
        self.op("Pad", [x, self.ints(*pads), self.scalar(value) if value else ""], shape)
        if self.rng.random() < 0.5 and min(shape[2:]) >= 2:
            self.op("Conv", [self.values[-1][0], self.weight((2, c, 2, 2), 0.5)], (n, 2, shape[2] - 1, shape[3] - 1))

    def dense(self) -> None:
        x, (n, c, h, w) = self.pick()
        out = int(self.rng.integers(1, 5))
        flat = self.op("Flatten", [x], (n, c * h * w, 1, 1))
        self.values.pop()
        y = self.op("MatMul", [flat, self.weight((c * h * w, out), 0.3)], (n, out, 1, 1))
        self.values.pop()
        z = self.op("Add", [y, self.weight((out,))], (n, out, 1, 1))
        self.values.pop()
        self.op("Reshape", [z, self.ints(n, out, 1, 1)], (n, out, 1, 1))

    def softmax(self) -> None:
        x, s = self.pick()
        self.op("Softmax", [x], s, axis=int(self.rng.choice([1, -1])))

    def branch(self) -> None:
        """An If on a constant or on data, whose bodies read outer values."""
        x, s = self.pick()
        self.count += 1
        k = self.count
        out = helper.make_tensor_value_info(f"b{k}", TensorProto.FLOAT, s)
        bodies = [
            helper.make_graph([helper.make_node(op, [x], [f"b{k}"])], f"{op}{k}", [], [out]) for op in ("Relu", "Tanh")
        ]
        if self.rng.random() < 0.5:
            condition = self.constant(np.array(self.rng.random() < 0.5))
        else:
            self.nodes.append(helper.make_node("ReduceSum", [x], [f"r{k}"], keepdims=0))
            self.nodes.append(helper.make_node("Greater", [f"r{k}", self.constant(np.float32(0))], [f"q{k}"]))
            condition = f"q{k}"
        self.op("If", [condition], s, then_branch=bodies[0], else_branch=bodies[1])

    # --- the whole -----------------------------------------------------------------------------------------------

    def build(self, size: int) -> onnx.ModelProto:
        pieces: list[Callable[[], None]] = [
            self.conv, self.conv, self.conv_transpose, self.batch_norm, self.activation, self.activation, self.clip,
            self.spelled_activation, self.spelled_activation, self.layer_norm, self.scale, self.scale, self.join,
            self.join, self.concat, self.split, self.slice, self.transpose, self.transpose, self.reshape, self.shaped,
            self.pool, self.reduce, self.pad, self.dense, self.softmax, self.branch,
        ]  # fmt: skip
        batch = int(self.rng.integers(1, 3))
        inputs = []
        for i in range(int(self.rng.integers(1, 3))):
            shape = (batch, int(self.rng.integers(1, 5)), int(self.rng.integers(3, 8)), int(self.rng.integers(3, 8)))
            inputs.append(helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, shape))
            self.values.append((f"x{i}", shape))
        names = {v.name for v in inputs}
        for _ in range(size):
            pieces[int(self.rng.integers(len(pieces)))]()
        made = [(v, s) for v, s in self.values if v not in names]
        if not made:
            self.activation()
            made = self.values[-1:]
        chosen = {made[-1][0]: made[-1][1]}
        for _ in range(int(self.rng.integers(0, 3))):
            v, s = made[int(self.rng.integers(len(made)))]
            chosen[v] = s
        outputs = [helper.make_tensor_value_info(v, TensorProto.FLOAT, s) for v, s in chosen.items()]
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        onnx.checker.check_model(model, full_check=True)
        return model


def random_graph(seed: int, size: int | None = None) -> Graph:
    """The network of `seed`."""
    builder = Builder(seed)
    return Graph.from_proto(builder.build(size or int(builder.rng.integers(2, 25))), source=f"seed {seed}")
