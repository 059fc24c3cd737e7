"""What random graphs are made of: each block takes live values and leaves new ones."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

if TYPE_CHECKING:
    from random_graphs import Block, Build, Live


def image(v: Live) -> bool:
    return len(v.shape) == 4 and min(v.shape[2:]) >= 2


def conv(b: Build) -> None:
    """Any Conv: grouped, depthwise, strided, dilated, padded by numbers or auto_pad; BN, bias and activation may follow."""
    v = b.pick(image)
    if v is None:
        return
    n, c, h, w = v.shape
    group = b.rng.choice([1, 1, 1, c, *([2] if c % 2 == 0 else [])])
    out = group * b.rng.choice([1, 2, 3]) if group > 1 else b.rng.choice([2, 4, 6, 8])
    k, stride, dilation = b.rng.choice([1, 1, 3, 3, 5]), b.rng.choice([1, 1, 2]), b.rng.choice([1, 1, 1, 2])
    pads = [b.rng.randint(0, 2) for _ in range(4)]
    sizes = [(s + pads[i] + pads[i + 2] - dilation * (k - 1) - 1) // stride + 1 for i, s in enumerate((h, w))]
    if min(sizes) < 1:
        return
    attrs: dict[str, Any] = {"strides": [stride] * 2, "group": group, "pads": pads, "dilations": [dilation] * 2}
    if b.rng.random() < 0.15 and dilation == 1:
        del attrs["pads"]
        attrs["auto_pad"] = "SAME_UPPER"
        sizes = [math.ceil(s / stride) for s in (h, w)]
    if b.rng.random() < 0.7:
        attrs["kernel_shape"] = [k, k]
    inputs = [v.name, b.weight((out, c // group, k, k))]
    if b.rng.random() < 0.5:
        inputs.append(b.weight((out,)))
    t = b.op("Conv", *inputs, **attrs)
    made = b.add(t, (n, out, *sizes))
    follow(b, made)


def conv_transpose(b: Build) -> None:
    v = b.pick(image)
    if v is None or max(v.shape[2:]) > 12:
        return
    n, c, h, w = v.shape
    group = b.rng.choice([1, 1, 2]) if c % 2 == 0 else 1
    per, k, stride = b.rng.choice([1, 2, 3]), b.rng.choice([2, 3]), b.rng.choice([1, 2])
    inputs = [v.name, b.weight((c, per, k, k))]
    if b.rng.random() < 0.5:
        inputs.append(b.weight((per * group,)))
    t = b.op("ConvTranspose", *inputs, strides=[stride] * 2, group=group)
    made = b.add(t, (n, per * group, *((s - 1) * stride + k for s in (h, w))))
    follow(b, made)


def follow(b: Build, v: Live) -> None:
    """What usually comes after a convolution."""
    c = v.shape[1]
    name = v.name
    if b.rng.random() < 0.4:
        name = batch_norm_of(b, name, c)
    if b.rng.random() < 0.3:
        name = b.either(b.rng.choice(["Add", "Mul"]), name, b.weight((c, 1, 1), 0.5, 1.5))
    if b.rng.random() < 0.5:
        name = activate(b, name)
    if name != v.name:
        b.add(name, v.shape)


def batch_norm_of(b: Build, name: str, c: int) -> str:
    inputs = [b.weight((c,), 0.5, 1.5), b.weight((c,)), b.weight((c,)), b.weight((c,), 0.5, 2.0)]
    return b.op("BatchNormalization", name, *inputs, epsilon=1e-3)


def batch_norm(b: Build) -> None:
    """On whatever is there: not only after a convolution."""
    v = b.pick(lambda v: len(v.shape) >= 2)
    if v is None:
        return
    t = batch_norm_of(b, v.name, v.shape[1])
    while b.rng.random() < 0.4:  # Caffe's Scale layer
        op = b.rng.choice(["Add", "Mul", "Sub", "Div"])
        c = b.weight((v.shape[1], *[1] * (len(v.shape) - 2)), 0.5, 1.5)
        t = b.op(op, t, c) if b.rng.random() < 0.7 or op == "Div" else b.op(op, c, t)
    b.add(t, v.shape)


def activate(b: Build, x: str) -> str:
    """One of many spellings of one of many activations."""
    r = b.rng
    kind = r.randrange(16)
    if kind == 0:
        return b.op("Clip", x, b.scalar0(0.0), b.scalar0(6.0))
    if kind == 1:
        return b.either("Mul", x, b.op("Sigmoid", x))  # SiLU
    if kind == 2:
        inner = b.op("Clip", b.either("Add", x, b.scalar(3.0)), b.scalar0(0.0), b.scalar0(6.0))
        if r.random() < 0.5:
            return b.either("Mul", x, b.op("Div", inner, b.scalar(6.0)))
        return b.op("Div", b.either("Mul", x, inner), b.scalar(6.0))  # HardSwish
    if kind == 3:
        return b.either("Mul", x, b.op("HardSigmoid", x, alpha=1 / 6, beta=0.5))
    if kind == 4:
        erf = b.op("Erf", b.op("Div", x, b.scalar(math.sqrt(2))))
        one = b.either("Add", erf, b.scalar(1.0))
        if r.random() < 0.5:
            return b.either("Mul", b.either("Mul", x, one), b.scalar(0.5))
        return b.either("Mul", b.either("Mul", x, b.scalar(0.5)), one)  # GELU
    if kind == 5:
        cube = b.op("Pow", x, b.scalar(3.0))
        inner = b.either("Mul", b.either("Add", x, b.either("Mul", cube, b.scalar(0.044715))), b.scalar(0.7978845608))
        return b.either("Mul", b.either("Mul", x, b.scalar(0.5)), b.either("Add", b.op("Tanh", inner), b.scalar(1.0)))
    if kind == 6:
        return b.either("Max", x, b.either("Mul", x, b.scalar(0.1)))  # LeakyRelu
    if kind == 7:
        return b.op("Max", x, b.scalar0(0.0)) if r.random() < 0.5 else b.op("Min", b.op("Relu", x), b.scalar(4.0))
    if kind == 8:
        return b.either("Mul", x, b.op("Tanh", b.op("Softplus", x)))  # Mish
    if kind == 9:
        return b.op("LeakyRelu", x, alpha=0.2)
    if kind == 10:
        return b.op("Div", x, b.either("Add", b.op("Exp", b.op("Neg", x)), b.scalar(1.0)))  # SiLU, spelt out
    return b.op(["Relu", "Sigmoid", "Tanh", "Elu", "Relu"][kind - 11], x)


def activation(b: Build) -> None:
    v = b.pick()
    if v is not None:
        b.add(activate(b, v.name), v.shape)


def linear(b: Build) -> None:
    """MatMul with and without bias, Gemm in all its transpositions, scale or BN after it."""
    v = b.pick(lambda v: len(v.shape) in (2, 3))
    if v is None:
        return
    k, out = v.shape[-1], b.rng.choice([4, 6, 8])
    if len(v.shape) == 2 and b.rng.random() < 0.5:
        trans = b.rng.randint(0, 1)
        inputs = [v.name, b.weight((out, k) if trans else (k, out))]
        if b.rng.random() < 0.7:
            inputs.append(b.weight(b.rng.choice([(out,), (1, out), (1,)])))
        t = b.op("Gemm", *inputs, transB=trans, alpha=b.rng.choice([1.0, 0.5]), beta=b.rng.choice([1.0, 2.0]))
    else:
        t = b.op("MatMul", v.name, b.weight((k, out)))
        if b.rng.random() < 0.6:
            t = b.either("Add", t, b.weight((out,)))
    if len(v.shape) == 2 and b.rng.random() < 0.3:
        t = batch_norm_of(b, t, out)
    if b.rng.random() < 0.3:
        t = b.either("Mul", t, b.weight((out,), 0.5, 1.5))
    if b.rng.random() < 0.4:
        t = activate(b, t)
    b.add(t, (*v.shape[:-1], out))


def attention(b: Build) -> None:
    """Scaled dot products of a sequence with itself."""
    v = b.pick(lambda v: len(v.shape) == 3)
    if v is None:
        return
    d = v.shape[2]
    q, k, value = (b.op("MatMul", v.name, b.weight((d, d))) for _ in range(3))
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 1]))
    scores = b.op("Mul", scores, b.scalar(d**-0.5)) if b.rng.random() < 0.5 else b.op("Div", scores, b.scalar(d**0.5))
    b.add(b.op("MatMul", b.op("Softmax", scores, axis=-1), value), v.shape)


def mean_of(b: Build, x: str, axis: int, op: str = "ReduceMean") -> str:
    if b.opset >= 18 or (op == "ReduceSum" and b.opset >= 13):
        return b.op(op, x, b.ints(axis), keepdims=1)
    return b.op(op, x, axes=[axis], keepdims=1)


def layer_norm(b: Build) -> None:
    """LayerNormalization, RMSNormalization and Softmax in their primitive spellings."""
    v = b.pick(lambda v: len(v.shape) in (2, 3))
    if v is None:
        return
    kind = b.rng.randrange(3)
    d = v.shape[-1]
    if kind == 0:
        e = b.op("Exp", v.name)
        b.add(b.op("Div", e, mean_of(b, e, -1, "ReduceSum")), v.shape)
        return
    x = b.op("Sub", v.name, mean_of(b, v.name, -1)) if kind == 1 else v.name
    square = b.op("Pow", x, b.scalar(2.0)) if b.rng.random() < 0.5 else b.op("Mul", x, x)
    root = b.op("Sqrt", b.either("Add", mean_of(b, square, -1), b.scalar(1e-2)))
    t = b.op("Div", x, root)
    if b.rng.random() < 0.8:
        t = b.either("Mul", t, b.weight((d,), 0.5, 1.5))
        if kind == 1:
            t = b.either("Add", t, b.weight((d,)))
    b.add(t, v.shape)


def pool(b: Build) -> None:
    v = b.pick(image)
    if v is None:
        return
    n, c, h, w = v.shape
    if b.rng.random() < 0.25:
        t = b.op("GlobalAveragePool", v.name)
        b.add(t, (n, c, 1, 1))
        if b.rng.random() < 0.6:  # squeeze and excite
            gate = b.op(
                b.rng.choice(["Sigmoid", "HardSigmoid"]), b.op("Conv", t, b.weight((c, c, 1, 1)), b.weight((c,)))
            )
            b.add(b.either("Mul", v.name, gate), v.shape)
        return
    k, stride, pad = b.rng.choice([1, 2, 3]), b.rng.choice([1, 2]), b.rng.choice([0, 0, 1])
    if k == 1:
        pad = 0
    sizes = [(s + 2 * pad - k) // stride + 1 for s in (h, w)]
    if min(sizes) < 1:
        return
    attrs: dict[str, Any] = {"kernel_shape": [k, k], "strides": [stride] * 2, "pads": [pad] * 4}
    op = b.rng.choice(["MaxPool", "AveragePool"])
    if op == "AveragePool":
        attrs["count_include_pad"] = b.rng.randint(0, 1)
    b.add(b.op(op, v.name, **attrs), (n, c, *sizes))


def pad(b: Build) -> None:
    """Zero padding before a convolution or pooling, and other modes."""
    v = b.pick(image)
    if v is None:
        return
    n, c, h, w = v.shape
    top, left, bottom, right = (b.rng.randint(0, 1) for _ in range(4))
    mode = b.rng.choice(["constant", "constant", "constant", "reflect", "edge"])
    inputs = [v.name, b.ints(0, 0, top, left, 0, 0, bottom, right)]
    if mode == "constant" and b.rng.random() < 0.5:
        inputs.append(b.scalar0(b.rng.choice([0.0, 0.0, 1.0])))
    made = b.add(b.op("Pad", *inputs, mode=mode), (n, c, h + top + bottom, w + left + right))
    if b.rng.random() < 0.6:
        out, h2, w2 = b.rng.choice([2, 4]), made.shape[2] - 1, made.shape[3] - 1
        b.add(b.op("Conv", made.name, b.weight((out, c, 2, 2))), (n, out, h2, w2))
    elif b.rng.random() < 0.5:
        kind = b.rng.choice(["MaxPool", "AveragePool"])
        b.add(b.op(kind, made.name, kernel_shape=[2, 2]), (n, c, made.shape[2] - 1, made.shape[3] - 1))


def residual(b: Build) -> None:
    """Two values of one shape, summed, multiplied, or concatenated."""
    v = b.pick()
    if v is None:
        return
    u = b.pick(lambda u: u.shape == v.shape)
    assert u is not None  # v itself has the shape
    if b.rng.random() < 0.3 and len(v.shape) > 1:
        axis = b.rng.choice([1, -1])
        shape = list(v.shape)
        shape[axis] *= 2
        b.add(b.op("Concat", v.name, u.name, axis=axis), shape)
        return
    op = b.rng.choice(["Add", "Add", "Mul", "Sub", "Max", "Sum"])
    b.add(b.op(op, v.name, u.name), v.shape)


def arithmetic(b: Build) -> None:
    """Neutral and nearly neutral arithmetic with constants of odd shapes."""
    v = b.pick()
    if v is None:
        return
    op = b.rng.choice(["Add", "Sub", "Mul", "Div"])
    neutral = 0.0 if op in ("Add", "Sub") else 1.0
    value = b.rng.choice([neutral, 0.5, 2.0, -1.0])
    rank = len(v.shape)
    shape = b.rng.choice([(), (1,), (1,) * rank, (v.shape[-1],), (1, *v.shape[1:])])
    c = b.const(np.full(shape, value, b.dtype))
    inputs = (v.name, c) if b.rng.random() < 0.7 or op == "Div" else (c, v.name)
    b.add(b.op(op, *inputs), v.shape)


def noop(b: Build) -> None:
    v = b.pick()
    if v is None:
        return
    rank = len(v.shape)
    kind = b.rng.randrange(8)
    if kind == 0:
        t = b.op("Identity", v.name)
    elif kind == 1:
        t = b.op("Dropout", v.name)
    elif kind == 2:
        t = b.op("Cast", v.name, to=TensorProto.FLOAT16 if b.half else TensorProto.FLOAT)
    elif kind == 3:
        t = b.op("Transpose", v.name, perm=list(range(rank)))
    elif kind == 4:
        t = b.op("Slice", v.name, b.ints(0), b.ints(2**31 - 1), b.ints(rank - 1))
    elif kind == 5:
        t = b.op("Concat", v.name, axis=0)
    elif kind == 6:
        t = b.op("Reshape", v.name, b.ints(*[0] * rank))
    else:
        t = b.op("Relu", b.op("Relu", v.name))
    b.add(t, v.shape)


def cast_around(b: Build) -> None:
    """To a wider type and back; to integers and back would amplify rounding.

    No branch may read the Cast itself: ONNX Runtime 1.31 drops a pair of Casts even where a subgraph still needs it.
    """
    v = b.pick()
    if v is not None:
        wide = b.op("Cast", v.name, to=TensorProto.DOUBLE)
        narrow = b.op("Cast", wide, to=TensorProto.FLOAT16 if b.half else TensorProto.FLOAT)
        b.add(b.op("Abs", narrow), v.shape)


def transpose(b: Build) -> None:
    """A transposition, something elementwise, and (often) the way back."""
    v = b.pick(lambda v: len(v.shape) >= 3)
    if v is None:
        return
    rank = len(v.shape)
    perm = [0, *b.rng.sample(range(1, rank), rank - 1)]
    t = b.op("Transpose", v.name, perm=perm)
    shape = tuple(v.shape[p] for p in perm)
    if b.rng.random() < 0.7:
        t = activate(b, t)
    if b.rng.random() < 0.3:
        t = b.either("Add", t, b.weight((shape[-1],)))
    if b.rng.random() < 0.7:
        back = [perm.index(i) for i in range(rank)]
        t, shape = b.op("Transpose", t, perm=back), v.shape
    b.add(t, shape)


def reshape(b: Build) -> None:
    """Flatten, Reshape chains, Unsqueeze and Squeeze."""
    v = b.pick(lambda v: len(v.shape) >= 3)
    if v is None:
        return
    n, rest = v.shape[0], v.shape[1:]
    kind = b.rng.randrange(5)
    if kind == 0:
        b.add(b.op("Flatten", v.name), (n, math.prod(rest)))
    elif kind == 1:
        flat = b.op("Reshape", v.name, b.ints(0, rest[0], -1))
        b.add(flat, (n, rest[0], math.prod(rest[1:])))
        if b.rng.random() < 0.5:
            b.add(b.op("Reshape", flat, b.ints(0, *rest[:-1], rest[-1])), v.shape)
    elif kind == 2:
        t = b.op("Unsqueeze", v.name, b.ints(1))
        b.add(b.op("Squeeze", b.op("Relu", t) if b.rng.random() < 0.5 else t, b.ints(1)), v.shape)
    elif kind == 3:  # shape arithmetic as PyTorch exports it
        size = b.op("Gather", b.op("Shape", v.name), b.const(np.asarray(0, np.int64)), axis=0)
        target = b.op("Concat", b.op("Unsqueeze", size, b.ints(0)), b.ints(-1), axis=0)
        b.add(b.op("Reshape", v.name, target), (n, math.prod(rest)))
    elif len(v.shape) == 4 and rest[0] % 2 == 0:  # channel shuffle
        c, h, w = rest
        t = b.op("Reshape", v.name, b.ints(0, 2, c // 2, h, w))
        b.add(b.op("Reshape", b.op("Transpose", t, perm=[0, 2, 1, 3, 4]), b.ints(0, c, h, w)), v.shape)


def slicing(b: Build) -> None:
    """Split, Slice, Gather along the channels; halves may be joined again."""
    v = b.pick(lambda v: len(v.shape) >= 2 and v.shape[1] >= 2 and v.shape[1] % 2 == 0)
    if v is None:
        return
    n, c, *rest = v.shape
    half = (n, c // 2, *rest)
    kind = b.rng.randrange(4)
    if kind == 0:
        outs = [b.name("t"), b.name("t")]
        inputs = [v.name, b.ints(c // 2, c // 2)]
        b.nodes.append(helper.make_node("Split", inputs, outs, axis=1))
    elif kind == 1:
        middle = c // 2
        outs = [
            b.op("Slice", v.name, b.ints(0), b.ints(middle), b.ints(1)),
            b.op("Slice", v.name, b.ints(middle), b.ints(c), b.ints(1), b.ints(1)),
        ]
    elif kind == 2:
        outs = [b.op("Slice", v.name, b.ints(i), b.ints(2**31 - 1), b.ints(1), b.ints(2)) for i in (0, 1)]
    else:
        t = b.op("Gather", v.name, b.ints(*b.rng.sample(range(c), c // 2)), axis=1)
        b.add(t, half)
        return
    for t in outs:
        b.add(t, half)
    if b.rng.random() < 0.5:
        b.add(b.op("Concat", *outs, axis=1), v.shape)


def focus(b: Build) -> None:
    """Space to depth as strided slices."""
    v = b.pick(lambda v: image(v) and v.shape[2] % 2 == 0 and v.shape[3] % 2 == 0)
    if v is None:
        return
    n, c, h, w = v.shape
    big = 2**31 - 1
    order = b.rng.choice([[(0, 0), (1, 0), (0, 1), (1, 1)], [(0, 0), (0, 1), (1, 0), (1, 1)]])
    parts = []
    for y, x in order:
        rows = b.op("Slice", v.name, b.ints(y), b.ints(big), b.ints(2), b.ints(2))
        parts.append(b.op("Slice", rows, b.ints(x), b.ints(big), b.ints(3), b.ints(2)))
    b.add(b.op("Concat", *parts, axis=1), (n, 4 * c, h // 2, w // 2))


def reduce(b: Build) -> None:
    v = b.pick(lambda v: len(v.shape) >= 3)
    if v is None:
        return
    axis = b.rng.randrange(1, len(v.shape))
    op = b.rng.choice(["ReduceMean", "ReduceSum", "ReduceMax"])
    keep = b.rng.randint(0, 1)
    if b.opset >= 18 or (op == "ReduceSum" and b.opset >= 13):
        t = b.op(op, v.name, b.ints(axis), keepdims=keep)
    else:
        t = b.op(op, v.name, axes=[axis], keepdims=keep)
    b.add(t, [1 if i == axis else s for i, s in enumerate(v.shape) if keep or i != axis])


def spatial_mean(b: Build) -> None:
    """The mean over both image axes: global pooling spelt out."""
    v = b.pick(image)
    if v is None:
        return
    t = b.op("ReduceMean", v.name, b.ints(2, 3)) if b.opset >= 18 else b.op("ReduceMean", v.name, axes=[2, 3])
    b.add(t, (*v.shape[:2], 1, 1))


def resize(b: Build) -> None:
    v = b.pick(lambda v: image(v) and max(v.shape[2:]) <= 8)
    if v is None:
        return
    k = b.rng.choice([1, 2])
    scales = b.const(np.asarray([1, 1, k, k], np.float32))
    mode = b.rng.choice(["nearest", "linear"])
    attrs = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    b.add(b.op("Resize", v.name, "", scales, mode=mode, **attrs), (*v.shape[:2], v.shape[2] * k, v.shape[3] * k))


def branch(b: Build) -> None:
    """An If on a known or a computed condition; branches read outer values and their own constants."""
    v = b.pick()
    if v is None:
        return
    kind = TensorProto.FLOAT16 if b.half else TensorProto.FLOAT
    if b.rng.random() < 0.4:
        condition = b.const(np.asarray(b.rng.random() < 0.5))
    else:
        total = b.op("ReduceSum", v.name, keepdims=0)
        condition = b.op("Greater", total, b.const(np.asarray(0, b.dtype)))
    bodies = []
    for act in b.rng.sample(["Relu", "Sigmoid", "Tanh", "Neg"], 2):
        inner, out = b.name("b"), b.name("b")
        c = helper.make_tensor(b.name("bc"), kind, [1], [b.rng.choice([0.0, 0.5, 1.0])])
        inner_nodes = [
            helper.make_node(b.rng.choice(["Relu", "Abs"]), [v.name], [inner]),
            helper.make_node("Add", [inner, c.name], [f"{out}a"]),
            helper.make_node(act, [f"{out}a"], [out]),
        ]
        info = helper.make_tensor_value_info(out, kind, [None] * len(v.shape))
        bodies.append(helper.make_graph(inner_nodes, "branch", [], [info], [c]))
    b.add(b.op("If", condition, then_branch=bodies[0], else_branch=bodies[1]), v.shape)


def constant_part(b: Build) -> None:
    """Arithmetic among constants only, joined to the data."""
    v = b.pick()
    if v is None:
        return
    d = v.shape[-1]
    c = b.op(b.rng.choice(["Add", "Mul", "Sub"]), b.weight((d,)), b.weight((d,)))
    if b.rng.random() < 0.5:
        c = b.op("Tanh", c)
    b.add(b.either(b.rng.choice(["Add", "Mul"]), v.name, c), v.shape)


def twice(b: Build) -> None:
    """The same computation written twice: a common subexpression."""
    v = b.pick()
    if v is None:
        return
    op = b.rng.choice(["Relu", "Sigmoid", "Abs"])
    first, second = b.op(op, v.name), b.op(op, v.name)
    b.add(first, v.shape)
    b.add(second, v.shape)
    b.add(b.op("Add", first, second), v.shape)


BLOCKS: list[tuple[Block, int]] = [
    (conv, 8), (conv_transpose, 2), (batch_norm, 2), (activation, 4), (linear, 4), (attention, 1), (layer_norm, 2),
    (pool, 3), (pad, 3), (residual, 4), (arithmetic, 3), (noop, 4), (cast_around, 1), (transpose, 3), (reshape, 3),
    (slicing, 3), (focus, 1), (reduce, 1), (spatial_mean, 1), (resize, 1), (branch, 1), (constant_part, 2), (twice, 1),
]  # fmt: skip
"""Each block and how often it is drawn."""
