"""LSTM. GRU and RNN are written out step by step before (unroll-rnn): MIL's definition of gru leaves open which of ONNX's two it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgec.targets.coreml.node import NodeLowering
from edgec.targets.coreml.program import Array, Value
from edgec.targets.coreml.rules import lowers

_ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu"}
_GATES = (0, 2, 1, 3)
"""ONNX has input, output, forget, cell; MIL input, forget, output, cell."""


@lowers("LSTM")
def lstm(n: NodeLowering) -> None:
    """MIL lstm: forward, or both ways at once; backwards alone is forward on the reversed sequence."""
    direction = n.attr("direction", "forward")
    ways = 2 if direction == "bidirectional" else 1
    steps, batch, _ = n.shape(0)
    hidden = n.shape(2)[2]
    _check(n, steps, batch)
    gate, cell, out = _activations(n, ways)
    x = n.x(0)
    if direction == "reverse":
        x = n.emit("reverse", x=x, axes=np.asarray([0], np.int32), out_shape=x.shape)
    weights: dict[str, Any] = dict(_parameters(n, 0))
    if ways == 2:
        weights |= {f"{k}_back": v for k, v in _parameters(n, 1).items()}
    states = [_state(n, i, ways, batch, hidden) for i in (5, 6)]
    both = (batch, ways * hidden)
    made = n.emit_many(
        "lstm", [((steps, *both), None), (both, None), (both, None)], x=x, initial_h=states[0], initial_c=states[1],
        **weights,
        direction="bidirectional" if ways == 2 else "forward", output_sequence=True, recurrent_activation=gate,
        cell_activation=cell, activation=out,
    )  # fmt: skip
    sequence = made[0]
    if direction == "reverse":
        sequence = n.emit("reverse", x=sequence, axes=np.asarray([0], np.int32), out_shape=sequence.shape)
    split = n.reshape(sequence, (steps, batch, ways, hidden))
    n.result(n.transpose(split, (0, 2, 1, 3)) if ways == 2 else n.reshape(sequence, (steps, 1, batch, hidden)), 0)
    for k in (1, 2):
        last = n.reshape(made[k], (batch, ways, hidden))
        n.result(n.transpose(last, (1, 0, 2)) if ways == 2 else n.reshape(made[k], (1, batch, hidden)), k)


def _check(n: NodeLowering, steps: int, batch: int) -> None:
    if int(n.attr("layout", 0)):
        n.refuse("layout 1", "a Transpose in front and behind with layout 0 is the same")
    if int(n.attr("input_forget", 0)):
        n.refuse("input_forget")
    if n.attr("clip") is not None:
        n.refuse("clip")
    if n.has(4) and not (n.is_const(4) and (n.const(4) == steps).all()):
        n.refuse("sequences of lengths of their own", "run them one by one, each as long as it is")
    for i in (1, 2, 3, 7):
        if n.has(i) and not n.is_const(i):
            n.refuse("weights that are computed")


def _activations(n: NodeLowering, ways: int) -> Sequence[str]:
    names = [a.lower() for a in n.attr("activations") or ["Sigmoid", "Tanh", "Tanh"] * ways]
    if names[:3] * ways != names:
        n.refuse("other activations backwards than forwards")
    if any(a not in _ACTIVATIONS for a in names):
        n.refuse(f"activations {names[:3]}", f"MIL has {', '.join(_ACTIVATIONS)}")
    return [_ACTIVATIONS[a] for a in names[:3]]


def _parameters(n: NodeLowering, way: int) -> dict[str, Array]:
    """Weights of one direction, gates in MIL's order."""
    hidden = n.shape(2)[2]
    found = {"weight_ih": _ordered(n.const(1)[way], _GATES), "weight_hh": _ordered(n.const(2)[way], _GATES)}
    if n.has(3):
        bias = n.const(3)[way]
        found["bias"] = _ordered(bias[: 4 * hidden] + bias[4 * hidden :], _GATES)
    if n.has(7):
        found["peephole"] = _ordered(n.const(7)[way], (0, 2, 1))
    return found


def _ordered(gates: Array, order: Sequence[int]) -> Array:
    parts = np.split(gates, len(order))
    return np.ascontiguousarray(np.concatenate([parts[i] for i in order]))


def _state(n: NodeLowering, i: int, ways: int, batch: int, hidden: int) -> Value | Array:
    """Initial state [directions, batch, hidden] as [batch, directions * hidden]."""
    if not n.has(i):
        return np.zeros((batch, ways * hidden), np.float16 if n.x(0).dtype == "fp16" else np.float32)
    x = n.x(i)
    return n.reshape(n.transpose(x, (1, 0, 2)) if ways == 2 else x, (batch, ways * hidden))
