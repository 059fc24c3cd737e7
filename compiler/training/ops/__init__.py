"""The ONNX ops training knows, in torch (importing this needs torch). `OPS` maps names to functions."""

from edgec.training.ops import (
    convolution,
    elementwise,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reduction,
    resize,
    shapes,
)
from edgec.training.ops.registry import OPS, Call, Tensor, torch_dtype

__all__ = [
    "OPS",
    "Call",
    "Tensor",
    "convolution",
    "elementwise",
    "movement",
    "normalization",
    "pooling",
    "quantization",
    "recurrent",
    "reduction",
    "resize",
    "shapes",
    "torch_dtype",
]
