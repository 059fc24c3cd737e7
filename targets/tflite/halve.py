"""float16 weights: half the file; a DEQUANTIZE in front of each, which XNNPACK folds away, computes in float32 as before."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite.model import Operator, Tensor, TfliteModel

LEAST = 16
"""Elements below which a constant stays float32: a DEQUANTIZE costs more than it saves."""

LARGEST = float(np.finfo(np.float16).max)


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
                    if float(np.abs(t.data).max(initial=0.0)) > LARGEST:
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
