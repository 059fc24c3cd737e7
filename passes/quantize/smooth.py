"""Outliers moved from activations into weights, behind LayerNormalization and RMSNormalization: SmoothQuant.

A few channels of a transformer's activations are a hundred times as large as the others, in every token; one scale for
all then leaves the others a few steps. The normalisation's own scale and bias are divided by a factor a channel, and the
rows of the weights that read it multiplied by it, so nothing is computed besides and the result is the same (Xiao et al.
2023, section 4):

    s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import error
from edgec.graph import Graph, attribute, constant, ir, is_constant
from edgec.passes.quantize.noise import noise_over_signal
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.runtime import Session

if TYPE_CHECKING:
    from edgec.pipeline import Contract
    from edgec.samples import Samples

Array = npt.NDArray[Any]

NORMS = ("LayerNormalization", "RMSNormalization")

ALPHAS = tuple(i / 10 for i in range(1, 10))

_LARGEST = 1e4
"""No factor, and no inverse of one, is larger."""

_POWER_SAMPLES = 16


@dataclass(frozen=True)
class Smooth(Pass):
    """`alpha`: how much of the difficulty moves into the weights, 0.5 in the paper; 0 looks for the value with the least
    noise, one for each normalisation. `samples`: calibration samples the ranges are taken from, at most. Works on the
    float graph, before `quantize`. Normalisations that anything but a MatMul or Gemm by a constant reads stay.

    Raises:
        EdgecError: EC0731 no calibration data; EC0732 alpha is not between 0 and 1.
    """

    alpha: float = 0.0
    samples: int = 64

    name: ClassVar[str] = "smooth"
    contract: ClassVar[Contract] = "close"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        from edgec.quantization.observe import observe

        if not 0 <= self.alpha <= 1:
            raise error("EC0732", f"alpha is between 0 and 1, not {self.alpha:g}", hint="0 looks for the best one")
        found = [(norm, readers) for norm in graph.model.graph if (readers := _readers(norm))]
        if not found:
            return PassResult(False)
        if ctx.calibration is None:
            hint = "--calib data.npz | module:function: unlabelled inputs like those in use"
            raise error("EC0731", "smooth needs calibration data: the ranges of channels", hint=hint)
        names = [norm.outputs[0].name or "" for norm, _ in found]
        stats = observe(
            graph, names, ctx.calibration.take(self.samples), per_channel=dict.fromkeys(names, -1), histogram=False
        )
        power = _power(graph, names, ctx.calibration.take(min(self.samples, _POWER_SAMPLES)))
        smoothed = 0
        for (norm, readers), name in zip(found, names, strict=True):
            largest = stats.per_channel[name].largest.astype(np.float64)
            factors = self._factors(largest, power[name], [_rows(r) for r in readers])
            if factors is not None:
                _apply(graph, norm, readers, factors)
                smoothed += 1
        return PassResult(smoothed > 0, {"normalisations": smoothed})

    def _factors(self, largest: Array, power: Array, weights: list[Array]) -> Array | None:
        """What the activation is divided by, channel by channel; None where leaving it is best."""
        if not (np.isfinite(largest).all() and largest.any()):
            return None
        w = np.max([np.abs(rows).max(axis=0) for rows in weights], axis=0)
        usable = (largest > 0) & (w > 0)

        def factors(alpha: float) -> Array:
            s = np.ones(len(largest))
            s[usable] = largest[usable] ** alpha / w[usable] ** (1 - alpha)
            s[usable] /= np.exp(np.log(s[usable]).mean()) if usable.any() else 1.0
            return np.clip(s, 1 / _LARGEST, _LARGEST)

        def noise(s: Array) -> float:
            return sum(noise_over_signal(rows[None], 1 / s[None], largest[None], power[None]) for rows in weights)

        if self.alpha:
            return factors(self.alpha)
        best = min((factors(a) for a in ALPHAS), key=noise)
        return best if noise(best) < noise(np.ones(len(largest))) else None


def _readers(norm: ir.Node) -> list[ir.Node]:
    """The nodes that read a normalisation over its last axis, where all are products with a constant of their own."""
    if norm.op_type not in NORMS or norm.domain or attribute(norm, "axis") != -1:
        return []
    y = norm.outputs[0]
    if y.is_graph_output() or any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        return []
    if any(v is not None and (not is_constant(v) or _rank(v) != 1) for v in norm.inputs[1:]):
        return []
    readers = []
    for node, i in y.uses():
        if node.op_type not in ("MatMul", "Gemm") or node.domain or i != 0 or node.graph is not norm.graph:
            return []
        w = node.inputs[1]
        if w is None or not is_constant(w) or _rank(w) != 2 or len(w.uses()) > 1 or w.dtype != ir.DataType.FLOAT:
            return []
        if node.op_type == "Gemm" and attribute(node, "transA"):
            return []
        readers.append(node)
    return readers


def _rank(v: ir.Value) -> int:
    return -1 if v.const_value is None else len(v.const_value.shape)


def _out_first(node: ir.Node) -> bool:
    return node.op_type == "Gemm" and bool(attribute(node, "transB"))


def _rows(node: ir.Node) -> Array:
    """[outputs, inputs]"""
    w = np.asarray(constant(node.inputs[1]), np.float64)
    return w if _out_first(node) else w.T


def _power(graph: Graph, names: list[str], samples: Samples) -> dict[str, Array]:
    """Mean square of each channel, along the last axis."""
    session = Session(graph, optimise=True, all_values=names)
    out: dict[str, Array] = {}
    for sample in samples:
        values = session.run(sample)
        for name in names:
            x = values[name].reshape(-1, values[name].shape[-1])
            out[name] = out.get(name, 0.0) + np.einsum("ij,ij->j", x, x, dtype=np.float64) / len(x)
    return {name: a / len(samples) for name, a in out.items()}


def _apply(graph: Graph, norm: ir.Node, readers: list[ir.Node], factors: Array) -> None:
    for i in range(1, len(norm.inputs)):
        v = norm.inputs[i]
        if v is not None:
            _set(graph, norm, i, np.asarray(constant(v)).astype(np.float64) / factors)
    for node in readers:
        w = np.asarray(constant(node.inputs[1])).astype(np.float64)
        _set(graph, node, 1, w * (factors[None, :] if _out_first(node) else factors[:, None]))


def _set(graph: Graph, node: ir.Node, i: int, data: Array) -> None:
    old = node.inputs[i]
    assert old is not None and old.const_value is not None  # noqa: PT018  callers looked
    data = np.ascontiguousarray(data.astype(old.const_value.dtype.numpy()))
    name = graph.fresh(f"{(old.name or 'w').removesuffix('.smooth')}.smooth")
    tensor = ir.Tensor(data, dtype=old.const_value.dtype, name=name)
    value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    node.replace_input_with(i, value)
    if old.name is not None and old.name in graph.model.graph.initializers and not old.uses():
        del graph.model.graph.initializers[old.name]
