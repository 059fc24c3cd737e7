"""A change of units for each channel of a tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Affine:
    """value * scale + offset, each float64 [channels] along `axis`, or [1]."""

    scale: npt.NDArray[np.float64]
    offset: npt.NDArray[np.float64]
    axis: int

    def to_json(self) -> dict[str, Any]:
        return {"scale": self.scale.tolist(), "offset": self.offset.tolist(), "axis": self.axis}
