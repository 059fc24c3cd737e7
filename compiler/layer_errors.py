"""Where the error of a model is born: what each layer adds itself, and what it inherits from those before it.

Two models compute values of the same names: `r` in the reference, `x` in the other as it runs. A third figure is `o`: what
the other's layer makes of the *reference's* inputs. Then x - r = (o - r) + (x - o): own error plus inherited error.

A layer is all that lies between values both models have. Quantising a value (QuantizeLinear, DequantizeLinear) belongs to
the layer that makes it, so each rounding counts once: layers are fed float values in place of what DequantizeLinear gives,
and their output is taken behind its own QuantizeLinear and DequantizeLinear. Q/DQ insertion keeps names, which is all
that is needed: `v` is quantised as DequantizeLinear(QuantizeLinear(v)), and an output `y` of the model may be the
DequantizeLinear itself.

All layers are measured in one run: a graph with the other model twice, once as it is and once cut open at every common
value, computes the sums itself. A sample costs one run of the reference and two of the other model, and memory does
not grow with their number. Sums are of float32 (relative error below 1e-3, thousandths of a dB); values count as 1e15 at
most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.compare import Arrays
from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir
from edgec.measuring_graph import REFERENCE, SUMS, Site, measuring_graph, sites_of

if TYPE_CHECKING:
    from edgec.runtime import Session

_FLOATS = frozenset({"float16", "float32", "float64"})


@dataclass(frozen=True)
class LayerError:
    """Figures of one layer in dB over all samples: 10 log10(sum r^2 / sum error^2); infinite where there is no error.

    `name` is the common value, `node` and `op_type` what makes it in the other model (an input of the model has none).
    """

    name: str
    node: str | None
    op_type: str
    total_db: float
    cosine: float
    own_db: float
    inherited_db: float
    kernel_db: float | None
    """Own error before the layer's output is quantised: that of weights and biases. None where it is not quantised."""

    @property
    def cause(self) -> str:
        """What most of the own error comes from; empty where there is none."""
        if self.own_db == math.inf:
            return ""
        if self.kernel_db is None:
            return "computation"
        weights = 10 ** (-self.kernel_db / 10)
        return "weights" if weights > 10 ** (-self.own_db / 10) / 2 else "output range"

    @property
    def inherits_more(self) -> bool:
        """The layer passes on more error than it adds."""
        return self.inherited_db < self.own_db

    def to_json(self) -> dict[str, Any]:
        """Plain figures; those that are infinite are null."""
        figures = {k: getattr(self, k) for k in self.__dataclass_fields__}
        out = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in figures.items()}
        return {**out, "cause": self.cause, "own_exact": self.own_db == math.inf}


@dataclass(frozen=True)
class LayerErrors:
    """Layers in execution order. `skipped`: common values that could not be compared, and why."""

    layers: Sequence[LayerError]
    samples: int
    skipped: Mapping[str, str] = field(default_factory=dict)

    COLUMNS = ("layer", "op", "own dB", "inherited dB", "total dB", "cosine", "mostly")

    def by_own_error(self) -> list[LayerError]:
        """The worst first; layers without an own error are left out."""
        return sorted((e for e in self.layers if e.own_db < math.inf), key=lambda e: e.own_db)

    @property
    def born(self) -> LayerError | None:
        """The layer that adds the most error to what it computes; None where none adds any."""
        return next(iter(self.by_own_error()), None)

    def table(self, most: int | None = None) -> list[tuple[str, ...]]:
        """Rows of text under `COLUMNS`, the largest own error first."""
        return [
            (e.name, e.op_type, _db(e.own_db), _db(e.inherited_db), _db(e.total_db), f"{e.cosine:.5f}", e.cause)
            for e in self.by_own_error()[:most]
        ]

    def to_json(self) -> dict[str, Any]:
        born = self.born
        return {
            "samples": self.samples,
            "born": None if born is None else born.name,
            "layers": [e.to_json() for e in self.layers],
            **({"skipped": dict(self.skipped)} if self.skipped else {}),
        }


def _db(value: float) -> str:
    return "none" if value == math.inf else "not finite" if value == -math.inf else f"{value:.1f}"


def layer_errors(
    reference: Graph, other: Graph, samples: Iterable[Arrays], *, progress: Callable[[str], None] = lambda text: None
) -> LayerErrors:
    """Measure every layer of `other` whose output `reference` also has, by name. Neither graph is changed.

    Raises:
        EdgecError: EC0833 the graphs have no floating value in common; EC0834 there are no samples.
    """
    from edgec.runtime import Session

    stream = iter(samples)
    first = next(stream, None)
    if first is None:
        raise error("EC0834", "there are no samples to compare the layers on", Location(other.source))
    names = _common(reference, other)
    a = Session(reference, all_values=names)
    kinds, skipped = _kinds(a, other, names, first)
    sites = [s for s in sites_of(other, kinds) if not s.is_free]
    if not sites:
        what = "the models have no floating-point value with the same name and shape inside"
        raise error("EC0833", what, Location(other.source), "compare a model with one that was made from it")
    b = Session(measuring_graph(other, sites, kinds))
    sums = np.zeros((len(sites), len(SUMS)))
    count = 0
    for sample in _chain(first, stream):
        want = {**sample, **a.run(sample)}
        got = b.run({**sample, **{REFERENCE + s.name: want[s.name].astype(np.float32) for s in sites}})
        sums += [[_scalar(got.get(f"{kind}:{s.name}")) for kind in SUMS] for s in sites]
        count += 1
        progress(f"layers: {count} samples")
    return LayerErrors([_result(s, row) for s, row in zip(sites, sums, strict=True)], count, skipped)


def _scalar(value: Any) -> float:
    return 0.0 if value is None else float(value)


def _chain(first: Arrays, rest: Iterator[Arrays]) -> Iterator[Arrays]:
    yield first
    yield from rest


def _result(site: Site, sums: Any) -> LayerError:
    rr, xx, total, own, inherited, kernel = (float(s) for s in sums)
    node = site.before.producer()
    dot = (rr + xx - total) / 2
    same = 1.0 if total == 0 else 0.0
    cosine = max(-1.0, min(1.0, dot / math.sqrt(rr * xx))) if rr > 0 and xx > 0 else same
    return LayerError(
        name=site.name,
        node=None if node is None else node.name or site.name,
        op_type="input" if node is None else node.op_type,
        total_db=_ratio(rr, total),
        cosine=cosine if math.isfinite(cosine) else 0.0,
        own_db=_ratio(rr, own),
        inherited_db=_ratio(rr, inherited),
        kernel_db=None if site.before is site.after else _ratio(rr, kernel),
    )


def _ratio(signal: float, noise: float) -> float:
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -math.inf
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def _common(a: Graph, b: Graph) -> list[str]:
    """Values of both main graphs that nodes of `a` make or that are inputs of both."""
    made = {v.name for n in a.model.graph for v in n.outputs if v.name and _floating(v)}
    return [v.name for n in b.model.graph for v in n.outputs if v.name in made and _floating(v)]


def _floating(value: ir.Value) -> bool:
    if not isinstance(value.type, (ir.TensorType, type(None))):
        return False
    return value.dtype is None or value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE)


def _kinds(a: Session, other: Graph, names: Sequence[str], sample: Arrays) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> dtype in `other` of all values that can be compared, inputs included; and why others cannot."""
    from edgec.runtime import Session

    want = a.run(sample)
    got = Session(other, all_values=names).run(sample)
    kinds = {v.name: sample[v.name].dtype.name for v in other.inputs if v.name in sample}
    kinds = {name: dtype for name, dtype in kinds.items() if dtype in _FLOATS}
    skipped: dict[str, str] = {}
    for name in names:
        r, x = want[name], got[name]
        if r.dtype.name not in _FLOATS or x.dtype.name not in _FLOATS:
            skipped[name] = f"{r.dtype.name} in the first, {x.dtype.name} in the second"
        elif r.shape != x.shape:
            skipped[name] = f"shape {list(r.shape)} in the first, {list(x.shape)} in the second"
        elif r.size:
            kinds[name] = x.dtype.name
    return kinds, skipped
