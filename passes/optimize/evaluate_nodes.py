"""Run nodes whose inputs are known, in ONNX Runtime: all of them in one session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.graph import ir

if TYPE_CHECKING:
    import onnx

Array = npt.NDArray[Any]
_FED = "fiub"  # dtype kinds ONNX Runtime's Python API takes; the rest (bfloat16, 4-bit) travels inside the model


def evaluate_nodes(
    nodes: Sequence[ir.Node],
    feeds: Mapping[ir.Value, Array],
    wanted: Sequence[ir.Value],
    opsets: Mapping[str, int],
    failed: Callable[[ir.Node, str], None],
) -> dict[ir.Value, Array]:
    """The values of `wanted`, computed from `feeds` by `nodes`, which stand in execution order.

    Weights are fed, not copied into the model, so nothing here is bounded by protobuf's 2 GB. If ONNX Runtime refuses
    the whole, each node is tried alone (with ONNX's reference implementation where ONNX Runtime has no kernel); those that
    fail are told to `failed(node, why)` and what depends on them is left out of the result.
    """
    try:
        results = _session(nodes, feeds, wanted, opsets)
        return dict(zip(wanted, results, strict=True))
    except Exception:  # noqa: BLE001  one bad node of a hostile model spoils the session: find it below
        return _one_by_one(nodes, feeds, wanted, opsets, failed)


def _one_by_one(
    nodes: Sequence[ir.Node],
    feeds: Mapping[ir.Value, Array],
    wanted: Sequence[ir.Value],
    opsets: Mapping[str, int],
    failed: Callable[[ir.Node, str], None],
) -> dict[ir.Value, Array]:
    known = dict(feeds)
    for node in nodes:
        inputs = {v: known[v] for v in node.inputs if v is not None and v in known}
        if len(inputs) != len({v for v in node.inputs if v is not None}):
            continue  # an earlier failure
        outputs = [v for v in node.outputs if v.name]
        try:
            known.update(zip(outputs, _alone(node, inputs, outputs, opsets), strict=True))
        except Exception as e:  # noqa: BLE001  kernels fail in any way; each failure is reported
            lines = str(e).strip().splitlines()
            failed(node, f"{type(e).__name__}: {lines[0] if lines else ''}")
    return {v: known[v] for v in wanted if v in known}


def _alone(
    node: ir.Node, feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> list[Array]:
    """One node. The reference implementation stands in only where ONNX Runtime has no kernel: it is laxer with bad indices."""
    from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel

    try:
        return _session([node], feeds, wanted, opsets)
    except NoKernel:
        return _reference([node], feeds, wanted, opsets)


def _model(
    nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The nodes as a model. Values get names of their own: those of different subgraphs may coincide."""
    import onnx

    names: dict[ir.Value | None, str] = {None: ""}
    for v in (*feeds, *(v for n in nodes for v in n.outputs if v.name)):
        names[v] = f"v{len(names)}"
    inputs, initializers, fed = [], [], {}
    for v, array in feeds.items():
        if array.dtype.kind in _FED and v.dtype is not None and v.dtype.bitwidth >= 8:
            fed[names[v]] = np.ascontiguousarray(array) if array.ndim else array
            inputs.append(onnx.helper.make_tensor_value_info(names[v], v.dtype, array.shape))
        else:
            initializers.append(ir.to_proto(ir.tensor(array, dtype=v.dtype, name=names[v])))
    protos = []
    for n in nodes:
        proto = onnx.NodeProto(op_type=n.op_type, domain=n.domain)
        proto.input.extend(names[v] for v in n.inputs)
        proto.output.extend(names[v] if v.name else "" for v in n.outputs)
        proto.attribute.extend(ir.to_proto(a) for a in n.attributes.values())
        protos.append(proto)
    outputs = [onnx.ValueInfoProto(name=names[v]) for v in wanted]
    graph = onnx.helper.make_graph(protos, "constants", inputs, outputs, initializers)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return onnx.helper.make_model(graph, opset_imports=imports, ir_version=10), fed


def _session(
    nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> list[Array]:
    import onnxruntime as ort

    model, fed = _model(nodes, feeds, wanted, opsets)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, fed)
    return results


def _reference(
    nodes: Sequence[ir.Node], feeds: Mapping[ir.Value, Array], wanted: Sequence[ir.Value], opsets: Mapping[str, int]
) -> list[Array]:
    from onnx.reference import ReferenceEvaluator

    model, fed = _model(nodes, feeds, wanted, opsets)
    results: Any = ReferenceEvaluator(model).run(None, fed)
    return [np.asarray(r) for r in results]
