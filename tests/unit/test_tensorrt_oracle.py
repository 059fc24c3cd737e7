"""The oracle's verdicts as messages; its answers against a TensorRT-RTX that fake_tensorrt.py plays. The real one is asked
in tests/toolchain/test_tensorrt_rtx.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tensorrt_machines import Machine

import edgec
from edgec.diagnostics import Diagnostics, EdgecError, Severity
from edgec.graph import Graph
from edgec.samples import Samples
from edgec.specs.schema import builtin_target
from edgec.targets.tensorrt.engines import Gpu
from edgec.targets.tensorrt.format import PlanFormat
from edgec.targets.tensorrt.oracle import Refusal, Verdict, at_hand, judge, judge_all, sm_names
from edgec.targets.tensorrt.oracle_messages import hint, plain, tell
from edgec.targets.tensorrt.plan import read_plan
from edgec.targets.tensorrt.rtx.emit import capabilities, plan_for
from edgec.toolchain import ToolchainManager

RTX = "tensorrt_rtx_bindings"


def model() -> Graph:
    return Graph.from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) <float[1,4] w = {1,2,3,4}> {
            [first] a = Add(x, x)
            [double] y = Mul(a, w)
        }"""
    )


def told(verdict: Verdict, severity: Severity = Severity.ERROR) -> Diagnostics:
    notes = Diagnostics()
    tell(verdict, model(), notes, target="jetson-orin-nano", severity=severity)
    return notes


def refused(message: str, node: str = "", op: str = "", index: int = -1) -> Verdict:
    return Verdict(False, (Refusal(node, op, message, "INVALID_NODE", index),), (), {}, "1.7.1.116")


# ---- words -------------------------------------------------------------------------------------------------------------

MYELIN = "IBuilder::buildSerializedNetwork: Error Code 1: Myelin ([pass.cpp:{}: run] {} In compileGraph at /_src/optimizer/myelin/codeGenerator.cpp:2012)"


@pytest.mark.parametrize(
    ("message", "words", "advice"),
    [
        (
            "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported.",
            "Non-zero zero point is not supported",
            "--precision int8",
        ),
        (
            "Assertion failed: (scaleAllPositive || allowNegativeScale): Scale coefficients must all be positive",
            "Scale coefficients must all be positive",
            "samples that reach this node",
        ),
        (
            MYELIN.format(337, "Cannot compile operation '/fc/Gemm' for Turing (SM75): FP32 GEMM is not supported."),
            "Cannot compile operation '/fc/Gemm' for Turing (SM75): FP32 GEMM is not supported",
            "--precision fp16",
        ),
        (
            MYELIN.format(1500, "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3."),
            "Cannot compile for target(s) sm86, because the model contains HW-specific datatypes: fp8_e4m3",
            "sm89 or newer",
        ),
        (
            "Invalid Node - b ITensor::getDimensions: Error Code 4: API Usage Error (b: input has type Int32 but must have type "
            "FP8. In checkType at /_src/optimizer/common/nodeBase.cpp:456) [checkMacros.cpp::catchCudaError::250] Error Code 1",
            "b: input has type Int32 but must have type FP8",
            "biases in float32",
        ),
        ("something new", "something new", "edgec check MODEL --target tensorrt-rtx"),
    ],
)  # fmt: skip
def test_messages_lose_the_places_in_tensorrts_source(message: str, words: str, advice: str) -> None:
    assert plain(message) == words
    assert advice in hint(message)


def test_a_message_is_never_empty() -> None:
    assert plain("Error.cpp:12: ") == "Error.cpp:12:"


# ---- places ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdict", "node"),
    [
        (refused("no", "double", "Mul", 7), "double"),
        (refused("no", "", "Mul", 1), "double"),
        (refused("no", "", "", 0), "first"),
        (refused("no", "", "Conv", 0), None),
        (refused("Failed to import initializer: w"), "double"),
        (refused("no place at all"), None),
    ],
)
def test_a_refusal_names_the_node_of_the_model(verdict: Verdict, node: str | None) -> None:
    (d,) = told(verdict)
    assert (d.code, d.severity, d.location.node) == ("EC0685", Severity.ERROR, node)


def test_the_node_is_the_one_the_user_knows() -> None:
    graph = model()
    for n in graph.nodes():
        n.metadata_props["edgec.from"] = f"/users/{n.name}"
    notes = Diagnostics()
    tell(refused("no", "double", "Mul"), graph, notes, target="tensorrt-rtx")
    assert notes.items[0].location.node == "/users/double"


def test_jetson_targets_may_have_it_as_a_warning() -> None:
    (d,) = told(refused("no"), Severity.WARNING)
    assert d.severity == Severity.WARNING
    assert "jetson-orin-nano" in str(d.hint)


@pytest.mark.parametrize(
    ("op", "message"),
    [("EfficientNMS_TRT", "Plugin not found, are the plugin name, version, and namespace correct?"), ("DeformConv", "no")],
)  # fmt: skip
def test_a_plugin_is_no_refusal(op: str, message: str) -> None:
    verdict = refused(message, op=op)
    assert verdict.cannot_say
    assert "cannot say" in verdict.summary
    (d,) = told(verdict)
    assert (d.code, d.severity) == ("EC0684", Severity.NOTE)


def test_the_silent_uint8_is_a_warning() -> None:
    text = "onnxOpImporters.cpp:1980: TensorRT supports ... UINT8 zero_point only on DLA. Defaulting to INT8 instead."
    other = "WeightsContext.cpp:525: Empty initializer roi was provided with non-empty data"
    (d,) = told(Verdict(True, (), (text, other), {"sm86": 10}, "1.7.1.116", 3))
    assert (d.code, d.severity) == ("EC0683", Severity.WARNING)


def test_what_does_not_build_is_told_for_each_gpu() -> None:
    verdict = Verdict(True, (), (), {"sm86": "fp8 is not here", "sm89": 100}, "1.7.1.116", 3)
    assert not verdict.accepted
    (d,) = told(verdict)
    assert d.code == "EC0686"
    assert "for sm86: fp8 is not here" in d.message
    assert (
        verdict.summary == "TensorRT-RTX 1.7.1.116 parses it (3 layers); builds for sm89; not for sm86: fp8 is not here"
    )
    assert json.loads(json.dumps(verdict.to_json()))["built"] == {"sm86": "fp8 is not here", "sm89": 100}


def test_one_reason_for_many_gpus_is_said_once() -> None:
    (d,) = told(Verdict(True, (), (), {"sm86": "no", "sm89": "no", "sm120": 1}, "1.7.1.116", 3))
    assert "for sm86, sm89: no" in d.message


# ---- the worker --------------------------------------------------------------------------------------------------------


def manager(machine: Machine, folder: Path) -> ToolchainManager:
    return ToolchainManager(folder / "cache", overrides={"tensorrt-rtx": machine.python})


def test_names_of_capabilities() -> None:
    assert sm_names("portable") == []
    assert sm_names("sm86+sm120") == ["SM86", "SM120"]


def test_what_is_asked_of_the_builder(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "1.7.1.116", module=RTX)
    (path,) = model().save(tmp_path / "m.onnx")
    verdict = judge(
        path, manager(machine, tmp_path), workdir=tmp_path / "w", capabilities=("sm86", "portable", "sm86+sm89", "sm87")
    )
    assert verdict.parsed
    assert verdict.layers == 1
    assert machine.called("set_compute_capability") == [["SM86", 0], ["SM86", 0], ["SM89", 1]]
    assert [isinstance(b, int) for b in verdict.built.values()] == [True, True, True, False]
    assert "does not know SM87" in str(verdict.built["sm87"])
    assert machine.called("create_network") == [[[]]] * 4  # building spends a network


def test_a_builder_that_crashes_is_a_verdict_on_that_build(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "1.7.1.116", "crash", RTX)
    (path,) = model().save(tmp_path / "m.onnx")
    found = judge_all([path, path], manager(machine, tmp_path), workdir=tmp_path / "w", capabilities=("sm86", "sm89"))
    for verdict in found:
        assert verdict.parsed
        assert all("SIGSEGV" in str(b) for b in verdict.built.values())


def test_a_crash_does_not_bring_back_an_older_result(tmp_path: Path) -> None:
    (path,) = model().save(tmp_path / "m.onnx")
    good = Machine(tmp_path / "good", "1.7.1.116", module=RTX)
    assert judge(path, manager(good, tmp_path), workdir=tmp_path / "w", capabilities=("sm86",)).accepted
    bad = Machine(tmp_path / "bad", "1.7.1.116", "crash", RTX)
    assert not judge(path, manager(bad, tmp_path), workdir=tmp_path / "w", capabilities=("sm86",)).accepted


def test_a_parser_that_refuses(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "1.7.1.116", "refuse", RTX)
    (path,) = model().save(tmp_path / "m.onnx")
    verdict = judge(path, manager(machine, tmp_path), workdir=tmp_path / "w")
    assert verdict.refusals[0].node == "double"
    assert verdict.refusals[0].code == "INVALID_NODE"
    assert not any(isinstance(b, int) for b in verdict.built.values())


def test_it_is_at_hand_where_named_or_installed(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "1.7.1.116", module=RTX)
    assert at_hand(manager(machine, tmp_path))
    assert not at_hand(ToolchainManager(tmp_path / "empty"))


# ---- the target, on a machine with a GPU -------------------------------------------------------------------------------


def doubling() -> Graph:
    return Graph.from_text(
        """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) { [double] y = Add(x, x) }"""
    )


@pytest.mark.parametrize(
    ("target", "options", "run"),
    [
        ("tensorrt-rtx-sm89", {}, "model.sm89.plan"),
        ("tensorrt-rtx", {}, "model.plan"),
        ("tensorrt-rtx", {"capabilities": "sm86,sm89"}, "model.sm89.plan"),
        ("tensorrt-rtx-sm86", {}, None),
    ],
)
def test_the_plan_for_this_gpu_is_run(target: str, options: dict[str, str], run: str | None, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", "1.7.1.116", module=RTX)
    samples = [{"x": np.arange(4, dtype=np.float32).reshape(1, 4)}]
    found = edgec.compile(
        doubling(), target=target, precision="fp32", options=options, output=tmp_path / "out",
        samples=Samples(lambda: iter(samples), describe="counted"), toolchains=manager(machine, tmp_path),
    )  # fmt: skip
    checked = found.report.verification
    assert checked is not None
    assert checked.comparison is not None
    assert checked.comparison["outputs"][0]["max_abs"] == 0
    assert found.artifact.facts["run"] == run
    if run is None:
        assert "ONNX Runtime" in str(checked.runner)
        assert "this machine's GPU is sm89" in checked.not_verified[0]
    else:
        assert checked.runner == "TensorRT-RTX 1.7.1 on Fake RTX 4090 (sm89)"
        assert not any(run in text for text in checked.not_verified)


def test_which_plan_a_gpu_runs() -> None:
    ada, hopper = (Gpu("it", sm, "12.8") for sm in ("sm89", "sm90"))
    assert plan_for(ada, ["sm86", "sm89+sm120"]) == "sm89+sm120"
    assert plan_for(ada, ["sm86", "portable"]) == "portable"
    assert plan_for(hopper, ["portable"]) is None
    assert plan_for(None, ["portable"]) is None


@pytest.mark.parametrize(
    ("target", "given", "says"),
    [
        ("tensorrt-rtx", "sm87", "builds no plan for 'sm87'"),
        ("tensorrt-rtx", "sm86+portable", "builds no plan for 'portable'"),
        ("tensorrt-rtx-sm86", "sm89", "is built for sm86"),
    ],
)
def test_capabilities_nobody_has(target: str, given: str, says: str) -> None:
    with pytest.raises(EdgecError) as e:
        capabilities(given, builtin_target(target))
    assert e.value.diagnostics[0].code == "EC0687"
    assert says in e.value.diagnostics[0].message


def test_capabilities() -> None:
    assert capabilities(None, builtin_target("tensorrt-rtx-sm120")) == ["sm120"]
    assert capabilities(None, builtin_target("tensorrt-rtx")) == ["portable"]
    assert capabilities("SM86, sm89+sm120,sm86", builtin_target("tensorrt-rtx")) == ["sm86", "sm89+sm120"]


# ---- files -------------------------------------------------------------------------------------------------------------

HEAD = b"vtrt" + bytes(12) + (32).to_bytes(8, "little") + bytes([1, 7, 1])


def test_inspecting_a_plan(tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(HEAD + bytes(5))
    assert read_plan(tmp_path / "a.plan").version == "1.7.1"
    found = PlanFormat(".plan").inspect(tmp_path / "a.plan")
    assert "built by TensorRT-RTX 1.7.1" in found.lines[1][1]
    (tmp_path / "b.engine").write_bytes(b"ftrt1234")
    assert PlanFormat(".engine").inspect(tmp_path / "b.engine").data["version"] is None


@pytest.mark.parametrize("content", [b"", b"vtr", b"\x08\x07\x12\x07pytorch", HEAD[:20], HEAD, HEAD + bytes(6)])
def test_what_is_no_plan(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.plan").write_bytes(content)
    with pytest.raises(EdgecError) as e:
        read_plan(tmp_path / "a.plan")
    assert e.value.diagnostics[0].code == "EC0682"
