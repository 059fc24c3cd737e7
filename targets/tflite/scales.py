"""Scales that LiteRT does not survive."""

from __future__ import annotations

from collections.abc import Sequence

from edgec.diagnostics import Location, error
from edgec.targets.tflite.model import Operator

LARGEST_SCALE = 1e12
"""Kernels turn ratios of scales into 32-bit multipliers; LiteRT ends the process (SIGABRT, SIGSEGV) where none fits."""

SUM_RATIO = 2.0**19
"""ADD and SUB: an input's scale over the output's, at most; their kernels shift the inputs by 20 bits."""


def check_scales(operators: Sequence[Operator], file: str | None) -> None:
    """EC0641 for a scale that is not positive or beyond those limits, which only damaged models have.

    The limits were found with ai-edge-litert 2.3.0 by tests/properties/test_tflite_properties.py.
    """
    for o in operators:
        held = [t.quant.scale for t in (*o.inputs, *o.outputs) if t is not None and t.quant is not None]
        fine = all(bool(((s > 0) & (s < LARGEST_SCALE)).all()) for s in held)
        out = o.outputs[0].quant
        if fine and o.op in ("ADD", "SUB") and out is not None:
            fine = all(float(s.max()) <= SUM_RATIO * float(out.scale[0]) for s in held)
        if not fine:
            told = ", ".join(f"{float(s.max()):.3g}" for s in held)
            where = Location(file, node=o.source or o.outputs[0].name)
            hint = "quantise the model again: LiteRT's kernels end the process on such scales"
            raise error("EC0641", f"{o.op} would have the scales {told}", where, hint)
