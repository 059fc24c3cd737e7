"""The door to ONNX GraphSurgeon: graphs both ways, and passes written as functions on a `gs.Graph`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_graphsurgeon as gs

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.pipeline import Contract, Pass, PassContext, PassResult

if TYPE_CHECKING:
    import onnx

SHARE_BYTES = 1024
"""Weights from this size on are handed over as the same array; smaller ones are copied with the structure."""

Script = Callable[[Any], Any]


def to_graphsurgeon(graph: Graph) -> Any:
    """`graph` as an `onnx_graphsurgeon.Graph`. Large weights are the same memory (memory-mapped ones stay so): assign
    new arrays to `.values`, do not write into them."""
    shared = _take_weights(graph)
    try:
        proto = ir.to_proto(graph.model)
    finally:
        for v, tensor in shared:
            v.const_value = tensor
    imported = gs.import_onnx(proto)
    tensors = imported.tensors()
    for v, tensor in shared:
        found = tensors.get(v.name)
        if isinstance(found, gs.Constant):
            found.values = tensor.numpy()
    return imported


def _take_weights(graph: Graph) -> list[tuple[ir.Value, ir.TensorProtocol]]:
    """Put an empty stand-in for every large weight of the main graph; returns what was there."""
    out: list[tuple[ir.Value, ir.TensorProtocol]] = []
    for v in graph.model.graph.initializers.values():
        t = v.const_value
        if t is None or t.nbytes < SHARE_BYTES or t.dtype == ir.DataType.STRING or t.dtype.bitwidth < 8:
            continue
        out.append((v, t))
        v.const_value = ir.Tensor(np.zeros(0, t.dtype.numpy()), dtype=t.dtype, name=v.name)
    return out


def from_graphsurgeon(graph: Any, *, source: str | None = None) -> Graph:
    """An edgec Graph of a `gs.Graph`: weights are shared, not copied; nodes get names where they have none.

    Raises:
        EdgecError: EC0308, GraphSurgeon cannot export the graph.
    """
    constants = {
        name: t
        for name, t in graph.tensors().items()
        if isinstance(t, gs.Constant) and isinstance(t.values, np.ndarray) and t.values.nbytes >= SHARE_BYTES
    }
    arrays = {name: t.values for name, t in constants.items()}
    try:
        for t in constants.values():
            t.values = np.zeros(0, t.values.dtype)
        proto: onnx.ModelProto = gs.export_onnx(graph, do_type_check=False)
    except (AttributeError, KeyError, TypeError, ValueError, gs.OnnxGraphSurgeonException) as e:
        raise error("EC0308", f"GraphSurgeon cannot export the graph: {e}", Location(source)) from e
    finally:
        for name, t in constants.items():
            t.values = arrays[name]
    out = Graph(ir.from_proto(proto), source=source)
    for g in out.graphs():
        if not isinstance(g, ir.Graph):
            continue
        for name, v in g.initializers.items():
            if name in arrays and v.const_value is not None and v.const_value.size == 0:
                v.const_value = ir.Tensor(arrays[name], dtype=v.const_value.dtype, name=name)
                v.shape = ir.Shape(arrays[name].shape)
    return out


def graphsurgeon_pass(name: str, *, contract: Contract = "close") -> Callable[[Script], type[Pass]]:
    """Turn `def f(graph: gs.Graph) -> gs.Graph | None` into a Pass class to return from the `edgec_passes` hook.

        @graphsurgeon_pass("acme-drop-dropout")
        def drop_dropout(graph): ...

    The script may edit its graph in place (return None) or return another; `cleanup()` and `toposort()` are done
    afterwards. Inputs and outputs must keep their names and types. Nodes that keep name and operator keep their
    provenance; others are marked as made by this pass.
    """

    def wrap(script: Script) -> type[Pass]:
        @dataclass(frozen=True)
        class GraphSurgeonPass(Pass):
            def run(self, graph: Graph, ctx: PassContext) -> PassResult:
                return _run(script, type(self).name, graph)

        cls = GraphSurgeonPass
        cls.name = name
        cls.contract = contract
        cls.__name__ = cls.__qualname__ = script.__name__
        cls.__module__ = script.__module__
        cls.__doc__ = script.__doc__
        return cls

    return wrap


def _run(script: Script, name: str, graph: Graph) -> PassResult:
    return adopt(graph, run_script(script, name, graph), name)


def run_script(script: Script, name: str, graph: Graph) -> Graph:
    """What a function on a `gs.Graph` makes of `graph`, cleaned up and sorted; `graph` stays as it is.

    Raises:
        EdgecError: EC0309 it returns something else than a graph or None; EC0308 the result cannot be exported.
    """
    surgeon = to_graphsurgeon(graph)
    result = script(surgeon)
    if result is not None and not isinstance(result, gs.Graph):
        raise error("EC0309", f"pass {name} returned {type(result).__name__}, not a gs.Graph or None")
    surgeon = result if result is not None else surgeon
    surgeon.cleanup().toposort()
    return from_graphsurgeon(surgeon, source=graph.source)


def adopt(graph: Graph, new: Graph, name: str, *, new_outputs: bool = False, hint: str | None = None) -> PassResult:
    """Put what a script made in the place of `graph`. Nodes that keep name and operator keep their provenance.

    `new_outputs`: other outputs than before are fine; other inputs never are, because samples are made for them.

    Raises:
        EdgecError: EC0309 the interface changed.
    """
    _same_interface(name, graph, new, new_outputs, hint)
    if new.fingerprint() == graph.fingerprint():
        return PassResult(False)
    _keep_what_gs_drops(graph, new, name)
    infer_shapes(new)
    graph.model = new.model
    graph._names = None
    return PassResult(True)


def _same_interface(name: str, old: Graph, new: Graph, new_outputs: bool, hint: str | None) -> None:
    for what, a, b in (("inputs", old.inputs, new.inputs), ("outputs", old.outputs, new.outputs)):
        before, after = [(v.name, v.dtype) for v in a], [(v.name, v.dtype) for v in b]
        if before != after and not (new_outputs and what == "outputs"):
            message = f"pass {name} changed the model's {what}: {_names(before)} became {_names(after)}"
            advice = (hint if what == "outputs" else None) or "a pass keeps names and types of inputs and outputs"
            raise error("EC0309", message, hint=advice)


def _names(interface: list[tuple[str | None, Any]]) -> str:
    return ", ".join(f"{n} ({t})" for n, t in interface) or "none"


def _keep_what_gs_drops(old: Graph, new: Graph, name: str) -> None:
    """Model and node metadata, which GraphSurgeon does not carry."""
    new.model.metadata_props.update(old.model.metadata_props)
    new.model.producer_name, new.model.producer_version = old.model.producer_name, old.model.producer_version
    before = {n.name: n for n in old.nodes() if n.name}
    for i, n in enumerate(new.nodes()):
        n.name = n.name or f"{name}.{n.op_type}.{i}"
        source = before.get(n.name)
        if source is not None and source.op_type == n.op_type:
            n.metadata_props.update(source.metadata_props)
        else:
            n.metadata_props.setdefault("edgec.rule", name)


__all__: list[str] = ["adopt", "from_graphsurgeon", "graphsurgeon_pass", "run_script", "to_graphsurgeon"]
