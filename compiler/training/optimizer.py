"""Adam or SGD with momentum, gradient clipping and a learning rate that rises and falls; its state is plain arrays.

Steps are relative: `lr` is the part of a weight's usual size that one step changes at most. Networks whose normalisations
were folded into their weights have channels that differ in size by orders of magnitude, and one step for all of them ruins
the small ones. The size of a weight is the root mean square of its output channel (of the whole tensor for a matrix of a
MatMul, of vectors and of scales) when training starts, as in Adafactor (Shazeer and Stern, arXiv:1804.04235, section 8).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from edgec.training.ops import Tensor
from edgec.training.options import DistillOptions

_BETAS = (0.9, 0.999)
_EPSILON = 1e-8
_MOMENTUM = 0.9

_LEAST_SIZE = 1e-3
"""Of a weight: what is 0 at the start has to be able to move."""

_LEAST_PART = 0.1
"""Of a channel's size beside that of its tensor: a channel that is almost 0 may grow."""


class Optimizer:
    """Of `steps` steps over named parameters, which are as they are before training."""

    def __init__(self, parameters: Mapping[str, Tensor], options: DistillOptions, steps: int) -> None:
        self._named, self._options, self._steps = dict(parameters), options, steps
        self._sizes = {n: size_of(p.detach()) for n, p in self._named.items()}
        self._moments: dict[str, dict[str, Tensor]] = {}

    def zero(self) -> None:
        for p in self._named.values():
            p.grad = None

    def forget(self) -> None:
        """Begin anew, from the weights there are."""
        self._moments.clear()

    def step(self, step: int, masks: Mapping[str, Tensor], caution: float = 1.0) -> None:
        """Clip, then step number `step` (from 0) at `caution` times its learning rate. Elements where a mask is False stay 0."""
        with torch.no_grad():
            gradients = {n: p.grad * self._sizes[n] for n, p in self._named.items() if p.grad is not None}
            self._clip(gradients)
            lr = self._options.lr * caution * self._share(step)
            change = self._adam if self._options.optimizer == "adam" else self._sgd
            for name, gradient in gradients.items():
                self._named[name].sub_(change(name, gradient) * self._sizes[name], alpha=lr)
            for name, mask in masks.items():
                self._named[name].mul_(mask)

    def _clip(self, gradients: Mapping[str, Tensor]) -> None:
        if not self._options.clip or not gradients:
            return
        norm = float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients.values()])))
        if norm > self._options.clip:
            for gradient in gradients.values():
                gradient.mul_(self._options.clip / norm)

    def _adam(self, name: str, gradient: Tensor) -> Tensor:
        """Kingma and Ba, arXiv:1412.6980, algorithm 1."""
        if name not in self._moments:
            zeros = {k: torch.zeros_like(gradient) for k in ("first", "second")}
            self._moments[name] = {**zeros, "count": torch.zeros(())}
        held = self._moments[name]
        held["count"] += 1
        count = int(held["count"])
        held["first"].lerp_(gradient, 1 - _BETAS[0])
        held["second"].mul_(_BETAS[1]).addcmul_(gradient, gradient, value=1 - _BETAS[1])
        first, second = (1 - beta**count for beta in _BETAS)
        return (held["first"] / first) / ((held["second"] / second).sqrt() + _EPSILON)

    def _sgd(self, name: str, gradient: Tensor) -> Tensor:
        held = self._moments.setdefault(name, {"first": torch.zeros_like(gradient)})
        return held["first"].mul_(_MOMENTUM).add_(gradient)

    def _share(self, step: int) -> float:
        """Of the learning rate: a linear rise over the first twentieth, then a cosine down to 0."""
        rise = max(1, self._steps // 20)
        return min(1.0, (step + 1) / rise) * 0.5 * (1 + math.cos(math.pi * step / self._steps))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Moments of every parameter, by `parameter|what`."""
        return {
            f"{name}|{what}": value.cpu().numpy().copy(order="C")
            for name, held in self._moments.items()
            for what, value in held.items()
        }

    def restore(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Continue from what `arrays` gave."""
        for key, array in arrays.items():
            name, _, what = key.rpartition("|")
            like = self._named[name].detach() if what != "count" else torch.zeros(())
            value = torch.empty_like(like).copy_(torch.from_numpy(np.array(array)))
            self._moments.setdefault(name, {})[what] = value


def size_of(p: Tensor) -> Tensor:
    """How large the elements of a weight are, in a shape that broadcasts to it: of a kernel, by its first axis."""
    whole = p.square().mean().sqrt().clamp_min(_LEAST_SIZE)
    if p.dim() < 3:
        return whole
    each = p.square().mean(dim=tuple(range(1, p.dim())), keepdim=True).sqrt()
    return torch.maximum(each, _LEAST_PART * whole)
