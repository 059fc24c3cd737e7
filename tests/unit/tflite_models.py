"""Small .tflite models, built by hand, for the tests of the file format."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel


def tensor(name: str, shape: tuple[int, ...], dtype: str = "float32", **fields: Any) -> Tensor:
    return Tensor(name, shape, dtype, **fields)


def constant(name: str, array: Any, dtype: str | None = None, quant: Quant | None = None) -> Tensor:
    a = np.asarray(array)
    return Tensor(name, a.shape, dtype or a.dtype.name, quant, a)


def float_model() -> TfliteModel:
    """Conv with RELU6, then Add of a vector equal to the bias, under the names `images` and `scores`."""
    rng = np.random.default_rng(0)
    x, y, z = tensor("x", (1, 4, 4, 3)), tensor("x", (1, 4, 4, 8)), tensor("z", (1, 4, 4, 8))
    w = constant("w", rng.standard_normal((8, 3, 3, 3), np.float32))
    conv = {"padding": "SAME", "stride_w": 1, "stride_h": 1, "fused_activation_function": "RELU6"}
    operators = [
        Operator("CONV_2D", [x, w, constant("b", np.arange(8, dtype=np.float32))], [y], conv),
        Operator("ADD", [y, constant("b2", np.arange(8, dtype=np.float32))], [z]),
    ]
    return TfliteModel([SubGraph("main", [x], [z], operators)], ["images"], ["scores"], "made by hand")


def int8_model() -> TfliteModel:
    """QUANTIZE, then a fully connected layer with weights of int4, one scale a row."""
    rng = np.random.default_rng(1)
    x = tensor("x", (2, 6))
    xq = tensor("xq", (2, 6), "int8", quant=Quant.of(0.05, 3))
    rows = np.array([0.1, 0.2, 0.3, 0.4, 0.5], np.float32)
    w = constant("w", rng.integers(-7, 8, (5, 6)).astype(np.int8), "int4", Quant.of(rows))
    b = constant("b", np.arange(5, dtype=np.int32), quant=Quant.of(rows * 0.05))
    y = tensor("y", (2, 5), "int8", quant=Quant.of(0.5, -2))
    return TfliteModel(
        [SubGraph("main", [x], [y], [Operator("QUANTIZE", [x], [xq]), Operator("FULLY_CONNECTED", [xq, w, b], [y])])],
        ["x"],
        ["y"],
        metadata={"notes": b"\x01\x02\x03"},
    )


def recurrent_model() -> TfliteModel:
    """Absent inputs, variables, intermediates; a custom operator; a second subgraph; an empty and a scalar constant."""
    x, state, mid = tensor("x", (1, 4)), tensor("h", (1, 4), is_variable=True), tensor("mid", (0,), "int16")
    y, z = tensor("y", (1, 4)), tensor("z", (1, 4))
    empty, scalar = constant("empty", np.zeros((0, 4), np.float32)), constant("scalar", np.float32(2.5))
    operators = [
        Operator("UNIDIRECTIONAL_SEQUENCE_LSTM", [x, None, state], [y], {"time_major": True}, intermediates=[mid]),
        Operator("CUSTOM", [y, empty, scalar], [z], {"custom_code": "Acme", "custom_options": b"\x00\xff"}),
    ]
    a, b = tensor("a", (1,), "bool"), tensor("b", (1,), "bool")
    body = SubGraph("body", [a], [b], [Operator("LOGICAL_NOT", [a], [b])])
    return TfliteModel([SubGraph("main", [x], [z], operators), body])
