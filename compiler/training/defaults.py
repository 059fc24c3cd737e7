"""What a training run does where it is not told: views of images, and where its state is kept."""

from __future__ import annotations

from pathlib import Path

from edgec.graph import Graph
from edgec.training.options import Augmentation

_SMALL = 64
"""Images below are shifted, larger ones enlarged: a quarter of a 32 x 32 image shows little."""


def automatic_views(graph: Graph) -> tuple[Augmentation, ...]:
    """How images are varied: those with three channels, flipped, and shifted where they are small, else enlarged and blended
    with others. Spectra and scans of text, which have one channel, are left as they are."""
    for v in graph.inputs:
        dims = list(v.shape) if v.shape is not None else []
        if len(dims) == 4 and 3 in (dims[1], dims[3]) and v.dtype is not None and v.dtype.is_floating_point():
            sides = dims[2:] if dims[1] == 3 else dims[1:3]
            small = any(isinstance(d, int) and d < _SMALL for d in sides)
            return ("flip", "crop") if small else ("flip", "zoom", "mix")
    return ()


def checkpoint_folder() -> Path:
    """Where runs that are given no folder keep their state: `training/` in edgec's cache."""
    from edgec.toolchain.environment import cache_root

    return cache_root() / "training"
