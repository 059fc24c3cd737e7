"""Gemm and MatMul with constant weights as convolutions over the whole image: for chips that have no matrix product.

`Gemm(Flatten(x))` is a convolution whose kernel is as large as the image of x, and a Flatten of what comes out. Where no
image comes before the product, one of 1 x 1 is made of the vector. Behind the convolution the vector's shape is made
again; an activation that follows is moved in front of that, so that a chain of products stays images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, constant, ir, static_shape
from edgec.pattern import Match, P, opt, rest, var
from edgec.pipeline import RewritePass
from edgec.rewrite import Reject, Result, Rewriter, RuleSet, rule

LARGEST_KERNEL = 32
"""Sides of an image above which it would be a kernel that no chip has."""

_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu")


@rule(P.Gemm(var("x"), var("w"), opt(var("b"))))
def gemm_to_conv(m: Match, rw: Rewriter) -> Result:
    gemm = m.root
    if attribute(gemm, "transA") or attribute(gemm, "alpha") != 1 or attribute(gemm, "beta") != 1:
        return Reject("the product is scaled, or its first factor transposed")
    bias = constant(m.value("b")) if m.has("b") else None
    if m.has("b") and bias is None:
        return Reject("the bias is computed at run time")
    weight = constant(m.value("w"))
    if weight is not None and not attribute(gemm, "transB"):
        weight = weight.T
    return _convolution(m, rw, weight, bias)


@rule(P.MatMul(var("x"), var("w")))
def matmul_to_conv(m: Match, rw: Rewriter) -> Result:
    weight = constant(m.value("w"))
    return _convolution(m, rw, weight.T if weight is not None and weight.ndim == 2 else None, None)


def _convolution(m: Match, rw: Rewriter, weight: npt.NDArray[Any] | None, bias: npt.NDArray[Any] | None) -> Result:
    """`weight` is (outputs, inputs)."""
    x, out = m.value("x"), m.root.outputs[0]
    if weight is None or weight.ndim != 2:
        return Reject("the weights are no constant matrix")
    if x.dtype is None or not x.dtype.is_floating_point():
        return Reject("no floats")
    shape = static_shape(x)
    if shape is None or len(shape) != 2:
        return Reject("no matrix of known shape")
    outputs, inputs = weight.shape
    if bias is not None and (bias.size not in (1, outputs) or (bias.ndim == 2 and bias.shape[0] != 1)):
        return Reject("the bias is no vector")
    image = _image(x)
    if image is None:
        image, sides = rw.op("Reshape", x, rw.const(np.array([shape[0], inputs, 1, 1], np.int64), "image")), (1, 1)
    else:
        known = static_shape(image)
        assert known is not None  # _image looked
        sides = (known[2], known[3])
        inputs = known[1]
    name = out.name or "product"
    given = [image, rw.const(np.ascontiguousarray(weight.reshape(outputs, inputs, *sides)), f"{name}.weight")]
    if bias is not None:
        vector = np.broadcast_to(bias.reshape(-1), (outputs,))
        given.append(rw.const(np.ascontiguousarray(vector), f"{name}.bias"))
    maps = rw.op("Conv", *given, attrs={"kernel_shape": list(sides)})
    return rw.op("Flatten", maps, attrs={"axis": 1})


def _image(x: ir.Value) -> ir.Value | None:
    """The image N x C x H x W that `x` is the flat form of."""
    node = x.producer()
    if node is None or node.domain or node.op_type not in ("Flatten", "Reshape", "Squeeze"):
        return None
    source = node.inputs[0]
    shape, flat = static_shape(source), static_shape(x)
    if source is None or shape is None or flat is None or len(shape) != 4 or len(flat) != 2:
        return None
    return source if shape[0] == flat[0] and max(shape[2:]) <= LARGEST_KERNEL else None


@rule(P.op(*_ACTIVATIONS)(P.Flatten(var("x"), as_="flat"), rest("limits"), as_="act"))
def activate_images(m: Match, rw: Rewriter) -> Result:
    """act(Flatten(x)) -> Flatten(act(x)), where x is what a convolution made of a product."""
    x, act = m.value("x"), m.node("act")
    shape = static_shape(x)
    producer = x.producer()
    if shape is None or len(shape) != 4 or shape[2:] != (1, 1) or producer is None or producer.op_type != "Conv":
        return Reject("no image of 1 x 1 behind a convolution")
    if attribute(m.node("flat"), "axis") != 1:
        return Reject("the batch is flattened too")
    image = rw.op(act.op_type, x, *act.inputs[1:], attrs=act.attributes)
    return rw.op("Flatten", image, attrs={"axis": 1})


@dataclass(frozen=True)
class GemmToConv(RewritePass):
    """No Gemm or MatMul of a matrix with constant weights, but where the image before it is above 32 x 32."""

    name: ClassVar[str] = "gemm-to-conv"
    rules: ClassVar[RuleSet] = RuleSet([gemm_to_conv, matmul_to_conv, activate_images])
