"""Predicted placement by MIL operations, and a plan from a Mac read back."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.placement import Placement, differences
from edgec.report import Report
from edgec.specs.schema import builtin_target
from edgec.targets.coreml import plan_on_mac
from edgec.targets.coreml.lower import lower
from edgec.targets.coreml.placement import predicted
from edgec.targets.coreml.plan import read_plan, sources

SPEC = builtin_target("iphone")
OPS = Path(plan_on_mac.__file__).parent / "ops"


def graph(body: str, inputs: str = "float16[1,4,16,16] x", more: str = "") -> Graph:
    made = Graph.from_text(f"""<ir_version: 10, opset_import: ["": 23]>
    g ({inputs}) => (y) {more} {{ {body} }}""")
    infer_shapes(made)
    for i, node in enumerate(made.model.graph):
        node.name = node.name or f"n{i}"
    return made


def where(g: Graph, precision: str = "fp16") -> dict[str, tuple[str, str | None]]:
    return {n.op: (n.where, n.confidence) for n in predicted(g, SPEC, precision).nodes}


def conv(kernel: int = 3, stride: int = 1, dilation: int = 1) -> Graph:
    size = 4 * 4 * kernel * kernel
    weights = ",".join(["1"] * size)
    return graph(
        f"y = Conv <kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}], dilations=[{dilation},{dilation}]> (x, w)",
        "float16[1,4,40,40] x",
        f"<float16[4,4,{kernel},{kernel}] w = {{{weights}}}>",
    )


@pytest.mark.parametrize(
    ("g", "op", "expected"),
    [
        (conv(), "Conv", ("accelerator", "high")),
        (conv(dilation=2), "Conv", ("fallback", "low")),
        (conv(kernel=15), "Conv", ("fallback", "medium")),
        (graph("y = Relu(x)"), "Relu", ("accelerator", "medium")),
        (graph("y = MaxPool <kernel_shape=[3,3], strides=[2,2]> (x)"), "MaxPool", ("accelerator", "medium")),
        (graph("y = MaxPool <kernel_shape=[3,3], strides=[3,3]> (x)"), "MaxPool", ("fallback", "low")),
        (graph("y = Gather <axis=1> (x, i)", more="<int64[2] i = {0, 2}>"), "Gather", ("fallback", "high")),
        (graph("y = Tan(x)"), "Tan", ("fallback", "medium")),
        (graph("y = Relu(x)", "float[1,4] x"), "Relu", ("fallback", "high")),
        (graph("y = Add(x, x)", "int32[1,4] x"), "Add", ("fallback", "low")),
        (graph("y = Relu(x)", "float16[1,20000] x"), "Relu", ("fallback", "medium")),
    ],
)
def test_rows_decide(g: Graph, op: str, expected: tuple[str, str]) -> None:
    assert where(g)[op] == expected


def test_a_node_goes_where_the_worst_of_its_operations_goes() -> None:
    """Resize by an uneven factor is made of gathers, by a whole one of an upsampling."""
    sizes = "<float[0] none = {}, float[0] f = {}, int64[4] s = {1, 4, %d, 16}>"
    body = (
        'y = Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> (x, none, f, s)'
    )
    twice = predicted(graph(body, more=sizes % 32), SPEC, "fp16").nodes[0]
    uneven = predicted(graph(body, more=sizes % 11), SPEC, "fp16").nodes[0]
    assert (twice.where, uneven.where) == ("accelerator", "fallback")
    assert uneven.reason == "the Neural Engine does not have gather"


def test_refusals_are_told_before_anything_is_built() -> None:
    g = graph("a = Foo(x)\n y = Relu(a)", "float16[1,4] x")
    found = {n.op: n for n in predicted(g, SPEC, "fp16").nodes}
    assert found["Foo"].where == "impossible"
    assert "docs/coreml.md" in (found["Foo"].hint or "")
    assert found["Relu"].certain is False  # it reads what cannot be said
    six = graph("y = Relu(x)", "float16[1,1,1,1,1,4] x")
    (node,) = predicted(six, SPEC, "fp16").nodes
    assert (node.where, "6 axes" in (node.reason or "")) == ("impossible", True)


def test_casts_at_the_edges_are_core_mls_own() -> None:
    g = graph("h = Cast <to=10> (x)\n r = Relu(h)\n y = Cast <to=1> (r)", "float[1,4] x")
    found = predicted(g, SPEC, "fp16")
    assert found.counts == {"accelerator": 3, "fallback": 0, "impossible": 0}


def test_float32_is_no_fallback_where_it_was_asked_for() -> None:
    found = predicted(graph("y = Tan(x)", "float[1,4] x"), SPEC, "fp32")
    assert (found.device, found.counts["fallback"], found.alone) == ("the GPU or the CPU", 0, True)


def test_every_answer_says_that_it_is_predicted_and_by_whom() -> None:
    found = predicted(conv(), SPEC, "fp16")
    assert "Core ML decides" in (found.predicted or "")
    assert all(n.confidence and n.evidence for n in found.nodes)
    assert Placement.from_json(json.loads(json.dumps(found.to_json()))) == found
    warned = Diagnostics()
    predicted(graph("y = Tan(x)"), SPEC, "fp16").diagnose(warned)
    assert "will probably run on the GPU or the CPU" in warned.items[0].message


def test_every_row_has_evidence_and_confidence() -> None:
    table = SPEC.op_table
    assert all(op.startswith("mil::") for op in table.ops)
    for op, row in table.ops.items():
        assert row.confidence, op
        assert row.run != "fallback" or row.reason, op


def test_the_table_has_a_row_for_every_operation_the_lowering_writes() -> None:
    """By the text of the rules: what is passed to `emit` by name. What `const` holds is not computed."""
    written = set()
    for path in OPS.glob("*.py"):
        written |= set(re.findall(r'emit(?:_many)?\(\s*"([a-z0-9_]+)"', path.read_text()))
    assert written > {"conv", "gather", "slice_by_index"}
    computed = {op for op in written if op != "const" and not op.startswith("constexpr_")}
    missing = {op for op in computed if f"mil::{op}" not in SPEC.op_table.ops}
    assert not missing


# --- plans ----------------------------------------------------------------------------------------------------------------

NET = "a = Relu(x)\n b = Gather <axis=1> (a, i)\n y = Tanh(b)"


class Bundle:
    """A folder as a compilation leaves it, without coremltools: a package of one file, and a report."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        g = graph(NET, more="<int64[2] i = {0, 2}>")
        made = lower(g)
        model = folder / "model.mlpackage" / "Data" / "com.apple.CoreML" / "model.mlmodel"
        model.parent.mkdir(parents=True)
        model.write_bytes(b"a program")
        self.sha256 = hashlib.sha256(b"a program").hexdigest()
        self.sources = sources(made.program)
        name = model.relative_to(folder).as_posix()
        end: dict[str, Any] = {"name": "g", "dtype": "float", "shape": [1]}
        report = {
            "schema_version": 1, "edgec_version": "0", "target": "iphone", "precision": "fp16", "passes": [],
            "ops_before": {}, "ops_after": {}, "placement": predicted(g, SPEC, "fp16").to_json(),
            "model": {"path": "g.onnx", "sha256": "", "name": "g", "opset": 23, "inputs": [end], "outputs": [end],
                      "parameters": 0, "weight_bytes": 0, "nodes": 3},
            "artifact": {"entry": "model.mlpackage", "files": {name: {"bytes": 9, "sha256": self.sha256}},
                         "facts": {"placement": {"sources": self.sources}}},
        }  # fmt: skip
        (folder / "report.json").write_text(json.dumps(report))
        self.report = Report.read(folder / "report.json")

    def plan(self, devices: dict[str, str], sha256: str | None = None) -> Path:
        """As plan_on_mac.py writes it; `devices`: node -> class of the device."""
        path = self.folder / "plan.json"
        operations = [
            {"outputs": [name], "operator": f"ios16.{node}", "preferred": devices[node], "supported": [devices[node]],
             "cost": 0.25}
            for name, node in self.sources.items()
        ]  # fmt: skip
        path.write_text(json.dumps({
            "plan": "MLComputePlan", "system": "macOS 15.1", "machine": "arm64", "coremltools": "9.0",
            "compute_units": "ALL", "model_sha256": sha256 or self.sha256, "operations": operations,
        }))  # fmt: skip
        return path


NEURAL, GPU, CPU = "MLNeuralEngineComputeDevice", "MLGPUComputeDevice", "MLCPUComputeDevice"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle(tmp_path)


def test_a_plan_that_says_what_was_predicted(bundle: Bundle) -> None:
    actual = read_plan(bundle.plan({"n0": NEURAL, "n1": CPU, "n2": NEURAL}), bundle.report)
    assert actual.source == "MLComputePlan on macOS 15.1 (arm64), compute units ALL"
    assert {n.sources: n.where for n in actual.nodes} == {
        ("n0",): "accelerator", ("n1",): "fallback", ("n2",): "accelerator",
    }  # fmt: skip
    assert not differences(Placement.from_json(bundle.report.placement or {}), actual)


def test_differences_are_warned_of_with_the_device(bundle: Bundle) -> None:
    actual = read_plan(bundle.plan({"n0": GPU, "n1": NEURAL, "n2": NEURAL}), bundle.report)
    warned = Diagnostics()
    wrong = differences(Placement.from_json(bundle.report.placement or {}), actual, warned)
    assert [(d.node, d.predicted, d.actual) for d in wrong] == [
        ("n0", "accelerator", "fallback"), ("n1", "fallback", "accelerator"),
    ]  # fmt: skip
    assert "runs on the GPU" in warned.items[0].message
    assert "predicted on the GPU or the CPU" in warned.items[1].message
    assert {d.code for d in warned} == {"EC0410"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("{}", "plan: field required"), ("[1", "cannot be read"), ('{"plan": "MLComputePlan"}', "system: field required")],
)
def test_files_that_are_no_plan(bundle: Bundle, text: str, message: str) -> None:
    path = bundle.folder / "other.json"
    path.write_text(text)
    with pytest.raises(EdgecError, match=message) as e:
        read_plan(path, bundle.report)
    assert e.value.diagnostics[0].code == "EC0663"


def test_a_plan_of_another_package(bundle: Bundle) -> None:
    path = bundle.plan({"n0": NEURAL, "n1": CPU, "n2": NEURAL}, sha256="0" * 64)
    with pytest.raises(EdgecError, match="another package"):
        read_plan(path, bundle.report)


STAND_IN = '''
"""What plan_on_mac.py uses of coremltools, by the signatures of coremltools 9.0's compute_plan.py."""
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace as NS

__version__ = "9.0"
ComputeUnit = Enum("ComputeUnit", "ALL CPU_AND_GPU CPU_ONLY CPU_AND_NE")


class MLNeuralEngineComputeDevice: ...
class MLCPUComputeDevice: ...


@dataclass(frozen=True)
class Usage:
    preferred_compute_device: object
    supported_compute_devices: list


class MLComputePlan:
    @classmethod
    def load_from_path(cls, path, compute_units=ComputeUnit.ALL):
        assert path.endswith(".mlmodelc") and compute_units is ComputeUnit.CPU_AND_NE
        return cls()

    @property
    def model_structure(self):
        names = [("a", "ios17.relu"), ("const_0", "const"), ("b", "ios17.gather")]
        block = NS(operations=[NS(operator_name=op, outputs=[NS(name=n)]) for n, op in names])
        return NS(program=NS(functions={"main": NS(block=block)}))

    def get_compute_device_usage_for_mlprogram_operation(self, operation):
        cpu, neural = MLCPUComputeDevice(), MLNeuralEngineComputeDevice()
        return {"ios17.relu": Usage(neural, [cpu, neural]), "ios17.gather": Usage(cpu, [cpu])}.get(operation.operator_name)

    def get_estimated_cost_for_mlprogram_operation(self, operation):
        return NS(weight=0.75) if operation.operator_name == "ios17.relu" else None


def compile_model(path):
    assert path.endswith("model.mlpackage")
    return path.replace(".mlpackage", ".mlmodelc")


models = NS(utils=NS(compile_model=compile_model))
'''


def test_the_script_writes_what_is_read_back(bundle: Bundle, tmp_path: Path) -> None:
    """On a stand-in for coremltools, as no Mac is here; it runs as users run it, beside the package."""
    library = tmp_path / "library"
    (library / "coremltools" / "models").mkdir(parents=True)
    (library / "coremltools" / "__init__.py").write_text(STAND_IN)
    (library / "coremltools" / "models" / "__init__.py").write_text("")
    (library / "coremltools" / "models" / "compute_plan.py").write_text("from coremltools import MLComputePlan\n")
    script = bundle.folder / "plan_on_mac.py"
    script.write_bytes(Path(plan_on_mac.__file__).read_bytes())
    # `models` as the package's attribute is the stand-in above; importing the submodule must not replace it
    fix = "import coremltools, sys; m = coremltools.models; import coremltools.models.compute_plan; coremltools.models = m; "
    run = f"{fix} import runpy; sys.argv = [{str(script)!r}, '--units', 'CPU_AND_NE']; runpy.run_path({str(script)!r}, run_name='__main__')"
    subprocess.run([sys.executable, "-c", run], check=True, env={"PYTHONPATH": str(library)}, capture_output=True)
    actual = read_plan(bundle.folder / "plan.json", bundle.report)
    assert [(n.name, n.op, n.device, n.cost) for n in actual.nodes] == [
        ("a", "ios17.relu", "Neural Engine", 0.75), ("b", "ios17.gather", "CPU", None),
    ]  # fmt: skip
    assert actual.source.endswith("compute units CPU_AND_NE")
