"""The pass `graphsurgeon`: users' scripts as steps of a pipeline."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.project import Project
from edgec.recipe import build_passes, parse_pipeline, pipeline_text
from edgec.testing import assert_equivalent

MODEL = """<ir_version: 10, opset_import: ["" : 17]>
g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1,2,3,4}, float[1] one = {1}>
{ [conv] c = Conv (x, w)  [mul] m = Mul (c, one)  [relu] y = Relu (m) }"""

DROP = """
def drop(graph):
    for node in [n for n in graph.nodes if n.op == "Mul"]:
        node.outputs[0].outputs[0].inputs[0] = node.inputs[0]

def nothing(graph):
    return graph

def fails(graph):
    names = []
    return names[3]

def rename(graph):
    graph.outputs[0].name = "z"

def second(graph):
    graph.outputs.append(graph.nodes[0].outputs[0])

def drop_input(graph):
    graph.inputs.clear()

def wrong(graph):
    return 7
"""

PROGRAM = """
import sys
import onnx
import onnx_graphsurgeon as gs

graph = gs.import_onnx(onnx.load(sys.argv[1]))
mul = next(n for n in graph.nodes if n.op == "Mul")
mul.outputs[0].outputs[0].inputs[0] = mul.inputs[0]
onnx.save(gs.export_onnx(graph.cleanup().toposort()), sys.argv[2])
"""


def write(folder: Path, text: str, name: str = "edit.py") -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def run(step: str, graph: Graph | None = None) -> tuple[Graph, PassContext, bool]:
    graph = graph or Graph.from_text(MODEL)
    ctx = PassContext()
    (record,) = PassManager(build_passes(parse_pipeline(step), Registry().passes()), verify="structure").run(graph, ctx)
    return graph, ctx, record.changed


def refused(step: str) -> EdgecError:
    with pytest.raises(EdgecError) as e:
        run(step)
    return e.value


def test_a_function_of_a_script_is_a_step(tmp_path: Path) -> None:
    script = write(tmp_path, DROP)
    graph, ctx, changed = run(f'graphsurgeon{{script="{script}" function=drop}}')
    assert changed
    assert graph.op_counts() == {"Conv": 1, "Relu": 1}
    assert_equivalent(Graph.from_text(MODEL), graph)
    (note,) = [d for d in ctx.diagnostics if d.code == "EC0316"]
    assert "drop() of edit.py, SHA-256" in note.message


def test_the_step_prints_as_it_is_written(tmp_path: Path) -> None:
    text = "graphsurgeon{script=a/edit.py function=drop interface=may-change}"
    assert pipeline_text(build_passes(parse_pipeline(text), Registry().passes())) == text


def test_a_script_that_changes_nothing_changes_nothing(tmp_path: Path) -> None:
    script = write(tmp_path, DROP)
    assert not run(f'graphsurgeon{{script="{script}" function=nothing}}')[2]


def test_provenance_stays(tmp_path: Path) -> None:
    graph = Graph.from_text(MODEL)
    next(iter(graph.nodes())).metadata_props["edgec.from"] = "torch.conv"
    script = write(tmp_path, DROP)
    after, _, _ = run(f'graphsurgeon{{script="{script}" function=drop}}', graph)
    assert next(iter(after.nodes())).metadata_props["edgec.from"] == "torch.conv"


def test_scripts_import_their_neighbours(tmp_path: Path) -> None:
    write(tmp_path, DROP, "neighbour.py")
    script = write(tmp_path, "from neighbour import drop\n\ndef edit(graph):\n    drop(graph)\n")
    assert run(f'graphsurgeon{{script="{script}" function=edit}}')[2]


@pytest.mark.parametrize(
    ("function", "code", "text"),
    [
        ("fails", "EC0311", "IndexError: list index out of range"),
        ("absent", "EC0310", "no function 'absent'"),
        ("rename", "EC0309", "became z"),
        ("drop_input", "EC0309", "inputs"),
        ("wrong", "EC0309", "returned int"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, function: str, code: str, text: str) -> None:
    script = write(tmp_path, DROP)
    found = refused(f'graphsurgeon{{script="{script}" function={function}}}').diagnostics[0]
    assert found.code == code
    assert text in found.message
    if function == "fails":
        assert found.location.line == DROP.splitlines().index("    return names[3]") + 1


def test_a_missing_file_and_a_script_that_does_not_parse(tmp_path: Path) -> None:
    assert refused("graphsurgeon{script=nowhere.py function=f}").diagnostics[0].code == "EC0310"
    script = write(tmp_path, "x = 1\ndef f(graph:\n")
    found = refused(f'graphsurgeon{{script="{script}" function=f}}').diagnostics[0]
    assert (found.code, found.location.line) == ("EC0311", 2)


def test_outputs_may_change_where_the_step_says_so(tmp_path: Path) -> None:
    script = write(tmp_path, DROP)
    assert refused(f'graphsurgeon{{script="{script}" function=second}}').diagnostics[0].hint is not None
    graph, _, changed = run(f'graphsurgeon{{script="{script}" function=second interface=may-change}}')
    assert changed
    assert [v.name for v in graph.outputs] == ["y", "c"]
    found = refused(f'graphsurgeon{{script="{script}" function=drop_input interface=may-change}}').diagnostics[0]
    assert found.code == "EC0309"


def test_a_program_reads_and_writes_files(tmp_path: Path) -> None:
    script = write(tmp_path, PROGRAM)
    graph, ctx, changed = run(f'graphsurgeon{{script="{script}"}}')
    assert changed
    assert graph.op_counts() == {"Conv": 1, "Relu": 1}
    assert_equivalent(Graph.from_text(MODEL), graph)
    assert [d.code for d in ctx.diagnostics] == ["EC0316"]


def test_a_program_with_names_of_its_own(tmp_path: Path) -> None:
    fixed = PROGRAM.replace("sys.argv[1]", '"resnet.onnx"').replace("sys.argv[2]", '"modified.onnx"')
    script = write(tmp_path, fixed)
    found = refused(f'graphsurgeon{{script="{script}" reads=resnet.onnx}}').diagnostics[0]
    assert found.code == "EC0312"
    assert found.hint == "it wrote modified.onnx: say graphsurgeon{writes=modified.onnx}"
    assert run(f'graphsurgeon{{script="{script}" reads=resnet.onnx writes=modified.onnx}}')[2]
    assert refused(f'graphsurgeon{{script="{script}" reads="../x.onnx"}}').diagnostics[0].code == "EC0312"


def test_a_program_that_fails_or_hangs(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys\n\nraise KeyError('conv_9')\n")
    found = refused(f'graphsurgeon{{script="{script}"}}').diagnostics[0]
    assert (found.code, found.location.line) == ("EC0311", 3)
    assert "KeyError: 'conv_9'" in found.message
    script = write(tmp_path, "import time\ntime.sleep(60)\n")
    found = refused(f'graphsurgeon{{script="{script}" timeout=1}}').diagnostics[0]
    assert "more than 1 s" in found.message


def test_a_program_may_write_something_else(tmp_path: Path) -> None:
    script = write(tmp_path, "import sys\nopen(sys.argv[2], 'w').write('no model')\n")
    assert refused(f'graphsurgeon{{script="{script}"}}').diagnostics[0].code == "EC0312"


def test_in_a_project_the_script_stands_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "edgec.yaml").write_text(
        textwrap.dedent("""
        schema_version: 1
        model: m.onnx
        pipeline:
          - graphsurgeon: {script: edit.py, function: drop}
          - repeat: [{graphsurgeon: {script: sub/other.py}}, fold-constants]
        targets: [{name: x86-64}]
        """)
    )
    (job,) = Project.load(tmp_path / "edgec.yaml").jobs()
    first, group = job["pipeline"]
    assert first["graphsurgeon"]["script"] == str(tmp_path / "edit.py")
    assert group["repeat"][0]["graphsurgeon"]["script"] == str(tmp_path / "sub/other.py")


def test_a_compilation_compares_with_the_same_outputs(tmp_path: Path) -> None:
    import edgec

    script = write(tmp_path, DROP)
    Graph.from_text(MODEL).save(tmp_path / "m.onnx")
    step = {"graphsurgeon": {"script": str(script), "function": "second", "interface": "may-change"}}
    done = edgec.compile(tmp_path / "m.onnx", target="x86-64", pipeline=[step, "infer-shapes"])
    assert done.report.verification is not None
    comparison = done.report.verification.comparison
    assert comparison is not None
    assert [o["name"] for o in comparison["outputs"]] == ["y", "c"]
    assert comparison["exact"]
