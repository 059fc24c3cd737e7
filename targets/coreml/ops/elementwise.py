"""Functions of two or more operands, element by element, broadcast as NumPy does; comparisons and logic."""

from __future__ import annotations

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import FLOATS, NUMPY, Value
from edgec.targets.coreml.rules import ANY, NUMBERS, lowers

_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul"}


@lowers(*_BINARY, dtypes=NUMBERS, wraps=True)
def binary(n: NodeLowering) -> None:
    n.result(n.emit(_BINARY[n.node.op_type], x=n.x(0), y=n.x(1), out_shape=n.out_dims()))


@lowers("Div", dtypes=NUMBERS, wraps=True)
def divide(n: NodeLowering) -> None:
    """ONNX divides integers towards zero, MIL's floor_div towards minus infinity: so the magnitudes are divided."""
    x, y, shape = n.x(0), n.x(1), n.out_dims()
    if x.dtype in FLOATS:
        n.result(n.emit("real_div", x=x, y=y, out_shape=shape))
        return
    sizes = [n.emit("abs", x=v, out_shape=v.shape) for v in (x, y)]
    signs = [n.emit("sign", x=v, out_shape=v.shape) for v in (x, y)]
    size = n.emit("floor_div", x=sizes[0], y=sizes[1], out_shape=shape)
    sign = n.emit("mul", x=signs[0], y=signs[1], out_shape=shape)
    n.result(n.emit("mul", x=size, y=sign, out_shape=shape))


@lowers("Mod", dtypes=NUMBERS)
def modulo(n: NodeLowering) -> None:
    """MIL's mod has the sign of the divisor, as ONNX's has for integers; fmod has that of the dividend."""
    x, y, shape = n.x(0), n.x(1), n.out_dims()
    if not int(n.attr("fmod", 0)):
        n.result(n.emit("mod", x=x, y=y, out_shape=shape))
        return
    sizes = [n.emit("abs", x=v, out_shape=v.shape) for v in (x, y)]
    rest = n.emit("mod", x=sizes[0], y=sizes[1], out_shape=shape)
    n.result(n.emit("mul", x=rest, y=n.emit("sign", x=x, out_shape=x.shape), out_shape=shape))


@lowers("Pow", dtypes=FLOATS)
def power(n: NodeLowering) -> None:
    """The exponent in the base's type. A square is a product: negative bases stay right on every device."""
    x = n.x(0)
    if n.is_const(1) and n.const(1).size == 1 and float(n.const(1).reshape(())) == 2:
        n.result(n.emit("square", x=x, out_shape=x.shape))
        return
    n.result(n.emit("pow", x=x, y=n.cast(n.x(1), x.dtype), out_shape=n.out_dims()))


_MANY = {"Max": "maximum", "Min": "minimum", "Sum": "add"}


@lowers(*_MANY, dtypes=NUMBERS, wraps=True)
def many(n: NodeLowering) -> None:
    found = n.x(0)
    for i in range(1, len(n.node.inputs)):
        found = n.emit(_MANY[n.node.op_type], x=found, y=n.x(i))
    n.result(found)


@lowers("Mean")
def mean(n: NodeLowering) -> None:
    found = n.x(0)
    for i in range(1, len(n.node.inputs)):
        found = n.emit("add", x=found, y=n.x(i))
    n.result(n.emit("mul", x=found, y=n.real(1 / len(n.node.inputs)), out_shape=n.out_dims()))


_COMPARE = {
    "Equal": "equal",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "Less": "less",
    "LessOrEqual": "less_equal",
}


@lowers(*_COMPARE, dtypes=NUMBERS, via={"bool": "int32"})
def compare(n: NodeLowering) -> None:
    n.result(n.emit(_COMPARE[n.node.op_type], x=n.x(0), y=n.x(1), out_dtype="bool", out_shape=n.out_dims()))


_LOGIC = {"And": "logical_and", "Or": "logical_or", "Xor": "logical_xor"}


@lowers(*_LOGIC, dtypes=("bool",))
def logic(n: NodeLowering) -> None:
    n.result(n.emit(_LOGIC[n.node.op_type], x=n.x(0), y=n.x(1), out_shape=n.out_dims()))


@lowers("Not", dtypes=("bool",))
def negation(n: NodeLowering) -> None:
    n.result(n.emit("logical_not", x=n.x(), out_shape=n.out_dims()))


@lowers("Where", dtypes=("bool",))
def where(n: NodeLowering) -> None:
    """MIL's select has the shape of its two values: one of them is made as large as the condition."""
    a, b, out = n.x(1), n.x(2), n.out_dims()
    if out in (n.dims(1), n.dims(2)):
        pass
    elif all(isinstance(d, int) for d in (*n.dims(1), *n.dims(2), *out)):
        if np.broadcast_shapes(n.shape(1), n.shape(2)) != out:
            a = n.broadcast(a, n.out_shape())
    elif a.dtype == "bool":
        n.refuse("bools of open sizes that are broadcast", "fix the inputs: --input-shape")
    else:  # plus nothing, of the condition's size
        none = n.emit("mul", x=n.cast(n.x(0), a.dtype), y=np.zeros((), NUMPY[a.dtype]), out_shape=n.dims(0))
        a = n.emit("add", x=a, y=none, out_shape=None)
    n.result(n.emit("select", cond=n.x(0), a=a, b=b, out_dtype=a.dtype, out_shape=n.out_dims()))


@lowers("Clip", dtypes=NUMBERS)
def clip(n: NodeLowering) -> None:
    """Limits known now; one that is missing is left out."""
    x = n.x()
    low, high = (n.const(i) if n.has(i) else None for i in (1, 2))
    ordered = low is not None and high is not None and low.size == high.size == 1 and bool((low < high).all())
    if x.dtype in FLOATS and low is not None and high is not None and ordered:
        if float(low.reshape(())) == 0 and float(high.reshape(())) == 6:
            n.result(n.emit("relu6", x=x, out_shape=x.shape))
        else:
            alpha, beta = n.real(float(low.reshape(()))), n.real(float(high.reshape(())))
            n.result(n.emit("clip", x=x, alpha=alpha, beta=beta, out_shape=x.shape))
        return
    if low is not None:
        x = n.emit("maximum", x=x, y=_limit(x, low.reshape(())), out_shape=x.shape)
    if high is not None:
        x = n.emit("minimum", x=x, y=_limit(x, high.reshape(())), out_shape=x.shape)
    n.result(x)


def _limit(
    x: Value, limit: np.ndarray[tuple[int, ...], np.dtype[np.generic]]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    return limit if x.dtype in FLOATS else np.clip(limit, -(2**31), 2**31 - 1).astype(np.int32)


@lowers("Cast", dtypes=ANY)
def cast(n: NodeLowering) -> None:
    """To bool: whether it is not zero. To 8 and 16 bits: modulo those, where the range it comes from is wider."""
    x, to = n.x(), n.out_dtype()
    if to == "bool" and x.dtype != "bool":
        zero = np.zeros((), np.int32) if x.dtype == "int32" else n.real(0)
        n.result(n.emit("not_equal", x=x, y=zero, out_dtype="bool", out_shape=x.shape))
        return
    made = n.cast(x, to)
    n.result(n.wrapped(made) if to == "int32" and not _holds(n.node.outputs[0], n.value(0)) else made)


def _holds(out: ir.Value, given: ir.Value) -> bool:
    """Whether the type of `out` has every value of that of `given`."""
    if out.dtype is None or given.dtype is None:
        return False
    return bool(np.can_cast(given.dtype.numpy(), out.dtype.numpy()))


@lowers("Identity", dtypes=ANY)
def identity(n: NodeLowering) -> None:
    n.result(n.x())
