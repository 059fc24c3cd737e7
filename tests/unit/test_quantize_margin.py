"""`quantize{margin=...}`: ranges of 16-bit activations are widened, those of 8 bits are not."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.samples import generated_samples


def _scales(scheme: str, margin: float) -> dict[str, float]:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 22]>
    g (float[1,2,4,4] x) => (float[1,2,4,4] y) <float[2,2,1,1] w = {1, 2, 3, 4}> { c = Conv (x, w) y = Relu (c) }""")
    ctx = PassContext(calibration=generated_samples(graph))
    Quantize(scheme=scheme, method="minmax", margin=margin).run(graph, ctx)
    assert ctx.quantization is not None
    return {name: float(p.scale) for name, p in ctx.quantization.activations.items()}


@pytest.mark.parametrize(("scheme", "factor"), [("tflite-int16x8", 4.0), ("tflite-int8", 1.0)])
def test_sixteen_bits_get_room(scheme: str, factor: float) -> None:
    narrow, wide = _scales(scheme, 1.0), _scales(scheme, 4.0)
    assert narrow.keys() == wide.keys()
    assert "x" in narrow
    for name, scale in narrow.items():
        np.testing.assert_allclose(wide[name], factor * scale, rtol=1e-5)
