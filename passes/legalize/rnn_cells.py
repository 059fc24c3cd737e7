"""One step of LSTM, GRU and RNN in simpler ops, after their ONNX operator definitions (opset 22).

A cell gets the projected input of the step (x W^T and the biases that may be added early) and the states, and gives the
new states. Everything is [batch, hidden], or [batch, gates * hidden] before it is split.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import attribute, ir
from edgec.rewrite import Rewriter

Array = npt.NDArray[Any]
Activation = Callable[[ir.Value], ir.Value]

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
_DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
_ALPHA = {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
_BETA = {"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5}
_PLAIN = frozenset({"Relu", "Tanh", "Sigmoid", "Softsign", "Softplus"})
_WITH_ALPHA = frozenset({"LeakyRelu", "ThresholdedRelu", "Elu"})


def activations(node: ir.Node, rw: Rewriter) -> list[list[Activation]] | str:
    """For each direction its activation functions (f, g, h), clipping included; or which one is unknown.

    The state an LSTM's h is applied to is not clipped: the definition leaves it open, and ONNX Runtime does not.
    """
    directions = 2 if attribute(node, "direction") == "bidirectional" else 1
    given = node.attributes.get("activations")
    names = list(given.as_strings() if given is not None else _DEFAULTS[node.op_type] * directions)
    alphas = list(attribute(node, "activation_alpha") or ())
    betas = list(attribute(node, "activation_beta") or ())
    limit = attribute(node, "clip")
    canonical = {n.lower(): n for n in (*_PLAIN, *_WITH_ALPHA, *_ALPHA)}
    made: list[Activation] = []
    for i, text in enumerate(names):
        name = canonical.get(text.lower())
        if name is None:
            return f"activation {text} is unknown"
        alpha = alphas.pop(0) if name in _ALPHA and alphas else _ALPHA.get(name, 0.0)
        beta = betas.pop(0) if name in _BETA and betas else _BETA.get(name, 0.0)
        outer = node.op_type == "LSTM" and i % 3 == 2
        made.append(_activation(rw, name, alpha, beta, None if outer else limit))
    each = len(_DEFAULTS[node.op_type])
    if len(made) != each * directions:
        return f"{len(made)} activations instead of {each * directions}"
    return [made[i : i + each] for i in range(0, len(made), each)]


def _activation(rw: Rewriter, name: str, alpha: float, beta: float, limit: float | None) -> Activation:
    def apply(x: ir.Value) -> ir.Value:
        if limit:
            x = rw.op("Clip", x, rw.scalar(-limit, x, "low"), rw.scalar(limit, x, "high"))
        if name == "Affine":
            return rw.op("Add", rw.op("Mul", x, rw.scalar(alpha, x, "alpha")), rw.scalar(beta, x, "beta"))
        if name == "ScaledTanh":
            return rw.op(
                "Mul", rw.op("Tanh", rw.op("Mul", x, rw.scalar(beta, x, "beta"))), rw.scalar(alpha, x, "alpha")
            )
        if name == "HardSigmoid":
            return rw.op(name, x, attrs={"alpha": alpha, "beta": beta})
        return rw.op(name, x, attrs={"alpha": alpha} if name in _WITH_ALPHA else {})

    return apply


@dataclass(frozen=True)
class Cell:
    """The constants of one direction: R [gates * hidden, hidden], the recurrent bias, peepholes [3 * hidden]."""

    node: ir.Node
    rw: Rewriter
    hidden: int
    recurrent: Array
    recurrent_bias: Array
    peepholes: Array | None
    functions: Sequence[Activation]
    shared: dict[str, ir.Value]

    def weight(self, name: str, array: Array) -> ir.Value:
        """A constant all steps share."""
        if name not in self.shared:
            self.shared[name] = self.rw.const(array, f"{self.node.outputs[0].name}.{name}")
        return self.shared[name]

    def split(self, x: ir.Value, parts: int) -> Sequence[ir.Value]:
        return self.rw.ops("Split", x, attrs={"axis": 1, "num_outputs": parts}, outputs=parts)

    def early_bias(self) -> Array:
        """The recurrent bias as far as it may be added to the input: a GRU may multiply its last third by a gate."""
        late = self.recurrent_bias.copy()
        if self.node.op_type == "GRU" and attribute(self.node, "linear_before_reset"):
            late[2 * self.hidden :] = 0
        return late

    def step(self, x: ir.Value, h: ir.Value, c: ir.Value | None) -> tuple[ir.Value, ir.Value | None]:
        if self.node.op_type == "GRU":
            return self._gru(x, h), None
        total = self.rw.op("Add", x, self.rw.op("MatMul", h, self.weight("R", self.recurrent.T)))
        if self.node.op_type == "RNN":
            return self.functions[0](total), None
        assert c is not None  # an LSTM has two states
        return self._lstm(total, c)

    def _peep(self, gate: ir.Value, c: ir.Value, index: int) -> ir.Value:
        if self.peepholes is None:
            return gate
        part = self.peepholes[index * self.hidden : (index + 1) * self.hidden]
        return self.rw.op("Add", gate, self.rw.op("Mul", c, self.weight(f"P{index}", part)))

    def _lstm(self, total: ir.Value, c: ir.Value) -> tuple[ir.Value, ir.Value]:
        op, (f, g, h) = self.rw.op, self.functions
        i, o, forget, new = self.split(total, 4)
        i = f(self._peep(i, c, 0))
        if attribute(self.node, "input_forget"):
            forget = op("Sub", self.rw.scalar(1.0, i, "one"), i)
        else:
            forget = f(self._peep(forget, c, 2))
        state = op("Add", op("Mul", forget, c), op("Mul", i, g(new)))
        return op("Mul", f(self._peep(o, state, 1)), h(state)), state

    def _gru(self, x: ir.Value, h: ir.Value) -> ir.Value:
        op, n, (f, g) = self.rw.op, self.hidden, self.functions
        if attribute(self.node, "linear_before_reset"):
            xz, xr, xh = self.split(x, 3)
            hz, hr, hh = self.split(op("MatMul", h, self.weight("R", self.recurrent.T)), 3)
            z, r = f(op("Add", xz, hz)), f(op("Add", xr, hr))
            late = self.recurrent_bias[2 * n :]
            hh = op("Add", hh, self.weight("Rb", late)) if late.any() else hh
            new = g(op("Add", xh, op("Mul", r, hh)))
        else:
            gates = self.weight("Rzr", self.recurrent[: 2 * n].T)
            xz, xr, xh = self.split(x, 3)
            hz, hr = self.split(op("MatMul", h, gates), 2)
            z, r = f(op("Add", xz, hz)), f(op("Add", xr, hr))
            candidate = op("MatMul", op("Mul", r, h), self.weight("Rh", self.recurrent[2 * n :].T))
            new = g(op("Add", xh, candidate))
        # (1 - z) * new + z * h, with one product less
        return op("Add", new, op("Mul", z, op("Sub", h, new)))


def zeros(rw: Rewriter, shape: tuple[int, ...], like: ir.Value) -> ir.Value:
    dtype = like.dtype.numpy() if like.dtype is not None else np.dtype(np.float32)
    return rw.const(np.zeros(shape, dtype), "zeros")
