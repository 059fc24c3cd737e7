"""equalize, and the channel classes it scales."""

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.channels import find_channels
from edgec.passes.quantize.equalize import Equalize
from edgec.passes.quantize.quantize import Quantize
from edgec.passes.quantize.weight_ranges import weight_params
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.specs.scheme import QuantKind

SHAPES = {
    "w1": (8, 3, 3, 3),
    "b1": (8,),
    "w2": (8, 1, 3, 3),
    "b2": (8,),
    "w3": (8, 8, 1, 1),
    "w4": (5, 8),
    "s": (8, 1, 1),
    "w5": (8, 16, 1, 1),
}


def _graph(body: str, output: str = "float[1,5] y", *, wild: bool = True, seed: int = 0) -> Graph:
    """A model with the weights of SHAPES; `wild`: the channels of w1 and w3 differ by orders of magnitude."""
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
    g (float[1,3,12,12] x) => ({output}) {{ {body} }}""")
    rng = np.random.default_rng(seed)
    g = graph.model.graph
    used = {v.name: v for n in g for v in n.inputs if v is not None}
    for name, shape in SHAPES.items():
        data = (rng.standard_normal(shape) * 0.3).astype(np.float32)
        if name in ("w1", "w3") and wild:
            data *= np.exp(rng.standard_normal((8, 1, 1, 1)) * 1.5).astype(np.float32)
        if name == "s":
            data = np.abs(data)
        if name in used:
            v = used[name]
            v.const_value, v.shape, v.type = (
                ir.tensor(data, name=name),
                ir.Shape(shape),
                ir.TensorType(ir.DataType.FLOAT),
            )
            g.register_initializer(v)
    InferShapes().run(graph, PassContext())
    return graph


def _samples(seed: int = 1, count: int = 16) -> Samples:
    rng = np.random.default_rng(seed)
    data = [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(count)]
    return Samples(lambda: iter(data), describe="made up", count=count)


def _sqnr(a: Graph, b: Graph, samples: Samples) -> float:
    one, two = Session(a), Session(b)
    pairs = [(one.run(s)["y"].astype(float), two.run(s)["y"]) for s in samples]
    noise = sum(((u - v) ** 2).sum() for u, v in pairs)
    return 10 * np.log10(sum((u**2).sum() for u, _ in pairs) / max(noise, 1e-30))


def _equalized(graph: Graph, **options: object) -> tuple[Graph, int]:
    out = graph.clone()
    result = Equalize(**options).run(out, PassContext(calibration=_samples()))  # type: ignore[arg-type]
    out.verify()
    return out, result.stats.get("channels", 0)


TAIL = "p = GlobalAveragePool(c3) f = Flatten(p) y = Gemm <transB = 1> (f, w4)"
CHAIN = f"""c1 = Conv <pads = [1,1,1,1]> (x, w1, b1) r1 = ACT c2 = Conv <group = 8, pads = [1,1,1,1]> (r1, w2, b2)
r2 = Relu(c2) c3 = Conv (r2, w3) {TAIL}"""
RESIDUAL = f"""c1 = Conv <pads = [1,1,1,1]> (x, w1, b1) r1 = Relu(c1) c2 = Conv <group = 8, pads = [1,1,1,1]> (r1, w2, b2)
a = Add(r1, c2) m = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a) c3 = Conv (m, w3) {TAIL}"""


@pytest.mark.parametrize(
    "body",
    [
        CHAIN.replace("ACT", "Relu(c1)"),
        CHAIN.replace("ACT", "LeakyRelu <alpha = 0.1> (c1)"),
        CHAIN.replace("ACT", "PRelu(c1, s)"),
        RESIDUAL,
        RESIDUAL.replace("a = Add(r1, c2)", "k = Concat <axis = 1> (c2, r1) a = Conv(k, w5)"),
    ],
    ids=["relu", "leaky-relu", "prelu", "residual", "concat"],
)
def test_the_graph_computes_the_same(body: str) -> None:
    graph = _graph(body)
    out, channels = _equalized(graph)
    assert channels > 0
    assert _sqnr(graph, out, _samples(7)) > 100


def test_int8_gets_better() -> None:
    gains = []
    for seed in range(4):
        graph = _graph(RESIDUAL, seed=seed)
        out, _ = _equalized(graph)
        figures = []
        for g in (graph, out):
            q = g.clone()
            Quantize(scheme="onnxruntime-int8").run(q, PassContext(precision="int8", calibration=_samples()))
            figures.append(_sqnr(graph, q, _samples(7)))
        gains.append(figures[1] - figures[0])
    assert np.mean(gains) > 0


def test_one_scale_for_a_whole_weight_loses_less() -> None:
    """weights=tensor: Nagel et al. 2019; what per-tensor weights lose to channels of different sizes comes back."""
    graph = _graph(CHAIN.replace("ACT", "Relu(c1)"))
    kind = QuantKind(dtype="int8", symmetric=True)
    figures = []
    for out in (graph, _equalized(graph, weights="tensor")[0]):
        q = out.clone()
        for node in q.nodes():
            if node.op_type in ("Conv", "Gemm"):
                w = node.inputs[1]
                assert w is not None
                data = np.asarray(constant(w))
                fake = weight_params(data, kind, None, method="minmax").fake(data).astype(np.float32)
                w.const_value = ir.tensor(fake, name=w.name)
        figures.append(_sqnr(graph, q, _samples(7)))
    assert figures[1] > figures[0] + 3


def test_ranges_of_channels_come_closer() -> None:
    graph = _graph(CHAIN.replace("ACT", "Relu(c1)"))
    out, _ = _equalized(graph)
    spread = []
    for g in (graph, out):
        session = Session(g, all_values=["r2"])
        top = np.max([session.run(s)["r2"].max(axis=(0, 2, 3)) for s in _samples()], axis=0)
        spread.append(top.max() / np.median(top[top > 0]))
    assert spread[1] < spread[0]


def test_what_other_ops_read_stays() -> None:
    """A Sigmoid on the way pins the channels before it; those between c1 and c2 are free."""
    graph = _graph(CHAIN.replace("ACT", "Relu(c1)").replace("r2 = Relu(c2)", "r2 = Sigmoid(c2)"))
    found = find_channels(graph)
    assert found.pinned[found.of["c2"]].all()
    assert found.pinned[found.of["x"]].all()
    assert found.pinned[found.of["y"]].all()
    assert not found.pinned[found.of["r1"]].any()
    out, _ = _equalized(graph)
    assert _sqnr(graph, out, _samples(7)) > 100


def test_a_weight_read_twice_pins_its_channels() -> None:
    graph = _graph(
        CHAIN.replace("ACT", "Relu(c1)").replace("c3 = Conv (r2, w3)", "c0 = Conv (r2, w3) c3 = Conv (c0, w3)")
    )
    found = find_channels(graph)
    assert found.pinned[found.of["r2"]].all()
    out, _ = _equalized(graph)
    assert _sqnr(graph, out, _samples(7)) > 100


def test_clip_that_binds_keeps_its_channels() -> None:
    body = CHAIN.replace("ACT", "Clip(c1, zero, six)")
    body = f"zero = Constant <value_float = 0.0> () six = Constant <value_float = 6.0> () {body}"
    from edgec.passes.prepare.constants_to_initializers import ConstantsToInitializers

    graph = _graph(body)
    ConstantsToInitializers().run(graph, PassContext())
    samples = _samples()
    session = Session(graph, all_values=["r1"])
    top = np.max([session.run(s)["r1"].max(axis=(0, 2, 3)) for s in samples], axis=0)
    assert (top == 6).any()
    assert (top < 4).any()
    out, channels = _equalized(graph, clip=True)
    assert channels > 0
    assert (
        _sqnr(graph, out, samples) > 100
    )  # on the data it was calibrated with, nothing is cut off that was not before
    factors = np.abs(_weight(out, "c1")).sum(axis=(1, 2, 3)) / np.abs(_weight(graph, "c1")).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(factors[top == 6], 1, rtol=1e-5)
    assert factors.max() > 1.2
    kept, _ = _equalized(graph)
    np.testing.assert_array_equal(_weight(kept, "c1"), _weight(graph, "c1"))


def _weight(graph: Graph, output: str) -> np.ndarray:
    node = next(n for n in graph.nodes() if n.outputs[0].name == output)
    return np.asarray(constant(node.inputs[1]))


def test_without_data_it_says_so() -> None:
    with pytest.raises(EdgecError, match="EC0731"):
        Equalize().run(_graph(CHAIN.replace("ACT", "Relu(c1)")), PassContext())
