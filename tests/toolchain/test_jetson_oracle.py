"""Bundles for Jetson, judged by NVIDIA's parser."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from edgec import api
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.samples import Samples
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def toolchains(installed: Callable[[str], Toolchain]) -> ToolchainManager:
    found = ToolchainManager()
    installed("tensorrt-rtx")
    return found


def cnn(batch: str = "1", tail: str = "") -> Graph:
    w = ", ".join(f"{v:.4f}" for v in np.random.default_rng(0).normal(size=4 * 27))
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
    net (float[{batch}, 3, 16, 16] x) => (float[{batch}, 4, 16, 16] y) <float[4, 3, 3, 3] w = {{{w}}}> {{
        c = Conv <pads = [1, 1, 1, 1]> (x, w)
        {tail or "y = Relu (c)"}
    }}""")


def images() -> Samples:
    arrays = [{"x": np.random.default_rng(i).normal(size=(1, 3, 16, 16)).astype(np.float32)} for i in range(4)]
    return Samples(lambda: iter(arrays), describe="noise", count=4)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize(
    ("target", "jetpack", "builds"),
    [
        ("jetson-orin-nano", "5", ["sm86"]),
        ("jetson-orin-nano", "6.2", ["sm86"]),
        ("jetson-orin-nano", "7.2", ["sm86"]),
        ("jetson-xavier-nx", "5", []),
        ("jetson-thor", "7.2", ["sm120"]),
    ],
)
def test_what_the_parser_takes(
    toolchains: ToolchainManager, target: str, jetpack: str, builds: list[str], precision: str
) -> None:
    result = api.compile(
        cnn("N"), target=target, precision=precision, calibration=images(), toolchains=toolchains, effort="low",
        options={"jetpack": jetpack, "max-shapes": "x:4x3x16x16"},
    )  # fmt: skip
    data = result.artifact.files["bundle.json"]
    assert isinstance(data, bytes)
    told = json.loads(data)
    assert told["parser"]["parsed"]
    assert list(told["parser"]["built"]) == builds
    assert all(isinstance(size, int) for size in told["parser"]["built"].values())
    assert any("this is not a build on the board" in line for line in told["checked"])
    assert any("TensorRT builds it on the board" in line for line in told["not_checked"])


def test_what_it_refuses_is_an_error_at_the_node(toolchains: ToolchainManager) -> None:
    """A scale of 0: the file is given as it is, without our passes."""
    tail = """sc = Constant <value_float = 0.0> ()
        zp = Constant <value = int8 {0}> ()
        [quantise] q = QuantizeLinear (c, sc, zp)
        y = DequantizeLinear (q, sc, zp)"""
    given = {"target": "jetson-orin-nano", "precision": "fp16", "samples": images(), "toolchains": toolchains}
    with pytest.raises(EdgecError) as e:
        api.compile(cnn(tail=tail), pipeline="constants-to-initializers", **given)  # type: ignore[arg-type]
    found = e.value.diagnostics[0]
    assert found.code == "EC0685"
    assert found.location.node in ("quantise", "q", "y")
    assert "positive" in found.message.lower()
    result = api.compile(
        cnn(tail=tail), pipeline="constants-to-initializers", options={"oracle": "none"}, **given  # type: ignore[arg-type]
    )  # fmt: skip
    assert result.artifact.entry == "model.onnx"
