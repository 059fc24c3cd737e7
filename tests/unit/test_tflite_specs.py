"""Targets of the TFLite family: op tables against what the runtimes and Vela did, placement by them, specs that hold together."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from edgec.diagnostics import Diagnostics, EdgecError, Severity
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.placement import Placement, place
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import (
    OpTable,
    TargetSpec,
    builtin_pipeline,
    builtin_target,
    builtin_targets,
    check_spec,
    load_spec,
)

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = ("tflite", "tflite-micro", "ethos-u")
TARGETS = [n for n in builtin_targets() if builtin_target(n).family in FAMILIES]
X = "float[1,4,8,8]"
W = "float[4,4,1,1] w = {" + ", ".join(["1"] * 16) + "}"


def placed(
    target: str, precision: str, body: str, inputs: str = f"{X} x", output: str = X, weights: str = W
) -> Placement:
    g = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : 21]> g ({inputs}) => ({output} y) <{weights}> {{ {body} }}'
    )
    infer_shapes(g)
    return place(g, builtin_target(target), precision)


def where(target: str, precision: str, body: str, **kw: str) -> list[str]:
    return [n.where for n in placed(target, precision, body, **kw).nodes]


def sweep() -> dict[str, dict[str, str]]:
    with open(ROOT / "tests/data/tflite_sweep.csv") as f:
        return {row["case"]: row for row in csv.DictReader(f)}


def test_the_tables_are_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tflite_tables as tables

    (tmp_path / "specs" / "ops").mkdir(parents=True)
    (tmp_path / "tests" / "data").mkdir(parents=True)
    (tmp_path / "tests" / "data" / "tflite_sweep.csv").write_bytes((ROOT / "tests/data/tflite_sweep.csv").read_bytes())
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.main() == 0
    for made in sorted((tmp_path / "specs" / "ops").glob("*.yaml")):
        assert made.read_text() == (ROOT / "specs" / "ops" / made.name).read_text(), "run tools/tflite_tables.py"


@pytest.mark.parametrize(
    ("op", "case", "body"),
    [
        ("Relu", "relu", "y = Relu(x)"),
        ("Sigmoid", "logistic", "y = Sigmoid(x)"),
        ("Softmax", "softmax", "y = Softmax(x)"),
        ("Transpose", "transpose", "y = Transpose<perm = [0, 2, 3, 1]>(x)"),
        ("Gelu", "gelu", "y = Gelu(x)"),
        ("DepthToSpace", "depth_to_space", "y = DepthToSpace<blocksize = 2>(x)"),
        ("LogSoftmax", "log_softmax", "y = LogSoftmax(x)"),
    ],
)
def test_quantised_rows_follow_the_sweep(op: str, case: str, body: str) -> None:
    row = sweep()[case]
    output = {"DepthToSpace": "float[1,1,16,16]", "Transpose": "float[1,8,8,4]"}.get(op, X)
    litert = {"xnnpack": "accelerator", "builtin": "fallback", "fail": "impossible"}[row["litert int8"]]
    micro = {"ok": "accelerator", "fail": "impossible"}[row["micro int8"]]
    npu = {"NPU": "accelerator", "CPU": "fallback"}
    assert where("android", "int8", body, output=output) == [litert]
    assert where("cortex-m", "int8", body, output=output) == [micro]
    assert where("ethos-u55-128", "int8", body, output=output) == [npu[row["ethos-u55-128 int8"]]]
    assert where("ethos-u85-256", "int8", body, output=output) == [npu[row["ethos-u85-256 int8"]]]


def test_litert_xnnpack_its_own_kernels_or_neither() -> None:
    assert where("android", "fp32", "y = Conv(x, w)") == ["accelerator"]
    assert where("android", "int16x8", "y = Conv(x, w)") == ["fallback"]  # XNNPACK takes no int16
    p = placed("raspberrypi5", "fp32", "a = Sign(x) y = Conv(a, w)")
    assert [n.where for n in p.nodes] == ["fallback", "accelerator"]
    assert p.device == "XNNPACK"
    assert not p.on_cpu
    assert "XNNPACK does not take SIGN" in (p.nodes[0].reason or "")
    body, five = "y = Conv(x, v)", "float[1,2,4,4,4]"
    solid = {"inputs": f"{five} x", "output": five, "weights": "float[2,2,1,1,1] v = {1, 1, 1, 1}"}
    assert where("android", "fp32", body, **solid) == ["fallback"]
    assert where("android", "int8", body, **solid) == ["impossible"]


def test_xnnpack_takes_floats_up_to_five_inputs_and_steps_of_one() -> None:
    def concat(n: int) -> list[str]:
        names = [f"x{i}" for i in range(n)]
        inputs = ", ".join(f"{X} {x}" for x in names)
        return where(
            "android",
            "fp32",
            f"y = Concat<axis = 1>({', '.join(names)})",
            inputs=inputs,
            output=f"float[1,{4 * n},8,8]",
        )

    assert (concat(2), concat(5), concat(6)) == (["accelerator"], ["accelerator"], ["fallback"])

    def cut(step: int) -> list[str]:
        weights = f"int64[1] b = {{0}}, int64[1] e = {{8}}, int64[1] a = {{2}}, int64[1] s = {{{step}}}"
        return where("android", "fp32", "y = Slice(x, b, e, a, s)", weights=weights, output=f"float[1,4,{8 // step},8]")

    assert (cut(1), cut(2)) == (["accelerator"], ["fallback"])
    integers = {"inputs": "int64[4] x", "output": "int64[4]", "weights": "int64[1] k = {1}"}
    assert where("android", "fp32", "y = Add(x, k)", **integers) == ["fallback"]


def test_a_fused_activation_costs_nothing() -> None:
    p = placed("android", "int8", "a = Conv(x, w) y = Relu(a)")
    assert [n.where for n in p.nodes] == ["accelerator", "accelerator"]
    assert list(p.units) == ["conv-act-1"]
    assert where("android", "int8", "y = Relu(x)") == ["fallback"]


def test_hybrid_depthwise_convolutions_are_not_xnnpacks() -> None:
    weights = "float[4,1,3,3] w = {" + ", ".join(["1"] * 36) + "}"
    body = "y = Conv<group = 4, pads = [1, 1, 1, 1]>(x, w)"
    assert where("android", "int8-dynamic", body, weights=weights) == ["fallback"]
    assert where("android", "int8", body, weights=weights) == ["accelerator"]


def test_a_microcontroller_has_nothing_to_fall_back_to() -> None:
    p = placed("cortex-m", "int8", "a = Conv(x, w) y = Gelu(a)")
    assert [n.where for n in p.nodes] == ["accelerator", "impossible"]
    assert p.on_cpu
    notes = Diagnostics()
    p.diagnose(notes)
    assert [(d.code, d.severity) for d in notes] == [("EC0401", Severity.ERROR)]
    assert "tflite-micro has no kernel of GELU" in notes.items[0].message
    assert where("stm32h747", "int16x8", "y = GlobalMaxPool(x)", output="float[1,4,1,1]") == ["impossible"]


def test_ethos_u_limits() -> None:
    def strided(target: str, pads: int) -> list[str]:
        weights = "float[4,4,4,4] k = {" + ", ".join(["1"] * 256) + "}"
        body = f"y = Conv<strides = [4, 4], pads = [{pads}, {pads}, {pads}, {pads}]>(x, k)"
        return where(target, "int8", body, weights=weights, output="float[1,4,2,2]")

    assert (strided("ethos-u55-64", 0), strided("ethos-u55-64", 1)) == (["accelerator"], ["fallback"])
    assert strided("ethos-u85-512", 1) == ["accelerator"]

    def larger(target: str, factor: int) -> list[str]:
        body = 'y = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric">(x, , s)'
        n = 8 * factor
        weights = f"float[4] s = {{1, 1, {factor}, {factor}}}"
        return where(target, "int8", body, weights=weights, output=f"float[1,4,{n},{n}]")

    assert [larger("ethos-u65-512", f) for f in (2, 3, 4)] == [["accelerator"], ["fallback"], ["accelerator"]]
    assert larger("ethos-u85-128", 3) == ["accelerator"]
    product = {"inputs": f"{X} x, {X} z"}
    assert where("ethos-u55-32", "int8", "y = MatMul(x, z)", **product) == ["accelerator"]
    assert where("ethos-u55-32", "int16x8", "y = MatMul(x, z)", **product) == ["fallback"]


def test_what_the_npu_leaves_must_run_beside_it() -> None:
    assert where("ethos-u55-128", "int8", "y = Sign(x)") == ["impossible"]  # beside a Cortex-M
    assert where("ethos-u65-256", "int8", "y = Sign(x)") == ["fallback"]  # beside a Cortex-A
    assert where("ethos-u55-128", "int8", "y = Exp(x)") == ["fallback"]


def test_documented_delegates_say_what_is_documented() -> None:
    gpu = load_spec(OpTable, ROOT / "specs/ops/tflite-gpu.yaml")
    assert gpu.ops["Conv"].run == "accelerator"
    assert gpu.unlisted.run == "fallback"
    nnapi = load_spec(OpTable, ROOT / "specs/ops/tflite-nnapi.yaml")
    assert {row.run for row in nnapi.ops.values()} == {"either"}  # a driver decides
    assert all("not run" in (row.evidence or "") for t in (gpu, nnapi) for row in t.ops.values())


@pytest.mark.parametrize("name", TARGETS)
def test_targets_hold_together(name: str) -> None:
    passes = Registry().passes()
    assert check_spec(ROOT / "specs" / "targets" / f"{name}.yaml", passes) == []
    spec = builtin_target(name)
    for precision, how in spec.precisions.items():
        build_passes(spec.pipeline(precision), passes)
        quantises = any("quantize" in ([s] if isinstance(s, str) else list(s)) for s in spec.pipeline(precision))
        assert quantises == (how.quantization is not None)
        if how.quantization is not None and how.quantization.activations is not None:
            assert how.calibration
            assert how.quantization.activations.dtype == how.activations


def test_every_pipeline_begins_with_the_common_one() -> None:
    common = builtin_pipeline("tflite-legal").steps
    for path in sorted((ROOT / "specs/pipelines").glob("tflite-*.yaml")):
        assert builtin_pipeline(path.stem).steps[: len(common)] == common


def test_what_vela_is_told() -> None:
    for name in (n for n in TARGETS if n.startswith("ethos")):
        spec = builtin_target(name)
        assert spec.compiler["accelerator-config"] == spec.platform == name
        generation = name.split("-")[1].upper()
        assert spec.compiler["system-config"].startswith(f"Ethos_{generation}_")
        assert spec.compiler["memory-mode"]


def test_memory_and_compiler_options_are_checked(tmp_path: Path) -> None:
    assert builtin_target("stm32h747").memory == {"flash": 2 << 20, "ram": 512 << 10}
    path = tmp_path / "board.yaml"
    head = "extends: esp32-s3\nschema_version: 1\nname: board\n"
    path.write_text(head + "memory: {flash: 8388608}\n")
    assert load_spec(TargetSpec, path).memory == {"ram": 512 << 10, "flash": 8 << 20}
    path.write_text(head + "memory: {ram: 0}\ncompiler: {mcpu: 7}\n")
    with pytest.raises(EdgecError) as caught:
        load_spec(TargetSpec, path)
    assert [(d.code, d.location.line) for d in caught.value.diagnostics] == [("EC0503", 4), ("EC0503", 5)]


def test_why_a_precision_is_not_offered() -> None:
    with pytest.raises(EdgecError, match=r"EC0403.*Hybrid models are not supported"):
        builtin_target("esp32-s3").precision("int8-dynamic")
    with pytest.raises(EdgecError, match=r"EC0403.*computes in integers only"):
        builtin_target("ethos-u85-1024").precision("fp32")
