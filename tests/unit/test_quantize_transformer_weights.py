"""smooth and gptq: what transformers need."""

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.gptq import Gptq
from edgec.passes.quantize.quantize import Quantize
from edgec.passes.quantize.smooth import Smooth
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.samples import Samples

C = 64
SHAPES = {"s": (C,), "b": (C,), "w1": (C, 96), "w2": (C, 40), "w3": (96, C)}
BLOCK = """n = LayerNormalization <axis = -1> (x, s, b) h = MatMul(n, w1) k = MatMul(n, w2) r = Relu(h)
o = MatMul(r, w3) y = Concat <axis = -1> (o, k)"""


def _graph(body: str = BLOCK, seed: int = 0, *, outliers: bool = True) -> Graph:
    """A piece of a transformer; `outliers`: four channels of the normalisation are far larger than the others."""
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
    g (float[1,16,{C}] x) => (float[1,16,{C + 40}] y) {{ {body} }}""")
    rng = np.random.default_rng(seed)
    g = graph.model.graph
    for v in {v for n in g for v in n.inputs if v is not None and v.name in SHAPES}:
        assert v.name is not None
        data = (rng.standard_normal(SHAPES[v.name]) / 8).astype(np.float32)
        if v.name == "s":
            data = np.ones(C, np.float32)
            data[:4] = 60 if outliers else 1
        if outliers and v.name in ("w1", "w2"):
            data[:4] /= 60  # else they would be all there is to the output
        v.const_value = ir.tensor(data, name=v.name)
        v.shape, v.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.FLOAT)
        g.register_initializer(v)
    InferShapes().run(graph, PassContext())
    return graph


def _samples(seed: int = 1, count: int = 32) -> Samples:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(99).standard_normal((C, C)) / 8 + np.eye(C)  # the same for all samples
    data = [{"x": (rng.standard_normal((1, 16, C)) @ mix).astype(np.float32)} for _ in range(count)]
    return Samples(lambda: iter(data), describe="made up", count=count)


def _sqnr(a: Graph, b: Graph) -> float:
    one, two = Session(a), Session(b)
    pairs = [(one.run(s)["y"].astype(float), two.run(s)["y"]) for s in _samples(2)]
    noise = sum(((u - v) ** 2).sum() for u, v in pairs)
    return 10 * np.log10(sum((u**2).sum() for u, _ in pairs) / max(noise, 1e-30))


def _ctx() -> PassContext:
    return PassContext(precision="int8", calibration=_samples())


@pytest.mark.parametrize("alpha", [0.0, 0.5])
@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_smooth_keeps_the_result_and_helps_int8(norm: str, alpha: float) -> None:
    body = (
        BLOCK
        if norm == "LayerNormalization"
        else BLOCK.replace("LayerNormalization", norm).replace("(x, s, b)", "(x, s)")
    )
    graph = _graph(body)
    out = graph.clone()
    assert Smooth(alpha=alpha).run(out, _ctx()).stats == {"normalisations": 1}
    out.verify()
    assert _sqnr(graph, out) > 100
    figures = []
    for g in (graph, out):
        q = g.clone()
        Quantize(scheme="onnxruntime-int8").run(q, _ctx())
        figures.append(_sqnr(graph, q))
    assert figures[1] > figures[0] + 3


def test_smooth_leaves_normalisations_that_others_read() -> None:
    graph = _graph(BLOCK.replace("k = MatMul(n, w2)", "k0 = Sigmoid(n) k = MatMul(k0, w2)"))
    assert not Smooth().run(graph, _ctx()).changed


def test_smooth_says_what_is_missing() -> None:
    with pytest.raises(EdgecError, match="EC0731"):
        Smooth().run(_graph(), PassContext())
    with pytest.raises(EdgecError, match="EC0732"):
        Smooth(alpha=2).run(_graph(), _ctx())


@pytest.mark.parametrize("scheme", ["weight-only-int4", "weight-only-int8-block", "weight-only-int8"])
def test_gptq_beats_rounding_to_nearest(scheme: str) -> None:
    graph, ctx = _graph(outliers=False), _ctx()
    quantized = graph.clone()
    Quantize(scheme=scheme).run(quantized, ctx)
    before = _sqnr(graph, quantized)
    assert Gptq().run(quantized, ctx).stats["rounded"] == 3
    quantized.verify()
    assert _sqnr(graph, quantized) > before + 0.5
    assert ctx.quantization is not None
    for name, (_, p) in ctx.quantization.weights.items():
        stored = quantized.model.graph.initializers[name]
        assert stored.dtype is ir.DataType[p.dtype.upper()]
        low, high = p.limits
        data = np.asarray(constant(stored)).astype(np.int32)
        assert data.min() >= low
        assert data.max() <= high


def test_gptq_needs_a_quantised_graph_and_data() -> None:
    with pytest.raises(EdgecError, match="EC0730"):
        Gptq().run(_graph(), _ctx())
    graph, ctx = _graph(), _ctx()
    Quantize(scheme="weight-only-int4").run(graph, ctx)
    with pytest.raises(EdgecError, match="EC0731"):
        Gptq().run(graph, PassContext(quantization=ctx.quantization))
