"""Weights by tables for least output error: min sum (w - q)^T H (w - q) over rows, q of few values that are chosen too.

H is the second moment of what the layer reads. Three steps in turn: every weight gets a value of its table, the error of
one made good by those that follow (GPTQ: Frantar et al. 2023); single weights move to another value where that lowers the
error; the values themselves move to the least squares solution for the weights that have them (k-means' second step, in the
metric of the output).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.passes.prune.kmeans import nearest
from edgec.passes.quantize.rounding import _inverse_factor

Array = npt.NDArray[Any]

_BLOCK = 64
_FIT = 4e9
"""Multiplications for fitting one table: of more rows than that allows every n-th is taken."""


class TableRounding:
    """`w` [groups, rows, k]; `h` [groups, k, k], positive definite; `tables`: of each part, the centres, ascending;
    `part` [groups, rows]: which of them a row goes by. `fixed`: [groups, rows, k], weights that stay (zeros)."""

    def __init__(self, w: Array, h: Array, tables: Sequence[Array], part: Array, fixed: Array | None = None) -> None:
        self.w, self.h, self.part, self.fixed = w.astype(np.float64), h, part, fixed
        self.tables = [np.asarray(t, np.float64) for t in tables]
        self.q = self._feed_back()

    def error(self) -> float:
        """The output error summed over rows."""
        e = self.w - self.q
        return float(((e @ self.h) * e).sum())

    def improve(self, rounds: int, sweeps: int) -> None:
        """Move weights and values in turn; never for the worse."""
        for _ in range(rounds):
            moved = [self._descend() for _ in range(sweeps)]
            if not self._fit() and not any(moved):
                return
        self._descend()

    # --- weights --------------------------------------------------------------------------------------------------

    def _choose(self, wanted: Array, k: int) -> Array:
        """The nearest value for each row's weight `k`."""
        out = np.empty_like(wanted)
        for i, table in enumerate(self.tables):
            rows = self.part == i
            out[rows] = table[nearest(wanted[rows], table)]
        return out if self.fixed is None else np.where(self.fixed[..., k], self.w[..., k], out)

    def _feed_back(self) -> Array:
        order = np.argsort(-np.diagonal(self.h, axis1=-2, axis2=-1).sum(0), kind="stable")
        u = _inverse_factor(self.h[:, order][:, :, order])
        rest, q = self.w[..., order], np.empty_like(self.w)
        columns = rest.shape[-1]
        for at in range(0, columns, _BLOCK):
            end = min(at + _BLOCK, columns)
            errors = np.empty((*rest.shape[:2], end - at))
            for k in range(at, end):
                q[..., order[k]] = self._choose(rest[..., k], int(order[k]))
                e = (rest[..., k] - q[..., order[k]]) / u[:, None, k, k]
                rest[..., k + 1 : end] -= e[..., None] * u[:, None, k, k + 1 : end]
                errors[..., k - at] = e
            if end < columns:
                rest[..., end:] -= errors @ u[:, at:end, end:]
        return q

    def _descend(self) -> bool:
        """One sweep over all weights, all rows at once. Whether anything moved."""
        moved = False
        gradient = (self.w - self.q) @ self.h
        columns = self.w.shape[-1]
        for at in range(0, columns, _BLOCK):
            end = min(at + _BLOCK, columns)
            inner = gradient[..., at:end].copy()
            steps = np.zeros((*self.w.shape[:2], end - at))
            for k in range(at, end):
                best = self._choose(self.q[..., k] + inner[..., k - at] / self.h[:, None, k, k], k)
                step = best - self.q[..., k]
                if step.any():
                    moved = True
                    self.q[..., k] = best
                    inner[..., k + 1 - at :] -= step[..., None] * self.h[:, None, k, k + 1 : end]
                    steps[..., k - at] = step
            gradient -= steps @ self.h[:, at:end]
        return moved

    # --- values ---------------------------------------------------------------------------------------------------

    def _fit(self) -> bool:
        """Each table to the least squares solution for the weights that have its values."""
        before = self.error()
        old_q, old_tables = self.q.copy(), list(self.tables)
        goal = (self.w if self.fixed is None else np.where(self.fixed, 0, self.w)) @ self.h
        for i, table in enumerate(self.tables):
            self.tables[i] = self._fitted(table, self.part == i, goal)
        if self.error() < before * (1 - 1e-6):
            return True
        self.q, self.tables = old_q, old_tables
        return False

    def _fitted(self, table: Array, rows: Array, goal: Array) -> Array:
        of_group, _ = np.nonzero(rows)
        q, goal = self.q[rows], goal[rows]  # [n, k]
        index = nearest(q, table)
        free = np.ones(q.shape, bool) if self.fixed is None else ~self.fixed[rows]
        m, k = len(table), q.shape[1]
        some = slice(None, None, 1 + int(len(q) * k * k * m / _FIT))
        hits = [((index == j) & free)[some] for j in range(m)]
        one = len(self.h) == 1
        normal = np.zeros((m, m))
        flat = np.where(free[some], index[some], m).reshape(-1)
        for j in range(m):
            spread = hits[j].astype(np.float64)
            seen = spread @ self.h[0] if one else np.einsum("nk,nkl->nl", spread, self.h[of_group[some]])
            normal[j] = np.bincount(flat, seen.reshape(-1), m + 1)[:m]
        right = np.bincount(flat, goal[some].reshape(-1), m + 1)[:m]
        used = np.asarray([hit.any() for hit in hits])
        new = table.copy()
        ridge = 1e-9 * np.trace(normal) / m
        new[used] = np.linalg.solve(normal[np.ix_(used, used)] + ridge * np.eye(used.sum()), right[used])
        self.q[rows] = np.where(free, new[index], q)
        return np.sort(new)
