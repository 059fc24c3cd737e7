"""Evaluation rules of MIL operations against formulas written out here: what coremltools' own tests do not show on this host."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.targets.coreml.ops as ops
from edgec.runtime import Session
from edgec.targets.coreml.evaluate.constants import unpacked
from edgec.targets.coreml.evaluate.resizing import grid
from edgec.targets.coreml.evaluate.rules import RULES, NotEvaluated
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.program import Array, Operation, Packed, Program, Value, mil_type

rng = np.random.default_rng(5)


def evaluate(
    op: str,
    inputs: dict[str, Any],
    out: Sequence[tuple[tuple[int | str, ...], str]],
    *,
    run: Sequence[str] = ("x",),
    half: bool = False,
    shapes: dict[str, tuple[int | str, ...]] | None = None,
) -> list[Array]:
    """One operation; arguments named in `run` are inputs of the program, the rest is known."""
    program = Program("iOS18")
    given: dict[str, Any] = {}
    feeds = {}
    for name, value in inputs.items():
        if name not in run:
            given[name] = value
            continue
        array = np.asarray(value)
        dtype = mil_type(array.dtype)
        v = Value(name, (shapes or {}).get(name, array.shape), dtype)
        program.inputs.append(v)
        given[name] = v
        wide = {"fp16": "float32", "int32": "int64", "int16": "int64"}
        feeds[name] = array.astype(wide.get(dtype, array.dtype.name))
    outputs = [Value(f"out{i}", shape, dtype) for i, (shape, dtype) in enumerate(out)]
    program.operations.append(Operation(op, given, outputs))
    program.outputs = list(outputs)
    made = Session(to_onnx(program, half=half)).run(feeds)
    return [made[v.name] for v in outputs]


def one(op: str, x: Array, shape: tuple[int, ...], **given: Any) -> Array:
    return evaluate(op, {"x": x, **given}, [(shape, mil_type(x.dtype))])[0]


X = rng.normal(0, 2, (2, 3, 4)).astype(np.float32)


@pytest.mark.parametrize(
    ("op", "expected", "given"),
    [
        ("erf", lambda x: np.vectorize(__import__("math").erf)(x), {}),
        ("atanh", lambda x: np.arctanh(np.clip(x, -0.9, 0.9)), {"clipped": 0.9}),
        ("ceil", np.ceil, {}),
        ("sinh", np.sinh, {}),
        ("silu", lambda x: x / (1 + np.exp(-x)), {}),
        ("round", np.rint, {}),
        ("square", np.square, {}),
        ("exp2", np.exp2, {}),
        ("inverse", lambda x: 1 / (x + 1e-4), {}),
        ("thresholded_relu", lambda x: np.where(x >= 1, x, 0), {"alpha": np.float32(1)}),
        ("clamped_relu", lambda x: np.minimum(2, np.where(x >= 0, x, -0.5 * x)), {"alpha": -0.5, "beta": 2.0}),
        ("reduce_log_sum_exp", lambda x: np.log(np.exp(x).sum((0, 2))), {"axes": np.asarray([0, -1])}),
    ],
)
def test_formulas(op: str, expected: Callable[[Array], Array], given: dict[str, Any]) -> None:
    bound = given.pop("clipped", None)
    x = X if bound is None else np.clip(X, -bound, bound)
    wanted = expected(x)
    np.testing.assert_allclose(one(op, x, wanted.shape, **given), wanted, rtol=1e-5, atol=1e-5)


def test_thresholds_include_their_border() -> None:
    x = np.asarray([0.5, 1.0, 1.5], np.float32)
    np.testing.assert_array_equal(one("thresholded_relu", x, (3,), alpha=np.float32(1)), [0, 1, 1.5])


@pytest.mark.parametrize("op", ["logical_and", "logical_or", "logical_xor"])
def test_logic(op: str) -> None:
    x, y = np.asarray([[True], [False]]), np.asarray([[True, False]])
    (made,) = evaluate(op, {"x": x, "y": y}, [((2, 2), "bool")], run=("x", "y"))
    np.testing.assert_array_equal(made, getattr(np, op)(x, y))
    (made,) = evaluate("logical_not", {"x": x}, [((2, 1), "bool")])
    np.testing.assert_array_equal(made, ~x)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.bool_])
def test_select(kind: type) -> None:
    cond = np.asarray([[True, False, True]])
    a: Array = np.arange(6).reshape(2, 3).astype(kind)
    b: Array = np.asarray(1, kind)
    (made,) = evaluate("select", {"cond": cond, "a": a, "b": b}, [((2, 3), mil_type(kind))], run=("cond", "a"))
    np.testing.assert_array_equal(made, np.where(cond, a, b))


def test_division_of_integers_goes_down() -> None:
    x, y = np.asarray([7, -7, 7, -7], np.int32), np.asarray([2, 2, -2, -2], np.int32)
    (made,) = evaluate("floor_div", {"x": x, "y": y}, [((4,), "int32")], run=("x", "y"))
    np.testing.assert_array_equal(made, x // y)
    (made,) = evaluate("mod", {"x": x, "y": y}, [((4,), "int32")], run=("x", "y"))
    np.testing.assert_array_equal(made, x % y)
    with pytest.raises(NotEvaluated, match="quotient of integers"):
        evaluate("real_div", {"x": x, "y": y}, [((4,), "int32")], run=("x", "y"))


# --- convolution ---------------------------------------------------------------------------------------------------------


def scattered(x: Array, w: Array, stride: int, dilation: int) -> Array:
    """Transposed convolution of [C_in, n] by [C_in, C_out, k], nothing cut off."""
    reach = (w.shape[2] - 1) * dilation + 1
    out = np.zeros((w.shape[1], (x.shape[1] - 1) * stride + reach))
    for i in range(x.shape[1]):
        for k in range(w.shape[2]):
            out[:, i * stride + k * dilation] += x[:, i] @ w[:, :, k]
    return out


@pytest.mark.parametrize(
    ("kind", "pad", "stride", "dilation", "kernel", "output", "first", "size"),
    [
        ("valid", None, 2, 1, 3, None, 0, 11),
        ("valid", None, 2, 2, 3, None, 0, 13),
        ("custom", [1, 2], 2, 1, 3, None, 1, 8),
        ("same", None, 2, 1, 3, None, 0, 10),  # one too many, cut off behind
        ("same", None, 2, 1, 4, None, 1, 10),  # one on each side
        ("same", None, 3, 1, 2, None, 0, 15),  # one too few: a zero behind
        ("same", None, 2, 1, 3, 9, 1, 9),
        ("valid", None, 2, 1, 3, 12, 0, 12),
    ],
)
def test_conv_transpose(
    kind: str, pad: list[int] | None, stride: int, dilation: int, kernel: int, output: int | None, first: int, size: int
) -> None:
    x, w = rng.normal(size=(1, 2, 5)).astype(np.float32), rng.normal(size=(2, 3, kernel)).astype(np.float32)
    bias = np.asarray([1, 2, 3], np.float32)
    given: dict[str, Any] = {"weight": w, "bias": bias, "pad_type": kind, "strides": [stride], "dilations": [dilation]}
    if pad is not None:
        given["pad"] = pad
    if output is not None:
        given["output_shape"] = [1, 3, output]
    whole = np.pad(scattered(x[0], w, stride, dilation), ((0, 0), (0, 4)))
    wanted = whole[:, first : first + size] + bias[:, None]
    np.testing.assert_allclose(one("conv_transpose", x, (1, 3, size), **given)[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["valid", "same", "same_lower", "custom"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (2, 1), (3, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("size", [7, 8])
def test_windows(kind: str, stride: int, kernel: int, dilation: int, size: int) -> None:
    """Convolution in two groups, and pools, step by step; "same" is TensorFlow's: ceil(size / stride) steps."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    before, after = {
        "valid": (0, 0), "custom": (1, 2), "same": (total // 2, total - total // 2),
        "same_lower": (total - total // 2, total // 2),
    }[kind]  # fmt: skip
    steps = (size + before + after - reach) // stride + 1
    x, w = rng.normal(size=(1, 4, size)).astype(np.float32), rng.normal(size=(6, 2, kernel)).astype(np.float32)
    padded = np.pad(x[0], ((0, 0), (before, after)))
    windows = [padded[:, i * stride : i * stride + reach : dilation] for i in range(steps)]
    wanted = np.stack(
        [
            np.concatenate([np.einsum("ock,ck->o", w[g * 3 : g * 3 + 3], v[g * 2 : g * 2 + 2]) for g in (0, 1)])
            for v in windows
        ],
        -1,
    )
    given = {"strides": [stride], "pad_type": kind, **({"pad": [1, 2]} if kind == "custom" else {})}
    made = one("conv", x, (1, 6, steps), weight=w, dilations=[dilation], groups=np.int32(2), **given)
    np.testing.assert_allclose(made[0], wanted, rtol=1e-4, atol=1e-5)
    if dilation > 1 or max(before, after) >= kernel:
        return
    mean = one("avg_pool", x, (1, 4, steps), kernel_sizes=[kernel], **given)
    np.testing.assert_allclose(mean[0], np.stack([v.mean(-1) for v in windows], -1), rtol=1e-4, atol=1e-6)
    inside = np.pad(np.ones(size), (before, after))
    counts = [inside[i * stride : i * stride + reach].sum() for i in range(steps)]
    mean = one(
        "avg_pool", x, (1, 4, steps), kernel_sizes=[kernel], exclude_padding_from_average=np.bool_(True), **given
    )
    np.testing.assert_allclose(
        mean[0], np.stack([v.sum(-1) / c for v, c in zip(windows, counts, strict=True)], -1), rtol=1e-4, atol=1e-6
    )
    low = np.pad(x[0], ((0, 0), (before, after)), constant_values=-np.inf)
    largest = one("max_pool", x, (1, 4, steps), kernel_sizes=[kernel], **given)
    np.testing.assert_array_equal(
        largest[0], np.stack([low[:, i * stride : i * stride + reach].max(-1) for i in range(steps)], -1)
    )


def test_conv_transpose_in_groups() -> None:
    x, w = rng.normal(size=(1, 4, 5)).astype(np.float32), rng.normal(size=(4, 3, 2)).astype(np.float32)
    made = one("conv_transpose", x, (1, 6, 6), weight=w, groups=np.int32(2), pad_type="valid")[0]
    parts = [scattered(x[0, g : g + 2], w[g : g + 2], 1, 1) for g in (0, 2)]
    np.testing.assert_allclose(made, np.concatenate(parts), rtol=1e-4, atol=1e-5)


def test_ceil_mode_does_not_count_what_lies_beyond() -> None:
    x = np.arange(1, 7, dtype=np.float32).reshape(1, 1, 6)
    given = {"kernel_sizes": [3], "strides": [2], "pad_type": "custom", "pad": [1, 1], "ceil_mode": np.bool_(True)}
    counted = one("avg_pool", x, (1, 1, 4), **given)[0, 0]
    np.testing.assert_allclose(counted, [(0 + 1 + 2) / 3, (2 + 3 + 4) / 3, (4 + 5 + 6) / 3, (6 + 0) / 2], rtol=1e-6)
    given["exclude_padding_from_average"] = np.bool_(True)
    without = one("avg_pool", x, (1, 1, 4), **given)[0, 0]
    np.testing.assert_allclose(without, [1.5, 3, 5, 6], rtol=1e-6)
    np.testing.assert_array_equal(
        one("max_pool", x, (1, 1, 4), **{k: v for k, v in given.items() if k[0] != "e"})[0, 0], [2, 4, 6, 6]
    )


# --- attention, normalisation, recurrent layers ---------------------------------------------------------------------------


@pytest.mark.parametrize("mask", ["none", "bool", "float"])
def test_attention(mask: str) -> None:
    q, k, v = (rng.normal(size=s).astype(np.float32) for s in ((2, 3, 4, 8), (2, 3, 5, 8), (2, 3, 5, 6)))
    given: dict[str, Any] = {"query": q, "key": k, "value": v}
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(8)
    if mask == "bool":
        given["attn_mask"] = np.tril(np.ones((4, 5), bool))
        scores = np.where(given["attn_mask"], scores, -np.inf)
    elif mask == "float":
        given["attn_mask"] = rng.normal(size=(1, 1, 4, 5)).astype(np.float32)
        scores = scores + given["attn_mask"]
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = weights / weights.sum(-1, keepdims=True) @ v
    (made,) = evaluate("scaled_dot_product_attention", given, [(wanted.shape, "fp32")], run=tuple(given))
    np.testing.assert_allclose(made, wanted, rtol=1e-4, atol=1e-5)


def test_local_response_norm() -> None:
    x = rng.normal(size=(2, 6, 3, 2)).astype(np.float32)
    squares = np.pad(x * x, ((0, 0), (2, 2), (0, 0), (0, 0)))
    total = sum(squares[:, i : i + 6] for i in range(5))
    wanted = x / (2 + 0.1 / 5 * total) ** 0.6
    made = one("local_response_norm", x, x.shape, size=np.int32(5), alpha=0.1, beta=0.6, k=2.0)
    np.testing.assert_allclose(made, wanted, rtol=1e-5)


def sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def lstm(x: Array, h: Array, c: Array, w: Sequence[Array], steps: Sequence[int]) -> tuple[Array, Array, Array]:
    """By the formulas of MIL's definition; w: weight_ih, weight_hh, bias, peephole."""
    wi, wh, b, p = (np.split(a, 3 if i == 3 else 4) for i, a in enumerate(w))
    out = []
    for t in steps:
        a = [x[t] @ wi[g].T + h @ wh[g].T + b[g] for g in range(4)]  # input, forget, output, cell
        i, f, z = sigmoid(a[0] + p[0] * c), sigmoid(a[1] + p[1] * c), np.tanh(a[3])
        c = f * c + i * z
        h = sigmoid(a[2] + p[2] * c) * np.tanh(c)
        out.append(h)
    return np.stack(out), h, c


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("sequence", [True, False])
def test_lstm(direction: str, sequence: bool) -> None:
    steps, batch, size, hidden = 4, 2, 3, 5
    both = direction == "bidirectional"
    x = rng.normal(size=(steps, batch, size)).astype(np.float32)
    h, c = rng.normal(size=(2, batch, hidden * (1 + both))).astype(np.float32)
    shapes = ((4 * hidden, size), (4 * hidden, hidden), (4 * hidden,), (3 * hidden,))
    weights = [[rng.normal(size=s).astype(np.float32) for s in shapes] for _ in range(1 + both)]
    names = ("weight_ih", "weight_hh", "bias", "peephole")
    given = {
        f"{n}{end}": a for end, w in zip(("", "_back"), weights, strict=False) for n, a in zip(names, w, strict=True)
    }
    order = range(steps)[::-1] if direction == "reverse" else range(steps)
    y, last_h, last_c = lstm(x, h[:, :hidden], c[:, :hidden], weights[0], order)
    if both:
        back, back_h, back_c = lstm(x, h[:, hidden:], c[:, hidden:], weights[1], range(steps)[::-1])
        y = np.concatenate([y, back[::-1]], -1)
        last_h, last_c = np.concatenate([last_h, back_h], -1), np.concatenate([last_c, back_c], -1)
    made = evaluate(
        "lstm",
        {
            "x": x,
            "initial_h": h,
            "initial_c": c,
            **given,
            "direction": direction,
            "output_sequence": np.bool_(sequence),
        },
        [((steps if sequence else 1, *last_h.shape), "fp32"), (last_h.shape, "fp32"), (last_h.shape, "fp32")],
        run=("x", "initial_h", "initial_c"),
    )
    for found, wanted in zip(made, (y if sequence else last_h[None], last_h, last_c), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("tanh", np.tanh),
        ("linear", lambda x: x),
        ("relu", lambda x: np.maximum(x, 0)),
        ("hard_sigmoid", lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    ],
)
def test_rnn(name: str, function: Callable[[Array], Array]) -> None:
    x, h = rng.normal(size=(3, 2, 4)).astype(np.float32), rng.normal(size=(2, 5)).astype(np.float32)
    wi, wh, b = (rng.normal(size=s).astype(np.float32) for s in ((5, 4), (5, 5), (5,)))
    given = {"weight_ih": wi, "weight_hh": wh, "bias": b, "activation": name, "output_sequence": np.bool_(True)}
    wanted, state = [], h
    for t in range(3):
        state = function(x[t] @ wi.T + state @ wh.T + b)
        wanted.append(state)
    made = evaluate(
        "rnn", {"x": x, "initial_h": h, **given}, [((3, 2, 5), "fp32"), ((2, 5), "fp32")], run=("x", "initial_h")
    )
    np.testing.assert_allclose(made[0], np.stack(wanted), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(made[1], state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "why"),
    [({"clip": np.float32(3)}, "clipped"), ({"activation": "softplus"}, "activation softplus")],
)
def test_what_an_lstm_leaves_open(given: dict[str, Any], why: str) -> None:
    zeros = np.zeros
    known = {"x": zeros((1, 1, 2)), "initial_h": zeros((1, 1)), "initial_c": zeros((1, 1))}
    known |= {"weight_ih": zeros((4, 2)), "weight_hh": zeros((4, 1))}
    with pytest.raises(NotEvaluated, match=why):
        evaluate("lstm", {k: v.astype(np.float32) for k, v in known.items()} | given, [((1, 1, 1), "fp32")] * 3)


# --- compressed constants ---------------------------------------------------------------------------------------------------


def constant(op: str, given: dict[str, Any], outputs: Sequence[tuple[tuple[int, ...], str]], k: int = 0) -> Array:
    """What the operation's k-th output is."""
    program = Program("iOS18")
    made = [Value(f"c{i}", shape, dtype) for i, (shape, dtype) in enumerate(outputs)]
    out = Value("y", outputs[k][0], outputs[k][1])
    program.operations = [Operation(op, given, made), Operation("identity", {"x": made[k]}, [out])]
    program.outputs = [out]
    return Session(to_onnx(program, half=False)).run({})["y"]


def test_packed_bits_of_the_definition() -> None:
    """constexpr_lut_to_dense (iOS16): indices 0, 3, 2, 1, 3 of two bits."""
    packed = np.asarray([0b01101100, 0b00000011], np.uint8)
    np.testing.assert_array_equal(unpacked(packed, 2, 5), [0, 3, 2, 1, 3])
    six = np.packbits(np.unpackbits(np.asarray([[37], [9], [63]], np.uint8), axis=1, bitorder="little")[:, :6].reshape(-1),
                      bitorder="little")  # fmt: skip
    np.testing.assert_array_equal(unpacked(six, 6, 3), [37, 9, 63])


def test_lut_of_ios16() -> None:
    table = np.asarray([1, 2, 4, 8], np.float16)
    given = {"indices": np.asarray([0b01101100, 0b11], np.uint8), "lut": table, "shape": np.asarray([5], np.uint32)}
    np.testing.assert_array_equal(constant("constexpr_lut_to_dense", given, [((5,), "fp16")]), [1, 8, 4, 2, 8])


def test_lut_in_groups() -> None:
    """Case 1 of the definition: two tables over the first axis."""
    indices = np.asarray([2, 3, 3, 0, 1, 0, 3, 0, 2, 1, 0, 3], np.uint8).reshape(6, 2)
    table = np.asarray([1, 5, 9, 13, 2, 10, 18, 26], np.float16).reshape(2, 1, 4, 1)
    made = constant("constexpr_lut_to_dense", {"indices": Packed(indices, "uint2"), "lut": table}, [((6, 2), "fp16")])
    np.testing.assert_array_equal(made, [[9, 13], [13, 1], [5, 1], [26, 2], [18, 10], [2, 26]])


@pytest.mark.parametrize("axis", [1, 2])
def test_lut_of_vectors(axis: int) -> None:
    """Case 2 of the definition."""
    indices = np.asarray([0, 0, 1, 0, 1, 1, 0, 0], np.uint8).reshape(2, 2, 2)
    a, b = [1, 2, 3], [4, 5, 6]
    table = np.asarray([a, b], np.int8).reshape(1, 1, 1, 2, 3)
    wanted = {
        1: [[[1, 1], [2, 2], [3, 3], [4, 1], [5, 2], [6, 3]], [[4, 4], [5, 5], [6, 6], [1, 1], [2, 2], [3, 3]]],
        2: [[a + a, b + a], [b + b, a + a]],
    }[axis]
    given = {"indices": Packed(indices, "uint1"), "lut": table, "vector_axis": np.int32(axis)}
    np.testing.assert_array_equal(
        constant("constexpr_lut_to_dense", given, [(np.shape(wanted), "int8")]).astype(int), wanted
    )


def test_sparse_blocks_of_the_definition() -> None:
    mask = np.asarray([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]], np.uint8)
    given = {
        "data_mask": Packed(mask, "uint1"),
        "nonzero_data": np.asarray([10, 11, 3, 4, 5, 6, 7, 8, 9], np.int8),
        "scale": np.asarray([[0.1, 0.2, 0.3, 0.4]], np.float32),
        "offset": np.asarray([[1, 2, 3, 4]], np.int8),
    }
    made = constant("constexpr_sparse_blockwise_shift_scale", given, [((4, 4), "uint1"), ((9,), "fp32")], 1)
    np.testing.assert_allclose(made, [0.9, 1.8, 0.2, 0.4, 0.6, 0.9, 1.2, 0.7, 1.4], rtol=1e-6)


def test_sparse_lut_of_the_definition() -> None:
    mask = np.asarray([[1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 1], [0, 1, 1, 0, 1, 0], [0, 0, 0, 1, 0, 0]], np.uint8)
    given = {
        "indices_mask": Packed(mask, "uint1"),
        "indices_nonzero_data": Packed(np.asarray([0, 1, 1, 0, 1, 1, 0, 0, 1], np.uint8), "uint1"),
        "lut": np.asarray([2, 3], np.float16).reshape(1, 1, 2, 1),
    }
    made = constant("constexpr_lut_to_sparse", given, [((4, 6), "uint1"), ((9,), "fp16")], 1)
    np.testing.assert_array_equal(made, [2, 3, 3, 2, 3, 3, 2, 2, 3])


# --- the rest -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "out", "points"),
    [
        ("UNALIGN_CORNERS", 5, [0, 0.1, 0.5, 0.9, 1]),
        ("STRICT_ALIGN_CORNERS", 5, [0, 0.25, 0.5, 0.75, 1]),
        ("ALIGN_CORNERS", 1, [0.5]),
        ("DEFAULT", 5, [0, 0.4, 0.8, 1, 1]),
        ("OFFSET_CORNERS", 5, [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("DEFAULT", 6, [0, 1 / 3, 2 / 3, 1, 1, 1]),
        ("OFFSET_CORNERS", 6, [1 / 12, 3 / 12, 5 / 12, 7 / 12, 9 / 12, 11 / 12]),
    ],
)
def test_grids_of_the_definition(mode: str, out: int, points: list[float]) -> None:
    np.testing.assert_allclose(grid(mode, 2, out), points, atol=1e-9)


def test_half_rounds_after_the_operation_only() -> None:
    """1 + 2^-11 lies in the middle between two fp16 numbers; 2048 + 1 has none of its own."""
    x = np.asarray([2048, 1], np.float16)
    given = {"alpha": np.float16(1), "beta": np.float16(1)}
    exact = evaluate("linear_activation", {"x": x, **given}, [((2,), "fp16")])[0]
    rounded = evaluate("linear_activation", {"x": x, **given}, [((2,), "fp16")], half=True)[0]
    np.testing.assert_array_equal(exact, [2049, 2])
    np.testing.assert_array_equal(rounded, [2048, 2])
    assert rounded.dtype == np.float32


@pytest.mark.parametrize("n", [3, 5])
def test_open_dimensions(n: int) -> None:
    x = rng.normal(size=(n, 4, 6)).astype(np.float32)

    def made(op: str, out: tuple[int | str, ...], dtype: str = "fp32", **given: Any) -> Array:
        return evaluate(op, {"x": x, **given}, [(out, dtype)], shapes={"x": ("N", 4, 6)})[0]

    np.testing.assert_array_equal(made("reshape", ("N", 24), shape=[0, 0, -1]), x)
    np.testing.assert_array_equal(made("reshape", (4, "M"), shape=[0, -1]), x.reshape(4, -1))  # 0: counted from the end
    np.testing.assert_array_equal(made("slice_by_size", ("M", 2, 3), begin=[1, 0, -3], size=[-1, 2, 3]), x[1:, :2, -3:])
    larger = made("upsample_bilinear", ("N", 8, 12), scale_factor_height=2, scale_factor_width=2, align_corners=False)
    assert larger.shape == (n, 8, 12)
    order = made("argsort", ("N", 4, 6), "int32", axis=np.int32(0), ascending=np.bool_(True))
    np.testing.assert_array_equal(order, np.argsort(x, 0))


def test_the_same_resize_whether_sizes_are_open_or_not() -> None:
    x = rng.normal(size=(1, 2, 5, 7)).astype(np.float32)
    for corners, centres in ((True, False), (False, True), (False, False)):
        given = {"x": x, "scale_factor_height": 1.7, "scale_factor_width": 2.0, "align_corners": np.bool_(corners),
                 "half_pixel_centers": np.bool_(centres)}  # fmt: skip
        fixed = evaluate("upsample_bilinear", given, [((1, 2, 8, 14), "fp32")])[0]
        open_ = evaluate("upsample_bilinear", given, [((1, 2, "H", "W"), "fp32")], shapes={"x": (1, 2, "h", "w")})[0]
        np.testing.assert_allclose(open_, fixed, rtol=1e-4, atol=1e-5)
    given = {"x": x, "scale_factor_height": 1.7, "scale_factor_width": 2.0}
    fixed = evaluate("upsample_nearest_neighbor", given, [((1, 2, 8, 14), "fp32")])[0]
    open_ = evaluate("upsample_nearest_neighbor", given, [((1, 2, "H", "W"), "fp32")], shapes={"x": (1, 2, "h", "w")})[
        0
    ]
    np.testing.assert_array_equal(open_, fixed)


def test_unknown_operations_are_named_together() -> None:
    program = Program("iOS17", [Value("x", (1,), "fp32")])
    for op in ("random_normal", "while_loop"):
        program.operations.append(Operation(op, {"x": program.inputs[0]}, [Value(op, (1,), "fp32")]))
    program.outputs = [program.operations[1].outputs[0]]
    with pytest.raises(NotEvaluated, match="random_normal, while_loop"):
        to_onnx(program, half=False)


def test_whatever_the_lowering_writes_can_be_evaluated() -> None:
    """Operations by the names in `emit("...")` of the rules, and in their tables of names."""
    written: set[str] = set()
    for path in Path(ops.__file__).parent.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = (c for c in ast.walk(tree) if isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute))
        for call in calls:
            first = call.args[0] if call.args and call.func.attr in ("emit", "emit_many") else None  # type: ignore[attr-defined]
            if isinstance(first, ast.Constant):
                written.add(str(first.value))
    to_onnx(Program("iOS17"), half=False)  # which loads the rules
    assert len(written) > 30
    assert not written - RULES.keys() - {"const"}
