"""Small .tflite models for tests, written by edgec's writer."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.writer import write


def int8(name: str, shape: tuple[int, ...], scale: float, zero: int) -> Tensor:
    return Tensor(name, shape, "int8", Quant.of(scale, zero))


def small_int8(side: int = 8, channels: int = 4) -> TfliteModel:
    """Conv (per channel, RELU6), Add, Mean, FullyConnected, Softmax in int8 from end to end; the input is channels last."""
    r = np.random.default_rng(0)
    x = int8("x", (1, side, side, 3), 0.05, 3)
    scales = r.uniform(0.002, 0.006, channels)
    weights = Tensor(
        "w",
        (channels, 3, 3, 3),
        "int8",
        Quant.of(scales, 0, 0),
        r.integers(-127, 128, (channels, 3, 3, 3)).astype("i1"),
    )
    bias = Tensor(
        "b", (channels,), "int32", Quant.of(scales * 0.05, 0, 0), r.integers(-500, 500, channels).astype("i4")
    )
    conv = int8("conv", (1, side, side, channels), 0.06, -128)
    total = int8("add", conv.shape, 0.08, -4)
    mean = int8("mean", (1, channels), 0.05, 7)
    dense = Tensor("wf", (10, channels), "int8", Quant.of(0.008), r.integers(-127, 128, (10, channels)).astype("i1"))
    dense_bias = Tensor("bf", (10,), "int32", Quant.of(0.05 * 0.008), r.integers(-500, 500, 10).astype("i4"))
    logits = int8("logits", (1, 10), 0.11, 2)
    prob = int8("prob", (1, 10), 1 / 256, -128)
    axes = Tensor("axes", (2,), "int32", data=np.array([1, 2], "i4"))
    operators = [
        Operator(
            "CONV_2D",
            [x, weights, bias],
            [conv],
            {"padding": "SAME", "stride_w": 1, "stride_h": 1, "fused_activation_function": "RELU6"},
            source="conv0",
        ),
        Operator("ADD", [conv, conv], [total], {}),
        Operator("MEAN", [total, axes], [mean], {"keep_dims": False}),
        Operator("FULLY_CONNECTED", [mean, dense, dense_bias], [logits], {}),
        Operator("SOFTMAX", [logits], [prob], {"beta": 1.0}),
    ]
    return TfliteModel([SubGraph(inputs=[x], outputs=[prob], operators=operators)], ["x"], ["prob"])


def interface(side: int = 8) -> Interface:
    """The ONNX side of `small_int8`: float, channels first."""
    return Interface(
        [Endpoint("x", (1, 3, side, side), "float32", "int8", (0, 2, 3, 1), Quant.of(0.05, 3))],
        [Endpoint("prob", (1, 10), "float32", "int8", None, Quant.of(1 / 256, -128))],
    )


def one_op(op: str, inputs: list[Tensor], output: Tensor, options: dict[str, Any] | None = None) -> bytes:
    """A file of one operator; inputs x0, x1, ... and output y."""
    graph = SubGraph(
        inputs=list(inputs), outputs=[output], operators=[Operator(op, list(inputs), [output], options or {})]
    )
    return write(TfliteModel([graph], [f"x{i}" for i in range(len(inputs))], ["y"]))


def aborting() -> bytes:
    """An int8 ADD without scales: LiteRT 2.3.0 ends the process (SIGABRT) instead of refusing it."""
    a, b, y = (Tensor(n, (1, 4), "int8") for n in ("a", "b", "c"))
    return one_op("ADD", [a, b], y)
