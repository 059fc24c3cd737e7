"""The layout of a graph for TFLite: as few TRANSPOSEs as any choice has, and free ones found."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from edgec.graph import Graph, attribute, ir, static_shape
from edgec.infer import infer_shapes
from edgec.passes.prepare.constants_to_initializers import ConstantsToInitializers
from edgec.pipeline import PassManager
from edgec.targets.tflite import ops
from edgec.targets.tflite.layout import Layouts, NodeLayout, assign
from edgec.targets.tflite.lower import LowerOptions, lower
from edgec.targets.tflite.rules import RULES
from edgec.targets.tflite.storage import (
    Perm,
    between,
    channels_last,
    dropped,
    inverse,
    moves_nothing,
    stored,
    through_transpose,
)

ops.load()


def graph(text: str) -> Graph:
    g = Graph.from_text(text)
    PassManager([ConstantsToInitializers()]).run(g)
    infer_shapes(g)
    return g


def layouts(g: Graph, last: tuple[str, ...] = ()) -> Layouts:
    return assign(g.model.graph, lambda n: RULES[n.op_type].sides(n), inputs=g.inputs, outputs=g.outputs, last=last)


def paid(g: Graph, found: Layouts) -> int:
    """TRANSPOSEs a layout costs: each value read another way than it is stored, once for each way; and Transposes."""
    at: dict[ir.Value, Perm | None] = dict(found.inputs)
    read: set[tuple[ir.Value, Perm | None]] = set()
    own = 0
    for n in g.model.graph:
        layout = found.of[n]
        for v, perm in zip(n.inputs, layout.inputs, strict=True):
            if v is not None and v.const_value is None:
                read.add((v, perm))
        at.update(zip(n.outputs, layout.outputs, strict=True))
        if n.op_type == "Transpose":
            left = through_transpose(attribute(n, "perm"), layout.inputs[0], layout.outputs[0])
            own += not moves_nothing(stored(static_shape(n.inputs[0]) or (), layout.inputs[0]), left)
    for v in g.outputs:
        read.add((v, found.outputs[v]))
    return own + sum(
        at[v] != perm and not moves_nothing(stored(static_shape(v) or (), at[v]), between(at[v], perm, len(static_shape(v) or ())))
        for v, perm in read
    )  # fmt: skip


HEAD = '<ir_version: 10, opset_import: ["" : 24]> g '


def test_storage_arithmetic() -> None:
    assert channels_last(4) == (0, 2, 3, 1)
    assert channels_last(5, 2) == (0, 3, 4, 1, 2)
    assert inverse((0, 2, 3, 1)) == (0, 3, 1, 2)
    assert stored((1, 3, 5, 7), (0, 2, 3, 1)) == (1, 5, 7, 3)
    assert moves_nothing((1, 3, 1, 1), (0, 2, 3, 1))
    assert not moves_nothing((1, 3, 2, 1), (0, 2, 3, 1))
    assert between((0, 2, 3, 1), None, 4) == (0, 3, 1, 2)
    assert between(None, (0, 2, 3, 1), 4) == (0, 2, 3, 1)
    assert dropped((0, 2, 3, 1), {2, 3}) is None
    assert dropped((0, 2, 3, 1), {2}) == (0, 2, 1)
    # NCHW -> NHWC of a value stored channels last is nothing.
    assert through_transpose((0, 2, 3, 1), (0, 2, 3, 1), None) == (0, 1, 2, 3)


def test_convolutions_stay_channels_last_between_each_other() -> None:
    g = graph(
        HEAD
        + """(float[1,4,6,6] x, float[4,4,1,1] w) => (float[1,4,6,6] y) {
        a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Add(a, c) y = Conv(d, w) }"""
    )
    assert paid(g, layouts(g)) == 2  # at the interface
    assert paid(g, layouts(g, ("x", "y"))) == 0


def test_a_transpose_of_the_model_to_channels_last_is_free() -> None:
    g = graph(
        HEAD
        + """(float[1,4,6,6] x, float[4,4,1,1] w, float[4,4] m) => (float[1,36,4] y) {
        a = Conv(x, w) b = Transpose<perm=[0,2,3,1]>(a) s = Constant<value = int64[3] {1, 36, 4}>() c = Reshape(b, s)
        y = MatMul(c, m) }"""
    )
    assert paid(g, layouts(g, ("x",))) == 0


def test_tokens_of_a_vision_transformer_are_free() -> None:
    g = graph(
        HEAD
        + """(float[1,3,8,8] x, float[16,3,4,4] w, float[16,16] m) => (float[1,4,16] y) {
        a = Conv<strides=[4,4]>(x, w) s = Constant<value = int64[3] {1, 16, 4}>() b = Reshape(a, s)
        c = Transpose<perm=[0,2,1]>(b) y = MatMul(c, m) }"""
    )
    assert paid(g, layouts(g, ("x",))) == 0


def test_a_channel_shuffle_is_one_transpose() -> None:
    g = graph(
        HEAD
        + """(float[1,8,6,6] x, float[8,8,1,1] w) => (float[1,8,6,6] y) {
        a = Conv(x, w) s5 = Constant<value = int64[5] {1, 2, 4, 6, 6}>() b = Reshape(a, s5)
        c = Transpose<perm=[0,2,1,3,4]>(b) s4 = Constant<value = int64[4] {1, 8, 6, 6}>() d = Reshape(c, s4)
        y = Conv(d, w) }"""
    )
    assert paid(g, layouts(g, ("x", "y"))) == 1


def test_a_model_in_channels_last_from_tensorflow_keeps_its_layout() -> None:
    g = graph(
        HEAD
        + """(float[1,6,6,4] x, float[4,4,1,1] w) => (float[1,6,6,4] y) {
        a = Transpose<perm=[0,3,1,2]>(x) b = Conv(a, w) c = Relu(b) y = Transpose<perm=[0,2,3,1]>(c) }"""
    )
    assert paid(g, layouts(g)) == 0


def test_one_transpose_for_many_readers() -> None:
    g = graph(
        HEAD
        + """(float[1,4,6,6] x, float[4,4,1,1] w, float[6,6] m) => (float[1,4,6,6] y, float[1,4,6,6] z) {
        a = Conv(x, w) y = MatMul(a, m) z = MatMul(a, m) }"""
    )
    assert paid(g, layouts(g, ("x",))) == 1


def _random(seed: int) -> Graph:
    """Convs, elementwise ops, products and Transposes in any order, on squares so that shapes always fit."""
    rng = random.Random(seed)
    names, lines, four = ["x"], [], 4
    for i in range(rng.randint(2, 7)):
        a, b, out = rng.choice(names[-3:]), rng.choice(names[-3:]), f"v{i}"
        lines.append(
            rng.choice([
                f"{out} = Conv(w4, w)" if a == "w4" else f"{out} = Conv({a}, w)",
                f"{out} = Relu({a})",
                f"{out} = Add({a}, {b})",
                f"{out} = MatMul({a}, m)",
                f"{out} = Transpose<perm=[0,2,3,1]>({a})",
                f"{out} = Transpose<perm=[0,3,1,2]>({a})",
                f"{out} = Transpose<perm=[0,1,3,2]>({a})",
            ])
        )  # fmt: skip
        names.append(out)
    shape = f"1,{four},{four},{four}"
    body = " ".join(lines)
    return graph(
        HEAD + f"(float[{shape}] x, float[4,4,1,1] w, float[4,4] m) => (float[{shape}] {names[-1]}) {{ {body} }}"
    )


STORAGES: list[Perm | None] = [None, (0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2)]


def _cheapest(g: Graph, last: tuple[str, ...]) -> int:
    """The least any choice costs, with more storages a value than `assign` knows."""
    found = layouts(g, last)
    free = [n for n in g.model.graph if n.op_type in ("Relu", "Add")]
    turned = [n for n in g.model.graph if n.op_type == "Transpose"]
    best = math.inf
    for choice in itertools.product(STORAGES, repeat=len(free)):
        for ends in itertools.product(itertools.product(STORAGES, repeat=2), repeat=len(turned)):
            of = dict(found.of)
            for n, perm in zip(free, choice, strict=True):
                of[n] = NodeLayout([perm] * len(n.inputs), [perm])
            for n, (read, write) in zip(turned, ends, strict=True):
                of[n] = NodeLayout([read], [write])
            best = min(best, paid(g, Layouts(of, found.inputs, found.outputs)))
    return int(best)


def _choices(g: Graph) -> int:
    return sum({"Relu": 1, "Add": 1, "Transpose": 2}.get(n.op_type, 0) for n in g.model.graph)


SMALL = [seed for seed in range(120) if _choices(_random(seed)) <= 5]


@pytest.mark.parametrize("seed", SMALL)
def test_no_choice_is_cheaper(seed: int) -> None:
    """Exactly, without Transposes of the model; with them, two storages a value may cost one each more than four."""
    g = _random(seed)
    found, least = paid(g, layouts(g, ("x",))), _cheapest(g, ("x",))
    assert least <= found <= least + sum(n.op_type == "Transpose" for n in g.model.graph)


def test_lowering_pays_what_the_layout_says() -> None:
    g = graph(
        HEAD
        + """(float[1,4,6,6] x, float[4,4,1,1] w) => (float[1,4,6,6] y) {
        a = Conv(x, w) b = Relu(a) y = Conv(b, w) }"""
    )
    w = g.model.graph.inputs.pop(1)
    import numpy as np

    w.const_value = ir.tensor(np.ones((4, 4, 1, 1), np.float32), name="w")
    g.model.graph.register_initializer(w)
    assert lower(g).transposes == 2
    assert lower(g, LowerOptions(io_layout="nhwc")).transposes == 0


def test_a_constant_beside_channels_last_is_stored_so_too() -> None:
    """Concat reads all its inputs in one storage; with equal sizes LiteRT would not notice another."""
    g = graph(
        """<ir_version: 10, opset_import: ["" : 24]> g (float[1,2,2,2] x) => (float[1,4,2,2] y)
        <float[1,2,2,2] c = {0, 1, 2, 3, 4, 5, 6, 7}> { p = MaxPool<kernel_shape = [1, 1]>(x) j = Concat<axis = 1>(c, p)
        y = MaxPool<kernel_shape = [1, 1]>(j) }"""
    )
    join = next(o for o in lower(g).model.main.operators if o.op == "CONCATENATION")
    assert join.options["axis"] == 3
    assert join.inputs[0] is not None
    assert join.inputs[0].data is not None
    assert join.inputs[0].data.reshape(-1).tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_a_reduction_over_no_axes_keeps_the_storage() -> None:
    """With noop_with_empty_axes the output is the input: a RESHAPE of channels last to raw would mix the axes."""
    g = graph(
        """<ir_version: 10, opset_import: ["" : 24]> g (float[1,2,3,4] x) => (float[1,2,3,4] y)
        { p = MaxPool<kernel_shape = [1, 1]>(x) r = ReduceMean<keepdims = 0, noop_with_empty_axes = 1>(p) y = Tanh(r) }"""
    )
    found = layouts(g).of[next(n for n in g.model.graph if n.op_type == "ReduceMean")]
    assert found.inputs[0] == found.outputs[0]
