"""Least squares from second moments: the weights that come closest to given outputs, not further from where they were than
the samples vouch for.

    y ~ W x + b,    W = W0 + (C - W0 Q) (Q + r diag Q)^-1

Q = E[x x^T] and C = E[y x^T] about their means. The ridge r is chosen on samples that were not fitted to: with few of them the
answer is W0, with many the least-squares solution. (Channel pruning by reconstruction: He et al. 2017, arXiv:1707.06168;
ridge towards the weights there were: the MAP estimate of a Gaussian around W0.)

Where the output is clipped at once (Relu, Clip), what lies beyond a limit in both counts as equal: targets there are replaced by
the outputs themselves and the problem is solved again, which lowers the error behind the clipping in every round (a majorizer
of it; the aim is that of Zhang et al. 2015, arXiv:1505.06798, section 3.2).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_PENDING = 1 << 22
"""Elements of columns gathered before they are multiplied."""

_CLIPPED_ROUNDS = 8
_WORTH = 0.995
"""Rounds go on while each takes at least this part of the error away."""

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried besides no change at all."""


@dataclass
class Paired:
    """Sums over columns x [groups, k, n] and the outputs y [groups, outputs, n] that are wanted for them."""

    xx: Array
    yx: Array
    yy: Array
    x: Array
    y: Array
    n: int = 0
    pending: list[tuple[Array, Array]] = field(default_factory=list)
    """Columns not yet multiplied: a few large products are faster than many small ones."""

    @classmethod
    def empty(cls, groups: int, outputs: int, k: int) -> Paired:
        square, across = np.zeros((groups, k, k)), np.zeros((groups, outputs, k))
        return cls(square, across, np.zeros((groups, outputs)), np.zeros((groups, k)), np.zeros((groups, outputs)))

    def add(self, x: Array, y: Array) -> None:
        self.pending.append((x, y))
        if sum(p.size for p, _ in self.pending) > _PENDING:
            self.close()

    def close(self) -> None:
        """Multiply what is pending. Sums are not complete before."""
        if not self.pending:
            return
        x, y = (np.concatenate(parts, axis=-1) for parts in zip(*self.pending, strict=True))
        self.pending.clear()
        xt = x.transpose(0, 2, 1)
        self.xx += x @ xt
        self.yx += y @ xt
        self.yy += np.square(y, dtype=np.float64).sum(-1)
        self.x += x.sum(-1, dtype=np.float64)
        self.y += y.sum(-1, dtype=np.float64)
        self.n += x.shape[-1]

    def add_outputs(self, part: Part) -> None:
        """Only what depends on the outputs: products of columns are known."""
        y = part.y
        self.yx += y @ part.x.transpose(0, 2, 1)
        self.yy += np.square(y, dtype=np.float64).sum(-1)
        self.y += y.sum(-1, dtype=np.float64)

    def __add__(self, other: Paired) -> Paired:
        a, b = self, other
        return Paired(a.xx + b.xx, a.yx + b.yx, a.yy + b.yy, a.x + b.x, a.y + b.y, a.n + b.n)

    def about(self, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """E[(x - x0)(x - x0)^T], E[(y - y0)(x - x0)^T], E[(y - y0)^2]."""
        n, mx, my = self.n, self.x / self.n, self.y / self.n
        xx = self.xx / n - _outer(x, mx) - _outer(mx, x) + _outer(x, x)
        yx = self.yx / n - _outer(my, x) - _outer(y, mx) + _outer(y, x)
        yy = self.yy / n - 2 * y * my + y * y
        return xx, yx, yy


@dataclass(frozen=True)
class Fit:
    """`weight` [groups, outputs, k]; `bias` [groups, outputs], zeros if none was asked for; the ridge (None: no change).
    `before`, `after`: mean squared errors on samples that were not fitted to, relative to the variance of y."""

    weight: Array
    bias: Array
    ridge: float | None
    before: float
    after: float


@dataclass
class Part:
    """Columns x [groups, k, n], what is wanted of them [groups, outputs, n], and what is added to the layer's output
    before that (None: nothing)."""

    x: Array
    wanted: Array
    added: Array | None = None

    @property
    def y(self) -> Array:
        """What is wanted of the layer alone."""
        return self.wanted if self.added is None else self.wanted - self.added


@dataclass
class Problem:
    """One layer: its weights, whether it takes a bias, the limits its output is clipped to. Columns in two halves."""

    w0: Array
    biased: bool
    limits: tuple[float, float] | None = None
    fit: Paired = field(init=False)
    held: Paired = field(init=False)
    parts: list[tuple[bool, Part]] = field(default_factory=list)
    """Kept where there are limits: whether it is of `held`, and the columns."""

    def __post_init__(self) -> None:
        self.fit, self.held = Paired.empty(*self.w0.shape), Paired.empty(*self.w0.shape)

    def add(self, part: Part, *, held: bool) -> None:
        (self.held if held else self.fit).add(part.x, part.y)
        if self.limits is not None:
            self.parts.append((held, part))

    def solve(self, b0: Array) -> Fit:
        """The best ridge by `held`, then the weights by both halves. `b0`: the bias there is."""
        self.fit.close()
        self.held.close()
        best = self._solve(b0)
        if self.limits is None:
            return best
        start = Fit(self.w0, b0, None, 0, 0)
        before, least = self._clipped_error(start), self._clipped_error(best)
        fit = best
        for _ in range(_CLIPPED_ROUNDS):
            fit = self._retargeted(fit)._solve(b0)
            error = self._clipped_error(fit)
            if error >= least * _WORTH:
                break
            best, least = fit, error
        return Fit(best.weight, best.bias, best.ridge, before, least)

    def _solve(self, b0: Array) -> Fit:
        tried: dict[float | None, Array] = {r: self._weight(self.fit, r) for r in RIDGES}
        tried[None] = self.w0
        errors = {r: self._error(w) for r, w in tried.items()}
        best = min(errors, key=lambda r: errors[r])
        both = self.fit + self.held
        weight = self.w0 if best is None else self._weight(both, best)
        bias = (both.y - np.einsum("gok,gk->go", weight, both.x)) / both.n if self.biased else np.zeros_like(both.y)
        return Fit(weight, bias, best, self._error(self.w0, b0), errors[best])

    def _outputs(self, fit: Fit, part: Part) -> Array:
        z = fit.weight.astype(np.float32) @ part.x + fit.bias.astype(np.float32)[..., None]
        return np.asarray(z if part.added is None else z + part.added)

    def _clipped_error(self, fit: Fit) -> float:
        """On `held`, relative to the variance."""
        error = power = 0.0
        for held, part in self.parts:
            if held:
                want = np.clip(part.wanted, *self.limits)  # type: ignore[misc]  # there are limits
                got = np.clip(self._outputs(fit, part), *self.limits)  # type: ignore[misc]
                error += float(np.square(want - got, dtype=np.float64).sum())
                power += float(np.square(want - want.mean(axis=-1, keepdims=True), dtype=np.float64).sum())
        return error / max(power, 1e-30)

    def _retargeted(self, fit: Fit) -> Problem:
        """The problem in which outputs beyond a limit, where they should be, are what is wanted."""
        assert self.limits is not None  # the caller looked
        low, high = self.limits
        new = Problem(self.w0, self.biased)
        for held, part in self.parts:
            z = self._outputs(fit, part)
            wanted = np.where(part.wanted <= low, np.minimum(z, low), part.wanted)
            wanted = np.where(part.wanted >= high, np.maximum(z, high), wanted)
            (new.held if held else new.fit).add_outputs(Part(part.x, wanted, part.added))
        for mine, theirs in ((new.fit, self.fit), (new.held, self.held)):
            mine.xx, mine.x, mine.n = theirs.xx, theirs.x, theirs.n
        return new

    def _centre(self, p: Paired) -> tuple[Array, Array]:
        return (p.x / p.n, p.y / p.n) if self.biased else (np.zeros_like(p.x), np.zeros_like(p.y))

    def _weight(self, p: Paired, ridge: float) -> Array:
        xx, yx, _ = p.about(*self._centre(p))
        return self.w0 + solve_ridge(xx, yx - self.w0 @ xx, ridge)

    def _error(self, w: Array, bias: Array | None = None) -> float:
        """On `held`, with the bias that `fit` gives (or this one)."""
        x, y = self._centre(self.fit)
        if bias is not None:
            x, y = np.zeros_like(x), bias
        xx, yx, yy = self.held.about(x, y)
        left = (w @ xx * w).sum() - 2 * (w * yx).sum() + yy.sum()
        _, _, power = self.held.about(*(a / self.held.n for a in (self.held.x, self.held.y)))
        return float(left / max(power.sum(), 1e-30))


def solve_ridge(xx: Array, right: Array, ridge: float) -> Array:
    """right (xx + ridge diag xx)^-1. Inputs that never vary get 0."""
    d = np.diagonal(xx, axis1=-2, axis2=-1)
    floor = 1e-10 * d.max(axis=-1, initial=0, keepdims=True)
    alive = d > floor
    scale = np.where(alive, 1 / np.sqrt(np.where(alive, d, 1)), 0)
    unit = xx * scale[..., :, None] * scale[..., None, :]
    unit[..., range(d.shape[-1]), range(d.shape[-1])] = 1 + ridge
    solved = np.linalg.solve(unit, (right * scale[..., None, :]).swapaxes(-1, -2)).swapaxes(-1, -2)
    return np.asarray(solved * scale[..., None, :])


def _outer(a: Array, b: Array) -> Array:
    return np.asarray(a[..., :, None] * b[..., None, :])
