"""What is known of integer tensors that are computed from shapes, element by element.

An element is a number, the name of a symbolic dimension, or None. `Gather(Shape(x), 1)` is known although only axis 1
of x is; a Reshape target `[Shape(x)[0], 64]` is `[N, 64]`. Every element that is not a number came out of a Shape, so it
is a dimension: never negative.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgec.graph import attribute, ir

Element = int | str | None
Elements = tuple[Element, ...]

MAX_ELEMENTS = 64


def shape_elements(value: ir.Value | None) -> Elements | None:
    """The dimensions of a value as elements, or None if its rank is unknown."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


class ShapeValues:
    """Known elements of values, found in one forward walk: call `visit` on each node in order, then `get`.

    `data` gives the array of a constant (or None): the caller decides what counts as one.
    """

    def __init__(self, data: Callable[[ir.Value | None], Any]) -> None:
        self._data = data
        self._known: dict[ir.Value, Elements] = {}

    def get(self, value: ir.Value | None) -> Elements | None:
        """Elements of a rank-0 or rank-1 integer value, or None if nothing is known of it."""
        if value is None:
            return None
        if value in self._known:
            return self._known[value]
        if value.const_value is not None and (
            value.const_value.size > MAX_ELEMENTS or len(value.const_value.shape) > 1
        ):
            return None
        array = self._data(value)
        if array is None or array.dtype.kind not in "iu" or array.ndim > 1 or array.size > MAX_ELEMENTS:
            return None
        return tuple(int(v) for v in array.reshape(-1))

    def visit(self, node: ir.Node) -> Elements | None:
        """Learn the elements of the node's first output."""
        transfer = _TRANSFER.get(node.op_type)
        if transfer is None or node.domain not in ("", "ai.onnx"):
            return None
        found = transfer(self, node)
        if found is not None and len(found) <= MAX_ELEMENTS and _holds(node.outputs[0], found):
            self._known[node.outputs[0]] = found
            return found
        return None

    @staticmethod
    def follows(op_type: str) -> bool:
        """Whether elements are followed through this op."""
        return op_type in _TRANSFER

    def ints(self, value: ir.Value | None) -> list[int] | None:
        array = self._data(value)
        return None if array is None else [int(v) for v in np.asarray(array).reshape(-1)]

    def data(self, value: ir.Value | None) -> Any:
        return self._data(value)


def _holds(value: ir.Value, elements: Elements) -> bool:
    """Whether the value's type holds every number: arithmetic that wraps around is left to the kernels."""
    dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.int64)
    if dtype.kind not in "iu":
        return False
    limits = np.iinfo(dtype)
    return all(limits.min <= e <= limits.max for e in elements if isinstance(e, int))


def _shape(s: ShapeValues, node: ir.Node) -> Elements | None:
    dims = shape_elements(node.inputs[0])
    if dims is None:
        return None
    start, end = node.attributes.get("start"), node.attributes.get("end")
    return dims[start.as_int() if start else 0 : end.as_int() if end else None]


def _same(s: ShapeValues, node: ir.Node) -> Elements | None:
    return s.get(node.inputs[0])


def _cast(s: ShapeValues, node: ir.Node) -> Elements | None:
    return s.get(node.inputs[0]) if attribute(node, "to") in (ir.DataType.INT64, ir.DataType.INT32) else None


def _vector(s: ShapeValues, node: ir.Node) -> Elements | None:
    """Squeeze, Unsqueeze and Reshape between rank 0 and rank 1 keep the elements."""
    out = node.outputs[0]
    if out.shape is None or out.shape.rank() > 1:
        return None
    return s.get(node.inputs[0])


def _gather(s: ShapeValues, node: ir.Node) -> Elements | None:
    elements, indices = s.get(node.inputs[0]), s.data(node.inputs[1])
    if elements is None or indices is None or indices.ndim > 1 or attribute(node, "axis") not in (0, -1):
        return None
    picks = [int(i) for i in indices.reshape(-1)]
    if any(not -len(elements) <= i < len(elements) for i in picks):
        return None
    return tuple(elements[i] for i in picks)


def _slice(s: ShapeValues, node: ir.Node) -> Elements | None:
    elements = s.get(node.inputs[0])
    if elements is None:
        return None
    if len(node.inputs) >= 3:
        starts, ends = s.ints(node.inputs[1]), s.ints(node.inputs[2])
        steps = s.ints(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] is not None else [1]
    else:
        starts, ends = attribute(node, "starts"), attribute(node, "ends")
        steps = [1]
    if not starts or not ends or not steps or len(starts) != 1 or steps[0] <= 0:
        return None
    return elements[starts[0] : ends[0] : steps[0]]


def _concat(s: ShapeValues, node: ir.Node) -> Elements | None:
    parts = [s.get(v) for v in node.inputs]
    if any(p is None for p in parts):
        return None
    return tuple(e for p in parts if p is not None for e in p)


def _arithmetic(function: Callable[[int, int], int]) -> Callable[[ShapeValues, ir.Node], Elements | None]:
    def transfer(s: ShapeValues, node: ir.Node) -> Elements | None:
        a, b = s.get(node.inputs[0]), s.get(node.inputs[1])
        if a is None or b is None:
            return None
        n = max(len(a), len(b))
        if len(a) not in (1, n) or len(b) not in (1, n):
            return None
        pairs = zip(a * (n // len(a) if a else 0), b * (n // len(b) if b else 0), strict=True)
        out = tuple(function(x, y) if isinstance(x, int) and isinstance(y, int) else _UNKNOWN for x, y in pairs)
        # An unknown sum or quotient may be negative: only results that are all numbers are kept.
        return tuple(e for e in out if isinstance(e, int)) if _UNKNOWN not in out else None

    return transfer


_UNKNOWN = "?"

_TRANSFER: dict[str, Callable[[ShapeValues, ir.Node], Elements | None]] = {
    "Shape": _shape,
    "Identity": _same,
    "Cast": _cast,
    "Squeeze": _vector,
    "Unsqueeze": _vector,
    "Reshape": _vector,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Add": _arithmetic(lambda x, y: x + y),
    "Sub": _arithmetic(lambda x, y: x - y),
    "Mul": _arithmetic(lambda x, y: x * y),
}
