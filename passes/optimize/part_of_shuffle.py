"""One half of a channel shuffle, taken straight from its input.

ShuffleNetV2 blocks shuffle the channels and then read the halves: Reshape, Transpose, Reshape, and a Gather for each half
(or, in other exports, fewer axes). A half of shuffled channels is every second channel of the input, so one Reshape that
sets the groups apart and the Gather say it all; no data is transposed. The Reshape is the same for both halves.
"""

from __future__ import annotations

import math

import numpy as np

from edgec.graph import attribute, static_shape
from edgec.passes.optimize.transpose_rules import permutation
from edgec.pattern import Match, P, const, rest, var
from edgec.rewrite import Reject, Result, Rewriter, rule

_LIMIT = 1 << 21
"""Elements up to which the candidate is checked, by moving every index through both ways."""

_shuffled = P.Reshape(
    P.Transpose(P.Reshape(var("x"), rest("first"), as_="split", shared_=True), as_="transpose", shared_=True),
    rest("second"),
    as_="join",
    shared_=True,
)


@rule(P.Gather(_shuffled, const("index", lambda a: a.ndim == 0)))
def part_of_shuffle(m: Match, rw: Rewriter) -> Result:
    x, out = m.value("x"), static_shape(m.root.outputs[0])
    split, joined = (static_shape(m.node(k).outputs[0]) for k in ("split", "join"))
    perm = permutation(m.node("transpose"))
    if out is None or split is None or joined is None or perm is None or static_shape(x) is None:
        return Reject("a shape is not known at compile time")
    count = math.prod(split)
    if not 0 < count <= _LIMIT or 0 in out:
        return Reject("too many elements, or none")
    index = int(m.array("index"))
    moved = np.arange(count, dtype=np.int32).reshape(split).transpose(perm).reshape(joined)
    want = moved.take(index, attribute(m.root, "axis"))
    parts = count // want.size
    for axis in range(len(out) + 1):
        target = (*out[:axis], parts, *out[axis:])
        if np.array_equal(np.arange(count, dtype=np.int32).reshape(target).take(index, axis), want):
            apart = rw.op("Reshape", x, rw.const(np.asarray(target, np.int64), f"{x.name}.parts"))
            return rw.op("Gather", apart, rw.const(np.asarray(index, np.int64), "part"), attrs={"axis": axis})
    return Reject("what the Gather takes does not lie at equal distances in the input")
