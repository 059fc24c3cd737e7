"""Q/DQ: activations through MIL's quantize and dequantize, weights as compressed constants."""

from __future__ import annotations

import numpy as np

from edgec.graph import constant
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Array
from edgec.targets.coreml.rules import ANY, lowers

_STORED = ("int8", "uint8")


@lowers("QuantizeLinear", since="iOS17")
def quantize(n: NodeLowering) -> None:
    zero = _zero_point(n)
    if n.out_dtype() not in _STORED:
        n.refuse(f"MIL quantises to 8 bits only, not {n.out_dtype()}", "use int8 activations")
    scale, axis = _scale(n)
    n.result(
        n.emit(
            "quantize", input=n.x(0), scale=scale, zero_point=zero if zero.any() else None, axis=axis,
            output_dtype=n.out_dtype(), out_dtype=n.out_dtype(), out_shape=n.out_dims(),
        )
    )  # fmt: skip


@lowers("DequantizeLinear", dtypes=(*ANY, *_STORED, "int16", "uint16"), since="iOS17")
def dequantize(n: NodeLowering) -> None:
    stored = constant(n.value(0))
    if stored is None and n.dtype() not in _STORED:
        n.refuse(f"MIL dequantises 8 bits only, not {n.dtype()}", "use int8 activations")
    scale, axis = _scale(n)
    zero = _zero_point(n)
    if stored is None:
        n.result(
            n.emit(
                "dequantize", input=n.x(0), scale=scale, zero_point=zero if zero.any() else None, axis=axis,
                out_dtype=n.out_dtype(), out_shape=n.out_dims(),
            )
        )  # fmt: skip
        return
    n.result(
        n.emit(
            "constexpr_affine_dequantize", quantized_data=np.asarray(stored), zero_point=zero, scale=scale,
            axis=axis if axis is not None else 0, out_dtype=n.out_dtype(), out_shape=n.out_dims(),
        )
    )  # fmt: skip


def _scale(n: NodeLowering) -> tuple[Array, int | None]:
    """In the float type of the real side, and the axis it runs along; a scale for the whole tensor is a scalar."""
    scale = n.const(1)
    if scale.ndim > 1:
        n.refuse("scales in blocks", "weights only, from iOS18")
    return scale.reshape(()) if scale.size == 1 else scale, None if scale.size == 1 else int(n.attr("axis", 1)) % len(
        n.shape()
    )


def _zero_point(n: NodeLowering) -> Array:
    if not n.has(2):
        return np.zeros((), np.uint8)
    zero = n.const(2)
    return zero.reshape(()) if zero.size == 1 else zero
