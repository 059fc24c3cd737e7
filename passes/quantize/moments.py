"""Second moments of what layers read, in the float and in the quantised graph: all that least squares needs of the data.

    y = W x + b   in the float graph,      y_q = W_q x_q + b_q   in the quantised one.

sum ||W x_q - W_q x_q||^2 over all samples and positions is a quadratic form whose coefficients are sums of products of
inputs: their size depends on the layer, not on the data. x is a column of im2col, [groups, k].
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute
from edgec.passes.quantize.layers import Layer

Array = npt.NDArray[Any]

_PENDING = 1 << 22
"""Elements of columns gathered before they are multiplied."""


@dataclass
class Moments:
    """Of `n` columns; sums until `close`."""

    qq: Array
    """[groups, k, k]: of x_q x_q^T."""
    mean: Array
    """[groups, k]: of the columns in `qq`."""
    n: int = 0
    pending: list[Array] = field(default_factory=list)
    """Columns not yet multiplied: a few large products are faster than many small ones."""

    @classmethod
    def empty(cls, groups: int, k: int) -> Moments:
        return cls(np.zeros((groups, k, k)), np.zeros((groups, k)))

    def add(self, x_q: Array) -> None:
        """Some columns [groups, k, n], float32."""
        self.n += x_q.shape[2]
        self.mean += x_q.sum(axis=2, dtype=np.float64)
        self.pending.append(x_q)
        if sum(p.size for p in self.pending) > _PENDING:
            self._multiply()

    def _multiply(self) -> None:
        if self.pending:
            x = np.concatenate(self.pending, axis=2)
            self.qq += x @ x.transpose(0, 2, 1)
            self.pending.clear()

    def second(self) -> Array:
        """Mean of x_q x_q^T over the columns."""
        self._multiply()
        return np.asarray(self.qq / self.n)

    def close(self, *, central: bool) -> None:
        """Means instead of sums. `central`: moments about the mean, for layers whose bias takes care of the mean."""
        self._multiply()
        self.mean /= self.n
        self.qq /= self.n
        if central:
            self.qq -= self.mean[:, :, None] * self.mean[:, None, :]


def columns(layer: Layer, x: Array, positions: int, rng: np.random.Generator) -> Array:
    """Some columns of im2col, [groups, k, n]: all of them, or `positions` random ones. `rng` decides which."""
    if layer.node.op_type in ("Gemm", "MatMul"):
        flat = x.reshape(-1, x.shape[-1])
        return flat[places(len(flat), positions, rng)].T[None]
    x, kernel, strides, dilations, out = _padded(layer, x)
    chosen = places(x.shape[0] * int(np.prod(out)), positions, rng)
    batch, *where = np.unravel_index(chosen, (x.shape[0], *out))
    index = [w[:, None] * s + np.arange(k) * d for w, s, k, d in zip(where, strides, kernel, dilations, strict=True)]
    return _gather(x, batch, index, layer.groups)


def column_means(layer: Layer, x: Array) -> Array:
    """The mean of all columns of im2col, [groups, k] in float64."""
    if layer.node.op_type in ("Gemm", "MatMul"):
        flat = x.reshape(-1, x.shape[-1])
        return np.asarray(flat.mean(axis=0, dtype=np.float64)[None])
    x, kernel, strides, dilations, out = _padded(layer, x)
    sums = x
    for axis in range(len(kernel), 0, -1):  # innermost first: [n, c, h, w] -> [n, c, h, kw] -> [n, c, kh, kw]
        k, s, d, o = (p[axis - 1] for p in (kernel, strides, dilations, out))
        moved = np.moveaxis(sums, 1 + axis, -1)
        parts = [moved[..., i * d : i * d + (o - 1) * s + 1 : s].sum(axis=-1) for i in range(k)]
        sums = np.moveaxis(np.stack(parts, axis=-1), -1, 1 + axis)
        sums = sums.astype(np.float64)
    return np.asarray(sums.sum(axis=0).reshape(layer.groups, -1) / (x.shape[0] * int(np.prod(out))))


def _padded(layer: Layer, x: Array) -> tuple[Array, list[int], list[int], list[int], list[int]]:
    """The padded input; kernel, strides, dilations and output size along each spatial axis."""
    kernel = [int(d) for d in layer.stored.shape.numpy()[2:]]
    strides = list(attribute(layer.node, "strides") or [1] * len(kernel))
    dilations = list(attribute(layer.node, "dilations") or [1] * len(kernel))
    pads = _pads(layer, x.shape[2:], kernel, strides, dilations)
    half = len(kernel)
    if any(pads):
        x = np.pad(x, [(0, 0), (0, 0), *[(pads[i], pads[i + half]) for i in range(half)]])
    out = [(x.shape[2 + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1 for i in range(half)]
    return x, kernel, strides, dilations, out


def _gather(x: Array, batch: Array, index: list[Array], groups: int) -> Array:
    """Patches [groups, channels/group * kernel, n]; `index`: for each spatial axis, [n, kernel size along it]."""
    n, axes = len(batch), len(index)
    flat = np.zeros((n, *[1] * axes), np.int64)
    for i, at in enumerate(index):
        shape = [n, *[1] * axes]
        shape[1 + i] = at.shape[1]
        flat = flat * x.shape[2 + i] + at.reshape(shape)
    flat = flat.reshape(n, -1)
    pixels = x.reshape(x.shape[0], x.shape[1], -1)
    one = x.shape[0] == 1
    patches = pixels[0][:, flat] if one else pixels[batch[:, None], :, flat].transpose(2, 0, 1)  # [c, n, kernel]
    c, _, k = patches.shape
    return np.ascontiguousarray(patches.reshape(groups, c // groups, n, k).transpose(0, 1, 3, 2)).reshape(
        groups, (c // groups) * k, n
    )


def places(total: int, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """`count` of `total` places in order, or all: which ones depends on the state of `rng` and the numbers alone."""
    return np.arange(total) if total <= count else np.sort(rng.choice(total, count, replace=False))


def _pads(
    layer: Layer, size: tuple[int, ...], kernel: list[int], strides: list[int], dilations: list[int]
) -> list[int]:
    """As the `pads` attribute; `auto_pad` resolved."""
    auto = attribute(layer.node, "auto_pad")
    if auto in (None, "NOTSET", ""):
        return list(attribute(layer.node, "pads") or [0] * (2 * len(kernel)))
    if auto == "VALID":
        return [0] * (2 * len(kernel))
    before, after = [], []
    for n, k, s, d in zip(size, kernel, strides, dilations, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        small = total // 2
        before.append(small if auto == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return [*before, *after]
