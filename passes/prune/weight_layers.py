"""Layers whose weight is a constant in float, seen beside the graph they came from: what clustering and pruning work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, is_constant
from edgec.passes.prune.sound_samples import sound_samples
from edgec.passes.quantize.correction import middle_mean
from edgec.passes.quantize.layers import OPS, Layer
from edgec.passes.quantize.moments import Moments, column_means, columns
from edgec.passes.quantize.staged_run import StagedRun

if TYPE_CHECKING:
    from edgec.pipeline import PassContext

Array = npt.NDArray[Any]
Arrays = dict[str, Array]
Means = tuple[Array, Array]

SMALLEST = 2048
"""Weights of fewer numbers stay as they are: a table costs what it saves (coremltools' own threshold)."""

_COLUMNS_PER_WEIGHT = 4
"""Columns of im2col taken for each weight of an output: what a least-squares problem of that size needs."""

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass
class WeightLayer(Layer):
    """A Conv, ConvTranspose, Gemm or MatMul whose input 1 is a float constant nobody else reads. `dequantize` is the node."""

    @property
    def stored(self) -> ir.TensorProtocol:
        tensor = self.weight_value.const_value
        assert tensor is not None  # weight_layers sees to it
        return tensor

    @property
    def weight_value(self) -> ir.Value:
        value = self.node.inputs[1]
        assert value is not None  # the schema requires it
        return value

    @property
    def fits(self) -> bool:
        """Whether rows of the weight are products with patches of the input (not so in a ConvTranspose)."""
        return self.node.op_type != "ConvTranspose"

    def weight(self) -> Array:
        """The weight as it is now, float32."""
        return np.asarray(constant(self.weight_value), np.float32)

    def set_weight(self, weight: Array) -> None:
        replace_constant(self.weight_value, weight)

    # --- a MatMul takes the bias that is added behind it ---------------------------------------------------------

    @property
    def output(self) -> ir.Value:
        """What the layer gives, its bias added."""
        behind = bias_behind(self.node, self.channels)
        return self.node.outputs[0] if behind is None else behind[0].outputs[0]

    @property
    def takes_bias(self) -> bool:
        return bias_behind(self.node, self.channels) is not None or super().takes_bias

    def bias(self) -> Array:
        behind = bias_behind(self.node, self.channels)
        return super().bias() if behind is None else _vector(*behind)

    def reference_bias(self) -> Array:
        behind = bias_behind(self.reference, self.channels)
        return super().reference_bias() if behind is None else _vector(*behind)

    def set_bias(self, bias: Array, graph: Graph) -> bool:
        behind = bias_behind(self.node, self.channels)
        if behind is None:
            return super().set_bias(bias, graph)
        add, at = behind
        value = add.inputs[at]
        assert value is not None  # bias_behind looked
        old = np.asarray(constant(value))
        new = bias.reshape(old.shape).astype(old.dtype)
        if np.array_equal(old, new):
            return False
        if len(value.uses()) > 1:
            value = _twin(value, graph)
            add.replace_input_with(at, value)
        replace_constant(value, new)
        return True


def replace_constant(value: ir.Value, data: Array) -> None:
    """New numbers for a constant, in its own type."""
    old = value.const_value
    assert old is not None  # it is constant
    value.const_value = ir.Tensor(data.astype(old.dtype.numpy()), dtype=old.dtype, name=value.name)


def bias_behind(node: ir.Node, channels: int) -> tuple[ir.Node, int] | None:
    """The Add that alone reads what a MatMul gives and adds a constant to each of its channels; which input that is."""
    out = node.outputs[0]
    users = list(out.uses())
    if node.op_type != "MatMul" or len(users) != 1 or out.is_graph_output():
        return None
    add, at = users[0]
    other = add.inputs[1 - at] if add.op_type == "Add" and not add.domain else None
    if other is None or not is_constant(other) or other.dtype not in _FLOATS or other.const_value is None:
        return None
    shape = tuple(other.const_value.shape.numpy())
    rank = out.shape.rank() if out.shape is not None else 0
    vector = 0 < len(shape) <= rank and shape[-1] == channels == int(np.prod(shape, dtype=np.int64))
    return (add, 1 - at) if vector else None


def _vector(add: ir.Node, at: int) -> Array:
    return np.asarray(constant(add.inputs[at]), np.float64).reshape(-1).copy()


def _twin(value: ir.Value, graph: Graph) -> ir.Value:
    """A constant of the same numbers that nothing reads yet."""
    old = value.const_value
    assert old is not None  # it is constant
    name = graph.fresh(value.name or "bias")
    tensor = ir.Tensor(old.numpy(), dtype=old.dtype, name=name)
    made = ir.Value(name=name, shape=value.shape, type=value.type, const_value=tensor)
    graph.model.graph.register_initializer(made)
    return made


def weight_layers(graph: Graph, reference: Graph, smallest: int) -> list[WeightLayer]:
    """Such layers of `graph`, a clone of `reference`, in execution order; weights of `smallest` numbers or more."""
    twins = {v.name: n for n in reference.model.graph for v in n.outputs}
    found = []
    for node in graph.model.graph:
        if node.op_type not in OPS or node.domain or len(node.inputs) < 2 or not is_large(node.inputs[1], smallest):
            continue
        weight = node.inputs[1]
        if node.op_type in ("Gemm", "MatMul") and weight is not None and len(weight.shape or ()) != 2:
            continue
        found.append(WeightLayer(node, twins[node.outputs[0].name], node, float_bias=True))
    return found


def product_layer(node: ir.Node) -> WeightLayer | None:
    """The node as a layer by itself, if each of its outputs is the product of a row of its weight with a patch of its input,
    plus its bias, and the weight is its own."""
    if node.op_type not in OPS or node.domain or len(node.inputs) < 2 or not is_large(node.inputs[1], 1):
        return None
    layer = WeightLayer(node, node, node, float_bias=True)
    if node.op_type == "Conv":
        return layer
    plain = node.op_type == "MatMul" or (
        node.op_type == "Gemm"
        and not attribute(node, "transA")
        and attribute(node, "alpha") == attribute(node, "beta") == 1
    )
    return layer if plain and len(layer.weight_value.shape or ()) == 2 else None


def tables_of_rows(graph: Graph, smallest: int) -> list[ir.Value]:
    """Constants that a Gather alone reads rows of (embeddings)."""
    gathers = [n for n in graph.model.graph if n.op_type == "Gather" and not n.domain]
    tables = [v for n in gathers if (v := n.inputs[0]) is not None]
    return [v for v in tables if is_large(v, smallest) and len(v.shape or ()) == 2]


def is_large(v: ir.Value | None, smallest: int) -> bool:
    """Whether `v` is a float constant of that many numbers which one node reads."""
    if v is None or not is_constant(v) or v.producer() is not None or v.dtype not in _FLOATS or v.is_graph_output():
        return False
    return len(v.uses()) == 1 and int(np.prod(v.const_value.shape.numpy(), dtype=np.int64)) >= smallest  # type: ignore[union-attr]


class Observed:
    """What layers read in both graphs, one layer after the other: ask in execution order, change a layer after asking."""

    def __init__(self, graph: Graph, reference: Graph, samples: Sequence[Arrays], columns: int, seed: int) -> None:
        self._now, self._float = StagedRun(graph, samples), StagedRun(reference, samples)
        self._samples, self._columns, self._seed = len(samples), columns, seed

    def moments(self, layer: WeightLayer) -> tuple[Array, Means]:
        """Second moments [groups, k, k] of what the layer reads now (about the mean where a bias can take care of that);
        means [samples, groups, k] of what it reads in the float graph and now."""
        groups, _, k = layer.rows(layer.weight()).shape
        positions = max(1, -(-max(self._columns, _COLUMNS_PER_WEIGHT * k) // self._samples))
        moments = Moments.empty(groups, k)
        means: list[Means] = []
        for i, (x, x_now) in enumerate(self._inputs(layer)):
            moments.add(columns(layer, x_now, positions, np.random.default_rng((self._seed, i))))
            means.append((column_means(layer, x), column_means(layer, x_now)))
        moments.close(central=layer.takes_bias)
        return shrunk(moments.qq, moments.n), (np.stack([m[0] for m in means]), np.stack([m[1] for m in means]))

    def _inputs(self, layer: WeightLayer) -> Iterator[Means]:
        x, now = layer.x_reference, layer.x
        pairs = zip(self._float.values([x], layer.reference), self._now.values([now], layer.node), strict=True)
        for a, b in pairs:
            yield a[x.name or ""], b[now.name or ""]


class Fits(Protocol):
    """Options of a pass that fits weights to what layers read."""

    @property
    def fit(self) -> bool: ...
    @property
    def samples(self) -> int: ...
    @property
    def columns(self) -> int: ...
    @property
    def memory(self) -> int: ...


class Fitting:
    """What layers read on calibration data, for a pass with such options; nothing where it is not to fit or there are none."""

    def __init__(
        self, p: Fits, graph: Graph, reference: Graph, layers: Sequence[WeightLayer], ctx: PassContext
    ) -> None:
        self._observed: Observed | None = None
        if p.fit and ctx.calibration is not None and layers:
            samples, _ = sound_samples(reference, ctx.calibration, p.samples, p.memory, ctx.diagnostics)
            self._observed = Observed(graph, reference, samples, p.columns, ctx.seed)

    def moments(self, layer: WeightLayer) -> tuple[Array, Means] | tuple[None, None]:
        """As of `Observed`; None where the layer is not to be fitted, or its moments are not finite."""
        if self._observed is None or not layer.fits:
            return None, None
        h, means = self._observed.moments(layer)
        return (h, means) if np.isfinite(h).all() else (None, None)


def shrunk(h: Array, n: int) -> Array:
    """Second moments of `n` columns, those of different inputs made smaller where there are few columns for each input.

    A head reads one column a sample: what 64 of them say of how 1280 inputs go together is chance, and a fit to it makes
    good on these samples what it loses on all others. What each input has by itself is sure (Ledoit and Wolf 2004).
    """
    enough = min(1.0, n / (_COLUMNS_PER_WEIGHT * h.shape[-1]))
    keep = enough + (1 - enough) * np.eye(h.shape[-1])
    return np.asarray(h * keep)


def mend_bias(layer: WeightLayer, means: Means, graph: Graph) -> bool:
    """The bias that takes away what the layer's mean output lost."""
    if not layer.takes_bias:
        return False
    w, w_now = (layer.rows(a).astype(np.float64) for a in (layer.float_weight(), layer.weight()))
    shift = np.einsum("gok,sgk->sgo", w, means[0]) - np.einsum("gok,sgk->sgo", w_now, means[1])
    return layer.set_bias(layer.reference_bias() + middle_mean(shift.reshape(len(shift), -1)), graph)
