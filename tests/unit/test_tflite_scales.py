"""Scales on which LiteRT ends the process are refused."""

from __future__ import annotations

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.prepare.infer_shapes import InferShapes
from edgec.pipeline import PassContext
from edgec.targets.tflite.lower import lower


def added(scale: str, out: str) -> Graph:
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 22]> g (float[1,4] x) => (float[1,4] y)
        <float s = {{{scale}}}, int8 z = {{0}}, float t = {{{out}}}> {{
          q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) h = Add (d, d)
          r = QuantizeLinear (h, t, z) y = DequantizeLinear (r, t, z) }}"""
    )
    InferShapes().run(graph, PassContext())
    return graph


@pytest.mark.parametrize(("scale", "out"), [("1e30", "0.05"), ("0.05", "1e38"), ("0.05", "0.0")])
def test_refused(scale: str, out: str) -> None:
    with pytest.raises(EdgecError) as caught:
        lower(added(scale, out))
    assert caught.value.diagnostics[0].code == "EC0641"


def test_ordinary() -> None:
    assert "ADD" in [o.op for o in lower(added("0.05", "0.1")).model.main.operators]
