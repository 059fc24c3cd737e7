"""Elements picked and placed by indices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Argument
from edgec.targets.coreml.rules import BOOL_AS_INT, NUMBERS, lowers


def _indices(n: NodeLowering, i: int, axes: Sequence[int]) -> Argument:
    """Indices as MIL of iOS 17 wants them: from 0 on. ONNX counts negative ones from the end of the axis.

    `axes`: of the data, one for each column of the indices, or one for all.
    """
    dims = [n.dims(0)[a] for a in axes]
    known = [d for d in dims if isinstance(d, int)]
    if n.is_const(i):
        given = n.const(i)
        if not (given < 0).any():
            return given.astype(np.int32)
        if len(known) == len(dims):
            size = np.asarray(known[0] if len(known) == 1 else known)
            return np.where(given < 0, given + size, given).astype(np.int32)
    x = n.x(i)
    wide: Argument
    if len(known) == len(dims):
        wide = np.asarray(known[0] if len(known) == 1 else known, np.int32)
    elif len(axes) == 1:
        length = n.size_of(n.x(0), axes[0], n.dims(0))
        wide = n.emit("squeeze", x=length, axes=np.asarray([0], np.int32), out_dtype="int32", out_shape=())
    else:
        n.refuse("negative indices into axes of open size", "fix the inputs: --input-shape")
    less = n.emit("less", x=x, y=np.zeros((), np.int32), out_dtype="bool", out_shape=x.shape)
    wrapped = n.emit("add", x=x, y=wide, out_shape=x.shape)
    return n.emit("select", cond=less, a=wrapped, b=x, out_dtype="int32", out_shape=x.shape)


@lowers("Gather", dtypes=NUMBERS, via=BOOL_AS_INT)
def gather(n: NodeLowering) -> None:
    axis = int(n.attr("axis")) % len(n.dims())
    x, indices = n.x(0), _indices(n, 1, (axis,))
    n.result(n.emit("gather", x=x, indices=indices, axis=axis, out_shape=n.out_dims()))


@lowers("GatherElements", dtypes=NUMBERS, via=BOOL_AS_INT)
def gather_elements(n: NodeLowering) -> None:
    """MIL's gather_along_axis has data and indices of one shape but for the axis."""
    axis = int(n.attr("axis")) % len(n.dims())
    wanted, x = n.dims(1), n.x(0)
    ends = [d if i == axis else w for i, (d, w) in enumerate(zip(n.dims(), wanted, strict=True))]
    if tuple(ends) != n.dims():
        if not all(isinstance(d, int) for d in ends):
            n.refuse("indices of open size on another axis than the data's", "fix the inputs: --input-shape")
        begin = np.zeros(len(ends), np.int32)
        x = n.emit("slice_by_index", x=x, begin=begin, end=np.asarray(ends, np.int32), out_shape=tuple(ends))
    indices = _indices(n, 1, (axis,))
    n.result(n.emit("gather_along_axis", x=x, indices=indices, axis=axis, out_shape=n.out_dims()))


@lowers("GatherND", dtypes=NUMBERS, via=BOOL_AS_INT)
def gather_nd(n: NodeLowering) -> None:
    batch = int(n.attr("batch_dims", 0))
    depth = n.dims(1)[-1]
    if not isinstance(depth, int):
        n.refuse("indices of an unknown number of columns")
    indices = _indices(n, 1, range(batch, batch + depth))
    n.since("iOS16", "GatherND with batch_dims")
    n.result(n.emit("gather_nd", x=n.x(0), indices=indices, batch_dims=batch, out_shape=n.out_dims()))


_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


@lowers("ScatterElements", dtypes=NUMBERS)
def scatter_elements(n: NodeLowering) -> None:
    """MIL's scatter_along_axis has data and updates of one shape but for the axis."""
    axis = int(n.attr("axis")) % len(n.dims())
    data, updates = n.shape(0), n.shape(2)
    if any(d != u for i, (d, u) in enumerate(zip(data, updates, strict=True)) if i != axis):
        n.refuse("updates that do not cover the other axes")
    n.result(
        n.emit(
            "scatter_along_axis", data=n.x(0), indices=_indices(n, 1, (axis,)), updates=n.x(2), axis=axis,
            mode=_mode(n), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("ScatterND", dtypes=NUMBERS)
def scatter_nd(n: NodeLowering) -> None:
    depth = n.dims(1)[-1]
    if not isinstance(depth, int):
        n.refuse("indices of an unknown number of columns")
    axes = range(depth)
    n.result(
        n.emit(
            "scatter_nd", data=n.x(0), indices=_indices(n, 1, axes), updates=n.x(2), mode=_mode(n),
            out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _mode(n: NodeLowering) -> str:
    return _REDUCTIONS[n.attr("reduction", "none")]


@lowers("OneHot", dtypes=NUMBERS)
def one_hot(n: NodeLowering) -> None:
    """Indices below zero count from the end; those outside give a row without a hot one, in both."""
    depth = int(n.const(1).reshape(()))
    off, on = n.const(2).reshape(-1)
    rank = len(n.out_dims())
    kind = np.int32 if n.out_dtype() in ("int32", "bool") else np.float16 if n.out_dtype() == "fp16" else np.float32
    n.result(
        n.emit(
            "one_hot", indices=_integers(n, depth), one_hot_vector_size=depth, axis=int(n.attr("axis")) % rank,
            on_value=np.asarray(on, kind), off_value=np.asarray(off, kind), out_shape=n.out_dims(),
            out_dtype="int32" if kind is np.int32 else n.out_dtype(),
        )
    )  # fmt: skip


def _integers(n: NodeLowering, depth: int) -> Argument:
    if n.is_const(0):
        return np.where(n.const(0) < 0, n.const(0) + depth, n.const(0)).astype(np.int32)
    x = n.cast(n.x(0), "int32")
    less = n.emit("less", x=x, y=np.zeros((), np.int32), out_dtype="bool", out_shape=x.shape)
    wrapped = n.emit("add", x=x, y=np.asarray(depth, np.int32), out_shape=x.shape)
    return n.emit("select", cond=less, a=wrapped, b=x, out_dtype="int32", out_shape=x.shape)


@lowers("TopK", dtypes=NUMBERS)
def top_k(n: NodeLowering) -> None:
    k, axis = int(n.const(1).reshape(())), int(n.attr("axis")) % len(n.dims())
    shape = n.out_dims()
    values, indices = n.emit_many(
        "topk", [(shape, None), (shape, "int32")], x=n.x(0), k=k, axis=axis, ascending=not int(n.attr("largest", 1))
    )
    n.result(values, 0)
    n.result(indices, 1)
