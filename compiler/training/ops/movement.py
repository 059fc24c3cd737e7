"""Ops that move elements without computing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from edgec.training.ops.convolution import padded
from edgec.training.ops.registry import Call, Tensor, ints, op


@op("Transpose")
def transpose(call: Call, x: Tensor) -> Tensor:
    return x.permute(tuple(call["perm"] or range(x.dim())[::-1]))


@op("Concat")
def concat(call: Call, *values: Tensor) -> Tensor:
    return torch.cat(values, dim=call["axis"])


@op("Split")
def split(call: Call, x: Tensor, sizes: Tensor | None = None) -> Any:
    axis, given = call["axis"], ints(sizes)
    if given is None:
        count = call["num_outputs"] or len(call.node.outputs)
        each = -(-x.shape[axis] // count)  # the last part is smaller where they are not equal
        given = [each] * (count - 1) + [x.shape[axis] - each * (count - 1)]
    return torch.split(x, given, dim=axis)


@op("Slice")
def slice_of(
    call: Call, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None
) -> Tensor:
    first, last = ints(starts) or [], ints(ends) or []
    over, by = ints(axes) or list(range(len(first))), ints(steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, over, by, strict=True):
        n = x.shape[axis]
        before_first = step < 0 and end < -n
        picked = range(n)[start : None if before_first else end : step]
        if step > 0:
            index = [slice(None)] * x.dim()
            index[axis] = slice(picked.start, picked.start + len(picked) * step if len(picked) else picked.start, step)
            x = x[tuple(index)]
        else:
            x = x.index_select(axis, torch.tensor(list(picked), dtype=torch.int64, device=x.device))
    return x


@op("Gather")
def gather(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call["axis"] % max(1, x.dim())
    index = indices.to(x.device).long()
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = x.index_select(axis, index.reshape(-1))
    return picked.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


@op("GatherElements")
def gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    index = indices.to(x.device).long()
    return torch.gather(x, call["axis"], torch.where(index < 0, index + x.shape[call["axis"]], index))


@op("GatherND")
def gather_nd(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    if call["batch_dims"]:
        raise call.unsupported("with batch_dims")
    return x[tuple(indices.to(x.device).long().movedim(-1, 0))]


@op("ScatterND")
def scatter_nd(call: Call, x: Tensor, indices: Tensor, updates: Tensor) -> Tensor:
    if call["reduction"] not in ("none", None):
        raise call.unsupported(f"with reduction {call['reduction']}")
    return x.index_put(tuple(indices.to(x.device).long().movedim(-1, 0)), updates)


@op("Tile")
def tile(call: Call, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(ints(repeats) or [])


@op("Pad")
def pad(call: Call, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    given, mode = ints(pads) or [], call["mode"]
    over = [a % x.dim() for a in ints(axes) or range(x.dim())]
    each = [(0, 0)] * x.dim()
    for i, axis in enumerate(over):
        each[axis] = (given[i], given[i + len(over)])
    if mode in ("constant", None):
        return padded(x, each, 0.0 if value is None else value.item())
    for axis, (before, after) in enumerate(each):
        if before or after:
            rows = np.pad(np.arange(x.shape[axis]), (max(0, before), max(0, after)), mode=mode)
            rows = rows[max(0, -before) : len(rows) - max(0, -after)]
            x = x.index_select(axis, torch.from_numpy(rows).to(x.device))
    return x


@op("DepthToSpace")
def depth_to_space(call: Call, x: Tensor) -> Tensor:
    b = call["blocksize"]
    n, c, h, w = x.shape
    if call["mode"] == "CRD":
        y = x.reshape(n, c // (b * b), b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    else:
        y = x.reshape(n, b, b, c // (b * b), h, w).permute(0, 3, 4, 1, 5, 2)
    return y.reshape(n, c // (b * b), h * b, w * b)


@op("SpaceToDepth")
def space_to_depth(call: Call, x: Tensor) -> Tensor:
    b = call["blocksize"]
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, c * b * b, h // b, w // b)


@op("Trilu")
def trilu(call: Call, x: Tensor, k: Tensor | None = None) -> Tensor:
    diagonal = 0 if k is None else int(k.item())
    return torch.triu(x, diagonal) if call["upper"] else torch.tril(x, diagonal)
