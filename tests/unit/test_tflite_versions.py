"""Versions of operators: what op_version.cc of TensorFlow Lite says for these uses of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from edgec.targets.tflite import schema, versions
from edgec.targets.tflite.model import Operator, Quant, Tensor

ROWS = Quant.of(np.arange(1, 9, dtype=np.float32))


def _t(dtype: str, *shape: int, quant: Quant | None = None) -> Tensor:
    return Tensor("t", shape or (1, 4, 4, 8), dtype, quant)


def _op(name: str, inputs: str, output: str = "", **options: Any) -> Operator:
    """`inputs` and `output`: element types, four-dimensional; "-" is an absent input."""
    tensors = [None if i == "-" else _t(i) for i in inputs.split()]
    return Operator(name, tensors, [_t(output or inputs.split()[0])], options)


@pytest.mark.parametrize(
    ("version", "operator"),
    [
        (1, _op("CONV_2D", "float32 float32 float32")),
        (3, _op("CONV_2D", "int8 int8 int32")),
        (7, _op("CONV_2D", "int8 int4 int32")),
        (1, _op("CONV_2D", "int16 int8 int64")),
        (8, _op("CONV_2D", "int16 int8 int32", quantized_bias_type="INT32")),
        (2, _op("CONV_2D", "float32 int8 float32")),
        (6, Operator("CONV_2D", [_t("int8"), _t("int8", 8, 3, 3, 4)], [_t("int8")])),
        (5, Operator("CONV_2D", [_t("float32"), _t("int8", quant=ROWS)], [_t("float32")])),
        (1, _op("DEPTHWISE_CONV_2D", "float32 float32", dilation_w_factor=1)),
        (2, _op("DEPTHWISE_CONV_2D", "float32 float32", dilation_w_factor=2)),
        (3, _op("DEPTHWISE_CONV_2D", "int8 int8", dilation_w_factor=2)),
        (1, _op("FULLY_CONNECTED", "float32 float32 float32")),
        (6, _op("FULLY_CONNECTED", "float32 float32")),
        (4, _op("FULLY_CONNECTED", "int8 int8 int32")),
        (5, _op("FULLY_CONNECTED", "int8 int8 int32", keep_num_dims=True)),
        (10, _op("FULLY_CONNECTED", "int8 int4 int32")),
        (9, _op("FULLY_CONNECTED", "float32 int8 -", asymmetric_quantize_inputs=True)),
        (3, _op("FULLY_CONNECTED", "float32 int8 -")),
        (1, _op("FULLY_CONNECTED", "float32 float32 float32", weights_format="DEFAULT")),
        (2, _op("MAX_POOL_2D", "int8")),
        (3, _op("MAX_POOL_2D", "int16")),
        (1, _op("ADD", "float32 float32", pot_scale_int16=False)),
        (2, _op("ADD", "int8 int8")),
        (4, _op("ADD", "int64 int64")),
        (5, _op("ADD", "int16 int16")),
        (3, Operator("ADD", [_t("int16", quant=Quant.of(1.0))] * 2, [_t("int16")], {"pot_scale_int16": False})),
        (1, Operator("ADD", [_t("int16", quant=Quant.of(1.0))] * 2, [_t("int16")])),
        (3, Operator("MUL", [_t("int8", quant=Quant.of(1.0))] * 2, [_t("int8", quant=Quant.of(0.5))])),
        (2, Operator("MUL", [_t("int8", quant=Quant.of(0.5))] * 2, [_t("int8", quant=Quant.of(0.5))])),
        (3, Operator("SUB", [_t("float32", 2, 1, 1, 1, 2), _t("float32", 2)], [_t("float32")])),
        (2, _op("BROADCAST_TO", "float32 int32")),
        (3, _op("BROADCAST_TO", "int8 int32")),
        (4, Operator("TRANSPOSE", [_t("float32", 1, 1, 1, 1, 1), _t("int32", 5)], [_t("float32")])),
        (6, Operator("TRANSPOSE", [_t("int8", *[1] * 6), _t("int32", 6)], [_t("int8")])),
        (4, Operator("STRIDED_SLICE", [_t("int8", *[1] * 5)], [])),
        (2, _op("STRIDED_SLICE", "int8")),
        (6, _op("STRIDED_SLICE", "float32", new_axis_mask=1)),
        (3, _op("RESIZE_BILINEAR", "int8 int32", half_pixel_centers=True)),
        (2, _op("RESIZE_BILINEAR", "int8 int32", half_pixel_centers=False)),
        (3, _op("RESIZE_NEAREST_NEIGHBOR", "float32 int32", align_corners=True)),
        (2, _op("SPLIT", "int32 int8")),
        (3, _op("SPLIT", "int32 int32")),
        (3, _op("DEQUANTIZE", "float16", "float32")),
        (2, _op("DEQUANTIZE", "int8", "float32")),
        (5, Operator("DEQUANTIZE", [_t("int8", quant=ROWS)], [_t("float32")])),
        (6, _op("DEQUANTIZE", "int4", "float32")),
        (1, _op("QUANTIZE", "float32", "int8")),
        (2, _op("QUANTIZE", "float32", "int16")),
        (3, _op("TRANSPOSE_CONV", "int32 float32 float32 float32")),
        (1, _op("TRANSPOSE_CONV", "int32 float32 float32")),
        (4, _op("TRANSPOSE_CONV", "int32 int8 int8 int32", fused_activation_function="RELU")),
        (5, _op("CAST", "float16", "float32")),
        (3, _op("CAST", "int8", "float32")),
        (1, _op("CAST", "int64", "float32")),
        (5, _op("GATHER", "float32 int32", batch_dims=1)),
        (1, _op("UNIDIRECTIONAL_SEQUENCE_LSTM", "float32 float32 float32")),
        (2, _op("UNIDIRECTIONAL_SEQUENCE_LSTM", "float32 - int8")),
        (1, _op("WHERE", "bool")),
        (2, _op("WHERE", "float32")),
        (1, _op("HARD_SWISH", "int8")),
        (1, _op("CUSTOM", "int8", custom_code="x")),
    ],
    ids=lambda v: v.op if isinstance(v, Operator) else str(v),
)
def test_version(version: int, operator: Operator) -> None:
    assert versions.op_version(operator) == version


def test_rules_and_runtimes_are_of_operators_that_exist() -> None:
    operators = schema.ENUMS["BuiltinOperator"].values
    assert set(versions._RULES) <= set(operators)
    assert set(versions._first_runtimes()) <= set(operators)


def test_every_version_of_the_rules_has_a_runtime() -> None:
    """Except UNIDIRECTIONAL_SEQUENCE_LSTM and LSTM 5, which the runtime's table does not have."""
    missing = {
        (op, version)
        for op, rules in versions._RULES.items()
        for version, _ in rules
        if versions.first_runtime(op, version) is None
    }
    assert missing == {("UNIDIRECTIONAL_SEQUENCE_LSTM", 5), ("LSTM", 5)}


def test_min_runtime_version_compares_numbers() -> None:
    assert versions.min_runtime_version([("CONV_2D", 6), ("CONV_2D", 7)]) == "2.11.0"  # not 2.9.0
    assert versions.min_runtime_version([("CUSTOM", 1)]) == ""
