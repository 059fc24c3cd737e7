"""Writing by index. Where an index comes twice with `update`, the definitions leave open which is last."""

from __future__ import annotations

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates

_REDUCTIONS = {"update": "none", "add": "add", "sub": "add", "mul": "mul", "div": "mul", "max": "max", "min": "min"}
_NOTHING_TO_ROUND = ("update", "max", "min")


@evaluates("scatter")
def scatter(o: OpReader) -> None:
    """data with updates[:, i, :] at indices[i] of `axis`; indices is a vector."""
    if o.mil("data").rank == 0 or _rank(o) != 1:
        o.unknown("indices that are no vector")
    rank = o.mil("data").rank
    axis, (updates, reduction) = o.axis("axis", 0, rank), _updates(o)
    along = o.const([-1 if i == axis else 1 for i in range(rank)])
    everywhere = o.emit("Expand", [o.emit("Reshape", [o.integers("indices"), along]), o.emit("Shape", [updates])])
    _give(o, o.emit("ScatterElements", [o.x("data"), everywhere, updates], axis=axis, reduction=reduction))


@evaluates("scatter_along_axis")
def scatter_along_axis(o: OpReader) -> None:
    """NumPy's put_along_axis."""
    axis, (updates, reduction) = o.axis("axis", 0, o.mil("data").rank), _updates(o)
    given = [o.x("data"), o.integers("indices"), updates]
    _give(o, o.emit("ScatterElements", given, axis=axis, reduction=reduction))


@evaluates("scatter_nd")
def scatter_nd(o: OpReader) -> None:
    """data with the slices that the last axis of `indices` points to replaced, or combined with `updates`."""
    updates, reduction = _updates(o)
    _give(o, o.emit("ScatterND", [o.x("data"), o.integers("indices"), updates], reduction=reduction))


def _updates(o: OpReader) -> tuple[ir.Value, str]:
    """ONNX has no subtraction and division: negatives are added, reciprocals multiplied."""
    mode = o.text("mode", "add")
    if mode not in _REDUCTIONS or (mode == "div" and o.out.dtype == "int32"):
        o.unknown(f"mode {mode} of {o.out.dtype}")
    updates = o.x("updates")
    if mode in ("sub", "div"):
        updates = o.emit("Neg" if mode == "sub" else "Reciprocal", [updates])
    return updates, _REDUCTIONS[mode]


def _give(o: OpReader, v: ir.Value) -> None:
    exact = o.text("mode", "add") in _NOTHING_TO_ROUND
    o.move(v) if exact else o.give(v)


def _rank(o: OpReader) -> int:
    known = o.known("indices")
    return known.ndim if known is not None else o.mil("indices").rank
