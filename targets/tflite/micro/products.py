"""Weight scales of FULLY_CONNECTED that every runtime turns into the same multiplier.

tflite-micro multiplies the scales of input and weights in float32 before it divides by the output's; LiteRT does it in
float64. Where the product has no exact float32 the multipliers, of 31 bits, may differ in the last one, and an output in a
thousand is a step apart. A weight scale a few units in the last place away has a product that rounds well in both. It
moves by less than 1 in 10,000, which is less than a hundredth of an output step.
"""

from __future__ import annotations

import math
from collections import Counter
from itertools import count

import numpy as np

from edgec.targets.tflite.model import Quant, Tensor, TfliteModel

MOST = 1e-4
"""Relative change of a scale."""


def agreeing_products(model: TfliteModel) -> int:
    """Move the scales in place. Returns how many; weights that several operators read stay as they are."""
    readers = Counter(id(t) for g in model.subgraphs for o in g.operators for t in o.inputs if t is not None)
    moved = 0
    for g in model.subgraphs:
        for o in g.operators:
            if o.op != "FULLY_CONNECTED" or o.outputs[0].dtype != "int8":
                continue
            x, w, bias = o.inputs[0], o.inputs[1], o.inputs[2] if len(o.inputs) > 2 else None
            if x is None or w is None or any(readers[id(t)] > 1 for t in (w, bias) if t is not None):
                continue
            scales = [_scale(t) for t in (x, w, o.outputs[0])]
            if None in scales:
                continue
            better = _nearest(*scales)  # type: ignore[arg-type]  # none of them is None
            if better is None or better == scales[1]:
                continue
            assert w.quant is not None  # it has a scale
            w.quant = Quant.of(better, w.quant.zero_point)
            if bias is not None and bias.quant is not None:
                bias.quant = Quant.of(np.float32(np.float64(scales[0]) * np.float64(better)))
            moved += 1
    return moved


def _scale(t: Tensor) -> np.float32 | None:
    return np.float32(t.quant.scale[0]) if t.quant is not None and t.quant.per_tensor else None


def _nearest(x: np.float32, w: np.float32, y: np.float32) -> np.float32 | None:
    """The float32 next to `w` both ways of multiplying agree on; None where there is none within `MOST`."""
    up = down = w
    for _ in count():
        for candidate in (up, down):
            if agree(x, candidate, y):
                return candidate
        up, down = np.nextafter(up, np.float32(np.inf)), np.nextafter(down, np.float32(0))
        if float(up) > float(w) * (1 + MOST):
            return None
    raise AssertionError("count() has no end")


def agree(x: np.float32, w: np.float32, y: np.float32) -> bool:
    """Whether the multiplier is the same with the product of the scales in float32 and in float64."""
    return _multiplier(float(x * w) / float(y)) == _multiplier(float(x) * float(w) / float(y))


def _multiplier(real: float) -> tuple[int, int]:
    """TensorFlow Lite's QuantizeMultiplier: 31 bits of mantissa, rounded half away from zero, and the exponent."""
    mantissa, exponent = math.frexp(real)
    return math.floor(mantissa * (1 << 31) + 0.5), exponent
