"""One rule an ONNX op, in files by family. `load` imports them all, which registers their rules."""

from __future__ import annotations

import importlib

FAMILIES = (
    "activation",
    "comparison",
    "convolution",
    "curves",
    "elementwise",
    "gather",
    "integer",
    "matmul",
    "movement",
    "normalization",
    "pooling",
    "reduction",
    "refused",
    "resize",
    "scatter",
    "sequence",
    "shape",
    "softmax",
    "sort",
    "unary",
)


def load() -> None:
    """Import every family: `edgec.targets.tflite.rules.RULES` is full afterwards."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
