"""The `onnxsim` package as a pass, for those who compare with it or rely on it. edgec does not need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from edgec.diagnostics import Location, error
from edgec.graph import INLINE_LIMIT, Graph
from edgec.pipeline import Pass, PassContext, PassResult


@dataclass(frozen=True)
class Onnxsim(Pass):
    """`skip_fuse_bn`: leave BatchNormalization alone.

    The model makes a round trip through protobuf, so its weights must fit into 2 GB. Names of inputs and outputs must survive.
    """

    skip_fuse_bn: bool = False

    name: ClassVar[str] = "onnxsim"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        """Raises EC0351 (not installed), EC0352 (it failed, or broke the interface), EC0353 (the model is too large)."""
        try:
            import onnxsim
        except ImportError as e:
            raise error(
                "EC0351", f"the pass onnxsim needs the package onnxsim: {e}", hint="pip install 'edgec[onnxsim]'"
            ) from None
        place = Location(graph.source)
        if graph.weight_bytes() > INLINE_LIMIT:
            raise error("EC0353", "the model is too large for onnxsim", place, hint="leave the pass onnxsim out")
        before = graph.op_counts()
        try:
            simplified, _ = onnxsim.simplify(graph.to_proto(), skip_fuse_bn=self.skip_fuse_bn)
        except Exception as e:  # a C++ extension raises what it likes
            raise error("EC0352", f"onnxsim failed: {_line(e)}", place, hint="leave the pass onnxsim out") from e
        after = Graph.from_proto(simplified, source=graph.source)
        if _interface(after) != _interface(graph):
            what = f"onnxsim changed the model's inputs or outputs from {_interface(graph)} to {_interface(after)}"
            raise error("EC0352", what, place, hint="leave the pass onnxsim out")
        graph.model, graph._names = after.model, None  # names are collected anew
        return PassResult(
            before != graph.op_counts(), {"nodes removed": sum(before.values()) - after.op_counts().total()}
        )


def _line(e: Exception) -> str:
    text = str(e).strip()
    return f"{type(e).__name__}: {text.splitlines()[0]}" if text else type(e).__name__


def _interface(graph: Graph) -> list[Any]:
    return [[(v.name, str(v.dtype)) for v in values] for values in (graph.inputs, graph.outputs)]
