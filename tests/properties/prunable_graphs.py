"""Random networks of the shapes that channels are cut from: a seed gives a model, always the same one.

An image network (residual sums, concatenations, splits, grouped and depthwise convolutions, shuffles, gates, upsampling)
or a network of tokens (attention, MLP, normalisation), always with inner values that are no outputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from random_graphs import Build, Live

OPSET = 20


@dataclass
class Whole(Build):
    """`whole`: nothing but integers comes of integer weights and inputs."""

    whole: bool = False


def model(seed: int) -> onnx.ModelProto:
    rng = random.Random(seed)
    b = Whole(rng, OPSET, half=False, batch=1, dynamic=False)
    b.whole = rng.random() < 0.4
    tokens = rng.random() < 0.35 and not b.whole
    shape = (1, 6, 8) if tokens else (1, 3, 8, 8)
    v = b.add("x", shape)
    v = dense(b, v, 16) if tokens else conv(b, v, 12)
    for _ in range(rng.randint(1, 4)):
        v = rng.choice(TOKENS if tokens else WHOLE if b.whole else IMAGES)(b, v)
    v = head(b, v, tokens)
    graph = helper.make_graph(
        b.nodes, "prunable", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(v.name, TensorProto.FLOAT, v.shape)], b.weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)


def head(b: Whole, v: Live, tokens: bool) -> Live:
    if tokens:
        return dense(b, v, 5)
    n, c, h, w = v.shape
    kind = b.rng.choice(["flatten", "conv", *(() if b.whole else ("pool",))])
    if kind == "conv":
        return conv(b, v, 5, activate=False)
    if kind == "pool":
        x = b.op("Flatten", b.op("GlobalAveragePool", v.name))
        size = c
    else:
        x, size = b.op("Flatten", v.name), c * h * w
    return Live(b.op("Gemm", x, b.weight((size, 5)), b.weight((5,))), (n, 5))


def conv(
    b: Whole, v: Live, out: int, *, kernel: int = 1, group: int = 1, stride: int = 1, activate: bool = True
) -> Live:
    n, c, h, w = v.shape
    x = b.op(
        "Conv", v.name, b.weight((out, c // group, kernel, kernel)), *([b.weight((out,))] if b.rng.random() < 0.7 else []),
        group=group, pads=[kernel // 2] * 4, strides=[stride] * 2,
    )  # fmt: skip
    if b.rng.random() < 0.3 and not b.whole:
        positive = b.weight((out,), 0.5, 1.5)
        x = b.op("BatchNormalization", x, b.weight((out,)), b.weight((out,)), b.weight((out,)), positive)
    if activate:
        kind = b.rng.choice(["Relu", "Clip", "PRelu", *(() if b.whole else ("HardSwish",))])
        if kind == "Clip":
            x = b.op("Clip", x, b.scalar0(0.0), b.scalar0(6.0))
        elif kind == "PRelu":
            x = b.op("PRelu", x, b.weight((out, 1, 1)))
        else:
            x = b.op(kind, x)
    return Live(x, (n, out, -(-h // stride), -(-w // stride)))


def residual(b: Whole, v: Live) -> Live:
    y = conv(b, conv(b, v, b.rng.choice([8, 16, 24]), kernel=3), v.shape[1], activate=False)
    return Live(b.op("Relu", b.either("Add", v.name, y.name)), v.shape)


def inverted(b: Whole, v: Live) -> Live:
    wide = b.rng.choice([2, 3]) * v.shape[1]
    y = conv(b, conv(b, conv(b, v, wide), wide, kernel=3, group=wide), v.shape[1], activate=False)
    return Live(b.op("Add", y.name, v.name), v.shape)


def depth_multiplier(b: Whole, v: Live) -> Live:
    c = v.shape[1]
    return conv(b, conv(b, v, 2 * c, kernel=3, group=c), 12)


def grouped(b: Whole, v: Live) -> Live:
    y = conv(b, v, 16)
    return conv(b, conv(b, y, 24, kernel=3, group=4), 16)


def concat(b: Whole, v: Live) -> Live:
    parts = [conv(b, v, b.rng.choice([4, 8, 12]), kernel=b.rng.choice([1, 3])) for _ in range(b.rng.randint(2, 3))]
    if b.rng.random() < 0.3:
        parts.append(v)
    channels = sum(p.shape[1] for p in parts)
    joined = Live(b.op("Concat", *(p.name for p in parts), axis=1), (1, channels, *v.shape[2:]))
    return conv(b, joined, 12)


def split(b: Whole, v: Live) -> Live:
    y = conv(b, v, 24)
    first = b.rng.choice([8, 12])
    names = [b.name("t"), b.name("t")]
    b.nodes.append(helper.make_node("Split", [y.name, b.ints(first, 24 - first)], names, axis=1))
    a, c = (Live(n, (1, k, *v.shape[2:])) for n, k in zip(names, (first, 24 - first), strict=True))
    if first == 12 and not b.whole and b.rng.random() < 0.5:
        return Live(b.op("Mul", b.op("Sigmoid", a.name), c.name), a.shape)
    c = conv(b, c, 16)
    return Live(b.op("Concat", a.name, c.name, axis=1), (1, first + 16, *v.shape[2:]))


def shuffle(b: Whole, v: Live) -> Live:
    y = conv(b, v, 16)
    h, w = y.shape[2:]
    x = b.op("Reshape", y.name, b.ints(1, 2, 8, h, w))
    x = b.op("Transpose", x, perm=[0, 2, 1, 3, 4])
    return conv(b, Live(b.op("Reshape", x, b.ints(1, 16, h, w)), y.shape), 12)


def gate(b: Whole, v: Live) -> Live:
    """Squeeze and excitation."""
    c = v.shape[1]
    s = Live(b.op("GlobalAveragePool", v.name), (1, c, 1, 1))
    s = conv(b, conv(b, s, 8), c, activate=False)
    return conv(b, Live(b.op("Mul", v.name, b.op("Sigmoid", s.name)), v.shape), 12)


def up(b: Whole, v: Live) -> Live:
    if v.shape[2] > 16:
        return residual(b, v)
    if b.rng.random() < 0.5:
        y = conv(b, v, 32)
        x = b.op("DepthToSpace", y.name, blocksize=2, mode=b.rng.choice(["DCR", "CRD"]))
        return Live(x, (1, 8, 2 * v.shape[2], 2 * v.shape[3]))
    group = b.rng.choice([1, 2]) if v.shape[1] % 2 == 0 else 1
    x = b.op("ConvTranspose", v.name, b.weight((v.shape[1], 8, 2, 2)), strides=[2, 2], group=group)
    return Live(x, (1, 8 * group, 2 * v.shape[2], 2 * v.shape[3]))


def dense(b: Whole, v: Live, out: int) -> Live:
    x = b.op("MatMul", v.name, b.weight((v.shape[-1], out)))
    if b.rng.random() < 0.7:
        x = b.either("Add", x, b.weight((out,)))
    return Live(x, (*v.shape[:-1], out))


def mlp(b: Whole, v: Live) -> Live:
    y = dense(b, v, b.rng.choice([24, 32]))
    y = dense(b, Live(b.op(b.rng.choice(["Relu", "Gelu"]), y.name), y.shape), v.shape[-1])
    return Live(b.op("Add", v.name, y.name), v.shape)


def attention(b: Whole, v: Live) -> Live:
    heads, size, (n, t, c) = b.rng.choice([2, 4]), 4, v.shape

    def head(perm: list[int]) -> str:
        y = dense(b, v, heads * size)
        return b.op("Transpose", b.op("Reshape", y.name, b.ints(n, t, heads, size)), perm=perm)

    q, k, val = head([0, 2, 1, 3]), head([0, 2, 3, 1]), head([0, 2, 1, 3])
    p = b.op("Softmax", b.op("Mul", b.op("MatMul", q, k), b.scalar0(0.5)), axis=-1)
    o = b.op("Reshape", b.op("Transpose", b.op("MatMul", p, val), perm=[0, 2, 1, 3]), b.ints(n, t, heads * size))
    y = dense(b, Live(o, (n, t, heads * size)), c)
    return Live(b.op("Add", v.name, y.name), v.shape)


def norm(b: Whole, v: Live) -> Live:
    c = v.shape[-1]
    return Live(b.op("LayerNormalization", v.name, b.weight((c,)), b.weight((c,)), axis=-1), v.shape)


Step = Callable[[Whole, Live], Live]
IMAGES: list[Step] = [residual, inverted, depth_multiplier, grouped, concat, split, shuffle, gate, up]
WHOLE = [s for s in IMAGES if s is not gate]
TOKENS: list[Step] = [mlp, attention, norm, mlp, attention]


def feeds(proto: onnx.ModelProto, seed: int) -> dict[str, Any]:
    shape = [d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    return {"x": np.random.default_rng(seed).standard_normal(shape).astype(np.float32)}
