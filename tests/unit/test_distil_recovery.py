"""recover{method=distillation}: from the closed form on, towards the graph there was, behind rounding where it is quantised."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph, constant
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes, parse_pipeline
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.training.batches import split
from edgec.training.defaults import automatic_views

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3,8,8] x) => (float[N,4] y)
<float[16,3,3,3] w1, float[16] b1, float[16,16,3,3] w2, float[16] b2, float[4,16] w3, float[4] b3>
{
    c1 = Conv<pads = [1,1,1,1]>(x, w1, b1)
    r1 = Relu(c1)
    c2 = Conv<pads = [1,1,1,1]>(r1, w2, b2)
    r2 = Relu(c2)
    p = GlobalAveragePool(r2)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w3, b3)
}"""

HOW = "align=4 importance=l2 allocation=uniform"
PRUNE = f"prune{{ratio=0.5 {HOW}}}"

SHAPES = {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (16, 16, 3, 3), "b2": (16,), "w3": (4, 16), "b3": (4,)}


def net() -> Graph:
    rng = np.random.default_rng(0)
    text = TEXT
    for name, shape in SHAPES.items():
        values = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:], initial=1))
        text = text.replace(f"] {name}", f"] {name} = {{{', '.join(f'{v:.6f}' for v in values.reshape(-1))}}}")
    return Graph.from_text(text)


def samples(count: int = 160, seed: int = 3) -> Samples:
    def make() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(seed)
        for _ in range(count):
            colour = 2 * rng.standard_normal((1, 3, 1, 1))
            yield {"x": (colour + rng.standard_normal((1, 3, 8, 8))).astype(np.float32)}

    return Samples(make, describe="coloured noise")


def run(graph: Graph, pipeline: str, told: list[str] | None = None) -> PassContext:
    ctx = PassContext(calibration=samples())
    if told is not None:
        ctx.progress = told.append
    manager(pipeline).run(graph, ctx)
    return ctx


def manager(pipeline: str) -> PassManager:
    first = "constants-to-initializers,upgrade-opset,infer-shapes"
    return PassManager(build_passes(parse_pipeline(f"{first},{pipeline}"), Registry().passes()))


def error_of(graph: Graph) -> float:
    """Mean square difference from the float net, on other samples."""
    inputs = list(samples(16, 99))
    want = [o["y"] for o in Session(net()).run_all(inputs)]
    got = [o["y"] for o in Session(graph).run_all(inputs)]
    return float(np.mean([(a - b) ** 2 for a, b in zip(want, got, strict=True)]))


def training(folder: Path, **more: object) -> str:
    options = {"method": "distillation", "epochs": 12, "lr": 0.005, "threads": 1, "checkpoints": str(folder)} | more
    import json

    return "recover{" + " ".join(f"{k}={json.dumps(v)}" for k, v in options.items()) + "}"


def test_training_gets_closer_than_the_closed_form(tmp_path: Path) -> None:
    pruned, fitted, trained = net(), net(), net()
    run(pruned, PRUNE)
    run(fitted, f"{PRUNE},recover")
    told: list[str] = []
    ctx = run(trained, f"{PRUNE},{training(tmp_path)}", told)
    trained.verify()
    assert error_of(trained) < error_of(fitted) < error_of(pruned)
    assert [d.code for d in ctx.diagnostics if d.code.startswith("EC035")] == ["EC0355"]
    assert any(t.startswith("train: batch") for t in told)
    kernels = [list(v.shape or ()) for v in trained.model.graph.initializers.values() if len(v.shape or ()) == 4]
    assert kernels == [[8, 3, 3, 3], [8, 8, 3, 3]]


def test_the_next_run_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    want, got = net(), net()
    run(want, f"{PRUNE},{training(tmp_path / 'a')}")

    class Stop(Exception):
        pass

    def stop(text: str) -> None:
        if "batch 27 " in text:
            raise Stop

    ctx = PassContext(calibration=samples(), progress=stop)
    with pytest.raises(Stop):
        manager(f"{PRUNE},{training(tmp_path / 'b')}").run(net(), ctx)
    told: list[str] = []
    run(got, f"{PRUNE},{training(tmp_path / 'b')}", told)
    assert any("resume" in t for t in told)
    assert got.fingerprint() == want.fingerprint()


def test_prune_and_recover_in_turns_learns_from_the_first_graph(tmp_path: Path) -> None:
    """What is left after two cuts is compared with the float graph before the first."""
    step = training(tmp_path, epochs=6)
    graph = net()
    ctx = run(graph, f"prune{{ratio=0.25 {HOW}}},{step},prune{{ratio=0.34 {HOW}}},{step}")
    assert ctx.pruning is not None
    assert ctx.pruning.reference.fingerprint() == net().fingerprint()
    assert len(ctx.pruning.kept["r1"][1]) == 8
    at_once = net()
    run(at_once, PRUNE)
    assert error_of(graph) < error_of(at_once)


@pytest.mark.parametrize("bits", ["onnxruntime-int8"])
def test_after_quantising_weights_are_trained_behind_their_rounding(tmp_path: Path, bits: str) -> None:
    """Scales, zero points and types stay as the scheme made them; integers move."""
    plain, trained = net(), net()
    run(plain, f"quantize{{scheme={bits}}}")
    run(trained, f"quantize{{scheme={bits}}},{training(tmp_path, lr=0.001, epochs=30)}")
    trained.verify()
    before, after = plain.model.graph.initializers, trained.model.graph.initializers
    assert before.keys() == after.keys()
    moved = []
    for name, old in before.items():
        new = after[name]
        assert old.const_value is not None
        assert new.const_value is not None
        assert old.const_value.dtype == new.const_value.dtype
        if (old.const_value.numpy() != new.const_value.numpy()).any():
            moved.append(name)
            assert all(u.node.op_type == "DequantizeLinear" and u.idx == 0 for u in new.uses()), name
    assert moved
    assert error_of(trained) < error_of(plain)


@pytest.mark.parametrize("scheme", ["onnxruntime-int8", "tflite-int8", "coreml-int4-weights"])
def test_scales_of_weights_are_learnt_and_those_of_biases_follow(tmp_path: Path, scheme: str) -> None:
    plain, trained = net(), net()
    run(plain, f"quantize{{scheme={scheme}}}")
    ctx = run(trained, f"quantize{{scheme={scheme}}},{training(tmp_path, lr=0.003, scales=True)}")
    trained.verify()
    before, after = plain.model.graph.initializers, trained.model.graph.initializers
    assert before.keys() == after.keys()
    moved = set()
    for node in trained.nodes():
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].name in after:
            stored, scale = node.inputs[0], node.inputs[1]
            assert stored.const_value is not None
            assert scale is not None
            assert scale.const_value is not None
            assert scale.name is not None
            old = before[scale.name].const_value
            assert old is not None
            assert (scale.const_value.numpy() > 0).all()
            assert stored.const_value.dtype.name not in ("INT8", "INT4") or stored.const_value.numpy().min() > -128
            moved |= {stored.const_value.dtype.name} if (old.numpy() != scale.const_value.numpy()).any() else set()
        if node.op_type in ("Conv", "Gemm") and len(node.inputs) > 2:
            pairs = [v.producer() for v in node.inputs if v is not None]
            if all(p is not None and p.op_type == "DequantizeLinear" for p in pairs):
                x, w, b = (np.asarray(constant(p.inputs[1])) for p in pairs if p is not None)
                np.testing.assert_allclose(b, np.broadcast_to(x * w.reshape(-1), b.shape), rtol=1e-5)
    assert moved & {"INT8", "INT4"}
    assert error_of(trained) < error_of(plain)
    assert ctx.quantization is not None
    for name, (_, params) in ctx.quantization.weights.items():
        (user, _), *_ = after[name].uses()
        np.testing.assert_array_equal(np.asarray(constant(user.inputs[1])).reshape(-1), params.scale.reshape(-1))


def test_pruned_then_quantised_learns_from_the_float_graph_before_both(tmp_path: Path) -> None:
    step = training(tmp_path, lr=0.001)
    plain, trained = net(), net()
    run(plain, f"{PRUNE},recover,quantize{{scheme=onnxruntime-int8}}")
    run(trained, f"{PRUNE},recover,quantize{{scheme=onnxruntime-int8}},{step}")
    assert error_of(trained) < error_of(plain)


def test_nothing_to_make_good_is_an_error() -> None:
    with pytest.raises(EdgecError) as e:
        run(net(), "recover{method=distillation}")
    assert e.value.diagnostics[0].code == "EC0339"


def test_training_that_brings_nothing_is_told(tmp_path: Path) -> None:
    graph, fitted = net(), net()
    ctx = run(graph, f"{PRUNE},{training(tmp_path, lr=3.0, epochs=1)}")
    held_out = split(160, 0.1, 0)[1]  # they judge training, and are kept out of the closed form before it
    manager(f"{PRUNE},recover").run(fitted, PassContext(calibration=samples().without(held_out)))
    assert "EC0354" in [d.code for d in ctx.diagnostics]
    assert graph.fingerprint() == fitted.fingerprint()


VIEWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "small colour images": ("float[N,3,32,32]", ("flip", "crop")),
    "large colour images": ("float[1,3,224,224]", ("flip", "zoom", "mix")),
    "channels last": ("float[1,96,96,3]", ("flip", "zoom", "mix")),
    "spectra": ("float[1,49,10,1]", ()),
    "digits": ("float[1,1,28,28]", ()),
    "vectors": ("float[1,3]", ()),
}


@pytest.mark.parametrize(("shape", "views"), VIEWS.values(), ids=VIEWS)
def test_views_go_by_what_inputs_look_like(shape: str, views: tuple[str, ...]) -> None:
    text = f'<ir_version: 10, opset_import: ["" : 21]> g ({shape} x) => ({shape} y) {{ y = Relu(x) }}'
    assert automatic_views(Graph.from_text(text)) == views


@pytest.mark.parametrize("wrong", ["batch=0", "seed=-1", "epochs=-1", "steps=-1", 'augment=["turn"]'])
def test_options_are_refused_before_anything_is_fitted(wrong: str) -> None:
    told: list[str] = []
    with pytest.raises(EdgecError, match="EC0323"):
        run(net(), f"{PRUNE},recover{{method=distillation {wrong}}}", told)
    assert not told


@pytest.mark.parametrize("option", ["samples", "columns", "memory"])
@pytest.mark.parametrize("pipeline", ["prune{{ratio=0.5 {}=0}}", "prune{{ratio=0.5}},recover{{{}=-1}}"])
def test_amounts_below_one_are_refused(pipeline: str, option: str) -> None:
    with pytest.raises(EdgecError, match=f"EC0204.*{option}"):
        run(net(), pipeline.format(option))
