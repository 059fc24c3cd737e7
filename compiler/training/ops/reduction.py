"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from edgec.training.ops.registry import OPS, Call, Tensor, ints, op

_REDUCE: dict[str, Callable[[Tensor, tuple[int, ...], bool], Tensor]] = {
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.amax(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.amin(axes, keep),
    "ReduceL1": lambda x, axes, keep: x.abs().sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep),
    "ReduceSumSquare": lambda x, axes, keep: x.square().sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: x.sum(axes, keep).log(),
    "ReduceLogSumExp": lambda x, axes, keep: torch.logsumexp(x, axes, keep),
}


def _axes(call: Call, x: Tensor, axes: Tensor | None) -> tuple[int, ...]:
    """No axes means all of them, unless the node says it means none."""
    given = ints(axes)
    if given:
        return tuple(given)
    return () if call["noop_with_empty_axes"] else tuple(range(x.dim()))


def _reduction(function: Callable[[Tensor, tuple[int, ...], bool], Tensor]) -> Callable[..., Tensor]:
    def reduce(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
        over = _axes(call, x, axes)
        if not over:  # each element for itself; torch would take () for all axes
            return function(x.unsqueeze(-1), (x.dim(),), False)
        if x.numel() == 0 and call.op_type in ("ReduceMax", "ReduceMin"):
            raise call.unsupported("of nothing")
        return function(x, over, bool(call["keepdims"]))

    return reduce


OPS.update({name: _reduction(f) for name, f in _REDUCE.items()})


@op("ReduceProd")
def reduce_prod(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    for axis in sorted((a % x.dim() for a in _axes(call, x, axes)), reverse=True):
        x = x.prod(axis, keepdim=bool(call["keepdims"]))
    return x


def _extreme(call: Call, x: Tensor, function: Callable[..., Tensor]) -> Tensor:
    axis = call["axis"]
    if not call["select_last_index"]:
        return function(x, dim=axis, keepdim=bool(call["keepdims"]))
    return x.shape[axis] - 1 - function(x.flip(axis), dim=axis, keepdim=bool(call["keepdims"]))


@op("ArgMax")
def arg_max(call: Call, x: Tensor) -> Tensor:
    return _extreme(call, x, torch.argmax)


@op("ArgMin")
def arg_min(call: Call, x: Tensor) -> Tensor:
    return _extreme(call, x, torch.argmin)


@op("TopK")
def top_k(call: Call, x: Tensor, k: Tensor) -> Any:
    """Of equal elements the first comes first, which torch.topk does not promise."""
    values, indices = torch.sort(x, dim=call["axis"], descending=bool(call["largest"]), stable=True)
    return values.narrow(call["axis"], 0, int(k.item())), indices.narrow(call["axis"], 0, int(k.item()))


@op("CumSum")
def cumulative_sum(call: Call, x: Tensor, axis: Tensor) -> Tensor:
    dim = int(axis.item())
    if call["reverse"]:
        x = x.flip(dim)
    y = torch.cumsum(x, dim)
    if call["exclusive"]:
        y = y - x
    return y.flip(dim) if call["reverse"] else y
