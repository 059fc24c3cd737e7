"""Heads of object detectors: which output of a model holds boxes and scores, how they are written, and the two tensors
non-maximum suppression takes: boxes [batch, boxes, 4] and scores [batch, boxes, classes].

    yolov8      [batch, 4 + classes, boxes]: centre and size, then class scores. YOLOv8, v9, 11, 12; YOLOv10 without its own top-k
    yolov5      [batch, boxes, 5 + classes]: centre and size, objectness, class scores. YOLOv5, v7, YOLOX with decoding
    fastestdet  [batch, 5 + classes, rows, columns]: objectness, box in its cell, class scores. FastestDet
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import Graph, ir
from edgec.passes.legalize.plugin_shapes import count, stack_shape
from edgec.rewrite import Rewriter

Kind = Literal["yolov8", "yolov5", "fastestdet"]

Coding = Literal["corners", "center"]

END_TO_END = 1000
"""[batch, up to this many, 6] is what detectors put out that need no suppression: corners, score, class."""


@dataclass(frozen=True)
class Head:
    """`value` holds everything, written as `kind` says; `channels` is its axis of box and class numbers."""

    value: ir.Value
    kind: Kind
    channels: int


def find_head(graph: Graph, kind: Kind | Literal["auto"]) -> Head:
    """The one output that is a detector's head.

    Raises:
        EdgecError: EC0313 no output looks like one, several do, or the model suppresses already.
    """
    heads = [h for v in graph.outputs if (h := _look(v, kind)) is not None]
    if len(heads) == 1:
        return heads[0]
    shapes = ", ".join(f"{v.name} {_text(v)}" for v in graph.outputs)
    hint = "name the tensors: attach-nms{boxes=NAME scores=NAME box-coding=center}, or the form: head=yolov8|yolov5|fastestdet"
    if heads:
        names = ", ".join(f"{h.value.name} ({h.kind})" for h in heads)
        raise error("EC0313", f"several outputs look like the head of a detector: {names}", _where(graph), hint)
    done = next((v for v in graph.outputs if _is_end_to_end(v)), None)
    if done is not None:
        what = f"output {done.name} {_text(done)} holds finished detections (corners, score, class)"
        raise error(
            "EC0313",
            what,
            _where(graph),
            "it needs no suppression; if it is a YOLOv5 head of one class, say head=yolov5",
        )
    raise error("EC0313", f"no output looks like the head of a detector: {shapes}", _where(graph), hint)


def _where(graph: Graph) -> Location:
    return Location(graph.source)


def _text(v: ir.Value) -> str:
    return str(v.shape) if v.shape is not None else "of unknown shape"


def _is_end_to_end(v: ir.Value) -> bool:
    s = v.shape
    return s is not None and s.rank() == 3 and s[2] == 6 and isinstance(s[1], int) and s[1] <= END_TO_END


def _look(v: ir.Value, wanted: Kind | Literal["auto"]) -> Head | None:
    s = v.shape
    if s is None or s.rank() not in (3, 4) or v.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16):
        return None
    parts = _parts(v)
    if s.rank() == 4:
        looks = parts is not None and parts[:2] == [1, 4] and len(parts) == 3
        return Head(v, "fastestdet", 1) if wanted == "fastestdet" or (wanted == "auto" and looks) else None
    first, last = s[1], s[2]
    if wanted == "auto":
        if _is_end_to_end(v):
            return None
        written = _written(first, last)
        if written is None or wanted_channels(v, written) < (5 if written == "yolov8" else 6):
            return None
        objectness = parts[1] == 1 and len(parts) == 3 if parts is not None and parts[0] == 4 else written == "yolov5"
        return Head(v, "yolov5" if objectness else "yolov8", 1 if written == "yolov8" else 2)
    written = _written(first, last) or wanted
    return Head(v, wanted, 1 if written == "yolov8" else 2) if wanted != "fastestdet" else None


def wanted_channels(v: ir.Value, written: Kind) -> int:
    """How many numbers one box has."""
    assert v.shape is not None  # callers looked
    n = v.shape[1 if written == "yolov8" else 2]
    return n if isinstance(n, int) else 0


def _written(first: int | ir.SymbolicDim, last: int | ir.SymbolicDim) -> Kind | None:
    """Channels before boxes or behind them: there are more boxes than channels, and channels are known."""
    if isinstance(first, int) and (not isinstance(last, int) or last > first):
        return "yolov8"
    if isinstance(last, int) and (not isinstance(first, int) or first > last):
        return "yolov5"
    return None


def _parts(v: ir.Value) -> list[int] | None:
    """How many channels each input of the Concat behind an output brings, seen through transposes; None where it is another op."""
    node = v.producer()
    while node is not None and node.op_type in ("Transpose", "Identity", "Cast") and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    if node is None or node.op_type != "Concat":
        return None
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1
    sizes = [i.shape[axis] if i is not None and i.shape is not None else None for i in node.inputs]
    return [n if isinstance(n, int) else -1 for n in sizes]


def split_head(rw: Rewriter, head: Head) -> tuple[ir.Value, ir.Value, Coding]:
    """Boxes and scores of a head, objectness multiplied in, and the coding of the boxes."""
    if head.kind == "fastestdet":
        return _fastestdet(rw, head.value)
    x = head.value if head.channels == 2 else transposed(rw, head.value)
    first = 5 if head.kind == "yolov5" else 4
    boxes, scores = _slice(rw, x, 0, 4), _slice(rw, x, first, None)
    if head.kind == "yolov5":
        scores = rw.op("Mul", scores, _slice(rw, x, 4, 5))
    return boxes, scores, "center"


def transposed(rw: Rewriter, v: ir.Value) -> ir.Value:
    """[batch, a, b] as [batch, b, a]."""
    return rw.op("Transpose", v, attrs={"perm": [0, 2, 1]})


def _slice(rw: Rewriter, v: ir.Value, start: int, stop: int | None) -> ir.Value:
    """Channels of [batch, boxes, channels]."""
    end = np.iinfo(np.int64).max if stop is None else stop
    return rw.op("Slice", v, *(rw.const(np.array([n], np.int64), "slice") for n in (start, end, 2)))


def _fastestdet(rw: Rewriter, v: ir.Value) -> tuple[ir.Value, ir.Value, Coding]:
    """Cells decoded as FastestDet's handle_preds does: boxes in parts of the image, scores obj^0.6 * class^0.4."""
    shape = v.shape
    dims = [d for d in shape[1:] if isinstance(d, int)] if shape is not None else []
    if len(dims) != 3:
        what = f"the head {v.name} {_text(v)} has dimensions that are not known"
        raise error("EC0314", what, hint="fix the input shape first: --input-shape")
    channels, rows, columns = dims
    x = transposed(rw, rw.op("Reshape", v, stack_shape(rw, count(rw, v, 0), channels, rows * columns)))
    kind = x.dtype.numpy() if x.dtype is not None else np.dtype(np.float32)
    yy, xx = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    grid = np.stack([xx.reshape(-1), yy.reshape(-1)], -1)[None].astype(kind)
    size = np.array([columns, rows], kind)
    centre = rw.op(
        "Div", rw.op("Add", rw.op("Tanh", _slice(rw, x, 1, 3)), rw.const(grid, "grid")), rw.const(size, "size")
    )
    boxes = rw.op("Concat", centre, rw.op("Sigmoid", _slice(rw, x, 3, 5)), attrs={"axis": 2})

    def power(value: ir.Value, exponent: float) -> ir.Value:
        return rw.op("Pow", rw.op("Relu", value), rw.scalar(exponent, x, "exponent"))

    scores = rw.op("Mul", power(_slice(rw, x, 0, 1), 0.6), power(_slice(rw, x, 5, None), 0.4))
    return boxes, scores, "center"


def named_tensors(graph: Graph, rw: Rewriter, boxes: str, scores: str) -> tuple[ir.Value, ir.Value]:
    """The tensors the user named, turned so that boxes are axis 1.

    Raises:
        EdgecError: EC0314 there is no such tensor, or its shape is not that of boxes or scores.
    """
    found = {v.name: v for n in graph.model.graph for v in n.outputs} | {v.name: v for v in graph.inputs}
    missing = [n for n in (boxes, scores) if n not in found]
    if missing:
        from edgec.diagnostics import did_you_mean

        names = [v.name or "" for v in graph.outputs]
        hint = did_you_mean(missing[0], [n for n in found if n], f"outputs: {', '.join(names)}")
        raise error("EC0314", f"the model has no tensor {missing[0]!r}", _where(graph), hint)
    b, s = found[boxes], found[scores]
    for v, what in ((b, "boxes"), (s, "scores")):
        if v.shape is None or v.shape.rank() not in ((3, 4) if v is b else (3,)):
            raise _misfit(graph, v, what, "three axes are needed: [batch, boxes, 4] and [batch, boxes, classes]")
    assert b.shape is not None  # looked at above
    assert s.shape is not None
    if b.shape[-1] != 4:
        if b.shape.rank() != 3 or b.shape[1] != 4:
            raise _misfit(graph, b, "boxes", "one axis must be 4: the numbers of a box")
        b = transposed(rw, b)
    assert b.shape is not None
    number, axis_1, axis_2 = b.shape[1], s.shape[1], s.shape[2]
    if number != axis_1 and number == axis_2:
        s = transposed(rw, s)
    elif isinstance(number, int) and isinstance(axis_1, int) and number != axis_1:
        raise _misfit(graph, s, "scores", f"there are {number} boxes")
    return b, s


def _misfit(graph: Graph, v: ir.Value, what: str, need: str) -> EdgecError:
    return error("EC0314", f"{v.name} {_text(v)} cannot be the {what}: {need}", _where(graph))
