"""Session: a graph executed on this host with ONNX Runtime, any of its values on demand."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import INLINE_LIMIT, Graph, ir
from edgec.plugin_ops import runnable

Arrays = dict[str, npt.NDArray[Any]]

_SHARED_BYTES = 4096
"""Weights from this size on are handed to ONNX Runtime by address, not through the protobuf."""

_SHARED_DTYPES = frozenset(f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)) | {"bool"}


class Session:
    """Runs a graph, a model file or a serialised model. Everything the graph leaves open is open here too.

    `optimise`: ONNX Runtime's own graph optimisations; off by default, so what runs is the graph as it stands.
    `all_values`: True returns every value of the main graph besides its outputs, a sequence those named; the caller's
    graph is not changed. `threads`: within one op; None lets ONNX Runtime choose.
    `background`: leave half of the cores to other processes, and do not spin while waiting.
    `fallback`: what ONNX Runtime cannot load runs on ONNX's reference evaluator (slow); `describe` says so.
    `lean`: nodes run in the order of the graph, and memory is taken and given back value by value instead of planned as
    one block: less of both where many outputs hang on inner values.

    Plugin nodes of a graph run as their reference in ONNX ops, where edgec has one.

    Weights: copied once, by ONNX Runtime. Above 1.9 GB they go through a temporary folder and stay on disk,
    memory-mapped. `names` are the outputs `run` returns, in order.

    Raises:
        EdgecError: EC0810 the model cannot be loaded, naming the node where ONNX Runtime does.
    """

    def __init__(
        self,
        model: Graph | str | os.PathLike[str] | bytes,
        *,
        optimise: bool = False,
        all_values: bool | Sequence[str] = False,
        threads: int | None = None,
        background: bool = False,
        fallback: bool = False,
        lean: bool = False,
    ) -> None:
        import onnxruntime as ort

        self._source = model.source if isinstance(model, Graph) else None if isinstance(model, bytes) else str(model)
        if not isinstance(model, Graph) and all_values:
            model = _as_graph(model)
        options = ort.SessionOptions()
        level = "ORT_ENABLE_ALL" if optimise else "ORT_DISABLE_ALL"
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.log_severity_level = 4  # what matters comes back as an exception
        if background:
            threads = max(1, (os.cpu_count() or 2) // 2)
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if lean:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
            options.enable_mem_pattern = False
        if threads is not None:
            options.intra_op_num_threads = threads
        disabled = _HALF_BIAS if isinstance(model, Graph) and optimise and _half_pairs(model) else None
        held: list[Any] = []  # arrays ONNX Runtime reads while it loads
        payload: str | bytes
        if isinstance(model, Graph):
            model = _with_outputs(runnable(model), all_values)
            payload, held = self._payload(model, options)
        else:
            payload = model if isinstance(model, bytes) else os.fspath(model)
        self._session: Any = None
        self._reference: Any = None
        try:
            try:
                self._session = ort.InferenceSession(
                    payload, options, providers=["CPUExecutionProvider"], disabled_optimizers=disabled
                )
            except Exception:  # its exceptions share no base class but this
                if not optimise:
                    raise
                # ONNX Runtime 1.31's optimiser makes QuantizeLinear nodes it then refuses (MatMul and Add as Gemm): without it
                optimise, options.graph_optimization_level = False, ort.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._session = ort.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
            self.describe = f"ONNX Runtime {ort.__version__} on this CPU, its optimiser {'on' if optimise else 'off'}"
            self.names: list[str] = [o.name for o in self._session.get_outputs()]
            self._inputs = {i.name: i for i in self._session.get_inputs()}
        except Exception as e:  # noqa: BLE001  its exceptions share no base class but this
            if not fallback:
                loaded = model if isinstance(model, Graph) else None
                raise _cannot_run("ONNX Runtime cannot load the model", e, self._source, loaded) from None
            self._use_reference(model, e)
        finally:
            del held

    def _payload(self, graph: Graph, options: Any) -> tuple[str | bytes, list[Any]]:
        """What ONNX Runtime loads: a path where the weights are too large for memory, else bytes without weights."""
        if graph.weight_bytes() <= INLINE_LIMIT:
            return _stub(graph, options)
        folder = tempfile.mkdtemp(prefix="edgec-run-")
        self._cleanup = weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        options.add_session_config_entry("session.disable_prepacking", "1")  # else the weights are copied into memory
        return str(graph.save(Path(folder, "model.onnx"), external_data=True)[0]), []

    def _use_reference(self, model: Graph | str | os.PathLike[str] | bytes, cause: Exception) -> None:
        from onnx.reference import ReferenceEvaluator

        proto = (
            model.to_proto() if isinstance(model, Graph) else model if isinstance(model, bytes) else os.fspath(model)
        )
        try:
            self._reference = ReferenceEvaluator(proto)
        except Exception as e:  # noqa: BLE001  it raises whatever an op's Python does
            raise _cannot_run(
                "neither ONNX Runtime nor the reference evaluator can load the model", e, self._source
            ) from None
        self.describe = f"ONNX reference evaluator (ONNX Runtime cannot load the model: {_reason(cause)})"
        self.names = list(self._reference.output_names)
        self._inputs = dict.fromkeys(self._reference.input_names)

    def run(self, feeds: Arrays) -> Arrays:
        """Outputs by name for one sample of inputs by name. Feeds the model does not have are ignored.

        Raises:
            EdgecError: EC0811 an input is missing or does not fit; EC0810 a node fails.
        """
        missing = [n for n in self._inputs if n not in feeds]
        if missing:
            raise error("EC0811", f"no value for input {', '.join(map(repr, missing))}", Location(self._source))
        used = {n: feeds[n] for n in self._inputs}
        if self._reference is not None:
            try:
                values = self._reference.run(None, used)
            except Exception as e:  # noqa: BLE001  as above
                raise _cannot_run("the reference evaluator failed", e, self._source) from None
        else:
            self._check(used)
            try:
                values = self._session.run(None, used)
            except Exception as e:  # noqa: BLE001  as above
                raise _cannot_run("ONNX Runtime failed", e, self._source) from None
        return dict(zip(self.names, values, strict=True))

    def run_all(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        """Sample after sample; nothing is kept."""
        for sample in samples:
            yield self.run(sample)

    def _check(self, feeds: Arrays) -> None:
        for name, array in feeds.items():
            wanted = self._inputs[name]
            dims = [d if isinstance(d, int) else None for d in wanted.shape]
            fits = len(dims) == array.ndim and all(d is None or d == n for d, n in zip(dims, array.shape, strict=True))
            kind = _TYPES.get(wanted.type)
            if (wanted.shape and not fits) or (kind is not None and array.dtype.name != kind):
                shape = [d if d is not None else "?" for d in dims]
                message = (
                    f"input {name!r} takes {kind or wanted.type}{shape}, not {array.dtype.name}{list(array.shape)}"
                )
                raise error("EC0811", message.replace("'", ""), Location(self._source))


_TYPES = {
    f"tensor({name})": numpy_name
    for name, numpy_name in [
        ("float", "float32"),
        ("double", "float64"),
        *(
            (n, n)
            for n in ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
        ),
    ]
}


_HALF_BIAS = ["WeightBiasQuantization"]
"""ONNX Runtime 1.31 stores a float16 bias between Q/DQ as int32, in steps of activation scale x weight scale computed in float16, where
that is zero: mobilenet_v2 came out at -2 dB instead of 19."""


def _half_pairs(graph: Graph) -> bool:
    """Whether something is dequantised to float16."""
    return any(
        n.op_type == "DequantizeLinear" and len(n.inputs) > 1 and (s := n.inputs[1]) is not None
        and s.dtype is ir.DataType.FLOAT16
        for n in graph.nodes()
    )  # fmt: skip


def _as_graph(model: str | os.PathLike[str] | bytes) -> Graph:
    if not isinstance(model, bytes):
        return Graph.load(model)
    import onnx

    return Graph.from_proto(onnx.load_from_string(model))


def _with_outputs(graph: Graph, names: bool | Sequence[str]) -> Graph:
    """A copy of `graph` with more outputs; weights are shared. `graph` itself where nothing is asked for."""
    if names is False:
        return graph
    copy = graph.clone()
    g = copy.model.graph
    present = {v.name for v in g.outputs}
    values = {v.name: v for n in g for v in n.outputs if v.name and v.name not in present}
    if names is not True:
        unknown = [n for n in names if n not in values and n not in present]
        if unknown:
            raise error("EC0811", f"the graph has no value {', '.join(map(repr, unknown))}", Location(graph.source))
        values = {n: values[n] for n in names if n in values}
    for v in values.values():
        if isinstance(v.type, (ir.TensorType, type(None))):  # sequences and optionals are not compared
            g.outputs.append(v)
    return copy


def _stub(graph: Graph, options: Any) -> tuple[bytes, list[Any]]:
    """The model without its large weights, and those weights as ONNX Runtime takes them: by address."""
    import onnx
    import onnxruntime as ort

    g = graph.model.graph
    large: dict[str, ir.TensorProtocol] = {}
    for name, v in g.initializers.items():
        t = v.const_value
        if (
            t is not None
            and t.nbytes >= _SHARED_BYTES
            and t.dtype.numpy().name in _SHARED_DTYPES
            and not v.is_graph_input()
            and v.uses()  # ONNX Runtime drops the others before it looks for their data
        ):
            large[name] = t
    arrays = {name: np.ascontiguousarray(t.numpy()) for name, t in large.items()}
    held = [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()]
    every = list(g.initializers.values())
    for name in large:
        del g.initializers[name]
    try:
        proto = graph.to_proto()
    finally:
        g.initializers.clear()
        for v in every:  # all of them: their order is part of the bytes a graph serialises to
            g.register_initializer(v)
    for n in proto.graph.node:  # so that ONNX Runtime's messages say which
        n.name = n.name or next(iter(n.output), "")
    for name, array in arrays.items():
        t = proto.graph.initializer.add(name=name, data_type=large[name].dtype.value, dims=array.shape)
        t.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", "in-memory"), ("offset", "0"), ("length", str(array.nbytes))):
            t.external_data.add(key=key, value=value)
    if arrays:
        options.add_external_initializers(list(arrays), held)
    return proto.SerializeToString(), [arrays, held]


def _reason(e: Exception) -> str:
    """ONNX Runtime's message without its numbering and source positions."""
    text = " ".join(str(e).split())
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return re.sub(r"(?:/\S+?/)?\w+\.(?:cc|h):\d+ \S+ ", "", text)[:400] or type(e).__name__


_NODE = re.compile(r"Node \(([^)]+)\) Op|Name:'([^']+)'|node with name '([^']+)'|\(node:'?([^')]+)")


def _cannot_run(what: str, e: Exception, source: str | None, graph: Graph | None = None) -> EdgecError:
    """EC0810, with the node's name: from the message, or from the graph where the message has only the op."""
    found = _NODE.search(str(e))
    node = next((name for name in found.groups() if name), None) if found else None
    op = re.search(r"([\w.]*):(\w+)\(-?\d+\) is not a registered", str(e))
    if node is None and op is not None and graph is not None:
        same = [n for n in graph.nodes() if n.op_type == op[2] and n.domain == op[1].removeprefix("ai.onnx")]
        node = (same[0].name or same[0].outputs[0].name) if same else None
    return error("EC0810", f"{what}: {_reason(e)}", Location(source, node=node), hint=_kernel_hint(str(e), node, graph))


def _kernel_hint(message: str, node: str | None, graph: Graph | None) -> str | None:
    """What to do where ONNX Runtime has the op, but not in the model's type."""
    if graph is None or "Could not find an implementation" not in message:
        return None
    rare = (ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
    for n in graph.nodes():
        if node in (n.name, *(v.name for v in n.outputs)):
            found = next((v.dtype for v in (*n.inputs, *n.outputs) if v is not None and v.dtype in rare), None)
            if found is not None:
                kind = {"DOUBLE": "float64"}.get(found.name, found.name.lower())
                return f"the node is in {kind}: `edgec opt MODEL -p infer-shapes,to-float32 -o FILE` makes it float32"
    return None
