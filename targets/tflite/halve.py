"""float16 weights: half the file; a DEQUANTIZE in front of each, which XNNPACK folds away, computes in float32 as before."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.model import Array, Operator, Tensor, TfliteModel

LEAST = 128
"""Elements below which a constant stays float32: a DEQUANTIZE takes about 130 bytes of the file (measured)."""

LOST = 2.0**-9
"""Relative error (of the norm) above which a constant stays float32; float16 rounds normal numbers to 2^-11."""


def halve_weights(model: TfliteModel) -> list[str]:
    """Store float32 constants as float16, in place. Returns the names of those whose values float16 cannot hold."""
    kept: list[str] = []
    for g in model.subgraphs:
        wide: dict[int, Tensor] = {}
        operators: list[Operator] = []
        for o in g.operators:
            for i, t in enumerate(o.inputs):
                if t is None or t.data is None or t.dtype != "float32" or t.data.size < LEAST:
                    continue
                if id(t) not in wide:
                    if not fits(t.data):
                        kept.append(t.name)
                        wide[id(t)] = t
                    else:
                        half = Tensor(f"{t.name}_half", t.shape, "float16", None, t.data.astype(np.float16))
                        wide[id(t)] = Tensor(t.name, t.shape, "float32")
                        operators.append(Operator("DEQUANTIZE", [half], [wide[id(t)]], {}, o.source))
                o.inputs[i] = wide[id(t)]
            operators.append(o)
        g.operators = operators
    return kept


def fits(data: Array) -> bool:
    """Whether float16 holds the numbers: none beyond 65504, and not so small that they lose their bits."""
    with np.errstate(over="ignore"):
        half = data.astype(np.float16)
    if not np.isfinite(half).all():
        return bool((np.isfinite(half) == np.isfinite(data)).all())
    lost = np.linalg.norm((data - half.astype(np.float32)).ravel().astype(np.float64))
    return bool(lost <= LOST * np.linalg.norm(data.ravel().astype(np.float64)))
