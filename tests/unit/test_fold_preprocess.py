"""fold-preprocess: the artifact takes pixels, and computes what the model computes of what they were normalised to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.legalize.fold_preprocess import FoldPreprocess, folded, strip
from edgec.pipeline import PassContext
from edgec.quantization.marks import known_range
from edgec.runtime import Session

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def model(pads: int, group: int = 1, bias: bool = False) -> Graph:
    rng = np.random.default_rng(7)
    channels = 3 if group == 1 else 1
    out = 6 + 2 * pads - 2
    weights = ",".join(f"{w:.4f}" for w in rng.normal(size=3 * channels * 9))
    given = ", float[3] b = {1,-2,3}" if bias else ""
    return Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
        g (float[1,3,6,6] x) => (float[1,3,{out},{out}] y) <float[3,{channels},3,3] w = {{{weights}}}{given}>
        {{ c = Conv <kernel_shape=[3,3], pads=[{pads},{pads},{pads},{pads}], group={group}> (x, w{", b" if bias else ""})
           y = Relu(c) }}""")


def pixels() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).integers(0, 256, (1, 3, 6, 6)).astype(np.float32)


def along(values: tuple[float, ...]) -> npt.NDArray[np.float64]:
    return np.broadcast_to(np.asarray(values, np.float64), (3,)).reshape(1, 3, 1, 1)


CASES = [
    # mean, std, bits, padded -> how, what the input is less than the pixel
    (*IMAGENET, 0, 0, "weights", 0),
    (*IMAGENET, 0, 1, "depthwise", 0),
    (*IMAGENET, 8, 0, "weights", 0),
    (*IMAGENET, 8, 1, "depthwise", 0),
    (*IMAGENET, 16, 1, "depthwise", 0),
    ((127.5,), (127.5,), 0, 1, "depthwise", 0),
    ((127.5,), (127.5,), 8, 1, "weights", 128),
    ((128.0,), (64.0,), 8, 1, "as it is", None),
    ((), (255.0,), 8, 1, "as it is", None),
    ((), (255.0,), 16, 1, "as it is", None),
    ((), (255.0,), 0, 1, "weights", 0),
    ((), (), 0, 1, "as it is", None),
]


@pytest.mark.parametrize(("mean", "std", "bits", "pads", "how", "shift"), CASES)
@pytest.mark.parametrize(("group", "bias"), [(1, False), (3, True)])
def test_what_the_artifact_computes_of_pixels(
    mean: tuple[float, ...],
    std: tuple[float, ...],
    bits: int,
    pads: int,
    how: str,
    shift: int | None,
    group: int,
    bias: bool,
) -> None:
    before = model(pads, group, bias)
    graph = before.clone()
    result = FoldPreprocess(mean, std, bits=bits).run(graph, PassContext())  # type: ignore[arg-type]
    assert dict(result.stats) == {how: 1}
    assert folded(graph) == {"x": how}
    p, m, s = pixels(), along(mean or (0.0,)), along(std or (1.0,))
    x = ((p - m) / s).astype(np.float32)
    want = Session(before).run({"x": x})["y"]
    inside = (
        slice(pads, 6 - pads) if how == "weights" and bits == 8 else slice(None)
    )  # a border is half a step off there
    whole = Session(graph).run({"x": x})["y"]
    np.testing.assert_allclose(whole[..., inside, inside], want[..., inside, inside], rtol=1e-4, atol=2e-4)
    border = np.abs(whole - want).max()
    assert border <= np.abs(np.asarray(0.5 / s)).max() * np.abs(_weights(before)).sum()
    artifact, affine = strip(graph)
    assert not any(n.op_type in ("Mul", "Add") for n in artifact.nodes())
    taken = p - shift if shift is not None else x
    if shift is not None:
        a = affine["x"]
        np.testing.assert_allclose(x * a.scale.reshape(1, -1, 1, 1) + a.offset.reshape(1, -1, 1, 1), taken, atol=1e-4)
    else:
        assert "x" not in affine
    got = Session(artifact).run({"x": taken.astype(np.float32)})["y"]
    np.testing.assert_allclose(got, whole, rtol=1e-4, atol=2e-4)


def _weights(graph: Graph) -> npt.NDArray[np.float32]:
    value = graph.model.graph.initializers["w"].const_value
    assert value is not None
    return value.numpy()


def test_the_scale_is_exactly_one_pixel() -> None:
    graph = model(1)
    FoldPreprocess((128.0,), (64.0,), bits=8).run(graph, PassContext())
    assert known_range(graph.inputs[0]) == (-2.0, 127 / 64)
    assert known_range(graph.clone().inputs[0]) == (-2.0, 127 / 64), "copies carry it along"


ARRIVED = """<ir_version: 10, opset_import: ["" : 24]>
g (float[1,3,6,6] x) => (float[1,3,6,6] y) <float s = {SCALE}, int8 z = {ZERO}>
{ q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) y = Relu(d) }"""


@pytest.mark.parametrize(
    ("scale", "zero", "how"),
    [("0.015625", "0", "as it is"), ("0.015", "0", "depthwise"), ("0.015625", "1", "depthwise")],
)
def test_a_model_that_arrived_quantised(scale: str, zero: str, how: str) -> None:
    """Its own scale stays; a convolution in integers stands before it where that is not one pixel."""
    before = Graph.from_text(ARRIVED.replace("SCALE", scale).replace("ZERO", zero))
    graph = before.clone()
    result = FoldPreprocess((128.0,), (64.0,), bits=8).run(graph, PassContext())
    assert dict(result.stats) == {how: 1}
    x = ((pixels() - 128) / 64).astype(np.float32)
    want, got = (Session(g).run({"x": x})["y"] for g in (before, graph))
    assert np.abs(want - got).max() <= float(scale), "a step, where the convolution rounds to another side"
    if how == "depthwise":
        artifact, _ = strip(graph)
        (reader,) = (u.node for u in artifact.inputs[0].uses())
        assert reader.op_type == "QuantizeLinear", "the artifact's input is stored in steps of one pixel"
        assert [n.op_type for n in artifact.nodes()].count("Conv") == 1


def test_images_and_what_is_none() -> None:
    graph = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]>
        g (float[1,3,4,4] x, float[1,8] state) => (float[1,3,4,4] y, float[1,8] z) { y = Relu(x) z = Relu(state) }""")
    FoldPreprocess((127.0,), (2.0,), bits=8).run(graph, PassContext())
    assert folded(graph) == {"x": "as it is"}


@pytest.mark.parametrize(
    ("shape", "options", "said"),
    [
        ("1,16000", {}, "no input of the model is an image"),
        ("N,3,4,4", {}, "no input of the model is an image"),
        ("1,3,4,4", {"mean": (1.0, 2.0)}, "no input of the model is an image"),
        ("1,3,4,4", {"inputs": ("z",)}, "no input 'z'"),
        ("1,5,6,6", {"inputs": ("x",)}, "no float32 image"),
    ],
)
def test_refused(shape: str, options: dict[str, tuple[float, ...]], said: str) -> None:
    graph = Graph.from_text(f"""<ir_version: 10, opset_import: ["" : 24]>
        g (float[{shape}] x) => (float[{shape}] y) {{ y = Relu(x) }}""")
    with pytest.raises(EdgecError, match=f"EC0230.*{said}"):
        FoldPreprocess(**options).run(graph, PassContext())  # type: ignore[arg-type]
