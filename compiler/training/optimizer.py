"""Adam or SGD with momentum, gradient clipping and a cosine schedule: torch's, with a state that is plain arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgec.training.ops import Tensor
from edgec.training.options import DistillOptions


class Optimizer:
    """Of `steps` steps over named parameters."""

    def __init__(self, parameters: Mapping[str, Tensor], options: DistillOptions, steps: int) -> None:
        self._named, self._options, self._steps = dict(parameters), options, steps
        given = list(self._named.values())
        if options.optimizer == "adam":
            self._optimizer: Any = torch.optim.Adam(given, lr=options.lr)
        else:
            self._optimizer = torch.optim.SGD(given, lr=options.lr, momentum=0.9)

    def zero(self) -> None:
        self._optimizer.zero_grad(set_to_none=True)

    def step(self, step: int, masks: Mapping[str, Tensor]) -> None:
        """Clip, then step number `step` (from 0) at its learning rate. Elements where a mask is False stay 0."""
        given = [p for p in self._named.values() if p.grad is not None]
        if self._options.clip:
            torch.nn.utils.clip_grad_norm_(given, self._options.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = self._options.lr * self._share(step)
        self._optimizer.step()
        with torch.no_grad():
            for name, mask in masks.items():
                self._named[name].mul_(mask)

    def _share(self, step: int) -> float:
        """Of the learning rate: a linear rise over the first twentieth, then a cosine down to 0."""
        rise = max(1, self._steps // 20)
        return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / self._steps))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Moments of every parameter, by `parameter|what`."""
        out: dict[str, npt.NDArray[Any]] = {}
        for name, p in self._named.items():
            for what, value in self._optimizer.state.get(p, {}).items():
                if value is not None:
                    out[f"{name}|{what}"] = np.array(value.detach().cpu().numpy() if torch.is_tensor(value) else value)
        return out

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from what `arrays` gave."""
        for key, array in arrays.items():
            name, _, what = key.rpartition("|")
            p = self._named[name]
            value = torch.from_numpy(np.array(array))
            self._optimizer.state[p][what] = value if what == "step" else torch.empty_like(p).copy_(value)
