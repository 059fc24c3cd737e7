"""Sensitivity: what storing each layer in few bits costs at the outputs, for all layers from a few dozen runs.

A quantised graph is a set of roundings (`terms.py`): of weights, and of values as they are read. The adjoint
(`adjoint.py`) says what arrives of each at the outputs. For a sample and random signs u that is a number,
c[u, term] = u . (error at the outputs), and the error power of any set of roundings is the mean over u of the squared
sum of their c: one matrix of mean products predicts every mixed-precision choice, correlated errors included. Slopes
are those between the float and the quantised run, so that all c together are the error itself, however large; choices
far from all in integers are predictions, and `measure` runs one as it is.

Error power is relative to the outputs' power (summed over outputs), so 10 log10(1 / power) is an SQNR.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir, is_constant
from edgec.placement import macs
from edgec.quantization.layer_probe import Probe, build_probe
from edgec.quantization.terms import (
    Follower,
    Term,
    Terms,
    align,
    dequantized,
    find_terms,
    layer_name,
    off,
    paired,
    quantizer,
)

if TYPE_CHECKING:
    from edgec.specs.scheme import Scheme

Arrays = dict[str, npt.NDArray[Any]]

PROBES = 64
"""Runs: an error power found from n of them is within sqrt(2/n) of the truth, here 18 %, or 0.7 dB."""

CHANNEL_FLOOR = 1e-5
"""Channels of an output smaller than this part of its largest one are weighed as if they were that large."""


@dataclass(frozen=True)
class Layer:
    """One node that computes on integers. SQNRs are in dB and infinite where there is no error."""

    node: str
    op: str
    macs: int
    own_db: float
    """Of what it stores, if all before it were exact: its weights and the rounding of its output."""
    total_db: float | None
    """Of the same in the quantised graph; None where it was not measured."""
    harm: float
    """Error power at the outputs from its own roundings alone: of its weights, and of its output by all that read it."""
    relief: float
    """How much error power goes when this layer alone stays in float."""

    @property
    def inherited_db(self) -> float | None:
        """SQNR of the output if only what comes before this layer were quantised."""
        if self.total_db is None:
            return None
        return _db(max(10 ** (-self.total_db / 10) - 10 ** (-self.own_db / 10), 0.0))


@dataclass(frozen=True)
class Sensitivity:
    """`layers` in execution order. `contributions`: [runs, terms], what each adds to the weighted output error."""

    layers: tuple[Layer, ...]
    terms: tuple[Term, ...]
    contributions: npt.NDArray[np.float64]
    followers: Mapping[str, Follower] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    """Values read by ops without a derivative: weighed like outputs."""
    carry: frozenset[str] = frozenset()
    """Layers that get more bits by themselves where all they read has them: pooling, data movement."""

    def off(self, keep: Collection[str]) -> set[str]:
        """The layers that compute in float when `keep` does: also those that only followed them."""
        return off(keep, self.followers)

    def widened(self, wide: Collection[str], off: Collection[str] = ()) -> set[str]:
        """The layers whose activations have 16 bits when those of `wide` are given them; `off` compute in float."""
        out = set(wide) - set(off)
        for la in self.layers if out else ():
            made = {m for m in self._reads.get(la.node, ()) if m not in off}
            if la.node in self.carry and la.node not in off and made and made <= out:
                out.add(la.node)
        return out

    @cached_property
    def _reads(self) -> dict[str, set[str]]:
        """Layer -> the layers that make what it reads."""
        out: dict[str, set[str]] = {}
        for t in self.terms:
            if t.value is not None and t.maker is not None:
                out.setdefault(t.reader, set()).add(t.maker)
        return out

    def active(self, keep: Collection[str], wide: Collection[str] = ()) -> npt.NDArray[np.bool_]:
        """The roundings to few bits that are left with `keep` in float and `wide` in 16 bits. [terms]

        Weights keep their bits in wide layers. A value has those of its maker; who reads it in fewer rounds it again.
        """
        index, makers, readers, asks = self._table
        gone = self.off(keep)
        on = np.ones(len(index) + 1, bool)
        on[[index[n] for n in gone if n in index]] = False
        on[-1] = False  # no layer
        few = on.copy()
        few[[index[n] for n in self.widened(wide, gone) if n in index]] = False
        weights = np.array([t.value is None for t in self.terms], bool)
        left: npt.NDArray[np.bool_] = few[makers] | (asks & np.where(weights, on[readers], few[readers]))
        return left

    @cached_property
    def _table(self) -> tuple[dict[str, int], npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """Layers by number, and of each term: who makes the value, who reads it (the last number: nobody), who asks."""
        index = {la.node: i for i, la in enumerate(self.layers)}
        makers = [index.get(t.maker or "", len(index)) for t in self.terms]
        readers = [index.get(t.reader, len(index)) for t in self.terms]
        return (
            index,
            np.array(makers, np.intp),
            np.array(readers, np.intp),
            np.array([t.asks for t in self.terms], bool),
        )

    @cached_property
    def _trust(self) -> float:
        """How much of the products of two terms' contributions is more than chance, 0..1.

        Of few runs many products are chance, and a search would find those that cancel: they are shrunk by what their
        scatter says (Schaefer and Strimmer, 2005).
        """
        c, n = self.contributions, len(self.contributions)
        products = c.T @ c / n
        scatter = (np.square(c).T @ np.square(c) / n - np.square(products)) / max(n - 1, 1)
        apart = ~np.eye(len(products), dtype=bool)
        size = float(np.square(products[apart]).sum())
        return min(1.0, max(0.0, 1 - float(scatter[apart].sum()) / size)) if size > 0 else 1.0

    @cached_property
    def _alone(self) -> npt.NDArray[np.float64]:
        """Mean square of each term's contribution. [terms]"""
        power: npt.NDArray[np.float64] = np.mean(np.square(self.contributions), 0)
        return power

    def power(self, keep: Collection[str] = (), wide: Collection[str] = ()) -> float:
        """Predicted error power at the outputs, relative to theirs, with `keep` in float and `wide` in 16 bits."""
        if not self.terms:
            return 0.0
        on = self.active(keep, wide)
        together = float(np.mean(np.square(self.contributions[:, on].sum(1))))
        return self._trust * together + (1 - self._trust) * float(self._alone[on].sum())

    def sqnr_db(self, keep: Collection[str] = (), wide: Collection[str] = ()) -> float:
        """The same in dB."""
        return _db(self.power(keep, wide))

    def worst(self, count: int = 5) -> list[Layer]:
        """The most harmful layers, first the worst."""
        return sorted(self.layers, key=lambda la: -la.harm)[:count]

    COLUMNS = ("layer", "op", "MACs", "own dB", "inherited dB", "harm dB", "share of error")

    def table(self, count: int | None = None) -> list[tuple[str, ...]]:
        """Rows of text under `COLUMNS`, the most harmful first. Harm: SQNR at the outputs with that layer alone."""
        total = sum(la.harm for la in self.layers) or 1.0
        return [
            (
                la.node,
                la.op,
                f"{la.macs:,}",
                _text(la.own_db),
                _text(la.inherited_db),
                _text(_db(la.harm)),
                f"{la.harm / total:.1%}",
            )
            for la in self.worst(len(self.layers) if count is None else count)
        ]

    def to_json(self) -> dict[str, Any]:
        def figure(v: float | None) -> float | None:
            return v if v is not None and math.isfinite(v) else None

        rows = [
            {
                "node": la.node, "op": la.op, "macs": la.macs, "own_db": figure(la.own_db),
                "inherited_db": figure(la.inherited_db), "harm": la.harm, "relief": la.relief,
            }
            for la in self.layers
        ]  # fmt: skip
        return {"runs": len(self.contributions), "layers": rows, "ends": list(self.ends)}


def sensitivity(
    reference: Graph,
    quantized: Graph,
    samples: Iterable[Arrays],
    *,
    scheme: Scheme | None = None,
    probes: int = PROBES,
    balanced: bool = False,
    inherited: int = 4,
    seed: int = 0,
) -> Sensitivity:
    """Measure all layers of `quantized`, which is `reference` with Q/DQ nodes (and changed weights) in it by `scheme`.

    `samples` are gone through until there were `probes` runs; at least one. `balanced`: every channel of an output
    counts the same however small its values, so that scores of 0..1 beside boxes of 0..640 are seen; otherwise the
    figures are those of the outputs' SQNR. `inherited`: samples on which each layer's error in the quantised graph is
    measured too, 0 for none.

    Raises:
        EdgecError: EC0750 there is no sample; EC0751 the graphs differ by more than quantisation.
    """
    held = list(islice(samples, probes))
    if not held:
        raise error("EC0750", "sensitivity needs at least one sample", Location(reference.source))
    probe = build_probe(reference, quantized, scheme)
    terms = probe.found.terms
    if not terms:
        return Sensitivity((), (), np.zeros((0, 0)))
    from edgec.runtime import Session

    weights = _Weights(reference, probe, held, balanced)
    session = Session(probe.graph)
    rng = np.random.default_rng(seed)
    rows, errors, signals = [], np.zeros(len(terms)), np.zeros(len(terms))
    for i, sample in islice(enumerate(cycle(held)), max(probes, 1)):
        got = session.run({**sample, **weights.draw(i % len(held), rng)})
        rows.append(got[probe.contributions].astype(np.float64).reshape(-1))
        errors += got[probe.errors].astype(np.float64).reshape(-1)
        signals += got[probe.signals].astype(np.float64).reshape(-1)
    own = np.divide(errors, signals, out=np.zeros(len(terms)), where=signals > 0)
    total = _total_db(reference, quantized, scheme, held[:inherited]) if inherited else {}
    follow = {op for op, rules in scheme.ops.items() if any(r.follow for r in rules)} if scheme is not None else set()
    return _summary(probe, np.stack(rows), own, total, follow)


def _summary(
    probe: Probe,
    c: npt.NDArray[np.float64],
    own: npt.NDArray[np.float64],
    total: Mapping[str, float],
    follow: Collection[str],
) -> Sensitivity:
    """Layers from terms. `own`: relative power of each rounding where it arises. `follow`: ops that follow others."""
    found = probe.found
    everything = c.sum(1)
    layers = []
    for node in found.layers:
        name = layer_name(node)
        mine = [i for i, t in enumerate(found.terms) if t.owner == name]
        once = {found.terms[i].value: own[i] for i in mine}  # the rounding of a value is one, whoever reads it
        gone = off([name], found.followers)
        left = c[:, [t.active(gone) for t in found.terms]].sum(1)
        layers.append(
            Layer(
                node=name,
                op=node.op_type,
                macs=macs(node, batch=1),
                own_db=_db(float(sum(once.values()))),
                total_db=total.get(name),
                harm=float(np.mean(c[:, mine].sum(1) ** 2)),
                relief=float(np.mean(everything**2) - np.mean(left**2)),
            )
        )
    carry = frozenset(la.node for la in layers if la.op in follow)
    return Sensitivity(tuple(layers), tuple(found.terms), c, found.followers, tuple(probe.ends), carry)


def own_terms(found: Terms, layers: Collection[str]) -> list[Term]:
    """The roundings that go to these layers' account."""
    return [t for t in found.terms if t.owner in layers]


def measure(reference: Graph, quantized: Graph, samples: Iterable[Arrays], only: Collection[Term]) -> float:
    """Error power at the outputs, relative to theirs and summed over them, with `only` these roundings: run.

    Outputs that are not floats, and those that are zero everywhere, do not count.
    """
    from edgec.runtime import Session

    want, got = Session(reference), Session(only_terms(reference, quantized, only))
    names = [v.name for v in reference.outputs if v.dtype == ir.DataType.FLOAT and v.name]
    power: dict[str, float] = dict.fromkeys(names, 0.0)
    noise: dict[str, float] = dict.fromkeys(names, 0.0)
    for sample in samples:
        a, b = want.run(sample), got.run(sample)
        for n in names:
            power[n] += _square(a[n])
            noise[n] += _square(b[n] - a[n])
    return sum(noise[n] / power[n] for n in names if power[n] > 0)


def only_terms(reference: Graph, quantized: Graph, only: Collection[Term]) -> Graph:
    """A copy of `quantized` in which these roundings, and no others, are left."""
    copy, reference = quantized.clone(), reference.clone()
    g = copy.model.graph
    wanted = {(t.reader, t.value) for t in only}
    originals = {v.name: v for v in reference.model.graph.initializers.values()}
    floats: dict[str, ir.Value] = {}

    def weight(name: str) -> ir.Value:
        if name not in floats:
            v = originals[name]
            floats[name] = ir.Value(name=copy.fresh(name), shape=v.shape, type=v.type, const_value=v.const_value)
            g.register_initializer(floats[name])
        return floats[name]

    for node, stored in align(reference, copy):
        name = layer_name(node)
        for i, (a, b) in enumerate(paired(node, stored)):
            q = quantizer(b)
            if a is None or b is None or not dequantized(b):
                continue
            if q is not None and not is_constant(a) and (name, a.name) not in wanted:
                stored.replace_input_with(i, q.inputs[0])
            elif is_constant(a) and (name, None) not in wanted:
                stored.replace_input_with(i, weight(a.name or ""))
    for i, out in enumerate(g.outputs):
        q = quantizer(out)
        if q is not None and ("", out.name) not in wanted:
            value = q.inputs[0]
            assert value is not None  # what QuantizeLinear reads
            g.outputs[i] = value
            name, out.name = out.name or "", copy.fresh(f"{out.name}_stored")
            value.name = name
    copy.remove_dead()
    return copy


class _Weights:
    """Random signs over the size of what they weigh, so that squares become relative error powers."""

    def __init__(self, reference: Graph, probe: Probe, samples: Sequence[Arrays], balanced: bool) -> None:
        from edgec.runtime import Session

        self.seeds = probe.seeds
        names = list(probe.seeds)
        given = {v.name for v in reference.inputs}
        session = Session(reference, all_values=[n for n in names if n not in given])
        self.shapes: list[dict[str, tuple[int, ...]]] = []
        sums: dict[str, npt.NDArray[np.float64]] = {}
        self.axes: dict[str, int | None] = {}
        for sample in samples:
            out = {**sample, **session.run(sample)}
            self.shapes.append({n: out[n].shape for n in names})
            for n in names:
                y = out[n]
                axis = self.axes.setdefault(n, _channel_axis(y.shape) if balanced else None)
                others = tuple(i for i in range(y.ndim) if i != axis)
                sums[n] = sums.get(n, np.zeros(())) + np.square(y, dtype=np.float64).sum(others)
        self.scale = {n: self._scale(s / len(samples)) for n, s in sums.items()}

    def _scale(self, power: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        floor = max(float(power.max(initial=0.0)) * CHANNEL_FLOOR**2, float(np.finfo(np.float32).tiny))
        scale: npt.NDArray[np.float64] = 1 / np.sqrt(np.maximum(power, floor) * power.size)
        return scale

    def draw(self, sample: int, rng: np.random.Generator) -> Arrays:
        feeds: Arrays = {}
        for name, seed in self.seeds.items():
            shape = self.shapes[sample][name]
            signs = rng.integers(0, 2, shape, np.int8).astype(np.float32) * 2 - 1
            scale, axis = self.scale[name], self.axes[name]
            if axis is not None:
                scale = scale.reshape([-1 if i == axis else 1 for i in range(len(shape))])
            feeds[seed] = (signs * scale).astype(np.float32)
        return feeds


def _channel_axis(shape: Sequence[int]) -> int | None:
    """[batch, C, H, W], or of [batch, a, b] the shorter one; other ranks have no channels that mean different things."""
    if len(shape) == 3:
        return 1 if shape[1] <= shape[2] else 2
    return 1 if len(shape) >= 4 else None


def _total_db(reference: Graph, quantized: Graph, scheme: Scheme | None, samples: Sequence[Arrays]) -> dict[str, float]:
    """SQNR of what each layer stores in the quantised graph; of its output where it stores nothing."""
    from edgec.runtime import Session

    found = find_terms(reference, quantized, scheme)
    places = {layer_name(a): (a.outputs[0].name or "", b.outputs[0].name or "") for a, b in align(reference, quantized)}
    for t in found.terms:
        if t.maker is not None and t.value is not None:
            ((dq, _),) = found.quantizers[t.value].outputs[0].uses()
            places[t.maker] = (t.value, dq.outputs[0].name or "")
    pairs = [(name, *places[name]) for name in map(layer_name, found.layers)]
    first = Session(reference, all_values=[a for _, a, _ in pairs])
    second = Session(quantized, all_values=[b for _, _, b in pairs])
    power, noise = ({name: 0.0 for name, _, _ in pairs} for _ in range(2))
    for sample in samples:
        want, got = first.run(sample), second.run(sample)
        for name, a, b in pairs:
            power[name] += _square(want[a])
            noise[name] += _square(got[b] - want[a])
    return {name: _db(noise[name] / power[name]) if power[name] > 0 else math.inf for name, _, _ in pairs}


def _square(a: npt.NDArray[Any]) -> float:
    flat = a.reshape(-1)
    return float(np.dot(flat, flat))


def _db(power: float) -> float:
    return -10 * math.log10(power) if power > 0 else math.inf


def _text(db: float | None) -> str:
    return "" if db is None else "exact" if db == math.inf else f"{db:.1f}"
