"""Recovery by training without labels. Needs PyTorch (`pip install edgec[train]`), and imports it only when it trains.

options = DistillOptions(epochs=20)
result = distill(pruned, reference, samples, options)
result.graph.save("recovered.onnx")
"""

from __future__ import annotations

from typing import Any

from edgec.training.options import DistillOptions
from edgec.training.torch_module import require_torch

__all__ = ["DistillOptions", "Distilled", "TorchGraph", "distill", "require_torch", "write_back"]

_NEED_TORCH = {
    "Distilled": "edgec.training.run",
    "TorchGraph": "edgec.training.torch_graph",
    "distill": "edgec.training.distillation",
    "write_back": "edgec.training.written_back",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(name)
    require_torch()
    from importlib import import_module

    return getattr(import_module(_NEED_TORCH[name]), name)
