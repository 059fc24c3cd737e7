"""The target `tensorrt` against a fake TensorRT of each version: what it is asked, and what becomes of its answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tensorrt_machines import Machine

import edgec
from edgec.api import Compiled
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.samples import Samples
from edgec.targets.tensorrt import local
from edgec.targets.tensorrt.local import discovery
from edgec.targets.tensorrt.local.layers import placement, read_layers, types
from edgec.toolchain import ToolchainManager


def model(batch: str = "1") -> Graph:
    return Graph.from_text(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[{batch},4] x) => (float[{batch},4] y) {{
            [double] y = Add(x, x)
        }}"""
    )


def compiled(machine: Machine, tmp_path: Path, batch: str = "1", **more: object) -> Compiled:
    samples = [{"x": np.arange(4 * n, dtype=np.float32).reshape(n, 4)} for n in ((1, 1) if batch == "1" else (1, 3))]
    return edgec.compile(
        model(batch),
        target="tensorrt",
        output=tmp_path / "out",
        samples=Samples(lambda: iter(samples), describe="counted"),
        toolchains=ToolchainManager(tmp_path / "cache", overrides={"tensorrt": machine.python}),
        **{"precision": "fp32", **more},  # type: ignore[arg-type]
    )


def code_of(run: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(EdgecError) as e:
        run()
    return e.value.diagnostics[0].code, str(e.value)


@pytest.mark.parametrize(
    ("version", "precision", "network", "flags"),
    [
        ("8.5.2.2", "fp32", ["EXPLICIT_BATCH"], []),
        ("8.5.2.2", "fp16", ["EXPLICIT_BATCH"], ["FP16"]),
        ("8.6.2", "fp16", ["EXPLICIT_BATCH"], ["FP16"]),
        ("10.3.0", "fp16", [], ["FP16"]),
        ("10.13.3.9", "fp16", ["STRONGLY_TYPED"], []),
        ("10.16.1.11", "fp32", ["STRONGLY_TYPED"], []),
        ("11.4.0.106", "fp16", [], []),
    ],
)
def test_each_version_gets_the_form_and_the_flags_it_takes(
    version: str, precision: str, network: list[str], flags: list[str], tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "machine", version)
    found = compiled(machine, tmp_path, precision=precision)
    assert machine.called("create_network") == [[network]]
    assert [name for (name,) in machine.called("set_flag")] == flags
    assert machine.called("config") == [["profiling_verbosity", "DETAILED"]]
    strong = bool(network == ["STRONGLY_TYPED"] or version.startswith("11"))
    assert found.report.precision == (precision if strong else f"{precision}-weak")


def test_int8_flags_are_for_the_weak_form_only() -> None:
    from edgec.targets.tensorrt.local.building import flags

    assert flags("int8", strong=False) == ["INT8", "FP16"]
    assert flags("int8", strong=True) == []
    assert flags("fp16", strong=False, quantised=True) == ["INT8", "FP16"]
    assert flags("fp32", strong=False, quantised=True) == ["INT8"]


@pytest.mark.parametrize("version", ["8.5.2.2", "10.3.0", "11.4.0.106"])
def test_the_engine_is_run_and_compared_with_the_model(version: str, tmp_path: Path) -> None:
    found = compiled(Machine(tmp_path / "machine", version), tmp_path)
    checked = found.report.verification
    assert checked is not None
    assert checked.runner == f"TensorRT {version} on Fake RTX 4090 (sm89)"
    assert checked.comparison is not None
    assert checked.comparison["outputs"][0]["max_abs"] == 0
    assert {"model.onnx", "model.plan", "timing.cache", "layers.json"} <= set(found.artifact.files)
    assert found.artifact.facts["layers by type"] == {"fp16": 1, "?": 1}
    assert found.artifact.facts["latency ms"] > 0
    assert found.artifact.facts["warnings"] == ["the fake one is warned of"]
    assert not found.artifact.reproducible
    assert found.artifact.actual is not None
    assert [n.sources for n in found.artifact.actual.nodes] == [("double",), ()]


def test_outputs_whose_shape_only_the_run_knows(tmp_path: Path) -> None:
    found = compiled(Machine(tmp_path / "machine", mode="unknown-shape"), tmp_path)
    assert found.report.verification is not None
    assert found.report.verification.comparison is not None
    assert found.report.verification.comparison["outputs"][0]["max_abs"] == 0


def test_dynamic_shapes_become_a_profile(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    options = {"max_shapes": "x:8x4", "workspace": "64MiB"}
    found = compiled(machine, tmp_path, "batch", options=options)
    assert machine.called("set_shape") == [["x", [1, 4], [1, 4], [8, 4]]]
    assert machine.called("set_memory_pool_limit") == [["WORKSPACE", 64 * 2**20]]
    assert found.artifact.facts["profiles"]["x"] == {"min": [1, 4], "opt": [1, 4], "max": [8, 4]}


@pytest.mark.parametrize("mode", ["ok", "stale-cache"])
def test_a_timing_cache_is_used_and_kept(mode: str, tmp_path: Path) -> None:
    (tmp_path / "old.cache").write_bytes(b"12345")
    machine = Machine(tmp_path / "machine", mode=mode)
    found = compiled(machine, tmp_path, options={"timing_cache": str(tmp_path / "old.cache")})
    assert machine.called("create_timing_cache") == ([[5]] if mode == "ok" else [[5], [0]])
    kept = found.artifact.files["timing.cache"]
    assert isinstance(kept, Path)
    assert kept.read_bytes() == b"measured"


def test_a_timing_cache_that_is_not_there(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine")
    code, text = code_of(lambda: compiled(machine, tmp_path, options={"timing_cache": str(tmp_path / "no.cache")}))
    assert code == "EC0463"
    assert "no.cache" in text


@pytest.mark.parametrize(
    ("mode", "code", "says"),
    [
        ("refuse", "EC0685", "TensorRT's ONNX parser refuses Add (TensorRT 10.3.0): The fake one takes no Add"),
        ("no-engine", "EC0689", "TensorRT 10.3.0 built no engine: Could not find any implementation for node a"),
        ("crash", "EC0689", "killed by SIGSEGV"),
        ("no-gpu", "EC0688", "no CUDA-capable device is detected"),
    ],
)
def test_what_goes_wrong_is_one_error(mode: str, code: str, says: str, tmp_path: Path) -> None:
    found, text = code_of(lambda: compiled(Machine(tmp_path / "machine", mode=mode), tmp_path))
    assert found == code
    assert says in text
    assert not (tmp_path / "out").exists()


def test_a_refusal_of_8_5_names_the_node_too(tmp_path: Path) -> None:
    """Its errors have the node's place in the file only."""
    with pytest.raises(EdgecError) as e:
        compiled(Machine(tmp_path / "machine", "8.5.2.2", "refuse"), tmp_path)
    assert e.value.diagnostics[0].code == "EC0685"
    assert e.value.diagnostics[0].location.node == "double"


def test_a_sample_the_engine_does_not_take_is_told(tmp_path: Path) -> None:
    from edgec.targets.tensorrt.engines import EngineRunner
    from edgec.toolchain import Toolchain

    machine = Machine(tmp_path / "machine")
    toolchain = Toolchain("tensorrt", "tensorrt", machine.python, {})
    (tmp_path / "p.plan").write_bytes(b"ftrt")
    runner = EngineRunner(tmp_path / "p.plan", model(), toolchain, "tensorrt", tmp_path / "run", describe="it")
    code, text = code_of(lambda: list(runner.run([{"x": np.zeros((1, 5), np.float32)}])))
    assert code == "EC0689"
    assert "does not take shape [1, 5] at input x" in text
    code, text = code_of(lambda: list(runner.run([{"x": np.zeros((1, 4), np.int32)}])))
    assert "input x is int32, the engine takes float32" in text


def test_float64_samples_are_narrowed(tmp_path: Path) -> None:
    from edgec.targets.tensorrt.engines import EngineRunner
    from edgec.toolchain import Toolchain

    machine = Machine(tmp_path / "machine")
    (tmp_path / "p.plan").write_bytes(b"ftrt")
    toolchain = Toolchain("tensorrt", "tensorrt", machine.python, {})
    runner = EngineRunner(tmp_path / "p.plan", model(), toolchain, "tensorrt", tmp_path / "run", describe="it")
    (out,) = runner.run([{"x": np.array([[1, 2, 3, 4.5]], np.float64)}])
    np.testing.assert_array_equal(out["y"], np.array([[2, 4, 6, 9]], np.float32))
    assert runner.latency({"x": np.zeros((1, 4), np.float32)}).median > 0


def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "SYSTEM_PYTHONS", ())
    monkeypatch.setattr(discovery, "TRTEXEC", ())
    monkeypatch.delenv("TRTEXEC", raising=False)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(discovery, "MODULE", "tensorrt_that_is_not_there")


def test_without_tensorrt_the_error_says_what_to_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_here(monkeypatch)
    manager = ToolchainManager(tmp_path)
    assert local.available(manager) is None
    code, text = code_of(lambda: edgec.compile(model(), target="tensorrt", output=tmp_path / "out", toolchains=manager))
    assert code == "EC0688"
    assert "no trtexec" in text
    assert "jetson-orin-nano" in text
    assert "tensorrt-rtx" in text


@pytest.mark.parametrize(("version", "mode"), [("8.4.1.5", "ok"), ("8.6.0", "no-gpu")])
def test_what_cannot_be_used_is_not_available(version: str, mode: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", version, mode)
    assert local.available(ToolchainManager(tmp_path, overrides={"tensorrt": machine.python})) is None


def test_a_tensorrt_that_crashes_when_imported_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing_here(monkeypatch)
    monkeypatch.setattr(discovery, "MODULE", "tensorrt")
    bad, good = Machine(tmp_path / "bad", mode="crash-on-import"), Machine(tmp_path / "good", "10.16.1")
    monkeypatch.setattr(discovery, "SYSTEM_PYTHONS", (str(bad.python), str(good.python)))
    found = local.available(ToolchainManager(tmp_path / "cache"))
    assert found is not None
    assert found.version == (10, 16, 1)
    assert found.strong


def test_builds_for_the_dla_through_python(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "10.3.0")
    found = local.available(ToolchainManager(tmp_path / "cache", overrides={"tensorrt": machine.python}))
    assert found is not None
    graph = model()
    (path, *_) = graph.save(tmp_path / "model.onnx")
    local.build(found, path, graph, precision="fp16", folder=tmp_path / "build", dla_core=1)
    assert ["DLA_core", 1] in machine.called("config")
    assert ["default_device_type", "DLA"] in machine.called("config")
    assert machine.called("set_flag") == [["FP16"], ["GPU_FALLBACK"]]
    code, text = code_of(
        lambda: local.build(
            found, path, graph, precision="int8", folder=tmp_path / "again", dla_core=0, calibration_cache=path
        )
    )
    assert code == "EC0689"
    assert "trtexec" in text


@pytest.mark.parametrize(
    ("version", "precision", "wanted"),
    [
        ("8.5.2", "int8", ["--buildOnly", "--int8", "--fp16"]),
        ("8.6.2", "fp16", ["--skipInference", "--fp16"]),
        ("10.3.0", "fp32", ["--skipInference"]),
        ("10.16.2", "fp16", ["--skipInference", "--stronglyTyped"]),
        ("11.1.0", "fp16", ["--skipInference"]),
    ],
)
def test_trtexec_where_no_python_has_tensorrt(
    version: str, precision: str, wanted: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing_here(monkeypatch)
    program = tmp_path / "trtexec"
    fake = Path(__file__).with_name("fake_trtexec.py")
    program.write_text(
        f"#!/bin/sh\nexport FAKE_VERSION={version} FAKE_ARGUMENTS='{tmp_path}/arguments.json'\n"
        f"exec '{sys.executable}' '{fake}' \"$@\"\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("TRTEXEC", str(program))
    found = local.available(ToolchainManager(tmp_path / "cache"))
    assert found is not None
    assert found.text == version
    graph = model()
    (path, *_) = graph.save(tmp_path / "model.onnx")
    built = local.build(found, path, graph, precision=precision, folder=tmp_path / "build", workspace=2**28)
    assert built.plan.is_file()
    given = (tmp_path / "arguments.json").read_text()
    assert all(f'"{flag}"' in given for flag in [*wanted, "--memPoolSize=workspace:256"])
    assert ("--fp16" in given) == ("--fp16" in wanted)


def test_layers_of_old_and_new_inspectors(tmp_path: Path) -> None:
    path = tmp_path / "layers.json"
    path.write_text(
        """{"Layers": [
            {"Name": "conv1 + relu1", "LayerType": "CaskConvolution",
             "Inputs": [{"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}],
             "Outputs": [{"Name": "b", "Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}]},
            {"Name": "__myl_MulSig", "LayerType": "kgen", "Inputs": [{"Name": "b", "Datatype": "Half"}], "Outputs": [],
             "Metadata": "[ONNX Layer: sig]\\u001e[ONNX Layer: mul]"},
            {"Name": "{ForeignNode[c...d]}", "LayerType": "DLA", "Inputs": [], "Outputs": []},
            "PWN(sig, mul)"], "Bindings": []}"""
    )
    layers = read_layers(path, {"conv1", "relu1", "sig", "mul"})
    assert [la.sources for la in layers] == [("conv1", "relu1"), ("sig", "mul"), (), ("sig", "mul")]
    assert [la.computes_in for la in layers] == ["int8", "fp16", "?", "?"]
    assert types(layers) == {"?": 2, "int8": 1, "fp16": 1}
    on_dla = placement(layers, "it", dla=True)
    assert [n.where for n in on_dla.nodes] == ["fallback", "fallback", "accelerator", "fallback"]
    assert all(n.where == "accelerator" for n in placement(layers, "it").nodes)


def test_the_log_is_kept(tmp_path: Path) -> None:
    compiled(Machine(tmp_path / "machine"), tmp_path)
    assert "the fake one is warned of" in (tmp_path / "out" / "logs" / "tensorrt.log").read_text()
