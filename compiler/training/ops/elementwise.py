"""Arithmetic, comparisons and activations: ops that treat every element alike."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F

from edgec.training.ops.registry import OPS, Call, Tensor, op

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "Identity": lambda x: x,
    "IsNaN": torch.isnan, "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not,
    "Reciprocal": torch.reciprocal, "Relu": torch.relu, "Round": torch.round, "Sigmoid": torch.sigmoid,
    "Sign": torch.sign, "Sin": torch.sin, "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign,
    "Sqrt": torch.sqrt, "Tan": torch.tan, "Tanh": torch.tanh,
}  # fmt: skip

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add, "Sub": torch.sub, "Mul": torch.mul, "Equal": torch.eq, "Less": torch.lt,
    "LessOrEqual": torch.le, "Greater": torch.gt, "GreaterOrEqual": torch.ge, "And": torch.logical_and,
    "Or": torch.logical_or, "Xor": torch.logical_xor,
}  # fmt: skip

_VARIADIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Sum": torch.add, "Min": torch.minimum, "Max": torch.maximum,
}  # fmt: skip


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Call, Tensor], Tensor]:
    return lambda call, x: function(x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Call, Tensor, Tensor], Tensor]:
    return lambda call, a, b: function(a, b)


def _variadic(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda call, *values: functools.reduce(function, values)


OPS.update({name: _unary(f) for name, f in _UNARY.items()})
OPS.update({name: _binary(f) for name, f in _BINARY.items()})
OPS.update({name: _variadic(f) for name, f in _VARIADIC.items()})


@op("Div")
def div(call: Call, a: Tensor, b: Tensor) -> Tensor:
    """Integers are divided towards zero, as in C."""
    return torch.div(a, b) if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


@op("Pow")
def power(call: Call, x: Tensor, exponent: Tensor) -> Tensor:
    if exponent.numel() == 1 and not exponent.requires_grad:  # x ** 2 has a gradient at 0, exp(2 log x) has none
        return torch.pow(x, exponent.item()).to(x.dtype).expand(torch.broadcast_shapes(x.shape, exponent.shape))
    return torch.pow(x, exponent).to(x.dtype)


@op("Mod")
def mod(call: Call, a: Tensor, b: Tensor) -> Tensor:
    return torch.fmod(a, b) if call["fmod"] else torch.remainder(a, b)


@op("Mean")
def mean(call: Call, *values: Tensor) -> Tensor:
    return functools.reduce(torch.add, values) / len(values)


@op("Where")
def where(call: Call, condition: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(condition, a, b)


@op("Cast")
def cast(call: Call, x: Tensor) -> Tensor:
    return x.to(call.dtype(call["to"]))


@op("CastLike")
def cast_like(call: Call, x: Tensor, like: Tensor) -> Tensor:
    return x.to(like.dtype)


@op("Dropout")
def dropout(call: Call, x: Tensor, ratio: Tensor | None = None, training: Tensor | None = None) -> Tensor:
    """As at inference: the network to be recovered is the one that will run."""
    if call.used(1):
        raise call.unsupported("with its mask read")
    return x


@op("Clip")
def clip(call: Call, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    fixed = low is not None and high is not None and not low.requires_grad and not high.requires_grad
    if fixed and x.is_floating_point() and low.item() <= high.item():  # type: ignore[union-attr]  # fixed: both are there
        return F.hardtanh(x, low.item(), high.item())  # type: ignore[union-attr]  # its derivative is one pass, not five
    if low is not None:
        x = torch.maximum(x, low) if low.requires_grad else torch.clamp(x, min=low.item())
    if high is not None:
        x = torch.minimum(x, high) if high.requires_grad else torch.clamp(x, max=high.item())
    return x


@op("LeakyRelu")
def leaky_relu(call: Call, x: Tensor) -> Tensor:
    return F.leaky_relu(x, call["alpha"])


@op("PRelu")
def prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, x * slope, x)


@op("Elu")
def elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call["alpha"])


@op("Celu")
def celu(call: Call, x: Tensor) -> Tensor:
    return F.celu(x, call["alpha"])


@op("Selu")
def selu(call: Call, x: Tensor) -> Tensor:
    negative = call["alpha"] * torch.expm1(torch.clamp(x, max=0.0))
    return call["gamma"] * torch.where(x > 0, x, negative)


@op("ThresholdedRelu")
def thresholded_relu(call: Call, x: Tensor) -> Tensor:
    return torch.where(x > call["alpha"], x, torch.zeros_like(x))


@op("HardSigmoid")
def hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    return torch.clamp(call["alpha"] * x + call["beta"], 0.0, 1.0)


@op("Gelu")
def gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh" if call["approximate"] == "tanh" else "none")


@op("Swish")
def swish(call: Call, x: Tensor) -> Tensor:
    return x * torch.sigmoid(call["alpha"] * x)


@op("Softmax")
def softmax(call: Call, x: Tensor) -> Tensor:
    return torch.softmax(x, dim=call["axis"])


@op("LogSoftmax")
def log_softmax(call: Call, x: Tensor) -> Tensor:
    return torch.log_softmax(x, dim=call["axis"])
