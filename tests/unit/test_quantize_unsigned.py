"""`unsigned` kinds: what is never negative is stored without sign, from 0 on, and everything else with it."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext
from edgec.quantization.lint import lint
from edgec.quantization.params import params_of_range
from edgec.runtime import Session
from edgec.samples import generated_samples
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme
from edgec.specs.scheme import QuantKind

KIND = QuantKind(dtype="int8", symmetric=True, unsigned=True)


def net() -> Graph:
    return Graph.from_text("""<ir_version: 10, opset_import: ["" : 22]>
    g (float[1,2,4,4] x) => (float[1,2,4,4] y)
    <float[2,2,1,1] w = {1, -2, 3, 4}, float[2,2,1,1] v = {0.5, -1, 1, 2}, float[2,2,1,1] u = {1, 1, -1, 1}>
    { c = Conv (x, w) r = Relu (c) d = Conv (r, v) y = Conv (d, u) }""")


def test_a_range_without_negative_numbers_has_twice_the_steps() -> None:
    p, plain = params_of_range(0.0, 6.0, KIND), params_of_range(0.0, 6.0, KIND.model_copy(update={"unsigned": False}))
    assert (p.dtype, int(p.zero_point)) == ("uint8", 0)
    assert float(p.scale) == pytest.approx(6 / 255)
    assert float(plain.scale) == pytest.approx(6 / 127)
    signed = params_of_range(-0.1, 6.0, KIND)
    assert (signed.dtype, int(signed.zero_point)) == ("int8", 0)


@pytest.mark.parametrize("method", ["mse", "minmax", "entropy", "percentile"])
def test_core_ml_stores_what_relu_puts_out_without_sign(method: str) -> None:
    graph = net()
    infer_shapes(graph)
    reference = graph.clone()
    ctx = PassContext(calibration=generated_samples(graph))
    Quantize(scheme="coreml-int8", method=method).run(graph, ctx)
    assert ctx.quantization is not None
    stored = {name: (p.dtype, int(p.zero_point)) for name, p in ctx.quantization.activations.items()}
    assert stored == {"x": ("int8", 0), "r": ("uint8", 0), "d": ("int8", 0)}
    assert not [
        f for f in lint(graph, builtin_scheme("coreml-int8"), Setting("int8", "iOS17", 22)) if f.rule == "zero-point"
    ]
    (feeds,) = list(generated_samples(reference))[:1]
    want, got = (next(iter(Session(g).run(feeds).values())) for g in (reference, graph))
    assert np.abs(want - got).max() < 0.05 * np.abs(want).max()


def test_only_symmetric_kinds_with_sign_can_be_unsigned() -> None:
    with pytest.raises(ValueError, match="unsigned"):
        QuantKind(dtype="uint8", symmetric=False, unsigned=True)
