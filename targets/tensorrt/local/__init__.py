"""`tensorrt`: engines for the GPU of this machine, built, run and compared here.

local = available(toolchains)           # None: this machine has no TensorRT, or no GPU
built = build(local, model, graph, precision="fp16", folder=workdir / "tensorrt")
"""

from __future__ import annotations

from edgec.targets.tensorrt.local.building import Built, build
from edgec.targets.tensorrt.local.discovery import LocalTensorRT, NotHere, available, find

__all__ = ["Built", "LocalTensorRT", "NotHere", "available", "build", "find"]
