"""7-bit weights for processors that add products of bytes in 16 bits, and who is told about it."""

from __future__ import annotations

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, constant
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization import host_cpu
from edgec.recipe import build_passes, parse_pipeline, pipeline_text
from edgec.samples.sample_set import Samples

NUMBERS = ", ".join(f"{v:.4f}" for v in np.random.default_rng(0).normal(size=144))
MODEL = f"""<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4,8,8] x) => (float[1,4,8,8] y) <float[4,4,3,3] w = {{{NUMBERS}}}> {{ y = Conv<pads=[1,1,1,1]>(x, w) }}"""


def quantized(**options: object) -> tuple[Graph, Diagnostics]:
    graph, notes = Graph.from_text(MODEL), Diagnostics()
    xs = [{"x": np.random.default_rng(i).normal(size=(1, 4, 8, 8)).astype(np.float32)} for i in range(4)]
    ctx = PassContext(calibration=Samples(lambda: iter(xs), describe="noise", count=4), diagnostics=notes)
    ctx.target, ctx.precision = Registry().target("x86-64").spec(), "int8"
    PassManager([Quantize(**options)]).run(graph, ctx)  # type: ignore[arg-type]
    return graph, notes


def largest(graph: Graph) -> int:
    stored = next(v for k, v in graph.model.graph.initializers.items() if k == "w_q")
    return int(np.abs(np.asarray(constant(stored), np.int32)).max())


@pytest.mark.parametrize("weights", ["mse", "minmax"])
def test_two_products_fit_16_bits(weights: str) -> None:
    graph, _ = quantized(reduce_range=True, weights=weights)
    assert largest(graph) == 64
    assert 2 * 255 * largest(graph) < 2**15
    assert largest(quantized(weights=weights)[0]) == 127


def test_the_option_is_written_and_read_back() -> None:
    p = Quantize(reduce_range=True)
    assert build_passes(parse_pipeline(pipeline_text([p])), Registry().passes()) == [p]


@pytest.mark.parametrize(
    ("flags", "machine", "wanted"),
    [
        ("fpu avx2 fma", "x86_64", True),
        ("fpu avx2 avx512f avx512bw", "x86_64", True),
        ("fpu avx2 avx512f avx512_vnni", "x86_64", False),
        ("fpu avx2 avx_vnni", "AMD64", False),
        ("fp asimd", "aarch64", False),
        ("", "x86_64", False),
    ],
)
def test_processors(flags: str, machine: str, wanted: bool) -> None:
    text = f"processor\t: 0\nflags\t\t: {flags}\n" if flags else "processor\t: 0\n"
    assert host_cpu.saturates(text, machine) is wanted


def test_who_has_such_a_processor_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_cpu, "saturates", lambda: True)
    assert "EC0228" in {d.code for d in quantized()[1]}
    assert "EC0228" not in {d.code for d in quantized(reduce_range=True)[1]}
    monkeypatch.setattr(host_cpu, "saturates", lambda: False)
    assert "EC0228" not in {d.code for d in quantized()[1]}


def test_weights_that_are_not_int8() -> None:
    with pytest.raises(EdgecError, match="EC0227"):
        quantized(reduce_range=True, scheme="weight-only-int4")
