"""Layers in 16 bits instead of float: planned, stored, searched for before float, where the target's scheme has it."""

from __future__ import annotations

import numpy as np
import pytest
import test_mixed_head as head

from edgec.accuracy import Accuracy, keep_enough
from edgec.compare import compare
from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph
from edgec.passes.quantize.correct_bias import CorrectBias
from edgec.passes.quantize.quantize import Quantize
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.quantization.budget import Budget, Score
from edgec.quantization.lint import lint
from edgec.quantization.mixed import search
from edgec.quantization.sensitivity import Layer, Sensitivity
from edgec.quantization.terms import Term
from edgec.recipe import build_passes, parse_pipeline, pipeline_text
from edgec.runtime import Session
from edgec.specs.conditions import Setting
from edgec.specs.schema import builtin_scheme, builtin_schemes


def quantized(
    wide: tuple[str, ...], *, keep: tuple[str, ...] = (), scheme: str = "qnn-int8"
) -> tuple[Graph, PassContext]:
    graph, ctx = head.yolo(), PassContext(calibration=head.images())
    p = Quantize(scheme=scheme, hazards=False, wide=wide, keep=keep)
    PassManager([p, CorrectBias()]).run(graph, ctx)
    graph.verify()
    return graph, ctx


def sqnr(graph: Graph) -> dict[str, float]:
    reference = list(Session(head.yolo()).run_all(head.images()))
    return {o.name: o.sqnr_db for o in compare(reference, Session(graph).run_all(head.images())).outputs}


def dtypes(graph: Graph) -> dict[str, str]:
    """Element type by the value that each activation's QuantizeLinear reads."""
    return {
        n.inputs[0].name: n.outputs[0].dtype.name for n in graph.nodes() if n.op_type == "QuantizeLinear"
    }  # fmt: skip


def test_the_option_is_written_and_read_back() -> None:
    p = Quantize(scheme="qnn-int8", wide=("/head/Conv", "b,c{d}"), keep=("x",))
    assert build_passes(parse_pipeline(pipeline_text([p])), Registry().passes()) == [p]


def test_bits_are_converted_where_they_meet() -> None:
    graph, ctx = quantized(("br",))
    found = dtypes(graph)
    assert ctx.quantization is not None
    assert ctx.quantization.wide == dict.fromkeys(
        ("br", "bs", "box", "bf"), "uint16"
    )  # what follows reads nothing else
    assert found["ba"] == "UINT8"
    assert found["ba_dq"] == "UINT16"  # the convolution reads what is stored in 8 bits, in 16
    assert found["br"] == "UINT16"
    assert found["bs"] == "UINT16"
    plain, _ = quantized(())
    assert set(dtypes(plain).values()) == {"UINT8"}
    assert sqnr(graph)["boxes"] > sqnr(plain)["boxes"] + 0.2


def test_all_layers_in_16_bits_are_the_wide_scheme() -> None:
    names = tuple(n.outputs[0].name or "" for n in head.yolo().nodes())
    graph, _ = quantized(names)
    assert set(dtypes(graph).values()) == {"UINT16"}
    other, _ = quantized((), scheme="qnn-a16w8")
    assert graph.op_counts() == other.op_counts()
    assert sqnr(graph)["scores"] == pytest.approx(sqnr(other)["scores"], abs=0.5)


def test_what_is_made_keeps_the_rules_of_the_scheme() -> None:
    graph, _ = quantized(("br", "cr", "score", "joint"))
    found = lint(graph, builtin_scheme("qnn-int8"), Setting("int8", "", graph.opset))
    assert [f for f in found if f.rule in ("dtype", "zero-point", "granularity")] == []


def test_float_wins_over_16_bits() -> None:
    _, ctx = quantized(("br",), keep=("br",))
    assert ctx.quantization is not None
    assert "br" not in ctx.quantization.wide
    assert "br" in ctx.quantization.kept


@pytest.mark.parametrize(
    ("scheme", "wide", "code"), [("onnxruntime-int8", ("br",), "EC0226"), ("qnn-int8", ("zz",), "EC0222")]
)
def test_what_cannot_be_had(scheme: str, wide: tuple[str, ...], code: str) -> None:
    with pytest.raises(EdgecError, match=code):
        quantized(wide, scheme=scheme)


def test_a_wide_scheme_exists_and_has_more_bits() -> None:
    pairs = {name: wide.scheme for name in builtin_schemes() if (wide := builtin_scheme(name).wide) is not None}
    assert pairs["qnn-int8"] == "qnn-a16w8"
    for name, wide in pairs.items():
        narrow, other = builtin_scheme(name).activations, builtin_scheme(wide)
        assert narrow is not None
        assert other.activations is not None
        assert (narrow.dtype.removeprefix("u"), other.activations.dtype.removeprefix("u")) == ("int8", "int16")
        assert other.wide is None


def independent(layers: int) -> Sensitivity:
    """Layer i stores the value i, and rounds it and its own weights."""
    names = [f"n{i}" for i in range(layers)]
    terms = tuple(t for n in names for t in (Term(n), Term("", f"v{n}", n, asks=False)))
    powers = np.array([p for i in range(layers) for p in (1e-6, 1e-3 / 2**i)])
    c = np.diag(np.sqrt(powers * len(powers)))
    return Sensitivity(
        tuple(Layer(n, "Conv", 100, 30.0, None, 1e-3 / 2**i, 1e-3) for i, n in enumerate(names)), terms, c
    )


def test_16_bits_take_the_rounding_of_values_not_of_weights() -> None:
    found = independent(2)
    assert found.power() == pytest.approx(2e-6 + 1.5e-3)
    assert found.power((), ["n0"]) == pytest.approx(2e-6 + 0.5e-3)
    assert found.power(["n0"], ["n1"]) == pytest.approx(1e-6)
    assert found.power((), ["n0", "n1"]) == pytest.approx(2e-6)


@pytest.mark.parametrize(("wanted", "floats", "wide"), [(31.0, 0, 3), (56.0, 3, 0)])
def test_16_bits_come_before_float(wanted: float, floats: int, wide: int) -> None:
    found = independent(6)
    floor = found.sqnr_db((), [la.node for la in found.layers])
    assert 50 < floor < 56  # what 16 bits can reach
    mixed = search(
        found, lambda keep, w: Score(found.sqnr_db(keep, w)), Budget(min_sqnr=wanted), max_kept=1.0,
        wide=[la.node for la in found.layers],
    )  # fmt: skip
    assert mixed.chosen.met
    if not floats:
        assert mixed.keep == ()
        assert 0 < len(mixed.wide) <= wide
        assert {row[3] for row in mixed.layer_table()} == {"16 bits"}
    else:
        assert len(mixed.keep) >= floats
        assert not set(mixed.keep) & set(mixed.wide)
        assert {row[3] for row in mixed.layer_table()} == {"float", "16 bits"}


def test_estimates_choose_and_real_runs_decide() -> None:
    found = independent(6)
    runs: dict[str, int] = {"estimate": 0, "evaluate": 0}

    def estimate(keep: frozenset[str], wide: frozenset[str]) -> Score:
        runs["estimate"] += 1
        return Score(found.sqnr_db(keep) + 1.5)  # too hopeful

    def evaluate(keep: frozenset[str], wide: frozenset[str]) -> Score:
        runs["evaluate"] += 1
        return Score(found.sqnr_db(keep))

    mixed = search(found, evaluate, Budget(min_sqnr=36.5), max_kept=1.0, estimate=estimate)
    assert mixed.chosen.exact
    assert found.sqnr_db(mixed.keep) >= 36.5
    assert runs["estimate"] > 0
    plain = search(found, evaluate, Budget(min_sqnr=36.5), max_kept=1.0)
    assert len(mixed.keep) <= len(plain.keep) + 1
    assert any(row[3].startswith("~") for row in mixed.table())


def test_a_search_gives_16_bits_first_and_says_what_became_of_layers() -> None:
    graph, notes = head.yolo(), Diagnostics()
    ctx = PassContext(calibration=head.images(), diagnostics=notes)
    steps = [Quantize(scheme="qnn-int8", hazards=False), CorrectBias()]
    passes, mixed = keep_enough(steps, graph, ctx, Accuracy(min_sqnr=12.0))
    assert mixed.keep == ()
    assert mixed.wide
    assert passes[0].wide == mixed.wide  # type: ignore[attr-defined]
    assert {row[3] for row in mixed.layer_table()} == {"uint16"}
    assert any(d.code == "EC0756" and "uint16" in d.message for d in notes)
    after = graph.clone()
    PassManager(passes).run(after, PassContext(calibration=head.images()))
    assert min(sqnr(after).values()) > 11.5
    assert mixed.to_json()["wide_dtype"] == "uint16"
