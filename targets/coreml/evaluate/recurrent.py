"""Recurrent layers, x [steps, N, I]. States are rounded where they leave the layer, not from step to step.

"reverse" goes through the steps from the last to the first and gives its outputs in that order, as coremltools' own tests of
these operations have it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgec.graph import ir
from edgec.targets.coreml.evaluate.rules import OpReader, evaluates
from edgec.targets.coreml.program import Array

_ACTIVATIONS = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "scaled_tanh": "Tanh",
    "relu": "Relu",
    "linear": "Affine",
    "hard_sigmoid": "HardSigmoid",
    "sigmoid_hard": "HardSigmoid",
}
"""With the parameters that coremltools' tests give: scaled_tanh is tanh, hard_sigmoid min(max(0.2 x + 0.5, 0), 1)."""

_PARAMETERS = {"Affine": (1.0, 0.0), "HardSigmoid": (0.2, 0.5)}

_LSTM = (0, 2, 1, 3)
"""MIL has input, forget, output, cell; ONNX input, output, forget, cell."""

_LSTM_PEEPHOLE = (0, 2, 1)

_GRU = (2, 0, 1)
"""MIL has reset, new, update; ONNX update, reset, hidden."""


@evaluates("lstm")
def lstm(o: OpReader) -> None:
    """Outputs, last hidden and last cell state; "bidirectional": forwards and backwards side by side on the last axis."""
    if o.has("clip"):
        o.unknown("a clipped cell gate")
    both = o.text("direction", "forward") == "bidirectional"
    ends = ["", "_back"] if both else [""]
    hidden = o.array("weight_hh").shape[1]
    weights = [o.const(_gates(o, "weight_ih", ends, _LSTM)), o.const(_gates(o, "weight_hh", ends, _LSTM))]
    bias = _bias(o, ends, _LSTM, 4 * hidden)
    peephole = o.const(_gates(o, "peephole", ends, _LSTM_PEEPHOLE)) if o.has("peephole") else None
    names = ("recurrent_activation", "cell_activation", "activation")
    states = [_initial(o, name, len(ends)) for name in ("initial_h", "initial_c")]
    turned = o.text("direction", "forward") == "reverse"
    made = o.emit_many(
        "LSTM", [_steps(o, turned), *weights, bias, None, *states, peephole], 3, hidden_size=hidden,
        direction="bidirectional" if both else "forward", **_activations(o, names, len(ends)),
    )  # fmt: skip
    y, h, c = made
    o.give(_sequence(o, y, h), _state(o, h), _state(o, c))


@evaluates("gru")
def gru(o: OpReader) -> None:
    """Outputs and the last state. The reset gate is on the state before the product; with `reset_after` (iOS18) on the product
    and its bias, `input_bias` being that of the other product."""
    after = o.flag("reset_after")
    hidden = o.array("weight_hh").shape[1]
    if not after and o.has("input_bias"):
        o.unknown("input_bias without reset_after")
    weights = [o.const(_gates(o, "weight_ih", [""], _GRU)), o.const(_gates(o, "weight_hh", [""], _GRU))]
    zero = np.zeros(3 * hidden, np.float32)
    outside = _ordered(o.array("input_bias", zero), _GRU) if after else zero
    inside = _ordered(o.array("bias", zero), _GRU)
    turned = o.text("direction", "forward") == "reverse"
    given = [
        _steps(o, turned), *weights, o.const(np.concatenate([outside, inside])[None]), None, _initial(o, "initial_h", 1),
    ]  # fmt: skip
    names = ("recurrent_activation", "activation")
    y, h = o.emit_many("GRU", given, 2, hidden_size=hidden, linear_before_reset=int(after), **_activations(o, names, 1))
    o.give(_sequence(o, y, h), _state(o, h))


@evaluates("rnn")
def rnn(o: OpReader) -> None:
    """Outputs and the last state."""
    hidden = o.array("weight_hh").shape[1]
    weights = [o.const(_gates(o, "weight_ih", [""], (0,))), o.const(_gates(o, "weight_hh", [""], (0,)))]
    turned = o.text("direction", "forward") == "reverse"
    given = [_steps(o, turned), *weights, _bias(o, [""], (0,), hidden), None, _initial(o, "initial_h", 1)]
    y, h = o.emit_many("RNN", given, 2, hidden_size=hidden, **_activations(o, ("activation",), 1))
    o.give(_sequence(o, y, h), _state(o, h))


def _gates(o: OpReader, name: str, ends: Sequence[str], order: Sequence[int]) -> Array:
    """A parameter of each direction, its gates in ONNX's order, [directions, ...]."""
    return np.stack([_ordered(o.array(f"{name}{end}"), order) for end in ends])


def _ordered(values: Array, order: Sequence[int]) -> Array:
    parts = np.split(values, len(order))
    return np.concatenate([parts[i] for i in order])


def _bias(o: OpReader, ends: Sequence[str], order: Sequence[int], size: int) -> ir.Value:
    """MIL has the sum of both biases."""
    zero = np.zeros(size, np.float32)
    whole = [_ordered(o.array(f"bias{end}", zero), order) for end in ends]
    return o.const(np.stack([np.concatenate([b, zero]) for b in whole]))


def _activations(o: OpReader, names: Sequence[str], directions: int) -> dict[str, object]:
    defaults = {"recurrent_activation": "sigmoid"}
    asked = [o.text(name, defaults.get(name, "tanh")).lower() for name in names]
    unknown = [a for a in asked if a not in _ACTIVATIONS]
    if unknown:
        o.unknown(f"activation {unknown[0]}")
    found = [_ACTIVATIONS[a] for a in asked] * directions
    alpha, beta = ([_PARAMETERS[a][i] for a in found if a in _PARAMETERS] or None for i in (0, 1))
    return {"activations": found, "activation_alpha": alpha, "activation_beta": beta}


def _initial(o: OpReader, name: str, directions: int) -> ir.Value:
    """[N, directions H] as [directions, N, H]."""
    v = o.emit("Reshape", [o.x(name), o.const([0, directions, -1])])
    return o.emit("Transpose", [v], perm=[1, 0, 2])


def _steps(o: OpReader, turned: bool) -> ir.Value:
    if not turned:
        return o.x()
    limits = np.iinfo(np.int64)
    return o.emit("Slice", [o.x(), o.const([limits.max]), o.const([limits.min]), o.const([0]), o.const([-1])])


def _sequence(o: OpReader, y: ir.Value, h: ir.Value) -> ir.Value:
    """[steps, directions, N, H] as [steps, N, directions H]; without `output_sequence` the last state alone."""
    if not o.flag("output_sequence"):
        return o.emit("Unsqueeze", [_state(o, h), o.const([0])])
    return o.emit("Reshape", [o.emit("Transpose", [y], perm=[0, 2, 1, 3]), o.const([0, 0, -1])])


def _state(o: OpReader, h: ir.Value) -> ir.Value:
    """[directions, N, H] as [N, directions H]."""
    return o.emit("Reshape", [o.emit("Transpose", [h], perm=[1, 0, 2]), o.const([0, -1])])
