"""Recovery in closed form: layer after layer, the weights that come closest to the outputs the float layer had.

A layer reads what the pruned and so far recovered graph gives it, and is fitted to what the float graph gave: it makes good
for its own channels and for what the layers before it could not. Where its output is added to a value that is there already
(a residual connection), it is fitted to the sum, less that value, so that errors do not pile up along the sums (He et al.
2017, arXiv:1707.06168, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, Location
from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.prune.least_squares import Fit, Part, Problem
from edgec.passes.prune.sound_samples import sound_samples
from edgec.passes.prune.weight_layers import WeightLayer, product_layer
from edgec.passes.quantize.correction import closeness
from edgec.passes.quantize.moments import columns, places
from edgec.passes.quantize.staged_run import StagedRun
from edgec.pruning import PruningRecord
from edgec.samples import Samples

Array = npt.NDArray[Any]
Arrays = dict[str, Array]

_COLUMNS_PER_WEIGHT = 8
"""Columns for each weight of an output, at least."""

_HELD_OUT = 4
"""Every fourth sample chooses the ridge."""

_GROUPED = 4
"""Grouped convolutions have few weights an output, and get this part of the columns."""

_KEPT = 1 << 27
"""Floats of columns that may be kept to fit what is clipped afterwards."""

_SAME = 1e-9
"""A layer that misses its variance by less than this part has nothing to make good."""


@dataclass
class Task:
    """A layer of the pruned graph and the value of the float graph that it should come close to."""

    layer: WeightLayer
    target: ir.Value
    """Of the float graph."""
    kept: npt.NDArray[np.int64] | None
    """Channels of `target` that are left; None: all."""
    other: ir.Value | None
    """Of the pruned graph: what is added to the layer's output to give `target`."""


def recover(
    graph: Graph,
    record: PruningRecord,
    calibration: Samples,
    count: int,
    column_count: int,
    megabytes: int,
    seed: int,
    notes: Diagnostics,
) -> dict[str, int]:
    """Change weights and biases of `graph` in place. Returns how many layers were changed, and how many biases alone.

    Nothing is changed where that would bring the outputs no closer to those of the float graph, judged on other samples.
    """
    reference = record.reference
    fit, judge = sound_samples(reference, calibration, count, megabytes // 2, notes)
    tasks = tasks_of(graph, record)
    before = graph.clone()
    now, was = StagedRun(graph, fit), StagedRun(reference, fit)
    ends = _ends(reference)
    stats = {"layers": 0, "biases": 0}
    for task in tasks:
        found = _fitted(task, now, was, ends, column_count, seed)
        if found is None or not np.isfinite(found.after) or found.before < _SAME:
            continue
        _store(task.layer, found, graph)
        stats["biases" if found.ridge is None else "layers"] += 1
    worse, better = closeness(reference, [before, graph], judge)
    if not better > worse:
        graph.model = before.model
        what = "the closed form brought nothing: the outputs came no closer to those of the float model"
        notes.warn("EC0354", what, Location(graph.source), "more samples, or inputs more like those in use")
        return {}
    return {k: n for k, n in stats.items() if n}


def tasks_of(graph: Graph, record: PruningRecord) -> list[Task]:
    """The layers that can be fitted, in execution order: what each computes is in the float graph under the same name."""
    reference = {v.name: v for n in record.reference.model.graph for v in n.outputs if v.name}
    order = {n: i for i, n in enumerate(graph.model.graph)}
    made = {n: i for i, n in enumerate(record.reference.model.graph)}
    found: list[Task] = []
    last = -1
    for node in order:
        layer = product_layer(node)
        if layer is None:
            continue
        out, other = _other(layer, order) or (layer.output, None)
        target = reference.get(out.name or "")
        producer = target.producer() if target is not None else None
        place = made.get(producer, -1) if producer is not None else -1
        if target is None or place < last:
            continue
        last = place
        kept = record.kept.get(target.name or "", {})
        axis = layer.channel_axis % len(target.shape or ())
        if set(kept) <= {axis}:
            found.append(Task(layer, target, kept.get(axis), other))
    return found


def _other(layer: WeightLayer, order: dict[ir.Node, int]) -> tuple[ir.Value, ir.Value | None] | None:
    """The sum that alone reads the layer's output, and its other operand, which is computed before the layer."""
    node, out = layer.node, layer.output
    users = list(out.uses())
    if len(users) != 1 or out.is_graph_output():
        return None
    add, at = users[0]
    if add.op_type != "Add" or add.domain or add not in order:
        return None
    other = add.inputs[1 - at]
    if other is None or is_constant(other) or other.shape is None or other.shape != out.shape:
        return None
    made = other.producer()
    if other is out or (made is not None and order.get(made, len(order)) > order[node]):
        return None
    return add.outputs[0], other


def _ends(reference: Graph) -> dict[ir.Node, ir.Node | None]:
    nodes: list[ir.Node | None] = [*reference.model.graph, None]
    return {n: after for n, after in pairwise(nodes) if n is not None}


def _fitted(
    task: Task, now: StagedRun, was: StagedRun, ends: dict[ir.Node, ir.Node | None], column_count: int, seed: int
) -> Fit | None:
    layer = task.layer
    w = layer.rows(layer.weight()).astype(np.float64)
    if not np.isfinite(w).all():
        return None
    groups, outputs, k = w.shape
    if groups > 1:
        column_count //= _GROUPED
    count = max(1, len(now.alive))
    each = -(-max(column_count, _COLUMNS_PER_WEIGHT * k) // count)
    keeps = each * count * groups * (k + outputs) <= _KEPT
    problem = Problem(w, layer.takes_bias, _limits(task) if keeps else None)
    for i, (x, y, added) in enumerate(_pairs(task, now, was, ends)):

        def rng(i: int = i) -> np.random.Generator:
            return np.random.default_rng((seed, i))

        wanted = _outputs(layer, y, each, rng()).reshape(groups, outputs, -1)
        plus = None if added is None else _outputs(layer, added, each, rng()).reshape(groups, outputs, -1)
        part = Part(columns(layer, x, each, rng()), wanted, plus)
        if count < _HELD_OUT:
            problem.add(part, held=True)
        problem.add(part, held=count >= _HELD_OUT and i % _HELD_OUT == _HELD_OUT - 1)
    b0 = layer.bias() if layer.takes_bias else np.zeros(layer.channels)
    return problem.solve(b0.reshape(groups, outputs))


def _limits(task: Task) -> tuple[float, float] | None:
    """What alone reads the fitted value clips it to."""
    out = task.layer.output
    if task.other is not None:
        out = next(iter(out.uses())).node.outputs[0]  # the sum
    users = list(out.uses())
    if len(users) != 1 or out.is_graph_output() or users[0].node.domain:
        return None
    reader = users[0].node
    if reader.op_type == "Relu":
        return 0.0, np.inf
    if reader.op_type != "Clip":
        return None
    bounds = [constant(v) if v is not None else None for v in reader.inputs[1:3]]
    if any(v is not None and b is None for v, b in zip(reader.inputs[1:3], bounds, strict=True)):
        return None
    low, high = ([*bounds, None, None])[:2]
    return (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))


def _pairs(
    task: Task, now: StagedRun, was: StagedRun, ends: dict[ir.Node, ir.Node | None]
) -> Iterator[tuple[Array, Array, Array | None]]:
    """Sample by sample what the layer reads, what it should give, and what is added to it before that."""
    made = task.target.producer()
    assert made is not None  # tasks_of looked
    read: Sequence[ir.Value] = [task.layer.x] if task.other is None else [task.layer.x, task.other]
    runs = zip(now.values(read, task.layer.node), was.values([task.target], ends[made]), strict=True)
    for have, want in runs:
        y = want[task.target.name or ""]
        if task.kept is not None:
            y = np.take(y, task.kept, task.layer.channel_axis)
        yield have[task.layer.x.name or ""], y, have[task.other.name or ""] if task.other is not None else None


def _outputs(layer: WeightLayer, y: Array, count: int, rng: np.random.Generator) -> Array:
    """The layer's outputs at the places `columns` takes with the same `rng`: [channels, n]."""
    flat = np.moveaxis(y, layer.channel_axis, 0).reshape(y.shape[layer.channel_axis], -1)
    return flat[:, places(flat.shape[1], count, rng)]


def _store(layer: WeightLayer, fit: Fit, graph: Graph) -> None:
    if fit.ridge is not None:
        layer.set_weight(layer.unrows(fit.weight).astype(np.float32))
    if layer.takes_bias:
        layer.set_bias(fit.bias.reshape(-1), graph)
