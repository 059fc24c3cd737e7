"""Quantisation parameters of one tensor, and the arithmetic of QuantizeLinear and DequantizeLinear in NumPy.

real = (stored - zero_point) * scale; stored = saturate(round_half_even(real / scale) + zero_point), as ONNX defines both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from edgec.specs.scheme import QuantKind

Array = npt.NDArray[Any]

LIMITS = {
    "int4": (-8, 7),
    "uint4": (0, 15),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-32768, 32767),
    "uint16": (0, 65535),
    "float8e4m3fn": (-448, 448),
    "int32": (-(2**31), 2**31 - 1),
}
"""Smallest and largest stored value by element type."""

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Scales below this are denormal: runtimes flush them to zero and divide by it."""


def limits(kind: QuantKind) -> tuple[int, int]:
    """The stored values a tensor of this kind may have."""
    low, high = LIMITS[kind.dtype]
    return (low + 1 if kind.narrow and low < 0 else low), high


@dataclass(frozen=True, eq=False)
class QuantParams:
    """`scale` is float32 and `zero_point` int32: scalars, or [C] along `axis`, or blocked along `axis` by `block`."""

    scale: Array
    zero_point: Array
    dtype: str
    axis: int | None = None
    block: int | None = None
    narrow: bool = False

    @cached_property
    def limits(self) -> tuple[int, int]:
        low, high = LIMITS[self.dtype]
        return (low + 1 if self.narrow and low < 0 else low), high

    def quantize(self, x: Array) -> Array:
        """Stored values, as int32 (float32 for float8), in the shape of `x`."""
        scale, zero = self._spread(self.scale, x), self._spread(self.zero_point, x)
        low, high = self.limits
        steps = np.asarray(x, np.float32) / scale
        if self.dtype.startswith("float8"):  # rounds to the nearest float of 8 bits; zero points are 0
            stored: Array = np.clip(steps, low, high).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
            return stored
        return np.asarray(np.clip(np.rint(steps) + zero, low, high).astype(np.int32))

    def dequantize(self, q: Array) -> Array:
        """float32, in the shape of `q`."""
        return (q.astype(np.float32) - self._spread(self.zero_point, q)) * self._spread(self.scale, q)

    def fake(self, x: Array) -> Array:
        """What is left of `x` after both."""
        return self.dequantize(self.quantize(x))

    def range(self) -> tuple[Array, Array]:
        """The reals at both ends of the stored range."""
        low, high = self.limits
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale

    def _spread(self, p: Array, x: Array) -> Array:
        """`p` in a shape that broadcasts against `x`."""
        if self.axis is None or p.ndim == 0:
            return p
        if self.block is not None:
            return np.repeat(p, self.block, axis=self.axis).take(range(x.shape[self.axis]), axis=self.axis)
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return p.reshape(shape)


def kind_of_range(kind: QuantKind, low: Array | float) -> QuantKind:
    """The kind, or its form without sign, zero point 0, where it has one and no number lies below 0."""
    if not kind.unsigned or np.min(low) < 0:
        return kind
    return kind.model_copy(
        update={
            "dtype": f"u{kind.dtype}",
            "symmetric": False,
            "narrow": False,
            "zero_in_range": True,
            "unsigned": False,
        }
    )


def params_of_range(low: Array | float, high: Array | float, kind: QuantKind, axis: int | None = None) -> QuantParams:
    """The parameters that cover [low, high], scalars or [C] (then along `axis`).

    The range is widened to hold 0 where the kind wants that, so that zero padding is exact; scales are at least the
    smallest normal float32. Symmetric kinds cover the larger side on both.
    """
    kind = kind_of_range(kind, low)
    lo, hi = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if kind.zero_in_range or kind.symmetric:
        lo, hi = np.minimum(lo, 0.0), np.maximum(hi, 0.0)
    qmin, qmax = limits(kind)
    if kind.symmetric:
        middle = 0 if qmin < 0 else (qmax + 1) // 2
        steps = qmax - middle
        scale = np.maximum(np.abs(lo), np.abs(hi)) / steps
        zero = np.full(scale.shape, middle, np.int32)
    else:
        scale = (hi - lo) / (qmax - qmin)
        zero = np.zeros(scale.shape, np.int32)
    scale = np.where(scale > 0, scale, 1.0)  # a tensor of zeros: any scale is right
    if kind.power_of_two:
        scale = np.exp2(np.ceil(np.log2(scale)))
    scale = np.maximum(scale, SMALLEST_SCALE).astype(np.float32)
    if not kind.symmetric:
        zero = np.clip(np.rint(qmin - lo / scale), qmin, qmax).astype(np.int32)
        if kind.nonzero and (zero == 0).any():
            other = -1 if qmin < 0 else 1
            wider = np.maximum(-lo / (other - qmin), hi / (qmax - other)).astype(np.float32)
            scale = np.where(zero == 0, np.maximum(scale, wider), scale)
            zero = np.where(zero == 0, other, zero).astype(np.int32)
    return QuantParams(scale, zero, kind.dtype, axis if scale.ndim else None, narrow=kind.narrow)
