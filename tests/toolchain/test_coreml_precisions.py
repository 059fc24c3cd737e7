"""Every precision of the Core ML targets: a package by coremltools, decoded, run, and close to the float model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import edgec
from edgec.diagnostics import EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.runtime import Session
from edgec.targets.coreml.interface import Interface
from edgec.targets.coreml.lower import lower
from edgec.targets.coreml.package import build, decode
from edgec.targets.coreml.runner import DecodedRunner
from edgec.targets.coreml.weights import store_weights
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


def with_weights(text: str, weights: dict[str, Array]) -> Graph:
    """The graph of `text` with constants for the names it does not define."""
    graph = Graph.from_text(text)
    for name, data in weights.items():
        value = ir.Value(name=name, const_value=ir.tensor(data.astype(np.float32)))
        value.shape, value.dtype = ir.Shape(data.shape), ir.DataType.FLOAT
        graph.model.graph.register_initializer(value)
        for node in graph.model.graph:
            for i, v in enumerate(node.inputs):
                if v is not None and v.name == name:
                    node.replace_input_with(i, value)
    infer_shapes(graph)
    return graph


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Convolutions (one of them depthwise), a residual addition, a pooling, a product."""
    rng = np.random.default_rng(0)
    graph = with_weights(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,16,8,8] x) => (float[1,48] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
            r = Relu(a)
            d = Conv <pads = [1, 1, 1, 1], group = 64> (r, w2)
            e = Relu(d)
            c = Conv (e, w3, b3)
            s = Add(c, r)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            y = Gemm (f, w4)
        }""",
        {
            "w1": rng.normal(size=(64, 16, 3, 3)) / 12, "b1": rng.normal(size=64) / 4, "w2": rng.normal(size=(64, 1, 3, 3)) / 3,
            "w3": rng.normal(size=(64, 64, 1, 1)) / 8, "b3": rng.normal(size=64) / 4, "w4": rng.normal(size=(64, 48)) / 8,
        },
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    graph.save(path)
    return path


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("samples")
    rng = np.random.default_rng(1)
    for i in range(12):
        np.save(folder / f"{i:02}.npy", rng.normal(size=(1, 16, 8, 8)).astype(np.float32))
    return folder


def compiled(
    model: Path, out: Path, target: str, precision: str, samples: Path | None, effort: Any
) -> tuple[Any, float]:
    """The artifact's facts, and the SQNR in dB of the package as decoded from disk on inputs of its own."""
    artifact = edgec.compile(
        model, target=target, precision=precision, output=out, calibration=samples, effort=effort
    ).artifact
    toolchain = ToolchainManager().ensure("coreml")
    program = decode(out / "model.mlpackage", toolchain, out / "decoded")
    runner = DecodedRunner(program, Interface.from_json(artifact.facts["interface"]))
    rng = np.random.default_rng(2)
    unseen = [{"x": rng.normal(size=(1, 16, 8, 8)).astype(np.float32)} for _ in range(8)]
    want, got = (
        np.stack([o["y"] for o in r]) for r in (Session(Graph.load(model)).run_all(unseen), runner.run(unseen))
    )
    return artifact.facts, 10 * float(np.log10((want**2).sum() / ((want - got) ** 2).sum()))


CASES = [
    # target, precision, effort, data, operation that must be there, form of most weights, least SQNR in dB
    ("iphone", "fp16", "medium", False, "conv", "fp16", 50),
    ("iphone", "int8", "low", True, "constexpr_affine_dequantize", "int8", 25),
    ("iphone", "int8", "medium", True, "quantize", "int8", 25),
    ("iphone-ios18", "int8", "high", True, "constexpr_blockwise_shift_scale", "int8", 25),
    ("macos", "int8-weights", "medium", False, "constexpr_affine_dequantize", "int8", 35),
    ("macos15", "int8-weights", "high", True, "constexpr_blockwise_shift_scale", "int8", 35),
    ("iphone-ios18", "int4-weights", "medium", False, "constexpr_blockwise_shift_scale", "int4 in blocks", 15),
    ("iphone-ios18", "int4-weights", "high", True, "constexpr_blockwise_shift_scale", "int4 in blocks", 15),
    ("iphone", "palette4", "medium", False, "constexpr_lut_to_dense", "4-bit table", 15),
    ("iphone", "palette4", "medium", True, "constexpr_lut_to_dense", "4-bit table", 15),
    ("macos15", "palette4", "medium", True, "constexpr_lut_to_dense", "4-bit tables", 15),
    ("iphone", "palette6", "medium", False, "constexpr_lut_to_dense", "6-bit table", 25),
    ("iphone", "palette8", "medium", False, "constexpr_lut_to_dense", "8-bit table", 35),
    ("iphone", "sparse", "medium", True, "constexpr_sparse_to_dense", "sparse", 5),
    ("iphone-ios18", "sparse-int8", "medium", True, "constexpr_sparse_blockwise_shift_scale", "sparse int8", 5),
]


@pytest.mark.parametrize(("target", "precision", "effort", "data", "operation", "form", "least"), CASES)
def test_precision(
    coreml: Toolchain, model: Path, samples: Path, tmp_path: Path,
    target: str, precision: str, effort: str, data: bool, operation: str, form: str, least: float,
) -> None:  # fmt: skip
    """The package holds what its name says, and computes nearly what the model does."""
    facts, sqnr = compiled(model, tmp_path / "out", target, precision, samples if data else None, effort)
    assert operation in facts["operations"]
    assert facts["weights"][form]["numbers"] >= 4096
    assert sqnr > least


@pytest.mark.parametrize("precision", ["int4-weights", "sparse-int8"])
def test_refused_before_ios18(model: Path, tmp_path: Path, precision: str) -> None:
    """With the reason, and the target that has it."""
    with pytest.raises(EdgecError, match="iOS 18, target iphone-ios18"):
        edgec.compile(model, target="iphone", precision=precision, output=tmp_path / "out")


def test_minimum_says_what_there_is(coreml: Toolchain, model: Path, tmp_path: Path) -> None:
    """A newer target's precision with an older minimum is refused by the node."""
    with pytest.raises(EdgecError, match="needs iOS18"):
        edgec.compile(
            model,
            target="iphone-ios18",
            precision="int4-weights",
            output=tmp_path / "out",
            options={"minimum": "ios17"},
        )


def test_data_is_worth_it(coreml: Toolchain, model: Path, samples: Path, tmp_path: Path) -> None:
    """Tables fitted to layer outputs: at least 1 dB better than k-means alone on inputs that were not seen."""
    (_, plain), (_, fitted) = (
        compiled(model, tmp_path / str(i), "iphone", "palette4", s, "medium") for i, s in enumerate((None, samples))
    )
    assert fitted > plain + 1


@pytest.mark.parametrize("system", ["iOS16", "iOS17", "iOS18"])
@pytest.mark.parametrize("scale", [1e-9, 2e-6, 6e-5])
def test_tiny_scales_travel(coreml: Toolchain, tmp_path: Path, system: str, scale: float) -> None:
    """coremltools' own float16 conversion makes 6e-8 of a scale of 1e-9: here none happens, and the file has what it was given."""
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,4] x) => (float[2,3] y)
        <int8[4,3] q = {{127,-5,3,9,100,-127,1,2,3,4,5,6}}, float[3] s = {{{scale:.10f}, 1.0, 0.5}}> {{
            w = DequantizeLinear <axis = 1> (q, s)
            y = MatMul (x, w)
        }}""")
    infer_shapes(graph)
    lowered = lower(graph, system)
    store_weights(lowered.program)
    program = decode(build(lowered.program, coreml, tmp_path / "b").path, coreml, tmp_path / "d")
    feeds = {"x": np.eye(4, dtype=np.float32)[:2] * 1e6}
    want = Session(graph).run(feeds)["y"]
    got = next(iter(DecodedRunner(program, lowered.interface).run([feeds])))["y"]
    assert np.allclose(got, want, rtol=1e-6, atol=0)


def test_tiny_scales_in_float16(coreml: Toolchain, tmp_path: Path) -> None:
    """to-float16 raises scales that fp16 has not and stores the integers anew: no weight is off by more than fp16's least
    number."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(64, 64)) / 8
    w[:, 0], w[:, 1] = w[:, 0] * 1e-6, w[:, 1] * 1e-3
    graph = with_weights(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,64] x) => (float[2,64] y) { y = MatMul (x, w) }""",
        {"w": w},
    )
    graph.save(tmp_path / "m.onnx")
    artifact = edgec.compile(
        tmp_path / "m.onnx", target="iphone", precision="int8-weights", output=tmp_path / "o"
    ).artifact
    assert artifact.facts["operations"]["constexpr_affine_dequantize"] == 1
    program = decode(tmp_path / "o" / "model.mlpackage", coreml, tmp_path / "d")
    (constant,) = [o for o in program.operations if o.op == "constexpr_affine_dequantize"]
    assert constant.outputs[0].dtype == "fp16"
    scale, data, axis = (constant.inputs[k] for k in ("scale", "quantized_data", "axis"))
    scale, data = (next(o.inputs["val"] for o in program.operations if o.outputs[0] is v) for v in (scale, data))
    along = [1, 1]
    along[int(np.asarray(axis))] = -1
    opened = np.asarray(data).astype(np.float64) * np.asarray(scale, np.float64).reshape(along)
    opened = opened if opened.shape == w.shape and int(np.asarray(axis)) == 1 else opened.T
    assert np.abs(opened[:, 0] - w[:, 0]).max() <= 6e-8
    assert np.abs(opened[:, 1] - w[:, 1]).max() <= 3e-6
    assert np.abs(opened - w).max() <= 0.6 * np.abs(w).max() / 127 + 1e-4
