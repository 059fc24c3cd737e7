"""Rounding weights for least output error: min (w - q)^T H (w - q) over storable q, for every row w of a layer.

H is the second moment of what the layer reads. Rounding each weight to the nearest value ignores that errors add up in
the products; here the error of one weight is made good by those not yet rounded (GPTQ: Frantar et al. 2023, after OBQ
and Hassibi's optimal brain surgeon), then single weights are moved by a step wherever that lowers the error
(coordinate descent).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_BLOCK = 64
"""Columns rounded before the rest is updated: one matrix product instead of many outer ones."""


def damped(h: Array, damping: float) -> Array:
    """H [groups, k, k] with `damping` times its mean diagonal added: invertible, and where there is no data, weights
    stay where they are."""
    extra = damping * np.diagonal(h, axis1=-2, axis2=-1).mean(axis=-1)
    extra = np.where(extra > 0, extra, 1.0)
    return np.asarray(h + np.eye(h.shape[-1]) * extra[:, None, None])


def round_rows(w: Array, scale: Array, zero: Array, ends: tuple[int, int], h: Array, *, sweeps: int = 2) -> Array:
    """Stored integers for `w` [groups, rows, k]; `scale` and `zero` have its shape; `h` [groups, k, k] is positive
    definite."""
    w, scale, zero = (np.asarray(a, np.float64) for a in (w, scale, zero))
    q = _error_feedback(w, scale, zero, ends, h)
    for _ in range(sweeps):
        if not _descend(w, q, scale, zero, ends, h):
            break
    return q.astype(np.int32)


def output_error(w: Array, q: Array, scale: Array, zero: Array, h: Array) -> Array:
    """(w - q)^T H (w - q) of each row, [groups, rows]."""
    e = w - (q - zero) * scale
    return np.asarray(((e @ h) * e).sum(axis=-1))


def _error_feedback(w: Array, scale: Array, zero: Array, ends: tuple[int, int], h: Array) -> Array:
    order = np.argsort(-np.diagonal(h, axis1=-2, axis2=-1), axis=-1, kind="stable")  # what is read most comes first
    pick = order[:, None, :]
    rest, scale, zero = (np.take_along_axis(a, np.broadcast_to(pick, a.shape), -1) for a in (w, scale, zero))
    h = np.take_along_axis(np.take_along_axis(h, order[:, :, None], 1), order[:, None, :], 2)
    u = _inverse_factor(h)
    q = np.empty_like(rest)
    columns = w.shape[-1]
    for at in range(0, columns, _BLOCK):
        end = min(at + _BLOCK, columns)
        errors = np.empty((*w.shape[:2], end - at))
        for k in range(at, end):
            s, z = scale[..., k], zero[..., k]
            q[..., k] = np.clip(np.rint(rest[..., k] / s) + z, *ends)
            e = (rest[..., k] - (q[..., k] - z) * s) / u[:, None, k, k]
            rest[..., k + 1 : end] -= e[..., None] * u[:, None, k, k + 1 : end]
            errors[..., k - at] = e
        if end < columns:
            rest[..., end:] -= errors @ u[:, at:end, end:]
    out = np.empty_like(q)
    np.put_along_axis(out, np.broadcast_to(pick, q.shape), q, -1)
    return out


def _inverse_factor(h: Array) -> Array:
    """Upper triangular U with U^T U = H^-1: from H = R R^T, R upper triangular, U = R^-1."""
    backwards = np.linalg.cholesky(h[:, ::-1, ::-1])
    return np.asarray(np.triu(np.linalg.inv(backwards[:, ::-1, ::-1])))


def _descend(w: Array, q: Array, scale: Array, zero: Array, ends: tuple[int, int], h: Array) -> bool:
    """One sweep of coordinate descent over all rows at once, in place. Whether anything moved."""
    moved = False
    gradient = (w - (q - zero) * scale) @ h
    columns = w.shape[-1]
    for at in range(0, columns, _BLOCK):
        end = min(at + _BLOCK, columns)
        inner = gradient[..., at:end].copy()
        steps = np.zeros((*w.shape[:2], end - at))
        for k in range(at, end):
            s = scale[..., k]
            best = np.clip(q[..., k] + np.rint(inner[..., k - at] / (h[:, None, k, k] * s)), *ends)
            step = (best - q[..., k]) * s
            if step.any():
                moved = True
                q[..., k] = best
                inner[..., k + 1 - at :] -= step[..., None] * h[:, None, k, k + 1 : end]
                steps[..., k - at] = step
        gradient -= steps @ h[:, at:end]
    return moved
