"""Shapes as values, and tensors made from them. Results stay on the CPU: they say where data goes, they are no data."""

from __future__ import annotations

import math

import numpy as np
import torch

from edgec.training.ops.registry import Call, Tensor, ints, op


@op("Shape")
def shape(call: Call, x: Tensor) -> Tensor:
    end = call["end"]
    return torch.tensor(list(x.shape)[call["start"] or 0 : end], dtype=torch.int64)


@op("Size")
def size(call: Call, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


@op("Constant")
def constant(call: Call) -> Tensor:
    """One inside a subgraph: those of the main graph are initialisers by now."""
    held = call.node.attributes["value"].as_tensor() if "value" in call.node.attributes else None
    if held is None:
        raise call.unsupported(f"by {', '.join(call.node.attributes)}")
    array = np.array(held.numpy())
    return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array).to(
        call.dtype(held.dtype.value)
    )


@op("ConstantOfShape")
def constant_of_shape(call: Call, dims: Tensor) -> Tensor:
    value = call["value"]
    if value is None:
        return torch.zeros(ints(dims) or [], dtype=call.float_dtype)
    fill = np.asarray(value.numpy()).reshape(-1)[0].item()
    return torch.full(ints(dims) or [], fill, dtype=call.dtype(value.dtype.value))


@op("Range")
def range_of(call: Call, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    first, last, step = start.item(), limit.item(), delta.item()
    count = max(0, math.ceil((last - first) / step))
    return first + torch.arange(count, dtype=start.dtype) * step


@op("Expand")
def expand(call: Call, x: Tensor, dims: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(ints(dims) or [])))


@op("Reshape")
def reshape(call: Call, x: Tensor, dims: Tensor) -> Tensor:
    wanted = ints(dims) or []
    if not call["allowzero"]:
        wanted = [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return x.reshape(wanted)


@op("Flatten")
def flatten(call: Call, x: Tensor) -> Tensor:
    axis = call["axis"] if call["axis"] >= 0 else call["axis"] + x.dim()
    return x.reshape(math.prod(int(d) for d in x.shape[:axis]), -1)  # int: a number where this is traced


@op("Squeeze")
def squeeze(call: Call, x: Tensor, axes: Tensor | None = None) -> Tensor:
    given = ints(axes)
    return x.squeeze() if given is None else x.squeeze(tuple(given))


@op("Unsqueeze")
def unsqueeze(call: Call, x: Tensor, axes: Tensor) -> Tensor:
    given = ints(axes) or []
    rank = x.dim() + len(given)
    for axis in sorted(a % rank for a in given):
        x = x.unsqueeze(axis)
    return x


@op("NonZero")
def non_zero(call: Call, x: Tensor) -> Tensor:
    return torch.nonzero(x).t()


@op("OneHot")
def one_hot(call: Call, indices: Tensor, depth: Tensor, values: Tensor) -> Tensor:
    count = int(depth.item())
    hot = torch.nn.functional.one_hot(indices.long() % count, count).movedim(-1, call["axis"])
    return torch.where(hot.bool(), values[1], values[0])
