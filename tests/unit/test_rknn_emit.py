"""The rknn target without the SDK: names read back, options, and the conversation with the worker."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

import edgec
import edgec.targets.rknn.emit as rknn_emit
from edgec.actual_placement import ActualPlacement
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.target_options import parse_options
from edgec.targets.rknn.emit import source_node
from edgec.targets.rknn.options import RknnOptions
from edgec.targets.rknn.retry import crashed_rule
from edgec.targets.rknn.variant import plain_node_names
from edgec.toolchain import Answer, WorkerError
from edgec.toolchain.worker import Step

# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "node"),
    [
        ("Conv:conv0", "conv0"),
        ("Conv:conv0#2", "conv0"),
        ("Conv:conv0_ConvAdd", "conv0"),
        ("Conv:conv0_ConvAddRelu", "conv0"),
        ("Reshape:conv0-rs", "conv0"),
        ("MatMul:conv0_2sdpa", "conv0"),
        ("GlobalAveragePool:conv0_2gavg_2conv0", "conv0"),
        ("Conv:conv0_2sdpa_q_softmax#1-rs", "conv0"),
        ("Conv:conv0_1", "conv0_1"),
        ("Conv:conv0_1#2", "conv0_1"),
        ("Conv:/model.0/conv/Conv#2", "a node"),
        ("Conv:a:b", "a:b"),
        ("InputOperator:x", None),
        ("OutputOperator", None),
        ("Conv:conv", None),
        ("", None),
        (":", None),
    ],
)
def test_source_node(layer: str, node: str | None) -> None:
    known = {"conv0": "conv0", "conv0_1": "conv0_1", "/model.0/conv/Conv": "a node", "a:b": "a:b"}
    assert source_node(layer, known) == node


def test_plain_node_names() -> None:
    """Unique, without blanks, and leading back to the names placement uses."""
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]> g (float[2] x) => (float[2] d)
        { a = Relu(x)  b = Neg(a)  c = Abs(b)  d = Exp(c) }"""
    )
    for node, name in zip(graph.nodes(), ("two words", "twin", "twin", None), strict=True):
        node.name = name
    placed = [n.node for n in edgec_placement(graph)]
    original = plain_node_names(graph)
    names = [n.name or "" for n in graph.nodes()]
    assert len(set(names)) == 4
    assert not any(c.isspace() for name in names for c in name)
    assert [original[n] for n in names] == placed == ["two words", "twin", "twin", "d"]


def edgec_placement(graph: Graph) -> Any:
    return edgec.Registry().target("rk3588").placement(graph, "fp16").nodes


def test_crashed_rule(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert crashed_rule(None) is None
    assert crashed_rule(log) is None
    log.write_text("Traceback\n  ValueError: assignment destination is read-only\n")
    assert crashed_rule(log) is None
    log.write_bytes(
        b'\xff  File "rknn/api/rules/x.py", line 9, in rknn.api.rules.conv._p_first_rule\n'
        b'  File "rknn/api/graph_optimizer.py", line 3, in rknn.api.graph_optimizer.GraphOptimizer.run\n'
        b'  File "rknn/api/rules/pad.py", line 3, in rknn.api.rules.pad._p_fuse_pad_into_conv\n'
    )
    assert crashed_rule(log) == "fuse_pad_into_conv"


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_reach_the_config_only_where_they_differ() -> None:
    assert RknnOptions().config(int8=True) == {}
    given = {
        "quantized-algorithm": "kl_divergence",
        "quantized_method": "layer",
        "optimization-level": "2",
        "single-core-mode": "True",
        "remove-reshape": False,
        "timeout": "60",
    }
    options = parse_options(RknnOptions, given)
    assert options.timeout == 60
    assert options.config(int8=True) == {
        "quantized_algorithm": "kl_divergence",
        "quantized_method": "layer",
        "optimization_level": 2,
        "single_core_mode": True,
    }
    assert options.config(int8=False) == {"optimization_level": 2, "single_core_mode": True}


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("quantized-algorithm", "median", "EC0463"),
        ("quantized-method", 3, "EC0463"),
        ("optimization-level", "high", "EC0463"),
        ("optimization-level", -1, "EC0463"),
        ("optimization-level", None, "EC0463"),
        ("single-core-mode", "maybe", "EC0463"),
        ("compress-weight", 1, "EC0463"),
        ("timeout", "soon", "EC0463"),
        ("timout", 1, "EC0103"),
        ("HELP", 1, "EC0103"),
    ],
)
def test_wrong_options(name: str, value: Any, code: str) -> None:
    with pytest.raises(EdgecError) as caught:
        parse_options(RknnOptions, {name: value})
    assert [d.code for d in caught.value.diagnostics] == [code]


def test_every_option_has_help() -> None:
    fields = {f.replace("_", "-") for f in RknnOptions.__dataclass_fields__ if f != "HELP"}
    assert set(RknnOptions.HELP) == fields


# --- the conversation with the worker, the SDK's part played by ONNX Runtime ------------------------------------------


class FakeSdk:
    """Stands where ToolchainManager and Toolchain do. `fail`: what each run raises before one may answer."""

    def __init__(self, fail: list[Callable[[Path], WorkerError]] | None = None, table: str = "") -> None:
        self.fail = list(fail or [])
        self.table = table
        self.requests: list[dict[str, Any]] = []
        self.fed: list[dict[str, list[list[np.ndarray[Any, Any]]]]] = []
        self.timeouts: list[float] = []
        self.hangs: Callable[[Mapping[str, Any]], bool] | None = None
        self.spoil: Callable[[Mapping[str, Any], Any], Any] = lambda request, value: value
        self.versions = {"rknn-toolkit2": "2.5.0"}
        self.diagnostics = ()

    def installed(self, name: str) -> None:
        """Nothing to start early."""

    def ensure(self, name: str) -> FakeSdk:
        assert name == "rknn"
        return self

    def start(self, worker: Path, *, workdir: Path, log: Path) -> FakeWorker:
        assert worker.name == "worker.py"
        return FakeWorker(self, workdir, log)

    def run(self, request: Mapping[str, Any], workdir: Path, timeout: float, log: Path) -> Answer:
        json.dumps(request)  # what goes to another process is plain
        self.requests.append(dict(request))
        self.timeouts.append(timeout)
        kinds = {
            k: [[np.load(workdir / f) for f in row] for row in request.get(k, [])] for k in ("samples", "calibration")
        }
        self.fed.append(kinds)
        log.write_text(self.table)
        if self.fail:
            raise self.fail.pop(0)(log)
        session = Session(workdir / request["model"])
        read = [v.name or "" for v in Graph.load(workdir / request["model"]).inputs if v.uses()]
        spare = {v.name: np.zeros((1, 2), np.float32) for v in Graph.load(workdir / request["model"]).inputs}
        rows = []
        for i, row in enumerate(kinds["samples"]):
            got = session.run({**spare, **dict(zip(read, row, strict=True))})
            rows.append([])
            for name, own in zip(request["output_names"], session.names, strict=True):
                np.save(workdir / f"{i}_{name}.npy", self.spoil(request, got[own]))
                rows[-1].append({"name": name, "file": f"{i}_{name}.npy"})
        (workdir / "model.rknn").write_bytes(b"made up")
        values = {"artifact": "model.rknn", "versions": {"toolkit": "2.5.0", "compiler": "c"}, "outputs": rows}
        return Answer(values, workdir, log, 1.0, (Step("build", 1.0),), 1 << 20, True)


class FakeWorker:
    """One run of the fake SDK, which can be ended from outside."""

    def __init__(self, sdk: FakeSdk, workdir: Path, log: Path) -> None:
        self.sdk, self.workdir, self.log, self.closed = sdk, workdir, log, threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.closed.set()

    def run(self, request: Mapping[str, Any], *, timeout: float, progress: Callable[[str], None]) -> Answer:
        if self.sdk.hangs is not None and self.sdk.hangs(request):
            assert self.closed.wait(60), "nobody ended the worker that hangs"
            raise WorkerError("EC0620", "killed", None, step="build")
        return self.sdk.run(request, self.workdir, timeout, self.log)


@pytest.fixture(autouse=True)
def no_real_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake's artifact is no .rknn; reading one is tested with the SDK."""
    monkeypatch.setattr(rknn_emit, "_actual", lambda *a: ActualPlacement((), "nothing"))


def two_inputs() -> Graph:
    return Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]>
        g (float[1,4] z, float[1,2] unused, float[1,4] a) => (float[1,4] y) { y = Sub(z, a) }"""
    )


def samples(count: int) -> Samples:
    def row(i: int) -> dict[str, Any]:  # another order than the model's, on purpose
        return {
            "a": np.full((1, 4), i, np.float32),
            "unused": np.zeros((1, 2), np.float32),
            "z": np.full((1, 4), 10 * i + 1, np.float32),
        }

    return Samples(lambda: (row(i) for i in range(count)), describe="rows", count=count)


def test_request_and_files_in_input_order() -> None:
    sdk = FakeSdk()
    result = edgec.compile(
        two_inputs(), target="rk3588", precision="int8", calibration=samples(12), samples=samples(3),
        options={"quantizer": "sdk", "quantized-method": "layer", "timeout": 77}, toolchains=sdk,  # type: ignore[arg-type]
    )  # fmt: skip
    (request,), (fed,) = sdk.requests, sdk.fed
    assert request["target_platform"] == "rk3588"
    assert request["precision"] == "int8"
    assert request["output_names"] == ["y"]
    assert request["config"] == {"quantized_method": "layer"}
    assert sdk.timeouts == [77]
    assert [[float(x.flat[0]) for x in row] for row in fed["samples"]] == [[1, 0], [11, 1], [21, 2]]
    assert [[float(x.flat[0]) for x in row] for row in fed["calibration"]] == [[10 * i + 1, i] for i in range(12)]
    assert result.report.verification is not None
    assert result.report.verification.comparison is not None
    assert result.report.verification.comparison["exact"]
    assert result.artifact.files["model.rknn"] == b"made up"


def test_fp16_sends_no_calibration_and_no_quantisation_options() -> None:
    sdk = FakeSdk()
    edgec.compile(
        two_inputs(), target="rk3588", calibration=samples(12), toolchains=sdk,  # type: ignore[arg-type]
        options={"quantized-method": "layer", "single-core-mode": True},
    )  # fmt: skip
    assert "calibration" not in sdk.requests[0]
    assert sdk.requests[0]["config"] == {"single_core_mode": True}
    assert len(sdk.requests[0]["samples"]) == 8  # the first of the calibration samples


def test_int8_needs_calibration() -> None:
    sdk = FakeSdk()
    with pytest.raises(EdgecError) as caught:
        edgec.compile(two_inputs(), target="rk3588", precision="int8", toolchains=sdk)  # type: ignore[arg-type]
    assert [d.code for d in caught.value.diagnostics] == ["EC0460"]  # nothing in it that edgec would quantise
    assert sdk.requests == []
    with pytest.raises(EdgecError) as caught:
        edgec.compile(two_inputs(), target="rk3588", precision="int8", effort="low", toolchains=sdk)  # type: ignore[arg-type]
    assert [d.code for d in caught.value.diagnostics] == ["EC0460"]
    with pytest.raises(EdgecError) as caught:
        edgec.compile(conv(), target="rk3588", precision="int8", toolchains=sdk)  # type: ignore[arg-type]
    assert [d.code for d in caught.value.diagnostics] == ["EC0220"]
    assert sdk.requests == []


def test_calibration_of_another_model() -> None:
    other = Samples(lambda: iter([{"z": np.zeros((1, 4), np.float32)}]), describe="other rows", count=1)
    with pytest.raises(EdgecError, match="no value for input 'unused'") as caught:
        edgec.compile(
            two_inputs(), target="rk3588", precision="int8", calibration=other, samples=samples(1),
            toolchains=FakeSdk(),  # type: ignore[arg-type]
        )  # fmt: skip
    assert [d.code for d in caught.value.diagnostics] == ["EC0704"]


def test_a_pass_through_output_is_refused() -> None:
    graph = Graph.from_text(
        '<ir_version: 10, opset_import: ["" : 19]> g (float[2] x, float[2] z) => (float[2] y, float[2] z) { y = Relu(x) }'
    )
    with pytest.raises(EdgecError, match="'z'") as caught:
        edgec.compile(graph, target="rk3588", toolchains=FakeSdk())  # type: ignore[arg-type]
    assert [d.code for d in caught.value.diagnostics] == ["EC0465"]


def rule_crash(rule: str) -> Callable[[Path], WorkerError]:
    def make(log: Path) -> WorkerError:
        log.write_text(f'File "x", line 1, in rknn.api.rules.some._p_{rule}\nValueError: read-only\n')
        return WorkerError("EC0626", "rknn failed in the step 'build'", log, step="build")

    return make


def test_rules_that_crash_are_switched_off_one_after_the_other(tmp_path: Path) -> None:
    sdk, found = FakeSdk([rule_crash("one"), rule_crash("two")]), Diagnostics()
    result = edgec.compile(
        two_inputs(),
        target="rk3588",
        toolchains=sdk,
        diagnostics=found,
        output=tmp_path / "out",  # type: ignore[arg-type]
    )
    assert [r["config"].get("disable_rules") for r in sdk.requests] == [None, ["one"], ["one", "two"]]
    assert [d.code for d in found if d.code == "EC0464"] == ["EC0464", "EC0464"]
    assert result.folder is not None
    assert {p.name for p in (result.folder / "logs").iterdir()} == {"rknn.log", "rknn-1.log", "rknn-2.log"}


def test_a_rule_that_crashes_though_switched_off_ends_it() -> None:
    sdk = FakeSdk([rule_crash("one"), rule_crash("one"), rule_crash("one")])
    with pytest.raises(WorkerError):
        edgec.compile(two_inputs(), target="rk3588", toolchains=sdk)  # type: ignore[arg-type]
    assert len(sdk.requests) == 2


@pytest.mark.parametrize(
    ("code", "reason"), [("EC0620", "crash"), ("EC0621", "timeout"), ("EC0622", "memory"), ("EC0624", "garbage")]
)
def test_other_failures_are_not_retried_and_keep_their_log(code: str, reason: str, tmp_path: Path) -> None:
    def fail(log: Path) -> WorkerError:
        rule_crash("one")(log)
        return WorkerError(code, "the SDK is gone", log, step="build")

    sdk = FakeSdk([fail])
    with pytest.raises(WorkerError) as caught:
        edgec.compile(two_inputs(), target="rk3588", toolchains=sdk, output=tmp_path / "out")  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.step) == (reason, "build")
    assert len(sdk.requests) == 1
    assert not (tmp_path / "out").exists()
    assert "read-only" in (tmp_path / "out.failed-log" / "rknn.log").read_text()


def test_what_the_log_says_of_the_device_is_told() -> None:
    table = (
        "W RKNN: [01:00:00.000] Meet RKNN unsupport Operator: name = 'y', type = DeformConv, it will be treated\n"
        "D RKNN: [01:00:00.000]  Network Layer Information Table\n"
        "D RKNN: [01:00:00.000] 7 a row of a new form\n"
    )
    found = Diagnostics()
    edgec.compile(two_inputs(), target="rk3588", toolchains=FakeSdk(table=table), diagnostics=found)  # type: ignore[arg-type]
    told = {d.code: d for d in found}
    assert "DeformConv" in told["EC0461"].message
    assert told["EC0461"].location.node == "y"
    assert "7 a row of a new form" in told["EC0462"].message


# --- who quantises ---------------------------------------------------------------------------------------------------


def conv(body: str = "c = Conv(x, w) y = Relu(c)", outputs: str = "float[1,2,4,4] y") -> Graph:
    return Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 19]>
        g (float[1,3,4,4] x) => ({outputs}) <float[2,3,1,1] w = {{0.5, -0.2, 0.3, 0.1, 0.9, -0.4}}> {{ {body} }}"""
    )


def images(count: int = 12, bad: float | None = None) -> Samples:
    def make() -> Iterator[dict[str, Any]]:
        for i in range(count):
            x = np.random.default_rng(i).normal(0, 1, (1, 3, 4, 4)).astype(np.float32)
            if i == 3 and bad is not None:
                x[0, 0, 0, 0] = bad
            yield {"x": x}

    return Samples(make, describe="images", count=count)


def both(sdk: FakeSdk, quantizer: str = "best", graph: Graph | None = None, **more: Any) -> tuple[Any, Diagnostics]:
    found = Diagnostics()
    result = edgec.compile(
        graph or conv(), target="rk3588", precision="int8", calibration=images(), toolchains=sdk,  # type: ignore[arg-type]
        options={"quantizer": quantizer}, diagnostics=found, **more,
    )  # fmt: skip
    return result, found


def by(request: Mapping[str, Any]) -> str:
    return "sdk" if request["precision"] == "int8" else "edgec"


def test_both_are_built_and_the_better_one_is_kept(tmp_path: Path) -> None:
    for spoilt, kept in (("sdk", "edgec"), ("edgec", "sdk")):
        sdk = FakeSdk()
        sdk.spoil = lambda request, v, spoilt=spoilt: v * 0.5 if by(request) == spoilt else v
        result, found = both(sdk, output=tmp_path / spoilt)
        assert sorted(map(by, sdk.requests)) == ["edgec", "sdk"]
        facts = result.artifact.facts
        assert facts["quantizer"] == kept
        assert facts["quantizers"][spoilt]["sqnr dB"]["y"] == pytest.approx(6, abs=0.5)
        assert facts["quantizers"][kept]["figure dB"] > 20
        (note,) = [d for d in found if d.code == "EC0471"]
        assert "was kept" in note.message
        assert facts["compared with"] == note.hint
        comparison = result.report.verification.comparison
        assert (
            comparison["worst_sqnr_db"] is None or comparison["worst_sqnr_db"] > 20
        )  # the outputs are the kept file's
        assert {p.name for p in (tmp_path / spoilt / "logs").iterdir()} == {"rknn.log", "rknn-edgec.log"}


def test_the_sdk_gets_the_graph_before_our_quantisation() -> None:
    sdk = FakeSdk()
    both(sdk)
    requests = {by(r): r for r in sdk.requests}
    assert len(requests["sdk"]["calibration"]) == 12
    assert "calibration" not in requests["edgec"]
    assert requests["sdk"]["config"] == {}
    assert requests["edgec"]["config"] == {"disable_rules": ["fuse_concat_conv"]}
    fed = {len(f["calibration"]): f for f in sdk.fed}
    assert np.array_equal(fed[0]["samples"][0][0], fed[12]["samples"][0][0])


@pytest.mark.parametrize("quantizer", ["edgec", "sdk"])
def test_one_is_built_where_one_is_asked_for(quantizer: str) -> None:
    sdk = FakeSdk()
    result, found = both(sdk, quantizer)
    assert list(map(by, sdk.requests)) == [quantizer]
    assert result.artifact.facts["quantizer"] == quantizer
    assert "quantizers" not in result.artifact.facts
    assert ("quantize" in {p.spec.split("{")[0] for p in result.report.passes}) == (quantizer == "edgec")
    assert not [d for d in found if d.code in ("EC0468", "EC0469", "EC0471")]


def failing(*who: str) -> FakeSdk:
    sdk = FakeSdk()

    def spoil(request: Mapping[str, Any], value: Any) -> Any:
        if by(request) in who:
            raise WorkerError("EC0620", f"rknn was killed by SIGSEGV ({by(request)})", None, step="build")
        return value

    sdk.spoil = spoil
    return sdk


def test_what_the_sdk_cannot_build_is_replaced_and_said() -> None:
    result, found = both(failing("edgec"))
    assert result.artifact.facts["quantizer"] == "sdk"
    assert "SIGSEGV" in result.artifact.facts["edgec's quantisation"]
    assert next(d.message for d in found if d.code == "EC0468").endswith("SIGSEGV (edgec)")
    result, found = both(failing("sdk"))
    assert result.artifact.facts["quantizer"] == "edgec"
    assert "EC0469" in [d.code for d in found]
    for quantizer in ("best", "sdk"):
        with pytest.raises(WorkerError, match=r"SIGSEGV \(sdk\)") as caught:
            both(failing("edgec", "sdk"), quantizer)
        said = [n for n in getattr(caught.value, "__notes__", ()) if "SIGSEGV (edgec)" in n]
        assert bool(said) == (quantizer == "best")
    with pytest.raises(WorkerError, match=r"SIGSEGV \(edgec\)"):
        both(failing("edgec"), "edgec")


def test_an_endless_loop_on_our_graph_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rknn_emit, "LEAST_PATIENCE", 0.2)
    sdk = FakeSdk()
    sdk.hangs = lambda request: by(request) == "edgec"
    result, found = both(sdk)
    assert result.artifact.facts["quantizer"] == "sdk"
    assert "was not done" in next(d.message for d in found if d.code == "EC0468")


def test_an_interrupt_ends_the_other_build() -> None:
    class Interrupted(FakeSdk):
        def run(self, request: Mapping[str, Any], *args: Any) -> Answer:
            if by(request) == "sdk":
                raise KeyboardInterrupt
            return super().run(request, *args)

    sdk = Interrupted()
    sdk.hangs = lambda request: by(request) == "edgec"  # until it is closed
    with pytest.raises(KeyboardInterrupt):
        both(sdk)


def test_a_model_that_came_quantised_is_kept_as_it_is() -> None:
    graph = conv(
        """xq = QuantizeLinear(x, s, z) xd = DequantizeLinear(xq, s, z) c = Conv(xd, w)
           cq = QuantizeLinear(c, s, z) y = DequantizeLinear(cq, s, z)"""
    )
    for name, value in (("s", np.float32(0.04)), ("z", np.int8(3))):
        add(graph, name, value)
    sdk = FakeSdk()
    result = edgec.compile(graph, target="rk3588", precision="fp16", samples=images(2), toolchains=sdk)  # type: ignore[arg-type]
    assert list(map(by, sdk.requests)) == ["edgec"]
    assert sdk.requests[0]["config"]["disable_rules"] == ["fuse_concat_conv"]
    assert result.artifact.facts["quantizer"] == "model"


def add(graph: Graph, name: str, value: Any) -> None:
    tensor = ir.tensor(np.asarray(value), name=name)
    given = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape([]), const_value=tensor)
    graph.model.graph.register_initializer(given)
    for node in graph.nodes():
        for i, v in enumerate(node.inputs):
            if v is not None and v.name == name and v is not given:
                node.replace_input_with(i, given)


def test_inputs_of_few_axes_switch_the_endless_rule_off() -> None:
    graph = Graph.from_text(
        """<ir_version: 10, opset_import: ["" : 19]>
        g (float[1,4] x) => (float[1,2] y) <float[4,2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }"""
    )
    rows = Samples(lambda: ({"x": np.full((1, 4), i / 9, np.float32)} for i in range(9)), describe="rows", count=9)
    sdk = FakeSdk()
    edgec.compile(
        graph,
        target="rk3588",
        precision="int8",
        calibration=rows,
        options={"quantizer": "edgec"},
        toolchains=sdk,  # type: ignore[arg-type]
    )
    assert sdk.requests[0]["config"]["disable_rules"] == ["fuse_concat_conv", "swap_reshape_transpose_v2"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_calibration_data_that_is_not_finite(bad: float) -> None:
    sdk = FakeSdk()
    with pytest.raises(EdgecError, match="calibration sample 3") as caught:
        edgec.compile(
            conv("y = Relu(x)", "float[1,3,4,4] y"), target="rk3588", precision="int8",
            calibration=images(bad=bad), samples=images(1), toolchains=sdk,  # type: ignore[arg-type]
        )  # fmt: skip
    assert [d.code for d in caught.value.diagnostics] == ["EC0470"]
    assert sdk.requests == []


def test_outputs_that_are_one_tensor_become_two() -> None:
    sdk, found = FakeSdk(), Diagnostics()
    graph = conv("y = Conv(x, w) z = Identity(y)", "float[1,2,4,4] y, float[1,2,4,4] z")
    result = edgec.compile(graph, target="rk3588", samples=images(2), toolchains=sdk, diagnostics=found)  # type: ignore[arg-type]
    assert sdk.requests[0]["output_names"] == ["y", "z"]
    assert result.report.verification is not None
    assert result.report.verification.comparison is not None
    assert result.report.verification.comparison["exact"]
    assert "EC0472" in [d.code for d in found]


def test_low_effort_leaves_it_to_the_sdk() -> None:
    sdk, found = FakeSdk(), Diagnostics()
    result = edgec.compile(
        conv(), target="rk3588", precision="int8", calibration=images(), effort="low", toolchains=sdk,  # type: ignore[arg-type]
        options={"quantizer": "edgec"}, diagnostics=found,
    )  # fmt: skip
    assert list(map(by, sdk.requests)) == ["sdk"]
    assert result.artifact.facts["quantizer"] == "sdk"
    assert "EC0473" in [d.code for d in found]
