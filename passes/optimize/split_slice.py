"""Slices, Splits and Concats said with fewer nodes.

* Slices that together tile an axis of one value become a Split;
* a Concat that puts the outputs of a Split back in order disappears; so does a Slice of a Slice, and a Concat of a Concat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir, static_shape
from edgec.passes.optimize.bypass import bypass
from edgec.passes.optimize.same_shape import rank
from edgec.pattern import Match, P, const, rest, var
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

_END = 1 << 31
x = var("x")


@dataclass(frozen=True)
class Cut:
    """A Slice of one axis by step 1, in numbers from 0 to the dimension."""

    node: ir.Node
    axis: int
    start: int
    end: int
    dim: int


def _cut(node: ir.Node) -> Cut | None:
    """Read a Slice; None if it is of another kind or the axis is open."""
    data = [constant(v) for v in node.inputs[1:]]
    source = node.inputs[0]
    if source is None or source.shape is None or len(data) < 2:
        return None
    starts, ends = data[0], data[1]
    axes = data[2] if len(data) > 2 else np.zeros(1, np.int64)
    steps = data[3] if len(data) > 3 else np.ones(1, np.int64)
    if starts is None or ends is None or axes is None or steps is None:
        return None
    if not starts.size == ends.size == axes.size == steps.size == 1 or int(steps.reshape(-1)[0]) != 1:
        return None
    axis = int(axes.reshape(-1)[0]) % source.shape.rank()
    dim = source.shape[axis]
    if not isinstance(dim, int):
        return None
    start, end, _ = slice(int(starts.reshape(-1)[0]), int(ends.reshape(-1)[0])).indices(dim)
    return Cut(node, axis, start, end, dim)


@rule(P.Slice(x, rest("params"), as_="slice"))
def slices_to_split(m: Match, rw: Rewriter) -> Result:
    """The first of the Slices is the root; the rule fires once for all of them."""
    first = _cut(m.root)
    if first is None or first.start != 0 or first.end <= 0:
        return Reject("it is not the first part of an axis of known length")
    if first.end == first.dim:
        return Reject("it is the whole axis")
    users = [u.node for u in m.value("x").uses() if u.node.op_type == "Slice" and u.node.graph is m.root.graph]
    cuts = {c.start: c for n in users if (c := _cut(n)) is not None and c.axis == first.axis and c.end > c.start}
    parts, at = [first], first.end
    while at < first.dim:
        if at not in cuts:
            return Reject("its siblings leave a gap, or overlap")
        parts.append(cuts[at])
        at = cuts[at].end
    sizes = rw.const(np.asarray([c.end - c.start for c in parts], np.int64), f"{m.value('x').name}.parts")
    outputs = rw.ops("Split", m.value("x"), sizes, attrs={"axis": first.axis}, outputs=len(parts))
    return {c.node.outputs[0]: out for c, out in zip(parts, outputs, strict=True)}


@rule(
    P.Slice(
        P.Slice(x, const("s1"), const("e1"), const("a1"), rest("m1"), as_="inner"),
        const("s2"),
        const("e2"),
        const("a2"),
        rest("m2"),
    )
)
def merge_slices(m: Match, rw: Rewriter) -> Result:
    """Of different axes: one node cuts both. Of the same axis: counted from the front."""
    axes_total = rank(m.value("x"))
    if axes_total is None:
        return Reject("the rank of the input is unknown")
    one, two = ([[int(v) for v in m.array(k + i).reshape(-1)] for k in ("s", "e", "a")] for i in "12")
    axes1, axes2 = [a % axes_total for a in one[2]], [a % axes_total for a in two[2]]
    steps = _steps(m.rest("m1"), len(axes1)), _steps(m.rest("m2"), len(axes2))
    if steps[0] is None or steps[1] is None:
        return Reject("the steps are computed at run time")
    plain = all(s == 1 for s in (*steps[0], *steps[1]))
    if not plain and set(axes1) & set(axes2):
        return Reject("both cut the same axis, one of them in steps")
    starts, ends, axes = list(one[0]), list(one[1]), list(axes1)
    for s, e, a in zip(two[0], two[1], axes2, strict=True):
        if a not in axes1:
            starts.append(s)
            ends.append(e)
            axes.append(a)
            continue
        i = axes1.index(a)
        if min(s, e, starts[i], ends[i]) < 0:
            return Reject("both cut the same axis, counted from its end")
        ends[i] = min(ends[i], starts[i] + e) if e < _END else ends[i]
        starts[i] = min(starts[i] + s, ends[i])
    arrays = [
        rw.const(np.asarray(v, np.int64), f"{m.root.outputs[0].name}.{n}")
        for v, n in zip((starts, ends, axes), ("starts", "ends", "axes"), strict=True)
    ]
    if not plain:
        by = np.asarray([*steps[0], *steps[1]], np.int64)  # axes stand in the same order: none is cut twice
        arrays.append(rw.const(by, f"{m.root.outputs[0].name}.steps"))
    return rw.op("Slice", m.value("x"), *arrays)


def _steps(given: Sequence[ir.Value | None], count: int) -> list[int] | None:
    """The steps of a Slice in numbers: 1 where it gives none."""
    if not given:
        return [1] * count
    data = constant(given[0])
    return None if data is None else [int(v) for v in data.reshape(-1)]


@rule(P.Concat(rest("parts")))
def concat_of_split(m: Match, rw: Rewriter) -> Result:
    parts = m.rest("parts")
    node = parts[0].producer() if parts and parts[0] is not None else None
    if node is None or node.op_type != "Split" or node.domain or tuple(node.outputs) != parts:
        return Reject("its inputs are not all parts of one Split, in order")
    source = node.inputs[0]
    axes = rank(source)
    a, b = int(attribute(m.root, "axis")), int(attribute(node, "axis"))
    same = a == b or (axes is not None and a % axes == b % axes)
    if source is None or not same:
        return Reject("Split and Concat are of different axes")
    return bypass(m, source)


@rule(P.Concat(rest("parts")))
def concat_of_concat(m: Match, rw: Rewriter) -> Result:
    flat: list[ir.Value | None] = []
    axis, found = int(attribute(m.root, "axis")), False
    for v in m.rest("parts"):
        node = v.producer() if v is not None else None
        if (
            v is not None
            and node is not None
            and (node.op_type, node.domain, node.graph) == ("Concat", "", m.root.graph)
            and not v.is_graph_output()
            and all(u.node is m.root for u in v.uses())
            and _same_axis(node, axis, m.root)
        ):
            flat.extend(node.inputs)
            found = True
        else:
            flat.append(v)
    if not found:
        return Reject("no input is another Concat of the same axis that only it reads")
    return rw.op("Concat", *flat, attrs={"axis": axis})


def _same_axis(inner: ir.Node, axis: int, outer: ir.Node) -> bool:
    axes, other = rank(outer.outputs[0]), int(attribute(inner, "axis"))
    return other == axis or (axes is not None and other % axes == axis % axes)


@rule(P.Concat(rest("parts")))
def concat_adjacent_constants(m: Match, rw: Rewriter) -> Result:
    """Neighbours that are weights become one weight."""
    axis, out = int(attribute(m.root, "axis")), list(m.rest("parts"))
    for i in range(len(out) - 1):
        a, b = constant(out[i]) if _small(out[i]) else None, constant(out[i + 1]) if _small(out[i + 1]) else None
        if a is not None and b is not None:
            out[i : i + 2] = [rw.const(np.concatenate([a, b], axis), f"{m.root.outputs[0].name}.part")]
            return rw.op("Concat", *out, attrs={"axis": axis})
    return Reject("no two neighbours are small weights")


def _small(v: ir.Value | None) -> bool:
    shape = static_shape(v)
    return v is not None and v.const_value is not None and shape is not None and v.const_value.nbytes <= 1 << 16


@dataclass(frozen=True)
class SplitSlice(RewritePass):
    name: ClassVar[str] = "split-slice"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = RuleSet(
        [slices_to_split, merge_slices, concat_of_split, concat_of_concat, concat_adjacent_constants]
    )
