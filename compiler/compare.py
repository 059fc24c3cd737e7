"""Comparison of two sets of outputs, streamed: SQNR, cosine, errors, agreement.

Definitions, per output over all elements of all samples (r reference, x actual):
    SQNR        10 log10(sum r^2 / sum (r - x)^2) in dB; infinite where nothing differs; minus infinity where r is zero
                everywhere and x is not, or x is NaN or infinite where r is not
    cosine      sum r x / sqrt(sum r^2 sum x^2); 1 where both are zero, 0 where one is
    max_abs     max |r - x|;  mean_abs  mean |r - x|
    max_rel     max |r - x| / max(|r|, 1e-3 max |r| of the same sample): elements far below the largest count as that
    equal       fraction of elements that are equal, NaN equal to NaN
    top-1       fraction of samples with the same largest class, for outputs of shape [batch, classes]
Elements at which both are the same NaN or infinity are left out of the sums.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error

if TYPE_CHECKING:
    from edgec.graph import Graph

Arrays = dict[str, npt.NDArray[Any]]

REL_FLOOR = 1e-3
"""Elements smaller than this part of a tensor's largest one are measured against that."""


@dataclass(frozen=True)
class OutputComparison:
    """Figures of one output (or inner value); the module says how each is defined."""

    name: str
    dtype: str
    samples: int
    sqnr_db: float
    cosine: float
    max_abs: float
    mean_abs: float
    max_rel: float
    equal: float
    top1_agreement: float | None
    finite: bool
    """The actual values have no NaN or infinity."""

    @property
    def exact(self) -> bool:
        """Bit-equal as far as numbers go: every element equal, NaN equal to NaN."""
        return self.equal == 1.0

    def to_json(self) -> dict[str, Any]:
        """Plain figures. What is not a finite number is null; `exact` and `finite` tell which infinity was meant."""
        out = {k: getattr(self, k) for k in self.__dataclass_fields__}
        figures = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in out.items()}
        return {**figures, "exact": self.exact}


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `skipped`: values that could not be compared, and why (layer comparisons only)."""

    outputs: Sequence[OutputComparison]
    samples: int
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def worst_sqnr_db(self) -> float:
        """The lowest SQNR of any output, infinity if there is none."""
        return min((o.sqnr_db for o in self.outputs), default=math.inf)

    @property
    def exact(self) -> bool:
        return all(o.exact for o in self.outputs)

    def __getitem__(self, name: str) -> OutputComparison:
        return next(o for o in self.outputs if o.name == name)

    def to_json(self) -> dict[str, Any]:
        worst = self.worst_sqnr_db
        return {
            "samples": self.samples,
            "exact": self.exact,
            "worst_sqnr_db": worst if math.isfinite(worst) else None,
            "outputs": [o.to_json() for o in self.outputs],
            **({"skipped": self.skipped} if self.skipped else {}),
        }

    COLUMNS = ("output", "SQNR dB", "cosine", "max abs", "mean abs", "max rel", "equal", "top-1", "finite")

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text for printing, under `COLUMNS`."""
        return [
            (
                o.name,
                "exact" if o.exact else f"{o.sqnr_db:.1f}",
                f"{o.cosine:.6f}",
                f"{o.max_abs:.3g}",
                f"{o.mean_abs:.3g}",
                f"{o.max_rel:.3g}",
                f"{o.equal:.2%}",
                "" if o.top1_agreement is None else f"{o.top1_agreement:.2%}",
                "yes" if o.finite else "NO",
            )
            for o in self.outputs
        ]


class _Sums:
    """Running sums of one output: constant memory however many samples there are."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.dtype = ""
        self.samples = self.elements = self.equal = self.rows = self.same_top = 0
        self.rr = self.xx = self.rx = self.ee = self.abs_sum = self.max_abs = self.max_rel = 0.0
        self.finite, self.broken = True, False

    def add(self, r: npt.NDArray[Any], x: npt.NDArray[Any], index: int) -> None:
        if r.shape != x.shape:
            message = (
                f"output {self.name!r} has shape {list(r.shape)} in the reference and {list(x.shape)} in the other"
            )
            hint = "a transposed, flattened or padded output must be brought to the reference's layout first"
            raise error("EC0830", message, Location(f"sample {index}"), hint)
        self.dtype = str(r.dtype)
        self.samples += 1
        self.elements += r.size
        numeric = r.dtype.kind not in "OSU"
        same = (r == x) | ((r != r) & (x != x)) if numeric else r == x
        self.equal += int(np.count_nonzero(same))
        if not numeric:
            self.broken |= not bool(np.all(same))
            return
        self._top1(r, x)
        a, b = r.astype(np.float64), x.astype(np.float64)
        good_a, good_b = np.isfinite(a), np.isfinite(b)
        self.finite &= bool(good_b.all())
        both = good_a & good_b
        if not both.all():
            self.broken |= bool((~both & ~np.asarray(same)).any())
            a, b = a[both], b[both]
        if not a.size:
            return
        e = np.abs(a - b)
        self.rr += float(np.vdot(a, a))
        self.xx += float(np.vdot(b, b))
        self.rx += float(np.vdot(a, b))
        self.ee += float(np.vdot(e, e))
        self.abs_sum += float(e.sum())
        self.max_abs = max(self.max_abs, float(e.max()))
        if self.max_abs > 0:
            size = np.abs(a)
            floor = max(REL_FLOOR * float(size.max()), np.finfo(np.float64).tiny)
            self.max_rel = max(self.max_rel, float((e / np.maximum(size, floor)).max()))

    def _top1(self, r: npt.NDArray[Any], x: npt.NDArray[Any]) -> None:
        """[batch, classes], or with more axes of size 1: [batch, classes, 1, 1]."""
        if r.ndim < 2 or r.dtype.kind == "b" or not r.size:
            return
        classes = [d for d in r.shape[1:] if d != 1]
        if len(classes) != 1:
            return
        rows = (r.shape[0], classes[0])
        self.rows += r.shape[0]
        self.same_top += int((r.reshape(rows).argmax(1) == x.reshape(rows).argmax(1)).sum())

    def result(self) -> OutputComparison:
        broken = self.broken or not math.isfinite(self.ee)
        if self.equal == self.elements:
            sqnr, cosine = math.inf, 1.0
        elif broken or self.rr == 0:
            sqnr, cosine = -math.inf, self._cosine()
        else:
            sqnr = 10 * math.log10(self.rr / self.ee) if self.ee > 0 else math.inf
            cosine = self._cosine()
        return OutputComparison(
            name=self.name,
            dtype=self.dtype,
            samples=self.samples,
            sqnr_db=sqnr,
            cosine=cosine,
            max_abs=math.inf if broken else self.max_abs,
            mean_abs=math.inf if broken else self.abs_sum / max(self.elements, 1),
            max_rel=math.inf if broken else self.max_rel,
            equal=self.equal / self.elements if self.elements else 1.0,
            top1_agreement=self.same_top / self.rows if self.rows else None,
            finite=self.finite,
        )

    def _cosine(self) -> float:
        if self.rr == 0 or self.xx == 0:
            return 1.0 if self.rr == self.xx else 0.0
        return max(-1.0, min(1.0, self.rx / math.sqrt(self.rr) / math.sqrt(self.xx)))


def compare(reference: Iterable[Arrays], actual: Iterable[Arrays]) -> Comparison:
    """Compare output by output, sample by sample, without keeping any.

    Raises:
        EdgecError: EC0830 shapes differ; EC0831 the outputs have other names; EC0832 one has more samples.
    """
    sums: dict[str, _Sums] = {}
    index = 0
    for want, got in zip_longest(reference, actual):
        if want is None or got is None:
            who = "the reference" if got is None else "what is compared with it"
            raise error("EC0832", f"after {index} samples only {who} has more")
        if want.keys() != got.keys():
            message = f"the outputs have other names: {', '.join(want)} in the reference, {', '.join(got)} in the other"
            raise error("EC0831", message, Location(f"sample {index}"), "compare models with the same outputs")
        for name, r in want.items():
            sums.setdefault(name, _Sums(name)).add(np.asarray(r), np.asarray(got[name]), index)
        index += 1
    return Comparison([s.result() for s in sums.values()], index)


def compare_layers(graph_a: Graph, graph_b: Graph, samples: Iterable[Arrays]) -> Comparison:
    """Every value both graphs have by name, outputs included, in the execution order of `graph_b`.

    The error of a layer is what it and all before it have done. Values whose shapes differ are in `skipped`.
    """
    from edgec.runtime import Session

    names = common_values(graph_a, graph_b)
    a, b = Session(graph_a, all_values=names), Session(graph_b, all_values=names)
    sums = {name: _Sums(name) for name in names}
    skipped: dict[str, str] = {}
    count = 0
    for sample in samples:
        want, got = a.run(sample), b.run(sample)
        for name in names:
            if want[name].shape != got[name].shape:
                skipped[name] = f"shape {list(want[name].shape)} in the first, {list(got[name].shape)} in the second"
            else:
                sums[name].add(want[name], got[name], count)
        count += 1
    return Comparison([s.result() for n, s in sums.items() if n not in skipped and s.samples], count, skipped)


def common_values(a: Graph, b: Graph) -> list[str]:
    """Names of the tensors of the main graph that nodes of both graphs make, in the execution order of `b`."""
    known = {v.name for n in a.model.graph for v in n.outputs if v.name and _tensor(v)}
    return [v.name for n in b.model.graph for v in n.outputs if v.name in known and _tensor(v)]


def _tensor(value: Any) -> bool:
    from edgec.graph import ir

    return isinstance(value.type, (ir.TensorType, type(None)))
