"""One rule an ONNX op, in files by family. `load` imports them all, which registers their rules."""

from __future__ import annotations

import importlib

FAMILIES = (
    "activation",
    "convolution",
    "elementwise",
    "gather",
    "matmul",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resize",
    "shape",
    "unary",
)


def load() -> None:
    """Import every family: `edgec.targets.coreml.rules.RULES` is full afterwards."""
    for family in FAMILIES:
        importlib.import_module(f"{__name__}.{family}")
