"""Probes: nodes added to a copy of a graph that compute statistics of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir, static_shape
from edgec.infer import infer_shapes
from edgec.quantization.sketch import not_finite
from edgec.quantization.statistics import ChannelRange, Statistics

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_RUN = 16
"""Neighbouring elements that are taken together where the tensor's size allows: a cache line."""

_PREFIX = "edgec.calibration"

_NOTHING: Array = np.zeros(0, np.float32)


@dataclass(frozen=True)
class _Taken:
    """A tensor's elements for the histogram: `rows` runs of `run` elements each, of which output `name` has some.
    Where sizes are not known beforehand `rows` is None and output `size` tells the number of elements.
    """

    name: str
    run: int
    rows: int | None
    size: str | None = None


class Probes:
    """A copy of a graph whose outputs are statistics of `values`, and the reading of them.

    `nbytes`: of all observed activations of one sample, as far as shapes are known.

    Raises:
        EdgecError: EC0717 a value cannot be observed.
    """

    def __init__(self, graph: Graph, values: Sequence[str], axes: Mapping[str, int | None], histogram: bool) -> None:
        self.graph = graph.clone()
        self.values = values
        self.nbytes = 0
        self._whole: list[str] = []  # values whose extremes are outputs; those of the others are seen by channel
        self._taken: dict[str, _Taken] = {}
        self._channels: dict[str, tuple[int, str, str]] = {}  # axis, outputs with their low and high ends
        self._joined: dict[str, tuple[int, int]] = {}  # axis, first place: those whose ends lie in one output for all
        self._places = 0
        self._seen: tuple[Array, Array] | None = None  # what `_joined` were like in all samples so far
        self._steps: dict[tuple[int, int], tuple[ir.Value, ir.Value]] = {}
        self._kept: list[ir.Value] = []
        self._after: ir.Node | None = None
        self._wanted, self._sample = self._input("wanted"), self._input("sample")
        g = self.graph.model.graph
        known = {v.name: v for v in g.inputs} | {v.name: v for n in g for v in n.outputs}
        if any((v := known.get(name)) is not None and v.shape is None for name in values):
            infer_shapes(self.graph)
        lows, highs = [], []
        self._ends: tuple[list[ir.Value], list[ir.Value]] = [], []
        for name in values:
            v = known.get(name)
            if v is None or not _is_real(v):
                what = "is not in the main graph" if v is None else f"holds {v.dtype}, not real numbers"
                raise error("EC0717", f"cannot observe value {name!r}: it {what}", Location(graph.source))
            self._after = v.producer()
            x = v if v.dtype in (ir.DataType.FLOAT, None) else self._node("Cast", [v], to=ir.DataType.FLOAT)
            size = math.prod(shape) if (shape := static_shape(v)) is not None else None
            self.nbytes += 4 * (size or 0)
            run = _RUN if size is not None and size % _RUN == 0 else 1
            rows = self._node("Reshape", [x, self._constant([-1, run])])
            if not (name in axes and self._by_channel(name, v, x, axes[name])):
                self._whole.append(name)
                lows.append(self._node("ReduceMin", [rows], keepdims=1))
                highs.append(self._node("ReduceMax", [rows], keepdims=1))
            if histogram:
                self._taken[name] = self._take(rows, run, None if size is None else size // run)
        self._after = g[-1] if len(g) else None
        self._low = self._output(self._node("Concat", lows, axis=0)) if lows else ""
        self._high = self._output(self._node("Concat", highs, axis=0)) if highs else ""
        self._channel_low, self._channel_high = (
            self._output(self._node("Concat", ends, axis=0)) if ends else "" for ends in self._ends
        )
        g.outputs.clear()
        g.outputs.extend(self._kept)
        self.graph.remove_dead()
        mine = [self._wanted, self._sample, *(v for pair in self._steps.values() for v in pair)]
        self._inputs = [v for v in mine if v.uses()]
        g.inputs.extend(self._inputs)

    def feeds(self, sample: int, wanted: int) -> Arrays:
        """What the copy takes besides the sample: about how many elements of each tensor to output, and from where."""
        numbers = {_name(self._wanted): wanted, _name(self._sample): sample}
        for (rows, run), (start, step) in self._steps.items():
            stride = _stride(rows, wanted // run)
            numbers[_name(step)] = stride
            numbers[_name(start)] = sample * 7919 % stride  # elsewhere in each sample, in no order
        return {_name(v): np.array([numbers[_name(v)]], np.int64) for v in self._inputs}

    def not_finite(self, outputs: Arrays) -> list[str]:
        """The values that held NaN or infinities in one run. ReduceMin and ReduceMax of ONNX Runtime pass over most NaN: those
        are found where they are among the elements taken for the histogram.
        """
        found = {name for name, ends in self._extremes(outputs).items() if not_finite(*ends)}
        found |= {name for name, taken in self._taken.items() if not np.isfinite(outputs[taken.name]).all()}
        return [name for name in self.values if name in found]

    def _extremes(self, outputs: Arrays) -> dict[str, tuple[float, float]]:
        """The smallest and largest element of every value."""
        extremes: dict[str, tuple[float, float]] = {}
        if self._whole:
            lows, highs = outputs[self._low].reshape(-1).tolist(), outputs[self._high].reshape(-1).tolist()
            extremes.update(zip(self._whole, zip(lows, highs, strict=True), strict=True))
        if self._joined:
            low, high = outputs[self._channel_low], outputs[self._channel_high]
            first = [at for _, at in self._joined.values()]
            lows, highs = np.minimum.reduceat(low, first).tolist(), np.maximum.reduceat(high, first).tolist()
            extremes.update(zip(self._joined, zip(lows, highs, strict=True), strict=True))
        for name, (axis, low_name, high_name) in self._channels.items():
            extremes[name] = ChannelRange(axis, outputs[low_name], outputs[high_name]).whole
        return extremes

    def read(self, outputs: Arrays, wanted: int, stats: Statistics) -> None:
        """Add the outputs of one run, with `wanted` elements, to `stats`; `finish` adds the rest after the last.

        NaN and infinities shape no range: the extremes of such a value are those of its finite elements, as far as they are
        among those taken; of its channels, those of the channels that are finite.
        """
        extremes = self._extremes(outputs)
        if self._joined:
            low, high = outputs[self._channel_low], outputs[self._channel_high]
            if not (np.isfinite(low).all() and np.isfinite(high).all()):
                low, high = low.copy(), high.copy()
                for part in self._parts(low.size).values():
                    low[part], high[part] = _finite_ends(low[part], high[part])
            before = self._seen or (low, high)
            self._seen = np.minimum(before[0], low), np.maximum(before[1], high)
        for name, (axis, low_name, high_name) in self._channels.items():
            low, high = _finite_ends(outputs[low_name], outputs[high_name])
            stats.add_channels(name, ChannelRange(axis, low, high))
        for name in self.values:
            values, weight = _NOTHING, 1
            if (taken := self._taken.get(name)) is not None:
                values = outputs[taken.name].copy()  # else what it lies between in the runtime's memory stays too
                if taken.rows is not None:
                    weight = _stride(taken.rows, wanted // taken.run)
                elif taken.size is not None:
                    weight = max(1, round(int(outputs[taken.size]) / max(values.size, 1)))
            stats.sketch(name).add(values, weight=weight, extremes=extremes[name])

    def finish(self, stats: Statistics) -> None:
        """Add what `read` kept back: the channels' extremes, which it gathers for all values at once."""
        if self._seen is None:
            return
        low, high = self._seen
        for name, part in self._parts(low.size).items():
            stats.add_channels(name, ChannelRange(self._joined[name][0], low[part], high[part]))
        self._seen = None

    def _parts(self, size: int) -> dict[str, slice]:
        """Where the channels of each value lie in the outputs of all."""
        first = [at for _, at in self._joined.values()]
        ends = [*first[1:], size]
        return {name: slice(at, end) for name, at, end in zip(self._joined, first, ends, strict=True)}

    def _take(self, rows: ir.Value, run: int, count: int | None) -> _Taken:
        """Every so many rows, from a start that changes with the sample."""
        zero, end = self._constant([0]), self._constant([np.iinfo(np.int64).max])
        if count is not None:
            if (count, run) not in self._steps:
                self._steps[count, run] = self._input(f"start.{count}x{run}"), self._input(f"step.{count}x{run}")
            start, step = self._steps[count, run]
            return _Taken(self._output(self._node("Slice", [rows, start, end, zero, step])), run, count)
        size = self._node("Size", [rows])
        step = self._node("Max", [self._node("Div", [size, self._wanted]), self._constant([1])])
        start = self._node("Mod", [self._sample, step])
        return _Taken(self._output(self._node("Slice", [rows, start, end, zero, step])), run, None, self._output(size))

    def _by_channel(self, name: str, v: ir.Value, x: ir.Value, axis: int | None) -> bool:
        """Extremes of each channel become outputs; False where there are no channels to speak of."""
        rank = v.shape.rank() if v.shape is not None else 0
        if rank < 2:
            if axis is not None:
                what = (
                    f"cannot tell channels of {name!r} apart: its rank is {rank if v.shape is not None else 'unknown'}"
                )
                raise error("EC0717", what, Location(self.graph.source))
            return False
        axis = axis % rank if axis is not None else (1 if rank >= 4 else rank - 1)
        others = [i for i in range(rank) if i != axis]
        low, high = (
            self._node(op, [x, self._constant(others)], keepdims=0)
            if self.graph.opset >= 18
            else self._node(op, [x], axes=others, keepdims=0)
            for op in ("ReduceMin", "ReduceMax")
        )
        channels = v.shape[axis] if v.shape is not None else None
        if isinstance(channels, int) and channels:
            self._joined[name] = axis, self._places
            self._places += channels
            self._ends[0].append(low)
            self._ends[1].append(high)
        else:
            self._channels[name] = axis, self._output(low), self._output(high)
        return True

    def _node(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A node right behind the value's producer: the order is kept, so that the value can go as soon as it is read."""
        node = ir.node(op, list(inputs), attributes=attributes, num_outputs=1)
        node.outputs[0].name = self.graph.fresh(f"{_PREFIX}.{op}")
        g = self.graph.model.graph
        if self._after is not None:
            g.insert_after(self._after, node)
        elif len(g):
            g.insert_before(g[0], node)
        else:
            g.append(node)
        self._after = node
        return node.outputs[0]

    def _constant(self, numbers: list[int]) -> ir.Value:
        g = self.graph.model.graph
        name = f"{_PREFIX}.[{','.join(map(str, numbers))}]"
        if name not in g.initializers:
            t = ir.tensor(np.array(numbers, np.int64), name=name)
            g.register_initializer(
                ir.Value(name=name, shape=ir.Shape((len(numbers),)), type=ir.TensorType(t.dtype), const_value=t)
            )
        return g.initializers[name]

    def _input(self, what: str) -> ir.Value:
        name = self.graph.fresh(f"{_PREFIX}.{what}")
        return ir.Value(name=name, shape=ir.Shape((1,)), type=ir.TensorType(ir.DataType.INT64))

    def _output(self, v: ir.Value) -> str:
        self._kept.append(v)
        return _name(v)


def _finite_ends(low: Array, high: Array) -> tuple[Array, Array]:
    """Channels' ends with those that are NaN or infinite replaced by the outermost finite ones; as they are where none is seen
    (no elements: inf and -inf), zero where none is finite."""
    bad = ~(np.isfinite(low) & np.isfinite(high)) & ~(low > high)
    if not bad.any():
        return low, high
    ends = np.concatenate([low, high])
    ends = ends[np.isfinite(ends)]
    least, most = (ends.min(), ends.max()) if ends.size else (np.float32(0), np.float32(0))
    return (
        np.where(bad & ~np.isfinite(low), least, low).astype(np.float32),
        np.where(bad & ~np.isfinite(high), most, high).astype(np.float32),
    )


def _name(v: ir.Value) -> str:
    return v.name or ""


_REAL = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})


def _is_real(v: ir.Value) -> bool:
    return v.dtype is None or v.dtype in _REAL


@lru_cache(maxsize=4096)
def _stride(rows: int, wanted: int) -> int:
    """Steps through `rows` that meet about `wanted` of them: 1, or a prime that does not divide `rows`, so that all
    columns and channels have their turn."""
    least = -(-rows // max(wanted, 1))
    if least <= 1:
        return 1
    n = max(least, 3)
    while rows % n == 0 or any(n % d == 0 for d in range(2, math.isqrt(n) + 1)):
        n += 1
    return n
