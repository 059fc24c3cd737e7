"""Observation: what values a graph's tensors take, from one streaming pass over samples.

The statistics are computed by ONNX Runtime, in a copy of the graph that has them as its only outputs: activations never
leave the runtime, and the memory they take does not grow with the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir
from edgec.quantization.statistics import ChannelRange, Statistics
from edgec.runtime import Session
from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

TAKEN = 1 << 13
"""Elements of one tensor and sample that go into the histogram; of larger tensors, elements in equal steps."""


def observe(
    graph: Graph,
    values: Sequence[str],
    samples: Iterable[Arrays],
    *,
    per_channel: Collection[str] | Mapping[str, int] = (),
    histogram: bool = True,
    into: Statistics | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Run `samples` through `graph` and return what was seen of `values`: names of the main graph, inputs included.

    `per_channel`: values whose channels are told apart too. A mapping names the axis; otherwise it is 1 for rank 4 and
    more, the last for less, and values of rank 0, 1 or unknown are left out. `histogram`: False keeps extremes only. `into`: statistics of the same graph to continue.
    `progress`: called with the number of samples done. The graph is not changed.

    Raises:
        EdgecError: EC0717 a value cannot be observed; EC0718 there are no samples; EC0719 `into` is of another model.
    """
    stream = samples if isinstance(samples, Samples) else Samples(lambda: iter(samples), describe="samples")
    model_hash = graph.fingerprint()
    stats = into if into is not None else Statistics(model_hash=model_hash)
    if stats.model_hash != model_hash:
        raise error("EC0719", "the statistics are of another model", Location(graph.source))
    axes = dict(per_channel) if isinstance(per_channel, Mapping) else dict.fromkeys(per_channel)
    probes = _Probes(graph, list(dict.fromkeys(values)), axes, histogram)
    session = Session(probes.graph, optimise=True)
    done = 0
    for sample in stream:
        probes.read(session.run({**sample, **probes.feeds(done)}), stats)
        done += 1
        if progress is not None:
            progress(done)
    if not done:
        raise error("EC0718", "there are no samples to calibrate with", Location(stream.describe))
    stats.add_data(done, stream.digest())
    return stats


class _Probes:
    """The graph that computes statistics, and the reading of its outputs."""

    def __init__(self, graph: Graph, values: Sequence[str], axes: Mapping[str, int | None], histogram: bool) -> None:
        self.graph = graph.clone()
        self.graph.source = graph.source
        self.values = values
        self.axes: dict[str, int] = {}
        self._kept: list[ir.Value] = []  # outputs
        g = self.graph.model.graph
        known = {v.name: v for v in g.inputs} | {v.name: v for n in g for v in n.outputs}
        self._tail = self._constant("edgec.calibration.flat", np.array([-1], np.int64))
        self._end = self._constant("edgec.calibration.end", np.array([np.iinfo(np.int64).max], np.int64))
        self._start = ir.Value(name=self.graph.fresh("edgec.calibration.start"), shape=ir.Shape((1,)),
                               type=ir.TensorType(ir.DataType.INT64))  # fmt: skip
        self._steps: dict[str, int] = {}
        lows, highs = [], []
        self._samples: dict[str, str] = {}
        self._channels: dict[str, tuple[str, str]] = {}
        for name in values:
            v = known.get(name)
            if v is None or not _is_real(v):
                what = "is not in the main graph" if v is None else f"holds {v.dtype}, not real numbers"
                raise error("EC0717", f"cannot observe value {name!r}: it {what}", Location(graph.source))
            x = v if v.dtype in (ir.DataType.FLOAT, None) else self._node("Cast", [v], to=ir.DataType.FLOAT)
            flat = self._node("Reshape", [x, self._tail])
            lows.append(self._node("ReduceMin", [flat], keepdims=1))
            highs.append(self._node("ReduceMax", [flat], keepdims=1))
            if histogram:
                self._samples[name] = self._output(self._sampled(name, v, flat))
            if name in axes and (axes[name] is not None or (v.shape is not None and v.shape.rank() > 1)):
                self._channels[name] = self._by_channel(name, x, axes[name])
        self._low = self._output(self._node("Concat", lows, axis=0))
        self._high = self._output(self._node("Concat", highs, axis=0))
        g.outputs.clear()
        g.outputs.extend(self._kept)
        self.graph.remove_dead()
        if self._start.uses():
            g.inputs.append(self._start)

    def feeds(self, sample: int) -> Arrays:
        """Where the steps through large tensors begin: elsewhere in each sample."""
        return {str(self._start.name): np.array([sample], np.int64)} if self._steps else {}

    def read(self, outputs: Arrays, stats: Statistics) -> None:
        lows, highs = outputs[self._low].tolist(), outputs[self._high].tolist()
        for name, low, high in zip(self.values, lows, highs, strict=True):
            taken = outputs[self._samples[name]] if name in self._samples else np.zeros(0, np.float32)
            stats.sketch(name).add(taken, weight=self._steps.get(name, 1), extremes=(low, high))
        for name, (low_name, high_name) in self._channels.items():
            stats.add_channels(name, ChannelRange(self.axes[name], outputs[low_name], outputs[high_name]))

    def _sampled(self, name: str, v: ir.Value, flat: ir.Value) -> ir.Value:
        """Elements in equal steps. The step divides no dimension, so that all columns and channels have their turn."""
        dims = [d for d in v.shape if isinstance(d, int)] if v.shape is not None else []
        size = int(np.prod(dims, dtype=np.int64))
        if size <= TAKEN:
            return flat
        step = next(s for s in range(-(-size // TAKEN), size) if _is_prime(s) and all(d % s for d in dims))
        self._steps[name] = step
        w = self._constant(f"edgec.calibration.step{step}", np.array([step], np.int64))
        first = self._node("Mod", [self._start, w])
        zero = self._constant("edgec.calibration.axis", np.array([0], np.int64))
        return self._node("Slice", [flat, first, self._end, zero, w])

    def _by_channel(self, name: str, x: ir.Value, axis: int | None) -> tuple[str, str]:
        rank = x.shape.rank() if x.shape is not None else None
        if rank is None or rank < 2:
            raise error(
                "EC0717", f"cannot observe channels of {name!r}: its rank is {rank}", Location(self.graph.source)
            )
        axis = axis % rank if axis is not None else (1 if rank >= 4 else rank - 1)
        self.axes[name] = axis
        others = [i for i in range(rank) if i != axis]
        ends = []
        for op in ("ReduceMin", "ReduceMax"):
            if self.graph.opset >= 18:
                key = self._constant(f"edgec.calibration.axes{'_'.join(map(str, others))}", np.array(others, np.int64))
                ends.append(self._output(self._node(op, [x, key], keepdims=0)))
            else:
                ends.append(self._output(self._node(op, [x], axes=others, keepdims=0)))
        return ends[0], ends[1]

    def _node(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        node = ir.node(op, list(inputs), attributes=attributes, num_outputs=1)
        node.outputs[0].name = self.graph.fresh(f"edgec.calibration.{op}")
        self.graph.model.graph.append(node)
        return node.outputs[0]

    def _constant(self, name: str, array: npt.NDArray[Any]) -> ir.Value:
        g = self.graph.model.graph
        if name not in g.initializers:
            t = ir.tensor(array, name=name)
            v = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(t.dtype), const_value=t)
            g.register_initializer(v)
        return g.initializers[name]

    def _output(self, v: ir.Value) -> str:
        if v in self._kept:
            v = self._node("Identity", [v])
        self._kept.append(v)
        return str(v.name)


def _is_real(v: ir.Value) -> bool:
    return v.dtype is None or v.dtype in (
        ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE
    )  # fmt: skip


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))
