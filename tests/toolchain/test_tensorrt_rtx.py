"""TensorRT-RTX itself, without a GPU: verdicts of its parser, and plans that are the same each time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_quant_lint_tensorrt import TRT_REFUSED

import edgec
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.samples import Samples, generated_samples
from edgec.targets.tensorrt.oracle import judge, judge_all
from edgec.targets.tensorrt.oracle_messages import tell
from edgec.targets.tensorrt.plan import read_plan
from edgec.toolchain import Toolchain, ToolchainManager

pytestmark = pytest.mark.toolchain


@pytest.fixture(scope="module")
def toolchains(installed: Callable[[str], Toolchain]) -> ToolchainManager:
    manager = ToolchainManager()
    installed("tensorrt-rtx")
    return manager


def network(batch: str = "1") -> Graph:
    values = np.random.default_rng(0).normal(0, 0.3, 200)
    w1, w2 = (", ".join(f"{v:.4f}" for v in values[a:b]) for a, b in ((0, 108), (108, 128)))
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 17]>
        g (float[{batch},3,8,8] x) => (float[{batch},5] y) <float[4,3,3,3] w1 = {{{w1}}}, float[4,5] w2 = {{{w2}}}> {{
            [first] c = Conv<pads=[1,1,1,1]>(x, w1)
            [act] r = Relu(c)
            [pool] p = GlobalAveragePool(r)
            [flat] f = Flatten(p)
            [head] y = MatMul(f, w2)
        }}""")


def saved(graph: Graph, path: Path) -> Path:
    graph.save(path)
    return path


def told(graph: Graph, folder: Path, toolchains: ToolchainManager, **more: Any) -> Diagnostics:
    notes = Diagnostics()
    tell(
        judge(saved(graph, folder / "m.onnx"), toolchains, workdir=folder / "w", **more),
        graph,
        notes,
        target="tensorrt-rtx",
    )
    return notes


def calibration() -> Samples:
    rng = np.random.default_rng(1)
    samples = [{"x": rng.normal(size=(1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    return Samples(lambda: iter(samples), describe="random")


# ---- the oracle --------------------------------------------------------------------------------------------------------


def test_what_it_accepts_builds_for_each_gpu_and_for_all(tmp_path: Path, toolchains: ToolchainManager) -> None:
    capabilities = ("sm80", "sm86", "sm89", "sm120", "sm121", "sm86+sm89", "portable")
    verdict = judge(
        saved(network(), tmp_path / "m.onnx"), toolchains, workdir=tmp_path / "w", capabilities=capabilities
    )
    assert verdict.accepted
    assert verdict.version == "1.7.1.116"
    assert all(isinstance(n, int) and n > 1000 for n in verdict.built.values())
    assert verdict.inputs == {"x": {"dtype": "float", "shape": [1, 3, 8, 8]}}


SILENT = {"uint8 zero point 0 clips at 127, silently", "zero point left out: uint8, silently"}
"""What the parser takes and computes wrongly: for the linter it is an error."""


@pytest.mark.parametrize("case", sorted(set(TRT_REFUSED) - SILENT))
def test_a_refusal_names_the_node_and_says_what_to_do(case: str, tmp_path: Path, toolchains: ToolchainManager) -> None:
    errors = [d for d in told(TRT_REFUSED[case][0], tmp_path, toolchains) if d.code == "EC0685"]
    assert len(errors) == 1
    assert errors[0].location.node
    assert "Assertion" not in errors[0].message
    assert "edgec check MODEL" not in str(errors[0].hint), "one of the known reasons"


def test_the_silent_uint8_zero_point_is_seen_where_it_is_written_only(
    tmp_path: Path, toolchains: ToolchainManager
) -> None:
    """Left out, it is uint8 too, and the parser says nothing: that is for the linter."""
    graphs = {case: TRT_REFUSED[case][0] for case in sorted(SILENT)}
    paths = [saved(g, tmp_path / f"{i}.onnx") for i, g in enumerate(graphs.values())]
    found = dict(zip(graphs, judge_all(paths, toolchains, workdir=tmp_path / "w"), strict=True))
    for case, verdict in found.items():
        assert verdict.parsed
        assert any("Defaulting to INT8" in w for w in verdict.warnings) == ("left out" not in case)


@pytest.mark.parametrize("content", [b"this is no protobuf", b"import onnx\n", b""])
def test_what_is_no_model_is_a_refusal(content: bytes, tmp_path: Path, toolchains: ToolchainManager) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    verdict = judge(tmp_path / "m.onnx", toolchains, workdir=tmp_path / "w")
    assert not verdict.parsed
    assert verdict.refusals[0].message


def test_plugins_are_no_refusal(tmp_path: Path, toolchains: ToolchainManager) -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 17, "trt.plugins": 1]>
        g (float[1,4] x) => (float[1,4] y) { [mine] y = trt.plugins.MyOwn(x) }""")
    assert [d.code for d in told(graph, tmp_path, toolchains)] == ["EC0684"]


def test_weights_beside_the_file(tmp_path: Path, toolchains: ToolchainManager) -> None:
    (tmp_path / "in").mkdir()
    network().save(tmp_path / "in/m.onnx", external_data=True)
    assert judge(tmp_path / "in/m.onnx", toolchains, workdir=tmp_path / "w").accepted


def test_open_dimensions_need_a_profile(tmp_path: Path, toolchains: ToolchainManager) -> None:
    path = saved(network("N"), tmp_path / "m.onnx")
    without = judge(path, toolchains, workdir=tmp_path / "a")
    assert without.parsed
    assert "need minimum, optimum and maximum shapes: x" in str(without.built["sm86"])
    shapes = {"x": [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)]}
    assert judge(path, toolchains, workdir=tmp_path / "b", profiles=[shapes]).accepted
    bad = judge(path, toolchains, workdir=tmp_path / "c", profiles=[{"x": [(4, 3, 8, 8), (2, 3, 8, 8), (1, 3, 8, 8)]}])
    assert isinstance(bad.built["sm86"], str)


def test_turing_has_no_float32_products(tmp_path: Path, toolchains: ToolchainManager) -> None:
    (d,) = told(network(), tmp_path, toolchains, capabilities=("sm75", "sm86"))
    assert d.code == "EC0686"
    assert d.location.node == "head"
    assert "--precision fp16" in str(d.hint)


# ---- the targets -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_plan_is_the_same_each_time(precision: str, tmp_path: Path, toolchains: ToolchainManager) -> None:
    found = [
        edgec.compile(
            network(), target="tensorrt-rtx", precision=precision, calibration=calibration(), output=tmp_path / name,
            options={"capabilities": "sm86,sm89,portable"}, toolchains=toolchains,
        )
        for name in ("one", "a folder with a much longer name")
    ]  # fmt: skip
    first, second = (f.artifact.hashes() for f in found)
    assert set(first) == {"model.onnx", "model.sm86.plan", "model.sm89.plan", "model.plan"}
    assert first == second
    facts = found[0].artifact.facts["plans"]["model.sm86.plan"]
    assert (facts["magic"], facts["version"]) == ("vtrt", "1.7.1")


def test_a_plan_does_not_depend_on_its_neighbours(tmp_path: Path, toolchains: ToolchainManager) -> None:
    alone, among = (
        edgec.compile(
            network(), target=target, precision="fp16", options=options, output=tmp_path / target, toolchains=toolchains
        ).artifact.hashes()["model.sm89.plan"]
        for target, options in (("tensorrt-rtx-sm89", {}), ("tensorrt-rtx", {"capabilities": "sm86,sm89"}))
    )
    assert alone == among


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_mobilenet(precision: str, eval_dir: Path, tmp_path: Path, toolchains: ToolchainManager) -> None:
    model = Graph.load(eval_dir / "models" / "mobilenet_v2.onnx")
    hashes = [
        edgec.compile(
            model, target="tensorrt-rtx-sm86", precision=precision, calibration=generated_samples(model, count=2),
            input_shapes=["input=1x3x224x224"], effort="low", output=tmp_path / name, toolchains=toolchains,
        ).artifact.hashes()
        for name in "ab"
    ]  # fmt: skip
    assert hashes[0] == hashes[1]
    assert read_plan(tmp_path / "a" / "model.sm86.plan").version == "1.7.1"


def test_the_report_says_that_the_plan_was_not_run(tmp_path: Path, toolchains: ToolchainManager) -> None:
    found = edgec.compile(network(), target="tensorrt-rtx-sm89", output=tmp_path / "out", toolchains=toolchains)
    checked = found.report.verification
    assert checked is not None
    if isinstance(found.artifact.facts["gpu"], str):
        assert "model.sm89.plan was not executed: this machine has no NVIDIA GPU" in checked.not_verified[0]
        assert "running model.onnx; the plan itself was not executed" in str(checked.runner)
    else:
        assert checked.comparison is not None


def test_a_range_of_batches(tmp_path: Path, toolchains: ToolchainManager) -> None:
    notes = Diagnostics()
    found = edgec.compile(
        network("N"), target="tensorrt-rtx-sm89", options={"max-shapes": "x:8x3x8x8"}, output=tmp_path / "out",
        toolchains=toolchains, diagnostics=notes,
    )  # fmt: skip
    assert found.artifact.facts["profiles"]["x"] == {"min": [1, 3, 8, 8], "opt": [1, 3, 8, 8], "max": [8, 3, 8, 8]}
    assert not [d for d in notes if d.code == "EC0693"]


def test_a_gpu_without_the_type_is_one_clear_error(tmp_path: Path, toolchains: ToolchainManager) -> None:
    with pytest.raises(EdgecError) as e:
        edgec.compile(
            network(), target="tensorrt-rtx", precision="fp32", options={"capabilities": "sm75"}, output=tmp_path / "out",
            toolchains=toolchains,
        )  # fmt: skip
    (d,) = e.value.diagnostics
    assert d.code == "EC0686"
    assert "FP32 GEMM is not supported" in d.message
    assert not (tmp_path / "out").exists()
