"""LSTM, GRU and RNN: a hidden unit is a row of every gate and a column of the recurrent weights."""

from __future__ import annotations

from edgec.passes.prune.groups.registry import Cut, Ties, resizes, ties


@ties("LSTM", "GRU", "RNN")
def recurrent(t: Ties) -> None:
    x, w, r, b = (t.input(i) for i in range(4))
    hidden = t.size(r, 2)
    if t.attr("layout") or hidden < 2 or t.output() is None or w is None:
        t.pin_all("layout 1, or one hidden unit")
        return
    for v in (*t.node.inputs, *t.node.outputs):
        t.pin_axes(v, range(min(2, t.rank(v))) if v is x else (0,), "time, batch and directions")
    t.same(x, 2, w, 2)
    t.role(w, 2, "reads")
    hub = t.dims.factor(t.node.outputs[0], hidden)
    state = [(v, 2) for v in (t.input(5), t.input(6), t.output(1), t.output(2))]
    for v, axis in ((w, 1), (r, 1), (r, 2), (b, 1), (t.output(0), 3), (t.input(7), 1), *state):
        if v is not None and t.rank(v):
            t.grouped(v, axis, hub)
    t.role(w, 1, "writes")
    t.role(r, 2, "reads")


@resizes("LSTM", "GRU", "RNN")
def resize_recurrent(cut: Cut) -> None:
    hidden = cut.size(cut.node.inputs[2], 2)
    if hidden is not None:
        cut.set_attr("hidden_size", hidden)
