"""Coverage: how many convolutions and matrix products of an artifact compute in integers, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics, Location

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.quantization.record import QuantRecord
    from edgec.specs.conditions import Setting
    from edgec.specs.scheme import Scheme

PRODUCTS = frozenset(
    {"Conv", "ConvTranspose", "DeformConv", "Gemm", "MatMul", "Einsum", "Attention", "LSTM", "GRU", "RNN"}
)
"""ONNX's ops that are sums of products, where nearly all the time goes."""

INTEGER_PRODUCTS = frozenset(
    {
        "QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul",
        "QGemm", "QAttention", "DynamicQuantizeLSTM",
    }
)  # fmt: skip
"""The same on integers: ONNX's own, and ONNX Runtime's (com.microsoft)."""


@dataclass(frozen=True)
class Kernel:
    """One convolution or product of an artifact. `node`: of the graph it was made from, if that is known."""

    op: str
    integer: bool
    node: str | None = None


@dataclass(frozen=True)
class InFloat:
    """A kernel that computes in float. `asked`: it was kept so on purpose, by the user or to reach an accuracy."""

    node: str
    op: str
    cause: str
    hint: str | None = None
    asked: bool = False


@dataclass(frozen=True)
class Coverage:
    """`integer` of `total` kernels compute in integers, as `source` says; `in_float` are the others."""

    integer: int
    total: int
    in_float: tuple[InFloat, ...]
    source: str

    def __str__(self) -> str:
        return f"{self.integer:,} of {self.total:,} convolutions and products in integers"

    def diagnose(self, notes: Diagnostics, file: str | None = None) -> None:
        """EC0795 for each cause: a warning, or a note where the kernels were kept in float on purpose."""
        causes: dict[tuple[str, str], list[InFloat]] = {}
        for f in self.in_float:
            causes.setdefault((f.op, f.cause), []).append(f)
        for (op, cause), found in causes.items():
            first, more = found[0], ", ".join(f.node for f in found[1:4])
            others = f" (also {more}{', ...' if len(found) > 4 else ''}; {len(found)} in all)" if more else ""
            say = notes.note if first.asked else notes.warn
            say("EC0795", f"{op} computes in float: {cause}{others}", Location(file, node=first.node), hint=first.hint)


def measure(
    kernels: Sequence[Kernel],
    graph: Graph,
    scheme: Scheme | None,
    setting: Setting,
    record: QuantRecord | None = None,
    *,
    source: str,
) -> Coverage:
    """Coverage by the kernels of an artifact. `graph`: what it was made from; `record`: what `quantize` did to that."""
    from edgec.quantization.shortfall import why_in_float

    nodes = {n.name or n.outputs[0].name or "": n for n in graph.nodes() if n.outputs}
    found = []
    for k in kernels:
        if not k.integer:
            node = nodes.get(k.node or "")
            found.append(why_in_float(k, node, graph, scheme, setting, record, source))
    return Coverage(sum(k.integer for k in kernels), len(kernels), tuple(found), source)


def stored_kernels(graph: Graph, *, weights_only: bool = False) -> list[Kernel]:
    """Kernels by the graph's own Q/DQ: a product is one on integers where all it reads is stored, but for the bias.

    `weights_only`: activations are quantised while it runs (dynamic quantisation), a stored weight is enough.
    """
    out = []
    for node in graph.nodes():
        name = node.name or (node.outputs[0].name if node.outputs else None)
        if node.op_type in INTEGER_PRODUCTS:
            out.append(Kernel(node.op_type, True, name))
        elif node.op_type in PRODUCTS and node.domain == "" and floating(node):
            out.append(Kernel(node.op_type, is_stored(node, weights_only=weights_only), name))
    return out


def is_stored(node: ir.Node, *, weights_only: bool = False) -> bool:
    """Whether what a product reads comes from DequantizeLinear: `weights_only`, the last of its factors."""
    factors = node.inputs[1:2] if weights_only else node.inputs[:2]
    return all(v is not None and (p := v.producer()) is not None and p.op_type == "DequantizeLinear" for v in factors)


def floating(node: ir.Node) -> bool:
    """Whether a product's result is floating point (a MatMul may be one of int32)."""
    dtype = node.outputs[0].dtype if node.outputs else None
    return dtype is None or dtype.is_floating_point()


def is_quantized(graph: Graph) -> bool:
    """Whether anything in the graph is stored in integers."""
    return any(n.op_type == "DequantizeLinear" or n.op_type in INTEGER_PRODUCTS for n in graph.nodes())
