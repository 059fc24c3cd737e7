"""Removing atoms: weights sliced, attributes and shape constants rewritten, shapes updated, the result checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph, constant, ir, is_constant
from edgec.passes.prune.groups.dimensions import Dimension, Indices, is_filled
from edgec.passes.prune.groups.group import Analysis, Atom
from edgec.passes.prune.groups.registry import RESIZES, Cut, new_constant


def remove(graph: Graph, atoms: Iterable[Atom]) -> dict[str, dict[int, Indices]]:
    """Cut atoms of one analysis out of the graph, in place. Returns what is left: activation -> axis -> its elements.

    A shared weight is sliced once; a constant vector whose readers are cut differently becomes several. Inputs and outputs
    of the model keep names and shapes. Atoms found before are of no use afterwards: call `find_groups` again.

    Raises:
        EdgecError: EC0330 an atom must stay, EC0331 a dimension would have no element left, EC0332 the atoms are of an
            earlier graph, EC0305 the result is no valid model (a rule is wrong).
    """
    chosen = list(atoms)
    if not chosen:
        return {}
    analysis = chosen[0].group.analysis
    if analysis.spent or any(a.group.analysis is not analysis for a in chosen):
        raise error(
            "EC0332", "these atoms were found in a graph that has been cut since", hint="call find_groups again"
        )
    for a in chosen:
        if a.group.fixed is not None:
            raise error("EC0330", f"group {a.group.name} cannot be cut: {a.group.fixed}")
    stays = _stays(
        analysis, np.asarray([a.number for a in chosen], np.int64), {c for a in chosen for c in a.group.classes}
    )
    analysis.spent = True
    _resize_nodes(graph, stays)
    _slice_constants(graph, stays)
    left: dict[str, dict[int, Indices]] = {}
    for d, kept in stays.items():
        if not is_constant(d.value) and d.reader is None and d.value.shape is not None:
            sizes = list(d.value.shape)
            sizes[d.axis] = len(kept)
            d.value.shape = ir.Shape(sizes)
            left.setdefault(d.value.name or "", {})[d.axis] = kept
    graph.remove_dead()
    graph.verify()
    return left


def _stays(analysis: Analysis, gone: Indices, classes: set[int]) -> dict[Dimension, Indices]:
    """What is left of every dimension that is cut."""
    out: dict[Dimension, Indices] = {}
    for c in classes:
        kept = np.flatnonzero(~np.isin(analysis.labels[c], gone)).astype(np.int64)
        for d in (analysis.dims.all[m] for m in analysis.members[c]):
            if d.axis < 0 or len(kept) == len(analysis.labels[c]):
                continue
            if not len(kept):
                raise error("EC0331", f"axis {d.axis} of {d.value.name} would have no element left")
            out[d] = kept
    return out


def _resize_nodes(graph: Graph, stays: dict[Dimension, Indices]) -> None:
    touched: dict[ir.Node, None] = {}
    for d in stays:
        if (made := d.value.producer()) is not None:
            touched[made] = None
        touched.update(dict.fromkeys(node for node, _ in d.value.uses()))
    for node in touched:
        resize = RESIZES.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if resize is not None:
            resize(Cut(graph, node, graph.opset, stays))


def _slice_constants(graph: Graph, stays: dict[Dimension, Indices]) -> None:
    cuts: dict[tuple[ir.Value, ir.Node | None], list[tuple[int, Indices]]] = defaultdict(list)
    for d, kept in stays.items():
        if is_constant(d.value) or d.reader is not None:
            cuts[d.value, d.reader].append((d.axis, kept))
    made: dict[tuple[ir.Value, tuple[tuple[int, bytes], ...]], ir.Value] = {}
    for (value, reader), axes in cuts.items():
        readers = [node for node, _ in value.uses() if reader is None or node is reader]
        if not readers:
            continue  # a resize gave the node another constant
        key = value, tuple((axis, kept.tobytes()) for axis, kept in sorted(axes, key=lambda a: a[0]))
        new = made.get(key)
        if new is None:
            new = made[key] = _filled(graph, value, axes) if is_filled(value) else _sliced(graph, value, axes)
        for node in dict.fromkeys(readers):
            for i, v in enumerate(node.inputs):
                if v is value:
                    node.replace_input_with(i, new)


def _sliced(graph: Graph, value: ir.Value, axes: list[tuple[int, Indices]]) -> ir.Value:
    assert value.const_value is not None  # it is a constant
    data = value.const_value.numpy()
    for axis, kept in axes:
        data = np.take(data, kept, axis)
    return new_constant(graph, f"{(value.name or 'w').removesuffix('.pruned')}.pruned", data)


def _filled(graph: Graph, value: ir.Value, axes: list[tuple[int, Indices]]) -> ir.Value:
    """A ConstantOfShape of the new shape."""
    node = value.producer()
    assert node is not None  # the caller looked
    shape = constant(node.inputs[0]).copy()  # type: ignore[union-attr]  # is_filled saw it
    for axis, kept in axes:
        shape[axis] = len(kept)
    name = graph.fresh(f"{(value.name or 'w').removesuffix('.pruned')}.pruned")
    new = ir.node(
        "ConstantOfShape", [new_constant(graph, f"{name}.shape", shape)], attributes=node.attributes, name=name
    )
    new.outputs[0].name, new.outputs[0].type, new.outputs[0].shape = name, value.type, ir.Shape(shape.tolist())
    graph.model.graph.insert_after(node, new)
    return new.outputs[0]
