"""`fold-preprocess`: the steps it adds to a pipeline, and what the file then takes, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import error

if TYPE_CHECKING:
    from edgec.recipe import Step
    from edgec.samples import Preprocess
    from edgec.targets.tflite.endpoints import Endpoint
    from edgec.targets.tflite.options import TfliteOptions

_QUANTISING = frozenset({"split-heads", "split-norms", "smooth", "quantize"})
"""What comes behind: these passes see the model as it will be."""

_BITS = {"int8": 8, "int16x8": 16}


def with_folding(
    steps: Sequence[Step], precision: str, options: TfliteOptions, preprocess: Preprocess | None
) -> list[Step]:
    """The steps with `fold-preprocess` before those that quantise, else at the end. EC0646 where mean and std are unknown."""
    if preprocess is None:
        hint = "--mean and --std (or --scale) say how pixels become what the model takes"
        raise error("EC0646", "fold-preprocess: there is no preprocessing to fold", hint=hint)
    bits = 0 if options.io_dtype == "float" else _BITS.get(precision, 0)
    fold: dict[str, Any] = {"bits": bits}
    if preprocess.mean_values:
        fold["mean"] = list(preprocess.mean_values)
    if preprocess.std_values:
        fold["std"] = list(preprocess.std_values)
    if preprocess.layout is not None:
        fold["layout"] = preprocess.layout
    at = next((i for i, step in enumerate(steps) if _name(step) in _QUANTISING), len(steps))
    return [*steps[:at], {"fold-preprocess": fold}, *steps[at:]]


def _name(step: Step) -> str:
    return next(iter(step)) if isinstance(step, Mapping) else step


def normalisation(e: Endpoint, preprocess: Preprocess) -> tuple[list[float], list[float]]:
    """mean and std of what the file itself takes: its real number is (pixel - mean) / std, one each or one a channel."""
    import numpy as np

    mean = np.asarray(preprocess.mean_values or (0.0,), np.float64)
    std = np.asarray(preprocess.std_values or (1.0,), np.float64)
    if e.affine is not None:
        mean, std = mean - e.affine.offset * std / e.affine.scale, std / e.affine.scale
    mean, std = np.broadcast_arrays(mean, std)
    mean, std = np.round(mean, 4) + 0.0, np.array([float(f"{v:.6g}") for v in std])  # folded in float32
    if np.all(mean == mean[0]) and np.all(std == std[0]):
        mean, std = mean[:1], std[:1]
    return mean.tolist(), std.tolist()


def takes(e: Endpoint, preprocess: Preprocess) -> str:
    """What one writes into the input's memory for a pixel of 0..255: "pixel - 128 as int8"."""
    mean, std = normalisation(e, preprocess)
    if len(mean) > 1:
        return f"(pixel - {mean}) / {std} as {e.dtype}"
    step, zero = std[0], mean[0]
    if e.quant is not None:
        scale = step * float(e.quant.scale[0])
        if abs(scale - 1) > 1e-4 or abs(zero - round(zero)) > 1e-4:
            return f"(pixel - {zero:g}) / {step:g} quantised to {e.dtype}"
        step, zero = 1.0, zero - int(e.quant.zero_point[0])
    text = "pixel" if abs(zero) < 1e-4 else f"pixel {'-' if zero > 0 else '+'} {abs(zero):g}"
    return f"{text} as {e.dtype}" if step == 1 else f"({text}) / {step:g} as {e.dtype}"
