"""upgrade-opset: steps that change a graph's form keep its numbers; shapes get frozen by name and symbol."""

from __future__ import annotations

import pytest

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.passes.prepare.freeze_shapes import FreezeShapes, require_static_inputs
from edgec.passes.prepare.upgrade_opset import UpgradeOpset
from edgec.pipeline import PassContext
from edgec.testing import assert_equivalent

CASES = {
    "softmax": (11, "y = Softmax <axis = 1> (x)"),
    "softmax-default": (9, "y = LogSoftmax (x)"),
    "upsample": (7, "y = Upsample <scales = [1.0, 1.0, 2.0, 2.0]> (x)"),
    "clip": (10, "y = Clip <min = -0.5, max = 0.5> (x)"),
    "pad": (10, "y = Pad <pads = [0,0,1,1,0,0,1,1], value = 2.0> (x)"),
    "slice": (9, "y = Slice <starts = [1], ends = [3], axes = [2]> (x)"),
    "reduce": (11, "y = ReduceMean <axes = [2, 3], keepdims = 1> (x)"),
    "reduce-sum": (11, "y = ReduceSum <axes = [1], keepdims = 1> (x)"),
    "squeeze": (11, "a = Unsqueeze <axes = [0]> (x) y = Squeeze <axes = [0]> (a)"),
    "split": (11, "y, b = Split <axis = 1, split = [1, 3]> (x)"),
    "split-even": (13, "y, b = Split <axis = 1> (x)"),
    "dropout": (10, "y = Dropout <ratio = 0.3> (x)"),
}


@pytest.mark.parametrize("case", CASES)
def test_steps_keep_the_numbers(case: str) -> None:
    opset, body = CASES[case]
    g = Graph.from_text(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[2,4,4,4] x) => (float[d0,d1,d2,d3] y) {{ {body} }}'
    )
    before = g.clone()
    UpgradeOpset().run(g, PassContext())
    g.verify()
    assert g.opset == 24
    assert_equivalent(before, g)


def test_refusal_names_the_node() -> None:
    g = Graph.from_text("""<ir_version: 8, opset_import: ["" : 7]> g (float[1,2] x) => (float[1,2] y)
    <float[2] s = {1,1}> { [bad] y = BatchNormalization <spatial = 0> (x, s, s, s, s) }""")
    with pytest.raises(EdgecError, match=r"EC0304.*spatial[\s\S]*node bad"):
        UpgradeOpset().run(g, PassContext())


TWO = '<ir_version: 8, opset_import: ["" : 24]> g (float[N,3] a, float[N,3] b) => (float[N,3] y) { y = Add (a, b) }'


def test_one_symbol_one_number() -> None:
    g = Graph.from_text(TWO)
    FreezeShapes(shapes=("a=4x3",)).run(g, PassContext())
    assert [list(v.shape or ()) for v in g.inputs] == [[4, 3], [4, 3]]
    require_static_inputs(g)


@pytest.mark.parametrize(
    ("shapes", "code"),
    [(("4x3",), "EC0050"), (("c=4x3",), "EC0050"), (("a=4",), "EC0051"), (("a=4x5",), "EC0051"),
     (("a=4x3", "b=2x3"), "EC0052")],
)  # fmt: skip
def test_wrong_shapes(shapes: tuple[str, ...], code: str) -> None:
    with pytest.raises(EdgecError, match=code):
        FreezeShapes(shapes=shapes).run(Graph.from_text(TWO), PassContext())


def test_dynamic_inputs_are_named_with_their_flags() -> None:
    with pytest.raises(EdgecError, match=r"EC0053.*a \(Nx3\), b \(Nx3\)[\s\S]*--input-shape a=1x3 --input-shape b=1x3"):
        require_static_inputs(Graph.from_text(TWO))


def test_a_constant_of_the_wrong_attribute_type_is_refused_by_the_checker() -> None:
    """Found by mutation: `value` may hold floats instead of a tensor."""
    from edgec.graph import ir
    from edgec.passes.prepare.constants_to_initializers import ConstantsToInitializers

    g = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]> g (float[1] x) => (float[1] y)
    { k = Constant <value_floats = [1.0]> () y = Add (x, k) }""")
    node = next(n for n in g.nodes() if n.op_type == "Constant")
    node.attributes.clear()
    node.attributes["value"] = ir.Attr("value", ir.AttributeType.FLOATS, [1.0])
    assert not ConstantsToInitializers().run(g, PassContext()).changed
    with pytest.raises(EdgecError, match="EC0305"):
        g.verify()


def test_an_unknown_attribute_stops_no_inference() -> None:
    """Found by mutation: onnx's checker, not its inference, raises here."""
    from edgec.infer import infer_node

    g = Graph.from_text("""<ir_version: 10, opset_import: ["" : 24]> g (float[1] x) => (float[1] y)
    { y = Relu <stridEs = [1]> (x) }""")
    infer_node(next(g.nodes()), 24)
    with pytest.raises(EdgecError, match="EC0305"):
        g.verify()
