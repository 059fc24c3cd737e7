"""A Pad in front of a Conv or a pool becomes that node's own padding.

* Conv: pads of zero, on spatial axes.
* AveragePool: pads of zero; the pool must then count them (`count_include_pad=1`), as it did when they were data.
* MaxPool: pads of -inf; or of zero, where no input is negative and every window holds at least one real element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgec.graph import attribute, constant, ir
from edgec.passes.optimize.clip_limits import nonnegative
from edgec.passes.optimize.linear_ops import used_elsewhere
from edgec.passes.optimize.same_shape import rank
from edgec.pattern import Match, P, const, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

pad = P.Pad(var("x"), const("pads"), rest("more"), as_="pad", shared_=True)


def _spatial_pads(m: Match) -> list[int] | Reject:
    """Pads of the spatial axes, begins then ends."""
    node = m.node("pad")
    if used_elsewhere(node, m.root):
        return Reject("the padded value is used elsewhere too")
    if attribute(node, "mode") != "constant":
        return Reject(f"it pads by {attribute(node, 'mode')}")
    axes_total = rank(m.value("x"))
    if axes_total is None:
        return Reject("the rank of the input is unknown")
    pads = [int(p) for p in m.array("pads").reshape(-1)]
    more = m.rest("more")
    axes_value = more[1] if len(more) > 1 else None
    if axes_value is not None:
        listed = constant(axes_value)
        if listed is None:
            return Reject("the axes are not constant")
        full = [0] * (2 * axes_total)
        for i, axis in enumerate(int(a) % axes_total for a in listed.reshape(-1)):
            full[axis], full[axis + axes_total] = pads[i], pads[i + len(pads) // 2]
        pads = full
    if len(pads) != 2 * axes_total:
        return Reject("the pads do not fit the rank of the input")
    if min(pads) < 0:
        return Reject("it crops")
    begins, ends = pads[:axes_total], pads[axes_total:]
    if any(begins[:2]) or any(ends[:2]):
        return Reject("it pads the batch or the channels")
    return begins[2:] + ends[2:]


def _pad_value(m: Match) -> float | None:
    more = m.rest("more")
    if not more or more[0] is None:
        return 0.0
    data = constant(more[0])
    return None if data is None or data.size != 1 else float(data.reshape(-1)[0])


def _own_pads(node: ir.Node, spatial: int) -> list[int] | Reject:
    auto = attribute(node, "auto_pad") or "NOTSET"
    if auto not in ("NOTSET", "VALID"):
        return Reject(f"{node.op_type} pads by auto_pad={auto}")
    own = list(attribute(node, "pads") or ()) if auto == "NOTSET" else []
    return own or [0] * (2 * spatial)


def _with_pads(m: Match, rw: Rewriter, pads: list[int], own: list[int], **more: int) -> ir.Value:
    node = m.root
    attrs = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    attrs |= {"pads": [a + b for a, b in zip(pads, own, strict=True)], **more}  # type: ignore[dict-item]
    return rw.op(node.op_type, m.value("x"), *node.inputs[1:], attrs=attrs)


@rule(P.Conv(pad, rest("w")))
def fuse_pad_into_conv(m: Match, rw: Rewriter) -> Result:
    pads = _spatial_pads(m)
    if isinstance(pads, Reject):
        return pads
    if _pad_value(m) != 0.0:
        return Reject("it does not pad with zero")
    own = _own_pads(m.root, len(pads) // 2)
    return own if isinstance(own, Reject) else _with_pads(m, rw, pads, own)


@rule(P.AveragePool(pad))
def fuse_pad_into_average_pool(m: Match, rw: Rewriter) -> Result:
    pads = _spatial_pads(m)
    if isinstance(pads, Reject):
        return pads
    if _pad_value(m) != 0.0:
        return Reject("it does not pad with zero")
    own = _own_pads(m.root, len(pads) // 2)
    if isinstance(own, Reject):
        return own
    if any(own) and not attribute(m.root, "count_include_pad"):
        return Reject("AveragePool does not count the padding of its own")
    if attribute(m.root, "ceil_mode"):
        return Reject("AveragePool rounds its output size up")
    if not _windows_reach(m, pads, own):
        return Reject("the padding is as wide as the window")
    return _with_pads(m, rw, pads, own, count_include_pad=1)


@rule(P.MaxPool(pad))
def fuse_pad_into_max_pool(m: Match, rw: Rewriter) -> Result:
    pads = _spatial_pads(m)
    if isinstance(pads, Reject):
        return pads
    value = _pad_value(m)
    if value is None or not (value == -np.inf or (value == 0.0 and nonnegative(m.value("x")))):
        return Reject("the padding may be larger than an input")
    if len(m.root.outputs) > 1 and (m.root.outputs[1].uses() or m.root.outputs[1].is_graph_output()):
        return Reject("the indices of MaxPool are used")
    if attribute(m.root, "ceil_mode"):
        return Reject("MaxPool rounds its output size up")
    own = _own_pads(m.root, len(pads) // 2)
    if isinstance(own, Reject):
        return own
    if not _windows_reach(m, pads, own):
        return Reject("the padding is as wide as the window")
    return _with_pads(m, rw, pads, own)


def _windows_reach(m: Match, pads: list[int], own: list[int]) -> bool:
    """Every window holds a real element: pads are smaller than the window (the rule runtimes enforce, too)."""
    kernel = attribute(m.root, "kernel_shape")
    if any(d != 1 for d in attribute(m.root, "dilations") or ()):
        return False
    return all(p + o < k for p, o, k in zip(pads, own, [*kernel, *kernel], strict=True))


@dataclass(frozen=True)
class FusePad(RewritePass):
    name: ClassVar[str] = "fuse-pad"
    rules: ClassVar[RuleSet] = RuleSet([fuse_pad_into_conv, fuse_pad_into_average_pool, fuse_pad_into_max_pool])
