"""Shapes as tensors, and tensors made from them."""

from __future__ import annotations

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import NUMPY
from edgec.targets.coreml.rules import ANY, NUMBERS, lowers


@lowers("Shape", dtypes=ANY)
def shape(n: NodeLowering) -> None:
    rank = len(n.dims())
    start, end, _ = slice(int(n.attr("start", 0)), n.attr("end")).indices(rank)
    whole = n.emit("shape", x=n.x(), out_dtype="int32", out_shape=(rank,))
    if (start, end) != (0, rank):
        limits = {"begin": np.asarray([start], np.int32), "end": np.asarray([end], np.int32)}
        whole = n.emit("slice_by_index", x=whole, begin=limits["begin"], end=limits["end"], out_shape=(end - start,))
    n.result(whole)


@lowers("ConstantOfShape", dtypes=("int32",))
def constant_of_shape(n: NodeLowering) -> None:
    given = n.attr("value")
    value = np.zeros(1, np.float32) if given is None else given.numpy()
    number = value.reshape(-1)[0].astype(NUMPY[n.out_dtype()])
    n.result(n.emit("fill", shape=n.x(), value=number, out_dtype=n.out_dtype(), out_shape=n.out_dims()))


@lowers("Range", dtypes=NUMBERS)
def numbers(n: NodeLowering) -> None:
    x = n.x(0)
    n.result(n.emit("range_1d", start=x, end=n.x(1), step=n.x(2), out_dtype=x.dtype))
