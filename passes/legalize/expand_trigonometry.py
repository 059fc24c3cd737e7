"""Trigonometric and hyperbolic functions with Sin, Cos, Exp, Log and Sqrt: each good to a few units in float32.

Near zero, where the logarithms and differences of the textbook formulas cancel, the polynomials of Moshier's Cephes library
(S. L. Moshier, Methods and Programs for Mathematical Functions, 1989; single precision: asinhf, acoshf, atanhf, sinhf,
atanf) stand in. They are not good enough for float64, which is refused: run to-float32 first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

from edgec.graph import ir
from edgec.passes.legalize.builders import first_input
from edgec.rewrite import Reject, Result, Rewriter

_ASINH = (2.0122003309e-2, -4.2699340972e-2, 7.4847586088e-2, -1.6666288134e-1, 1.0)
_ACOSH = (1.7596881071e-3, -7.5272886713e-3, 2.6454905019e-2, -1.1784741703e-1, 1.4142135263)
_ATANH = (1.81740078349e-1, 8.24370301058e-2, 1.46691431730e-1, 1.99782164500e-1, 3.33337300303e-1, 1.0)
_SINH = (2.03721912945e-4, 8.33028376239e-3, 1.66667160211e-1, 1.0)
_ATAN = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1, 1.0)

_ERF_P = (2.0906070622e-6, 2.8759601230e-4, 3.7622731127e-3, 5.2746916186e-2, 1.8996604082e-1, 1.1283790552)
_ERF_Q = (3.8651398514e-5, 1.1669202774e-3, 1.4959867215e-2, 1.1397896908e-1, 5.0168505394e-1, 1.0)
_ERF_END = 3.85


class _Arithmetic:
    """Formulas over one value, written as calls; numbers become weights of its type."""

    def __init__(self, rw: Rewriter, x: ir.Value) -> None:
        self.rw, self.x = rw, x

    def number(self, v: float) -> ir.Value:
        return self.rw.scalar(v, self.x, "c")

    def op(self, name: str, *args: ir.Value | float) -> ir.Value:
        return self.rw.op(name, *(a if isinstance(a, ir.Value) else self.number(a) for a in args))

    def polynomial(self, coefficients: Sequence[float], z: ir.Value) -> ir.Value:
        """By Horner's rule, the highest power first."""
        total: ir.Value | float = coefficients[0]
        for c in coefficients[1:]:
            total = self.op("Add", self.op("Mul", total, z), c)
        assert isinstance(total, ir.Value)  # there are two coefficients at least
        return total

    def odd(self, coefficients: Sequence[float], x: ir.Value) -> ir.Value:
        """x * polynomial(x^2)."""
        return self.op("Mul", self.polynomial(coefficients, self.op("Mul", x, x)), x)

    def atan_small(self, t: ir.Value) -> ir.Value:
        """atan of |t| <= 1: the half angle, atan(t) = 2 atan(t / (1 + sqrt(1 + t^2))), is below tan(pi / 8)."""
        root = self.op("Sqrt", self.op("Add", self.op("Mul", t, t), 1.0))
        half = self.odd(_ATAN, self.op("Div", t, self.op("Add", root, 1.0)))
        return self.op("Add", half, half)

    def atan(self, x: ir.Value) -> ir.Value:
        """pi/2 - atan(1/|x|) above 1; with the sign of x."""
        size = self.op("Abs", x)
        angle = self.atan_small(self.op("Div", self.op("Min", size, 1.0), self.op("Max", size, 1.0)))
        turned = self.op("Where", self.op("Greater", size, 1.0), self.op("Sub", math.pi / 2, angle), angle)
        return self.op("Mul", turned, self.op("Sign", x))


Formula = Callable[[_Arithmetic, ir.Value], ir.Value]


def _formula(f: Formula) -> Callable[[ir.Node, Rewriter], Result]:
    """An expansion that computes `f`, for float32 and narrower."""

    @functools.wraps(f)
    def expand(node: ir.Node, rw: Rewriter) -> Result:
        x = first_input(node)
        if x.dtype is None or not x.dtype.is_floating_point():
            return Reject("the type is not known, or not a floating-point one")
        if x.dtype == ir.DataType.DOUBLE:
            return Reject("the approximation is good to float32, not to float64: run to-float32 before")
        return f(_Arithmetic(rw, x), x)

    return expand


@_formula
def tan(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """sin / cos."""
    return a.op("Div", a.op("Sin", x), a.op("Cos", x))


@_formula
def atan(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """Half angles and a polynomial."""
    return a.atan(x)


@_formula
def asin(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """2 atan(x / (1 + sqrt((1 - x)(1 + x)))): NaN beyond 1, as the root is."""
    root = a.op("Sqrt", a.op("Mul", a.op("Sub", 1.0, x), a.op("Add", x, 1.0)))
    half = a.atan_small(a.op("Div", x, a.op("Add", root, 1.0)))
    return a.op("Add", half, half)


@_formula
def acos(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """2 atan(sqrt((1 - x) / (1 + x))), precise where the result is small too."""
    half = a.atan(a.op("Sqrt", a.op("Div", a.op("Sub", 1.0, x), a.op("Add", x, 1.0))))
    return a.op("Add", half, half)


def _halves(a: _Arithmetic, x: ir.Value, join: str) -> ir.Value:
    """(e^x +- e^-x) / 2 as products of square roots: finite wherever the result is."""
    up = a.op("Exp", a.op("Mul", x, 0.5))
    down = a.op("Exp", a.op("Mul", x, -0.5))
    return a.op(join, a.op("Mul", a.op("Mul", up, 0.5), up), a.op("Mul", a.op("Mul", down, 0.5), down))


@_formula
def cosh(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """(e^x + e^-x) / 2."""
    return _halves(a, x, "Add")


@_formula
def sinh(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """(e^x - e^-x) / 2; a polynomial up to 1."""
    return a.op("Where", a.op("Less", a.op("Abs", x), 1.0), a.odd(_SINH, x), _halves(a, x, "Sub"))


@_formula
def asinh(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """log(|x| + sqrt(x^2 + 1)) with the larger of |x| and 1 taken out, so that no square overflows."""
    size = a.op("Abs", x)
    small, large = a.op("Min", size, 1.0), a.op("Max", size, 1.0)
    ratio = a.op("Div", small, large)
    root = a.op("Sqrt", a.op("Add", a.op("Mul", ratio, ratio), 1.0))
    value = a.op("Add", a.op("Log", large), a.op("Log", a.op("Add", small, root)))
    return a.op("Where", a.op("Less", size, 0.5), a.odd(_ASINH, x), a.op("Mul", value, a.op("Sign", x)))


@_formula
def acosh(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """log(x) + log(1 + sqrt((1 - 1/x)(1 + 1/x))); sqrt(x - 1) times a polynomial up to 1.5. NaN below 1."""
    above = a.op("Sub", x, 1.0)
    near = a.op("Mul", a.polynomial(_ACOSH, above), a.op("Sqrt", above))
    inverse = a.op("Div", 1.0, x)
    root = a.op("Sqrt", a.op("Mul", a.op("Sub", 1.0, inverse), a.op("Add", inverse, 1.0)))
    far = a.op("Add", a.op("Log", x), a.op("Log", a.op("Add", root, 1.0)))
    return a.op("Where", a.op("Less", x, 1.5), near, far)


@_formula
def atanh(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """log((1 + x) / (1 - x)) / 2; a polynomial up to 0.5."""
    far = a.op("Mul", a.op("Log", a.op("Div", a.op("Add", x, 1.0), a.op("Sub", 1.0, x))), 0.5)
    return a.op("Where", a.op("Less", a.op("Abs", x), 0.5), a.odd(_ATANH, x), far)


@_formula
def erf(a: _Arithmetic, x: ir.Value) -> ir.Value:
    """x P(x^2) / Q(x^2) up to 3.85, where erf is 1 in float32.

    The coefficients are a minimax fit of erf(x) / x (iteratively reweighted least squares on the error in erf itself);
    evaluated in float32 the error is below 4e-7 everywhere. tests/unit/test_expansions.py measures it.
    """
    x = a.op("Min", a.op("Max", x, -_ERF_END), _ERF_END)
    square = a.op("Mul", x, x)
    value = a.op("Div", a.op("Mul", x, a.polynomial(_ERF_P, square)), a.polynomial(_ERF_Q, square))
    return a.op("Min", a.op("Max", value, -1.0), 1.0)
