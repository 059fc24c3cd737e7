"""Channels of a value scaled so that one scale for all of them suits each: cross-layer equalisation.

What one layer writes larger, the next reads with smaller weights; the network computes the same. Nagel et al. 2019
(DFQ, section 4.1) do so for pairs of layers; here it is done for whole classes of channels that hang together through
residual additions, concatenations and poolings (channels.py). With weights stored a channel, factors on what a layer
writes cost its weights nothing; factors on what it reads may. Each class gets

    s_c = (range of the value / range of channel c)^alpha

with the alpha, per value, that makes the least noise at the layers that read it: rounding of activations and of weights,
both counted as uniform. Where a whole weight has one scale (`weights=tensor`), the factors make the weights of all
channels equally large on both sides instead, as in the paper: s_c = sqrt(largest weight that reads c / that writes c).

A Clip from 0 to 6 (Relu6) cuts off at another place once its input is scaled. Channels that reach the bound in calibration
keep their size; others are scaled up at most until they reach it, less `headroom`: larger values than any seen in
calibration are then cut off earlier, as the range of the stored value would do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.graph import Graph, ir
from edgec.passes.quantize.channels import Channels, ScalableLayer, find_channels
from edgec.passes.quantize.noise import noise_over_signal
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.runtime import Session

if TYPE_CHECKING:
    from edgec.pipeline import Contract
    from edgec.samples import Samples

Array = npt.NDArray[Any]

ALPHAS = (0.0, 0.25)
"""Half and more, which the noise counted here would often choose, made cifar10_resnet20 0.7 to 1 dB worse."""

_LARGEST = 64.0
"""No factor is larger: a channel that was nearly silent in calibration may not be so elsewhere."""

_ACTIVATIONS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip"})

_ROUNDS = 20

_POWER_SAMPLES = 16
"""Samples whose activations are copied out of the runtime, for the mean square of every channel."""


@dataclass(frozen=True)
class Equalize(Pass):
    """`samples`: calibration samples the ranges are taken from, at most. `clip`: whether to scale through a Clip with an upper
    bound: off, since models trained with Relu6 reach it on new inputs in channels that stayed below in calibration
    (efficientnet_lite0 lost more than it gained). Works on the float graph, before `quantize`.

    `weights`: what has one scale. Channelwise there is little to gain (mobilenet_v2 0.1 dB); for whole tensors, much.

    Without `clip` the graph computes what it did, up to rounding.

    Raises:
        EdgecError: EC0731 no calibration data.
    """

    samples: int = 64
    clip: bool = False
    headroom: float = 1.1
    weights: Literal["channel", "tensor"] = "channel"

    name: ClassVar[str] = "equalize"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        from edgec.quantization.observe import observe

        found = find_channels(graph)
        if not found.layers:
            return PassResult(False)
        if ctx.calibration is None:
            hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function: unlabelled inputs like those in use"
            raise error("EC0731", "equalize needs calibration data: the ranges of channels", hint=hint)
        inner = _inner(graph)
        values = [n for n, ids in found.of.items() if n not in inner and not found.pinned[ids].all()]
        if not values:
            return PassResult(False)
        axes = dict.fromkeys(values, 1)
        stats = observe(graph, values, ctx.calibration.take(self.samples), per_channel=axes, histogram=False)
        ranges = {name: seen.largest.astype(np.float64) for name, seen in stats.per_channel.items()}
        power = _power(graph, found, ctx.calibration.take(min(self.samples, _POWER_SAMPLES)))
        factors = self._factors(found, ranges, power)
        changed = sum(_apply(graph, layer, factors) for layer in found.layers)
        return PassResult(changed > 0, {"layers": changed, "channels": int((factors != 1).sum())})

    def _factors(self, found: Channels, ranges: dict[str, Array], power: dict[str, Array]) -> Array:
        """One factor a class."""
        largest = self._largest(found, ranges)
        if self.weights == "tensor":
            return _balanced(found, largest)
        best = np.ones(len(found.pinned))
        for members, layers, full in _groups(found, ranges):
            full = np.minimum(full, largest[members])
            costs = []
            for alpha in ALPHAS:
                trial = np.ones(len(found.pinned))
                trial[members] = full**alpha
                costs.append(sum(_noise(layer, trial, ranges, power) for layer in layers))
            best[members] = full ** ALPHAS[int(np.argmin(costs))]
        return best

    def _largest(self, found: Channels, ranges: dict[str, Array]) -> Array:
        out = np.where(found.pinned, 1.0, _LARGEST)
        for bound in found.bounds:
            with np.errstate(divide="ignore"):
                room = bound.high / (self.headroom * ranges[bound.value]) if bound.value in ranges else 1.0
            np.minimum.at(out, bound.classes, np.maximum(1.0, room) if self.clip else 1.0)
        return out


def _groups(found: Channels, ranges: dict[str, Array]) -> list[tuple[Array, list[ScalableLayer], Array]]:
    """Classes that share values: their ids, the layers that read them, and the factors that make all ranges equal."""
    full = np.full(len(found.pinned), np.inf)
    group = np.arange(len(found.pinned))
    for name, seen in ranges.items():
        ids = found.of[name]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(seen > 0, seen.max() / seen, np.inf)
        np.minimum.at(full, ids, ratio)
    changed = True
    while changed:  # classes of one value get the smallest number among them, until all agree
        changed = False
        for ids in found.of.values():
            least = group[ids].min()
            if (group[ids] != least).any():
                group[ids] = least
                changed = True
    written = np.zeros(len(full), bool)
    read = np.zeros(len(full), bool)
    for layer in found.layers:
        written[layer.writes] = True
        read[layer.reads] = True
    free = written & read & ~found.pinned & np.isfinite(full)
    out = []
    for number in np.unique(group[free]):
        members = np.flatnonzero((group == number) & free)
        layers = [x for x in found.layers if np.isin(x.reads, members).any()]
        out.append((members, layers, np.maximum(full[members], 1.0)))
    return out


def _balanced(found: Channels, largest: Array) -> Array:
    """Factors with which the largest weight that writes a channel equals the largest that reads it, each beside the
    largest of its tensor. Layers are chained, so this takes some rounds. Channels under a Clip only grow."""
    factors = np.ones(len(found.pinned))
    smallest = 1 / np.where(found.pinned, 1.0, _LARGEST)
    for bound in found.bounds:
        smallest[bound.classes] = 1.0
    for _ in range(_ROUNDS):
        written, read = (np.zeros(len(factors)) for _ in range(2))
        for layer in found.layers:
            rows, ids = layer.rows()
            scaled = np.abs(rows) / factors[ids][:, None, :] * factors[layer.writes].reshape(len(rows), -1, 1)
            scaled /= scaled.max() or 1.0
            np.maximum.at(written, layer.writes, scaled.max(axis=2).reshape(-1))
            np.maximum.at(read, ids, scaled.max(axis=1))
        both = (written > 0) & (read > 0)
        step = np.sqrt(np.divide(read, written, out=np.ones_like(read), where=both))
        factors = np.clip(factors * step, smallest, largest)
    return factors


def _inner(graph: Graph) -> set[str]:
    """Values only an activation function reads: one kernel computes both, and what is between is never stored."""
    out = set()
    for node in graph.model.graph:
        v = node.inputs[0] if node.op_type in _ACTIVATIONS else None
        if v is not None and v.name and len(v.uses()) == 1 and not v.is_graph_output():
            out.add(v.name)
    return out


def _power(graph: Graph, found: Channels, samples: Samples) -> dict[str, Array]:
    """Mean square of each channel of what the layers read."""
    names = list(dict.fromkeys(x.linear.x.name or "" for x in found.layers))
    inputs = {v.name for v in graph.inputs}
    session = Session(graph, optimise=True, all_values=[n for n in names if n not in inputs])
    out: dict[str, Array] = {}
    for sample in samples:
        values = {**sample, **session.run(sample)}
        for name in names:
            x = np.moveaxis(values[name], 1, 0).reshape(values[name].shape[1], -1)
            out[name] = out.get(name, 0.0) + np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1]
    return {name: a / len(samples) for name, a in out.items()}


def _noise(layer: ScalableLayer, factors: Array, ranges: dict[str, Array], power: dict[str, Array]) -> float:
    """Noise at the layer's output over its signal."""
    name = layer.linear.x.name or ""
    if name not in ranges:
        return 0.0
    rows, ids = layer.rows()
    groups, k = ids.shape
    each = k * groups // len(layer.reads)  # kernel positions a channel
    largest, square = (np.repeat(a[name].reshape(groups, -1), each, axis=1) for a in (ranges, power))
    return noise_over_signal(rows, factors[ids], largest, square)


def _apply(graph: Graph, layer: ScalableLayer, factors: Array) -> bool:
    """The layer's weight and bias with the factors in them. Whether it changed."""
    reads, writes = factors[layer.reads], factors[layer.writes]
    if (reads == 1).all() and (writes == 1).all():
        return False
    import dataclasses

    linear = layer.linear
    inner = dataclasses.replace(linear, weight=linear.scaled_inputs(1 / reads))
    node = linear.node
    _set(graph, node, 1, inner.scaled_outputs(writes).astype(linear.dtype))
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        old = node.inputs[2].const_value
        assert old is not None  # Linear.of sees to it
        bias = np.broadcast_to(old.numpy().astype(np.float64).reshape(-1), (linear.out_channels,))
        _set(graph, node, 2, (bias * writes).astype(linear.dtype))
    return True


def _set(graph: Graph, node: ir.Node, i: int, data: Array) -> None:
    old = node.inputs[i]
    assert old is not None  # callers looked
    name = graph.fresh(f"{(old.name or 'w').removesuffix('.equalized')}.equalized")
    value = ir.Value(
        name=name, shape=ir.Shape(data.shape), type=ir.TensorType(ir.DataType.from_numpy(data.dtype)),
        const_value=ir.tensor(np.ascontiguousarray(data), name=name),
    )  # fmt: skip
    graph.model.graph.register_initializer(value)
    node.replace_input_with(i, value)
    if old.name is not None and old.name in graph.model.graph.initializers and not old.uses():
        del graph.model.graph.initializers[old.name]
