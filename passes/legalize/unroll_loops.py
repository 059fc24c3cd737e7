"""Loop with a known number of turns and Scan over a known length, written out turn by turn.

Covered: a Loop whose trip count is known and whose condition is absent or always true; a Scan of any directions and axes.
Not covered, and said so: a condition that is computed, bodies that hold bodies, and more turns or nodes than the limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import Graph, attribute, bodies, constant, ir, static_shape
from edgec.passes.legalize.inline_body import copy_body
from edgec.pattern import Match, P, rest
from edgec.pipeline import Pass, PassContext, PassResult, rewrite_result
from edgec.rewrite import Reject, Result, Rewriter, Rule, RuleSet


def _always_true(value: ir.Value | None, given: ir.Value) -> bool:
    """Whether the condition a body gives is the one it was given, or the constant true."""
    while value is not None and value is not given:
        data = constant(value)
        if data is not None:
            return bool(np.all(data))
        node = value.producer()
        if node is None:
            return False
        if node.op_type == "Constant" and "value" in node.attributes:
            return bool(np.all(node.attributes["value"].as_tensor().numpy()))
        if node.op_type != "Identity":
            return False
        value = node.inputs[0]
    return value is given


def _too_much(body: ir.Graph, turns: int, limit: int) -> str:
    if any(True for n in body for _ in bodies(n)):
        return "its body holds a node with a body of its own"
    if turns * len(body) > limit:
        return f"{turns} turns of {len(body)} nodes are more than {limit} nodes"
    return ""


def unroll_loop(node: ir.Node, rw: Rewriter, limit: int) -> Result:
    """The values carried along after the last turn, and what each turn gave, stacked."""
    body, trips, start = node.attributes["body"].as_graph(), constant(node.inputs[0]), node.inputs[1]
    if trips is None:
        return Reject("the number of turns is not known at compile time")
    turns = max(int(np.asarray(trips).reshape(-1)[0]), 0)
    if start is not None:
        first = constant(start)
        if first is None:
            return Reject("whether it begins is not known at compile time")
        turns = turns if bool(np.all(first)) else 0
    if turns > 1 and not _always_true(body.outputs[0], body.inputs[1]):
        return Reject("its condition is computed in the body")
    if why := _too_much(body, turns, limit):
        return Reject(why)
    carried = [v for v in node.inputs[2:] if v is not None]
    if any(not isinstance(v.type, ir.TensorType) for v in [*carried, *body.outputs]):
        return Reject("it carries sequences or optionals, or values of unknown type")
    stacked: list[list[ir.Value]] = [[] for _ in body.outputs[1 + len(carried) :]]
    if stacked and not turns:
        return Reject("no turn: the results of the turns would be empty")
    true = rw.const(np.array(True), "going")
    for turn in range(turns):
        inputs = dict(zip(body.inputs, [rw.const(np.array(turn, np.int64), "turn"), true, *carried], strict=True))
        results = copy_body(rw, body, inputs)[1:]
        carried, given = results[: len(carried)], results[len(carried) :]
        for each, v in zip(stacked, given, strict=True):
            each.append(v)
    return [*carried, *(_stack(rw, each, 0) for each in stacked)]


def _stack(rw: Rewriter, values: list[ir.Value], axis: int) -> ir.Value:
    rows = [rw.op("Unsqueeze", v, rw.const(np.array([axis], np.int64), "axis")) for v in values]
    return rows[0] if len(rows) == 1 else rw.op("Concat", *rows, attrs={"axis": axis})


def unroll_scan(node: ir.Node, rw: Rewriter, limit: int) -> Result:
    """The states after the last step, and what each step gave, stacked along the axes asked for."""
    body, count = node.attributes["body"].as_graph(), attribute(node, "num_scan_inputs")
    inputs = [v for v in node.inputs if v is not None]
    states, scanned = inputs[: len(inputs) - count], inputs[len(inputs) - count :]
    outs = len(body.outputs) - len(states)
    axes = list(attribute(node, "scan_input_axes") or [0] * count)
    backwards = list(attribute(node, "scan_input_directions") or [0] * count)
    out_axes = list(attribute(node, "scan_output_axes") or [0] * outs)
    out_backwards = list(attribute(node, "scan_output_directions") or [0] * outs)
    shapes = [static_shape(v) for v in scanned]
    if any(s is None for s in shapes) or not scanned:
        return Reject("the length is not known at compile time")
    turns = next(s[a] for s, a in zip(shapes, axes, strict=True) if s is not None)
    if not turns:
        return Reject("it has no step")
    if why := _too_much(body, turns, limit):
        return Reject(why)
    stacked: list[list[ir.Value]] = [[] for _ in range(outs)]
    for turn in range(turns):
        steps = [
            rw.op(
                "Gather", v, rw.const(np.array(turns - 1 - turn if back else turn, np.int64), "step"), attrs={"axis": a}
            )
            for v, a, back in zip(scanned, axes, backwards, strict=True)
        ]
        results = copy_body(rw, body, dict(zip(body.inputs, [*states, *steps], strict=True)))
        states = results[: len(states)]
        for each, v in zip(stacked, results[len(states) :], strict=True):
            each.append(v)
    rows = [each[::-1] if back else each for each, back in zip(stacked, out_backwards, strict=True)]
    return [*states, *(_stack(rw, each, axis) for each, axis in zip(rows, out_axes, strict=True))]


@dataclass(frozen=True)
class UnrollLoops(Pass):
    """No Loop of known length, no Scan, where the turns make at most `limit` nodes."""

    limit: int = 10_000
    name: ClassVar[str] = "unroll-loops"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        def loop(m: Match, rw: Rewriter) -> Result:
            return unroll_loop(m.root, rw, self.limit)

        def scan(m: Match, rw: Rewriter) -> Result:
            return unroll_scan(m.root, rw, self.limit)

        rules = [
            Rule("unroll-loops", P.Loop(rest("inputs")), loop, __file__),
            Rule("unroll-scan", P.Scan(rest("inputs")), scan, __file__),
        ]
        return rewrite_result(RuleSet(rules).apply(graph), ctx)
