"""Which kernels ONNX Runtime makes of a file: read from the graph that its own optimiser writes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.coverage import INTEGER_PRODUCTS, PRODUCTS, Kernel, floating
from edgec.diagnostics import Location, error
from edgec.graph import Graph

if TYPE_CHECKING:
    from edgec.graph import ir

FUSED = frozenset(
    {
        "FusedConv", "NhwcFusedConv", "FusedMatMul", "TransposeMatMul", "FusedGemm", "FusedMatMulActivation",
        "GemmFloat8", "MatMulNBits", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention",
    }
)  # fmt: skip
"""Kernels in float that its optimiser makes of convolutions and products (onnxruntime, docs/ContribOperators.md)."""


def kernels(model: Path, graph: Graph) -> list[Kernel]:
    """The convolutions and products, those in bodies too, of the file and of the `graph` it was saved from.

    Raises:
        EdgecError: EC0810 ONNX Runtime cannot load the file.
    """
    import onnx

    with tempfile.TemporaryDirectory(prefix="edgec-kernels-") as folder:
        optimised = Path(folder, "optimised.onnx")
        _optimise(model, optimised)
        proto = onnx.load(optimised, load_external_data=False)
    sources = _Sources(graph)
    found = []
    for node in _nodes(proto.graph):
        if node.op_type in INTEGER_PRODUCTS:
            found.append(Kernel(node.op_type, True, sources.name(node)))
        elif node.op_type in PRODUCTS | FUSED:
            source = sources.node(node)
            if source is None or floating(source):
                found.append(Kernel(node.op_type, False, sources.name(node)))
    return found


def _optimise(model: Path, out: Path) -> None:
    """All but the layouts of this host's CPU, which change names and no kernel's type."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(out)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.log_severity_level = 4  # what matters comes back as an exception
    try:
        ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # noqa: BLE001  its exceptions share no base class but this
        what = f"ONNX Runtime cannot load the model: {str(e).strip().splitlines()[0][:200]}"
        raise error("EC0810", what, Location(str(model))) from None


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for a in node.attribute:
            if a.HasField("g"):
                yield from _nodes(a.g)
            for body in a.graphs:
                yield from _nodes(body)


class _Sources:
    """The node of the graph that a kernel was made from: by what it computes, else by its name without suffixes."""

    def __init__(self, graph: Graph) -> None:
        self._values = {v.name: v for n in graph.nodes() for v in n.outputs if v.name}
        self._nodes = {n.name: n for n in graph.nodes() if n.name}

    def node(self, kernel: Any) -> ir.Node | None:
        named = self._nodes.get(kernel.name) or self._nodes.get(re.split(r"[./](?=[A-Z])", kernel.name)[0])
        if named is not None and named.op_type in PRODUCTS:
            return named
        v = self._values.get(kernel.output[0]) if kernel.output else None
        while v is not None:
            node = v.producer()
            if node is None or node.op_type in PRODUCTS:
                return node
            v = node.inputs[0] if node.inputs else None
        return None

    def name(self, kernel: Any) -> str | None:
        node = self.node(kernel)
        if node is None:
            return kernel.name or (kernel.output[0] if kernel.output else None)
        return node.name or node.outputs[0].name
