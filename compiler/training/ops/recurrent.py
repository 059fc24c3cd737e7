"""LSTM and GRU, unrolled in time, with the standard activations."""

from __future__ import annotations

from typing import Any

import torch

from edgec.training.ops.registry import Call, Tensor, op


def _directions(call: Call, standard: list[str]) -> list[bool]:
    """Whether each direction runs backwards."""
    given = call["activations"]
    count = 2 if call["direction"] == "bidirectional" else 1
    if given and [a.lower() for a in given] != [a.lower() for a in standard] * count:
        raise call.unsupported(f"with activations {', '.join(given)}")
    if call["clip"]:
        raise call.unsupported("with clip")
    return {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[call["direction"]]


def _initial(state: Tensor | None, d: int, x: Tensor, hidden: int) -> Tensor:
    return state[d] if state is not None else torch.zeros(x.shape[1], hidden, dtype=x.dtype, device=x.device)


@op("LSTM")
def lstm(
    call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h0: Tensor | None = None, c0: Tensor | None = None, peepholes: Tensor | None = None,
) -> Any:  # fmt: skip
    if lengths is not None or peepholes is not None or call["layout"] or call["input_forget"]:
        raise call.unsupported("with sequence lengths, peepholes, layout or input_forget")
    hidden, outs, hs, cs = r.shape[2], [], [], []
    for d, backwards in enumerate(_directions(call, ["Sigmoid", "Tanh", "Tanh"])):
        h, c = _initial(h0, d, x, hidden), _initial(c0, d, x, hidden)
        given = x @ w[d].t()
        if b is not None:
            given = given + b[d, : 4 * hidden] + b[d, 4 * hidden :]
        steps: list[Tensor] = []
        for t in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
            i, o, f, g = (given[t] + h @ r[d].t()).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            steps.append(h)
        outs.append(torch.stack(steps[::-1] if backwards else steps))
        hs.append(h)
        cs.append(c)
    return torch.stack(outs, dim=1), torch.stack(hs), torch.stack(cs)


@op("GRU")
def gru(
    call: Call, x: Tensor, w: Tensor, r: Tensor, b: Tensor | None = None, lengths: Tensor | None = None,
    h0: Tensor | None = None,
) -> Any:  # fmt: skip
    if lengths is not None or call["layout"]:
        raise call.unsupported("with sequence lengths or layout")
    hidden, outs, hs = r.shape[2], [], []
    for d, backwards in enumerate(_directions(call, ["Sigmoid", "Tanh"])):
        h = _initial(h0, d, x, hidden)
        bias = b[d] if b is not None else torch.zeros(6 * hidden, dtype=x.dtype, device=x.device)
        given = x @ w[d].t() + bias[: 3 * hidden]
        rb = bias[3 * hidden :]
        steps: list[Tensor] = []
        for t in reversed(range(x.shape[0])) if backwards else range(x.shape[0]):
            z, reset, new = given[t].chunk(3, dim=-1)
            z = torch.sigmoid(z + h @ r[d, :hidden].t() + rb[:hidden])
            reset = torch.sigmoid(reset + h @ r[d, hidden : 2 * hidden].t() + rb[hidden : 2 * hidden])
            if call["linear_before_reset"]:
                new = torch.tanh(new + reset * (h @ r[d, 2 * hidden :].t() + rb[2 * hidden :]))
            else:
                new = torch.tanh(new + (reset * h) @ r[d, 2 * hidden :].t() + rb[2 * hidden :])
            h = (1 - z) * new + z * h
            steps.append(h)
        outs.append(torch.stack(steps[::-1] if backwards else steps))
        hs.append(h)
    return torch.stack(outs, dim=1), torch.stack(hs)
