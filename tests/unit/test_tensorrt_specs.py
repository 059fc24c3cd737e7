"""Targets of the TensorRT family: op tables against what parser and builder did, releases, and what the pipelines leave."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError, Severity
from edgec.graph import Graph, constant, ir
from edgec.infer import infer_shapes
from edgec.lowering import lower
from edgec.pipeline import PassContext
from edgec.placement import Placement, place
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.samples import Samples
from edgec.specs.schema import OpTable, builtin_target, builtin_targets, check_spec, load_spec
from edgec.target import Artifact, EmitJob, Target

ROOT = Path(__file__).resolve().parents[2]
TARGETS = [n for n in builtin_targets() if builtin_target(n).vendor == "NVIDIA"]
OWN = ("tensorrt", "tensorrt-10.3", "tensorrt-8.6", "tensorrt-8.5", "tensorrt-rtx")
X = "float[1,4,8,8]"


class Lowering(Target):
    """The specs and pipelines of a target; nothing here emits."""

    def emit(self, graph: Graph, job: EmitJob) -> Artifact:
        raise NotImplementedError


@cache
def table(name: str) -> OpTable:
    return load_spec(OpTable, ROOT / "specs" / "ops" / f"{name}.yaml")


def text(body: str, inputs: str = f"{X} x", output: str = f"{X} y", weights: str = "", opset: int = 17) -> Graph:
    graph = Graph.from_text(
        f'<ir_version: 10, opset_import: ["" : {opset}]> g ({inputs}) => ({output}) <{weights}> {{ {body} }}'
    )
    infer_shapes(graph)
    return graph


def lowered(graph: Graph, target: str, precision: str, seed: int = 0) -> Graph:
    """Through the pipeline of a precision or a variant, with two samples to calibrate on."""
    rng = np.random.default_rng(seed)
    shape = [int(d) for d in graph.inputs[0].shape or ()]  # type: ignore[arg-type]  # the tests' inputs are fixed
    feeds = [{graph.inputs[0].name or "": rng.standard_normal(shape).astype(np.float32)} for _ in range(2)]
    ctx = PassContext(calibration=Samples(lambda: iter(feeds), describe="noise", count=2))
    steps = builtin_target(target).pipeline(precision, "low")
    base = builtin_target(target).precisions[precision].variant_of or precision
    return lower(graph, Lowering(target), base, pipeline=steps, registry=Registry(), ctx=ctx).graph


def refused(graph: Graph, target: str, precision: str) -> list[str]:
    return [n.op for n in place(graph, builtin_target(target), precision).nodes if n.where != "accelerator"]


# --- tables against the sweep ------------------------------------------------------------------------------------------


def test_the_tables_are_what_the_tool_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt_tables as tables

    (tmp_path / "specs" / "ops").mkdir(parents=True)
    (tmp_path / "tests" / "data").mkdir(parents=True)
    sweep = ROOT / "tests/data/tensorrt_sweep.csv"
    (tmp_path / "tests" / "data" / sweep.name).write_bytes(sweep.read_bytes())
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    assert tables.main() == 0
    made = sorted((tmp_path / "specs" / "ops").glob("*.yaml"))
    assert {m.stem for m in made} == set(OWN)
    for m in made:
        assert m.read_text() == (ROOT / "specs" / "ops" / m.name).read_text(), "run tools/tensorrt_tables.py"


UNDECIDED = {
    "ConstantOfShape", "Range", "BlackmanWindow", "HammingWindow", "HannWindow", "Loop",  # sizes that are data: fixed shapes fold them
    "If", "Identity",  # sequences and optionals, which have no element type
}  # fmt: skip
"""Ops of which the table says more than these cases show."""
EXCEPTIONS = {
    "quantize_uint8": "parsed and built, and clips at 127: refused on purpose",
    "test_clip_default_int8_min": "int8 is for Q/DQ; Clip with an upper limit is refused in it",
    "test_attention_4d_gqa_causal_nonpad_decode": "two of 92 Attention models build",
    "test_attention_4d_gqa_causal_nonpad_decode_fp16": "two of 92 Attention models build",
    "test_dequantizelinear_e4m3fn": "fp8, built for SM86 where there is none; accepted for others",
    "test_dequantizelinear_e4m3fn_float16": "fp8, built for SM86 where there is none; accepted for others",
    "test_dequantizelinear_e4m3fn_zero_point": "fp8, built for SM86 where there is none; accepted for others",
    "test_quantizelinear_e4m3fn": "fp8, built for SM86 where there is none; accepted for others",
    "test_quantizelinear_float4e2m1": "fp4, built for SM86 where there is none; accepted for others",
    "test_quantizelinear_blocked_symmetric": "an output type that ONNX's own checker does not know",
}


@pytest.mark.slow
def test_every_case_of_the_sweep_is_placed_as_it_went() -> None:
    """1,500 one-node models: accelerator where TensorRT-RTX parsed and built them, impossible where it did not. Slow: onnx
    computes the answers of all its node tests while it collects them.
    """
    import tensorrt_sweep as sweep

    with open(ROOT / "tests/data/tensorrt_sweep.csv") as f:
        rows = {row["case"]: row for row in csv.DictReader(f)}
    spec, wrong, seen = builtin_target("tensorrt-rtx"), [], 0
    for case in sweep.cases():
        row = rows.get(case.name)
        if row is None or "::" in row["op"] or row["op"] in UNDECIDED or case.name in EXCEPTIONS:
            continue
        fixed = sweep.with_constants(case)
        graph = Graph.from_proto(case.model if fixed is None else fixed)
        went = row["dynamic" if fixed is None else "constant"] == "ok"
        node = place(graph, spec, "fp32").nodes[0]
        seen += 1
        if (node.where == "accelerator") != went:
            wrong.append(f"{case.name}: {node.where}, {row['message']}")
    assert not wrong
    assert seen > 1400


# --- releases ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("op", "first"),
    [
        ("HardSwish", "8.5"), ("Einsum", "8.5"), ("LayerNormalization", "8.6"), ("GroupNormalization", "8.6"),
        ("Gelu", "10.3"), ("Mish", "10.3"), ("Hardmax", "10.3"), ("STFT", "10.15"), ("RMSNormalization", "10.15"),
    ],
)  # fmt: skip
def test_releases_have_what_their_importers_have(op: str, first: str) -> None:
    order = ("8.5", "8.6", "10.3", "10.15")
    for release in order:
        row = table("tensorrt" if release == "10.15" else f"tensorrt-{release}").ops[op]
        assert (row.run != "impossible") == (order.index(release) >= order.index(first)), release
        if row.run == "impossible":
            assert row.rewrite == "expand-composites"
            assert "imports it from" in (row.reason or "")


def test_nothing_falls_back() -> None:
    for name in OWN:
        rows = table(name).ops
        runs = {r.run for r in rows.values()} | {c.run for r in rows.values() for c in r.cases}
        assert "fallback" not in runs, name
        assert all(r.evidence for r in rows.values())


def test_plugins_tell_tensorrt_from_tensorrt_rtx() -> None:
    for op in ("NonZero", "RoiAlign", "DeformConv"):
        assert table("tensorrt").ops[op].run == "accelerator"
        assert "plugin" in (table("tensorrt-rtx").ops[op].reason or "")


# --- Q/DQ --------------------------------------------------------------------------------------------------------------

PAIR = "q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)"


def quantised(weights: str, body: str = PAIR, opset: int = 17) -> Placement:
    return place(text(body, weights=weights, opset=opset), builtin_target("jetson-orin-nano"), "int8")


@pytest.mark.parametrize("release", ["int8", "int8-strong", "int8-trt8.5"])
def test_symmetric_int8_is_taken_everywhere(release: str) -> None:
    graph = text(PAIR, weights="float s = {0.1}, int8 z = {0}")
    assert refused(graph, "jetson-orin-nano", release) == []


@pytest.mark.parametrize(
    ("weights", "body", "opset", "says"),
    [
        ("float s = {0.1}, int8 z = {3}", PAIR, 17, "the zero point must be 0"),
        ("float s = {0.1}, int8 z = {-3}", PAIR, 17, "the zero point must be 0"),
        ("float s = {0.1}, uint8 z = {0}", PAIR, 17, "clipped"),
        ("float s = {0.1}", "q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)", 17, "clipped"),
        ("float s = {0.1}, int16 z = {0}", PAIR, 21, "int8, int4 and fp8 only"),
    ],
)
def test_what_tensorrt_misreads_or_refuses_is_refused(weights: str, body: str, opset: int, says: str) -> None:
    placement = quantised(weights, body, opset)
    first = placement.nodes[0]
    assert first.where == "impossible"
    assert says in (first.reason or "")
    assert first.hint
    notes = Diagnostics()
    placement.diagnose(notes)
    assert any(d.code == "EC0401" and d.severity is Severity.ERROR and says in d.message for d in notes)


def test_an_int32_bias_is_refused_by_name() -> None:
    graph = text(
        "b = DequantizeLinear(bq, bs) y = Conv(x, w, b)",
        weights=f"int32[4] bq = {{1, 2, 3, 4}}, float bs = {{0.1}}, float[4,4,1,1] w = {{{', '.join(['1'] * 16)}}}",
    )
    bias = place(graph, builtin_target("jetson-xavier-nx"), "int8").nodes[0]
    assert (bias.op, bias.where) == ("DequantizeLinear", "impossible")
    assert "int32 bias" in (bias.reason or "")


# --- pipelines ---------------------------------------------------------------------------------------------------------

COMPOSITES = {
    "Gelu": ("y = Gelu(x)", 20, ""),
    "tanh Gelu": ('y = Gelu<approximate = "tanh">(x)', 20, ""),
    "HardSwish": ("y = HardSwish(x)", 14, ""),
    "Mish": ("y = Mish(x)", 18, ""),
    "Swish": ("y = Swish(x)", 24, ""),
    "LayerNormalization": ("y = LayerNormalization(x, s, b)", 17, "float[8] s, float[8] b"),
    "GroupNormalization": ("y = GroupNormalization<num_groups = 2>(x, s, b)", 21, "float[4] s, float[4] b"),
    "InstanceNormalization": ("y = InstanceNormalization(x, s, b)", 17, "float[4] s, float[4] b"),
    "RMSNormalization": ("y = RMSNormalization(x, s)", 23, "float[8] s"),
    "Einsum": ('y = Einsum<equation = "...ij,jk->...ik">(x, s)', 17, "float[8,8] s"),
    "Hardmax": ("y = Hardmax(x)", 13, ""),
    "CastLike": ("y = CastLike(x, s)", 15, "float[1] s"),
    "Celu": ("y = Celu(x)", 12, ""),
    "float64": ("a = Cast<to = 11>(x) b = Exp(a) y = Cast<to = 1>(b)", 17, ""),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["fp16", "fp16-strong", "fp16-trt8.6", "fp16-trt8.5"])
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_reach_every_release(name: str, precision: str) -> None:
    body, opset, weights = COMPOSITES[name]
    graph = text(body, opset=opset, weights=", ".join(_filled(w) for w in weights.split(", ") if w))
    out = lowered(graph, "jetson-orin-nano", precision)
    assert refused(out, "jetson-orin-nano", precision) == []
    assert out.opset == (21 if precision == "fp16-strong" else 17)
    assert [(v.name, v.dtype) for v in (*out.inputs, *out.outputs)] == [
        ("x", ir.DataType.FLOAT),
        ("y", ir.DataType.FLOAT),
    ]


def _filled(declared: str) -> str:
    """`float[2,3] w` with numbers."""
    shape = declared[declared.index("[") + 1 : declared.index("]")]
    n = int(np.prod([int(d) for d in shape.split(",")]))
    return f"{declared} = {{{', '.join(str(0.5 + i % 3) for i in range(n))}}}"


CONV = "c = Conv<pads = [1, 1, 1, 1]>(x, w, b) r = Relu(c) d = Conv<pads = [1, 1, 1, 1]>(r, w, b) e = Add(d, x) y = Relu(e)"
CONV_WEIGHTS = "float[16,16,3,3] w, float[16] b"
WIDE = "float[1,16,8,8]"


def _conv() -> Graph:
    return text(CONV, f"{WIDE} x", f"{WIDE} y", weights=", ".join(_filled(w) for w in CONV_WEIGHTS.split(", ")))


def _pairs(graph: Graph) -> Iterator[ir.Node]:
    return (n for n in graph.nodes() if n.op_type in ("QuantizeLinear", "DequantizeLinear"))


@pytest.mark.parametrize("target", ["jetson-orin-nano", "jetson-agx-xavier", "jetson-thor", "tensorrt-rtx-sm89"])
def test_int8_is_what_every_release_reads(target: str) -> None:
    for precision, offered in builtin_target(target).precisions.items():
        if offered.quantization is None or offered.quantization.name != "tensorrt-int8" or not offered.calibration:
            continue
        out = lowered(_conv(), target, precision)
        assert refused(out, target, precision) == [], precision
        assert sum(1 for _ in _pairs(out)) >= 5  # the weight is shared
        for node in _pairs(out):
            zero = constant(node.inputs[2])
            assert zero is not None, "every zero point is written"
            assert zero.dtype == np.int8
            assert not zero.any()
        stored = [
            v.dtype
            for v in out.model.graph.initializers.values()
            if v.dtype is ir.DataType.INT8 and v.shape and v.shape.rank() == 4
        ]
        assert bool(stored) == (out.opset == 21), "TensorRT 8 takes no int8 weights"
        assert not any(v.dtype is ir.DataType.INT32 for v in out.model.graph.initializers.values()), "no int32 bias"


def test_strong_files_compute_in_float16_and_keep_their_interface() -> None:
    out = lowered(_conv(), "tensorrt-rtx", "int8")
    kinds = Counter(v.dtype for n in out.nodes() if n.op_type == "Conv" for v in n.outputs)
    assert kinds == {ir.DataType.FLOAT16: 2}
    assert {v.dtype for v in (*out.inputs, *out.outputs)} == {ir.DataType.FLOAT}


INTEGER = """<ir_version: 10, opset_import: ["" : 17]> g (float[1,4,8,8] x) => (float[1,4,8,8] y)
<float s = {0.05}, uint8 z = {128}, uint8[4,4,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}, int32[4] b = {1,2,3,4}>
{ q = QuantizeLinear(x, s, z)  c = QLinearConv(q, s, z, w, s, z, s, z, b)  y = DequantizeLinear(c, s, z) }"""


@pytest.mark.parametrize("precision", ["fp16", "int8", "int8-strong", "int8-trt8.5"])
def test_integer_ops_and_uint8_are_re_expressed(precision: str) -> None:
    graph = Graph.from_text(INTEGER)
    out = lowered(graph, "jetson-orin-nano", precision)
    assert refused(out, "jetson-orin-nano", precision) == []
    assert "QLinearConv" not in out.op_counts()
    assert not any(v.dtype is ir.DataType.UINT8 for n in out.nodes() for v in (*n.inputs, *n.outputs) if v is not None)


# --- specs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["jetson-orin-nx", "jetson-xavier-nx", "jetson-thor", "tensorrt", "tensorrt-rtx-sm120"]
)
def test_specs_hold_together(name: str) -> None:
    spec = builtin_target(name)
    passes = Registry().passes()
    assert not check_spec(ROOT / "specs" / "targets" / f"{name}.yaml", list(passes))
    for precision in spec.precisions:
        for effort in ("low", "medium", "high"):
            assert build_passes(spec.pipeline(precision, effort), passes)
    assert spec.device == "the GPU"
    assert spec.alignment["int8 channels"] == 32
    assert spec.default_precision == "fp16"


def test_names_and_releases() -> None:
    assert {n for n in TARGETS if n.startswith("jetson")} == {
        "jetson-orin-nano", "jetson-orin-nx", "jetson-agx-orin", "jetson-xavier-nx", "jetson-agx-xavier", "jetson-thor",
    }  # fmt: skip
    orin = builtin_target("jetson-orin-nano")
    tables = {p: (q.op_table or orin.op_table).name for p, q in orin.precisions.items() if not p.endswith("-dla")}
    assert {p.removeprefix("int8"): t for p, t in tables.items() if p.startswith("int8")} == {
        "": "tensorrt-10.3", "-strong": "tensorrt", "-trt8.6": "tensorrt-8.6", "-trt8.5": "tensorrt-8.5",
    }  # fmt: skip
    assert builtin_target("jetson-xavier-nx").op_table.name == "tensorrt-8.5"
    assert builtin_target("jetson-thor").op_table.name == "tensorrt"
    assert all(builtin_target(f"jetson-{n}").memory["ram"] % 2**30 == 0 for n in ("orin-nano", "thor"))


def test_precisions_that_are_not_offered_say_why() -> None:
    with pytest.raises(EdgecError) as e:
        builtin_target("jetson-orin-nano").precision("fp8")
    assert "compute capability 8.7" in e.value.diagnostics[0].message
    with pytest.raises(EdgecError) as e:
        builtin_target("tensorrt-rtx").precision("int8-dynamic")
    assert "DynamicQuantizeLinear" in e.value.diagnostics[0].message
