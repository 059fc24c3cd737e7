"""The arithmetic of QuantizeLinear and DequantizeLinear, against ONNX's reference evaluator."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.quantization.params import QuantParams, limits, params_of_range
from edgec.specs.scheme import QuantKind

KINDS = {
    "uint8": QuantKind(dtype="uint8", symmetric=False),
    "int8": QuantKind(dtype="int8", symmetric=False),
    "int8 symmetric": QuantKind(dtype="int8", symmetric=True, narrow=True),
    "uint8 symmetric": QuantKind(dtype="uint8", symmetric=True),
    "int16": QuantKind(dtype="int16", symmetric=True),
    "int4": QuantKind(dtype="int4", symmetric=True),
    "power of two": QuantKind(dtype="int8", symmetric=True, power_of_two=True),
    "float8": QuantKind(dtype="float8e4m3fn", symmetric=True),
}


@pytest.mark.parametrize("name", KINDS)
def test_as_onnx_defines_it(name: str) -> None:
    import ml_dtypes
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    kind = KINDS[name]
    p = params_of_range(-1.7, 4.2, kind)
    x = np.linspace(-6, 6, 97, dtype=np.float32)
    dtypes = {"float8e4m3fn": ml_dtypes.float8_e4m3fn, "int4": ml_dtypes.int4}
    stored = np.dtype(dtypes.get(p.dtype, p.dtype))
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    number = TensorProto.DataType.Value(p.dtype.upper())
    zero = helper.make_tensor("z", number, [], [int(p.zero_point)])
    graph = helper.make_graph(
        [node], "g",
        [helper.make_tensor_value_info("x", 1, [97])],
        [helper.make_tensor_value_info("y", number, [97])],
        [helper.make_tensor("s", 1, [], [float(p.scale)]), zero],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (want,) = ReferenceEvaluator(model).run(None, {"x": x})
    low, high = limits(kind)
    np.testing.assert_array_equal(
        p.quantize(x).astype(np.float32), np.clip(np.asarray(want).astype(np.float32), low, high), err_msg=str(stored)
    )


@pytest.mark.parametrize("name", KINDS)
def test_the_range_is_covered_and_zero_is_exact(name: str) -> None:
    p = params_of_range(-1.7, 4.2, KINDS[name])
    low, high = p.range()
    step = float(p.scale)
    assert low <= -1.7 + step
    assert high >= 4.2 - step
    assert p.fake(np.float32([0.0]))[0] == 0


def test_a_one_sided_range_spends_nothing_on_the_other_side() -> None:
    p = params_of_range(0.0, 6.0, KINDS["uint8"])
    assert int(p.zero_point) == 0
    assert float(p.scale) == pytest.approx(6 / 255)


def test_zeros_only() -> None:
    p = params_of_range(0.0, 0.0, KINDS["int8"])
    assert np.isfinite(p.scale)
    assert p.scale > 0


def test_channels_and_blocks() -> None:
    x = np.float32([[1, 2, 3, 4], [10, 20, 30, 40]])
    by_row = params_of_range(x.min(1), x.max(1), KINDS["int8 symmetric"], axis=0)
    assert by_row.scale.shape == (2,)
    np.testing.assert_allclose(by_row.fake(x), x, rtol=0.02)
    blocks = QuantParams(np.float32([[0.02, 0.04], [0.2, 0.4]]), np.zeros((2, 2), np.int32), "int8", axis=1, block=2)
    np.testing.assert_allclose(blocks.fake(x), x, rtol=0.02)


def test_denormal_scales_are_not_made() -> None:
    p = params_of_range(0.0, 1e-44, KINDS["uint8"])
    assert p.scale >= np.finfo(np.float32).tiny
