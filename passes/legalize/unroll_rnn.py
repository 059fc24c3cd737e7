"""LSTM, GRU and RNN over a sequence of known length, written out step by step.

The product of all inputs with W is one MatMul before the steps; a step is one small MatMul and its gates. All attributes
are covered: direction, activations with their parameters, clip, input_forget, linear_before_reset, peepholes, layout, and
sequence lengths that are known. Weights must be constants.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, static_shape
from edgec.passes.legalize.builders import first_input, optional_input, reshape
from edgec.passes.legalize.rnn_cells import GATES, Activation, Cell, activations, zeros
from edgec.pattern import Match, P, rest
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class _Scene:
    """What the directions of one node share. `x` is [length, batch, features], whatever the layout."""

    node: ir.Node
    rw: Rewriter
    x: ir.Value
    length: int
    batch: int
    lengths: Array | None
    functions: Sequence[Sequence[Activation]]
    w: Array
    r: Array
    b: Array
    p: Array | None

    @property
    def hidden(self) -> int:
        return int(self.r.shape[2])


def unroll(node: ir.Node, rw: Rewriter, limit: int) -> Result:
    """Y, Y_h and, of an LSTM, Y_c."""
    scene = _scene(node, rw, limit)
    if isinstance(scene, Reject):
        return scene
    direction = attribute(node, "direction")
    backwards = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    runs = [_direction(scene, d, back) for d, back in enumerate(backwards)]
    y = _join(rw, [r[0] for r in runs], 1)
    last = [[r[1] for r in runs], [r[2] for r in runs if r[2] is not None]]
    size = (1, scene.batch, scene.hidden)
    states = [_join(rw, [reshape(rw, v, size) for v in each], 0) for each in last if each]
    if attribute(node, "layout"):
        y = rw.op("Transpose", y, attrs={"perm": [2, 0, 1, 3]})
        states = [rw.op("Transpose", v, attrs={"perm": [1, 0, 2]}) for v in states]
    results = [y, *states][: len(node.outputs)]
    used = [v.uses() or v.is_graph_output() for v in node.outputs]
    return [v if u else None for v, u in zip(results, used, strict=True)]


def _scene(node: ir.Node, rw: Rewriter, limit: int) -> _Scene | Reject:
    x, shape = first_input(node), static_shape(node.inputs[0])
    if shape is None or x.dtype is None:
        return Reject("the length of the sequence is not known at compile time")
    if attribute(node, "layout"):
        x = rw.op("Transpose", x, attrs={"perm": [1, 0, 2]})
        shape = (shape[1], shape[0], shape[2])
    if shape[0] > limit:
        return Reject(f"the sequence has {shape[0]} steps, more than {limit}")
    w, r = constant(node.inputs[1]), constant(node.inputs[2])
    if w is None or r is None:
        return Reject("the weights are not constants")
    others: list[Array | None] = []
    for i, what in ((3, "biases"), (4, "sequence lengths"), (7, "peepholes")):
        value = optional_input(node, i)
        data = constant(value)
        if value is not None and data is None:
            return Reject(f"the {what} are not known at compile time")
        others.append(data)
    bias, lengths, peepholes = others
    functions = activations(node, rw)
    if isinstance(functions, str):
        return Reject(functions)
    if bias is None:
        bias = np.zeros((r.shape[0], 2 * r.shape[1]), r.dtype)
    return _Scene(node, rw, x, shape[0], shape[1], lengths, functions, w, r, bias, peepholes)


def _initial(scene: _Scene, index: int, direction: int) -> ir.Value:
    """The first state of a direction, [batch, hidden]."""
    rw, value = scene.rw, optional_input(scene.node, index)
    size = (scene.batch, scene.hidden)
    if value is None:
        return zeros(rw, size, scene.x)
    axis = 1 if attribute(scene.node, "layout") else 0
    if scene.r.shape[0] == 1:
        return reshape(rw, value, size)
    return rw.op("Gather", value, rw.const(np.array(direction, np.int64), "direction"), attrs={"axis": axis})


def _direction(scene: _Scene, d: int, back: bool) -> tuple[ir.Value, ir.Value, ir.Value | None]:
    """All outputs [length, 1, batch, hidden] and the last states of one direction."""
    node, rw, n = scene.node, scene.rw, scene.hidden
    width = GATES[node.op_type] * n
    input_bias, recurrent_bias = scene.b[d][:width], scene.b[d][width:]
    peepholes = scene.p[d] if scene.p is not None else None
    cell = Cell(node, rw, n, scene.r[d], recurrent_bias, peepholes, scene.functions[d], {})
    name = f"{node.outputs[0].name}.{d}"
    projected = rw.op("MatMul", scene.x, rw.const(scene.w[d].T, f"{name}.W"))
    early = input_bias + cell.early_bias()
    if early.any():
        projected = rw.op("Add", projected, rw.const(early, f"{name}.b"))
    steps = _steps(rw, projected, scene.length, scene.batch, width)
    h, c = _initial(scene, 5, d), _initial(scene, 6, d) if node.op_type == "LSTM" else None
    outputs: dict[int, ir.Value] = {}
    blank: ir.Value | None = None
    for t in reversed(range(scene.length)) if back else range(scene.length):
        going = np.ones(scene.batch, bool) if scene.lengths is None else scene.lengths > t
        if not going.all():
            blank = blank or zeros(rw, (scene.batch, n), scene.x)
        if not going.any():
            assert blank is not None  # made above
            outputs[t] = blank
            continue
        new_h, new_c = cell.step(steps[t], h, c)
        outputs[t] = new_h
        if not going.all():
            keep = rw.const(going[:, None], "going")
            outputs[t] = rw.op("Where", keep, new_h, blank)
            new_h = rw.op("Where", keep, new_h, h)
            new_c = None if new_c is None else rw.op("Where", keep, new_c, c)
        h, c = new_h, new_c
    y = _join(rw, [outputs[t] for t in range(scene.length)], 0)
    return reshape(rw, y, (scene.length, 1, scene.batch, n)), h, c


def _steps(rw: Rewriter, x: ir.Value, length: int, batch: int, width: int) -> list[ir.Value]:
    """[length, batch, width] as one [batch, width] a step."""
    if length == 1:
        return [reshape(rw, x, (batch, width))]
    parts = rw.ops("Split", x, attrs={"axis": 0, "num_outputs": length}, outputs=length)
    return [reshape(rw, p, (batch, width)) for p in parts]


def _join(rw: Rewriter, values: list[ir.Value], axis: int) -> ir.Value:
    return values[0] if len(values) == 1 else rw.op("Concat", *values, attrs={"axis": axis})


@dataclass(frozen=True)
class UnrollRnn(Pass):
    """None of `ops` (LSTM, GRU, RNN) whose sequence has a known length of at most `limit` steps."""

    limit: int = 512
    ops: tuple[str, ...] = tuple(GATES)
    name: ClassVar[str] = "unroll-rnn"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        def rewrite(m: Match, rw: Rewriter) -> Result:
            return unroll(m.root, rw, self.limit)

        code = unroll.__code__
        where = f"{code.co_filename}:{code.co_firstlineno}"
        rule = Rule("unroll-rnn", P.op(*self.ops)(rest("inputs")), rewrite, where)
        return rewrite_result(RuleSet([rule]).apply(graph), ctx)
