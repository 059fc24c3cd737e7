"""int32 biases as kernels add them: with room for the products."""

import numpy as np
import pytest

from edgec.compare import compare
from edgec.graph import Graph, ir
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.runtime import Session
from edgec.samples import Samples

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[1,3,8,8] x) => (float[1,4,8,8] y) { c = Conv <pads = [1,1,1,1]> (x, w1, b1) r = Relu(c) y = Conv (r, w2) }"""


@pytest.mark.parametrize("bias", [1e6, -1e6])
def test_a_huge_bias_leaves_room_for_the_products(bias: float) -> None:
    """ONNX Runtime's integer kernels add in int32 and wrap around: 2 dB where the unfused graph has 45."""
    rng = np.random.default_rng(0)
    graph = Graph.from_text(TEXT)
    b1 = np.zeros(8, np.float32)
    b1[-1] = bias
    weights = {"w1": rng.standard_normal((8, 3, 3, 3)), "b1": b1, "w2": rng.standard_normal((4, 8, 1, 1))}
    for name, data in weights.items():
        value = next(v for n in graph.nodes() for v in n.inputs if v is not None and v.name == name)
        value.const_value = ir.tensor(np.asarray(data * (0.1 if name != "b1" else 1), np.float32), name=name)
        value.shape, value.type = ir.Shape(data.shape), ir.TensorType(ir.DataType.FLOAT)
        graph.model.graph.register_initializer(value)
    InferShapes().run(graph, PassContext())
    data = [{"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)} for _ in range(8)]
    quantized = graph.clone()
    ctx = PassContext(precision="int8", calibration=Samples(lambda: iter(data), describe="made up", count=8))
    Quantize(scheme="onnxruntime-int8").run(quantized, ctx)
    run = Session(quantized, optimise=True).run_all(data)
    assert compare(list(Session(graph).run_all(data)), run).worst_sqnr_db > 20
