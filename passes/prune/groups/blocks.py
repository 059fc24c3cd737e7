"""DepthToSpace and SpaceToDepth: channels in blocks, of which all copies of one channel go together."""

from __future__ import annotations

from edgec.passes.prune.groups.registry import Ties, ties


@ties("DepthToSpace", "SpaceToDepth")
def depth_and_space(t: Ties) -> None:
    x, out = t.input(0), t.output()
    for v in (x, out):
        t.pin_axes(v, (2, 3), "a spatial axis")
    t.same(x, 0, out, 0)
    deep, flat = (x, out) if t.node.op_type == "DepthToSpace" else (out, x)
    channels = t.size(flat, 1)
    if channels < 2 or out is None:
        t.pin(deep, 1, "all of it becomes one channel")
        return
    hub = t.dims.factor(out, channels)
    crd = t.node.op_type == "DepthToSpace" and t.attr("mode") in ("CRD", b"CRD")
    t.grouped(flat, 1, hub)
    t.grouped(deep, 1, hub, t.attr("blocksize") ** 2 if crd else 1)
