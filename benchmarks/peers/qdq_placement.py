"""Which inputs of which nodes two quantised ONNX files of one model quantise, aligned node by node.

Nodes are aligned by name; a node of edgec's stands for all nodes that its `edgec.from` names, so that Conv+BatchNormalization
folded to one Conv meets the Conv of a file that kept both. An input is quantised when it comes from a DequantizeLinear, or from
a Cast of one (a float16 graph with float32 scales); a pair on the other side of a node that only moves data counts as moved:
TensorRT itself moves Q and DQ through those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx

FROM_KEY = "edgec.from"
PAIRS = {"QuantizeLinear", "DequantizeLinear"}
MOVES = {"MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Concat", "Identity"}
"""Through these TensorRT moves Q backward and DQ forward: int8 before them is int8 after them."""
KERNELS = {"Conv": "conv", "ConvTranspose": "conv", "Gemm": "matmul", "MatMul": "matmul"}

Who = Literal["both", "only ours", "only ModelOpt", "moved"]


@dataclass(frozen=True)
class Node:
    """What the rules ask of a node. Shapes are None where the file does not say."""

    name: str
    op: str
    quantised: frozenset[int]
    """Indices of the inputs that come dequantised."""
    moved: frozenset[int]
    """Those that come from a dequantised tensor through nodes that only move data."""
    constant: frozenset[int]
    producers: tuple[str, ...]
    """Op type of what makes each input; "" for an input of the graph or a constant."""
    consumers: frozenset[str]
    weight: tuple[int, ...] | None = None
    output: tuple[int, ...] | None = None
    group: int = 1
    kernel: tuple[int, ...] = ()
    reads_graph_input: bool = False
    before_pair: bool = False
    """Only moves data, and all that becomes of it is quantised behind nodes that only move data."""


@dataclass(frozen=True)
class Difference:
    """One input of one node of the source model. `rule`: why only one of the two quantises it."""

    node: str
    op: str
    index: int
    who: Who
    rule: str = ""


@dataclass(frozen=True)
class Placement:
    """`nodes`: source name -> the node that stands for it."""

    nodes: Mapping[str, Node]
    pairs: int
    integer: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """"conv" and "matmul": (those whose data and weight come dequantised, all)."""


def placement(model: onnx.ModelProto | Path) -> Placement:
    """Where a file has its pairs. Bodies of If, Loop and Scan count as part of the graph."""
    loaded = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
    scope = _Scope()
    scope.add(onnx.shape_inference.infer_shapes(loaded).graph)
    nodes: dict[str, Node] = {}
    integer = {kind: [0, 0] for kind in ("conv", "matmul")}
    for proto in scope.protos:
        if proto.op_type in PAIRS or proto.op_type == "Constant":
            continue
        node = scope.node(proto)
        if kind := KERNELS.get(node.op):
            integer[kind][0] += {0, 1} <= node.quantised | node.moved
            integer[kind][1] += 1
        for name in node.name.split("\n"):
            held = nodes.get(name)
            # of several nodes made from one, the kernel stands for it
            if held is None or (node.op in KERNELS and held.op not in KERNELS):
                nodes[name] = node
    pairs = sum(p.op_type == "DequantizeLinear" for p in scope.protos)
    return Placement(nodes, pairs, {k: (v[0], v[1]) for k, v in integer.items()})


def compare(ours: Placement, theirs: Placement) -> list[Difference]:
    """Every input that either file quantises, of the nodes that both have in one form."""
    found = []
    for name, node in theirs.nodes.items():
        mine = ours.nodes.get(name)
        if mine is None or mine.op != node.op:
            continue
        found += [_judged(name, mine, node, index) for index in sorted(mine.quantised | node.quantised)]
    return found


def _judged(name: str, mine: Node, node: Node, index: int) -> Difference:
    if index in mine.quantised and index in node.quantised:
        return Difference(name, node.op, index, "both")
    if index in mine.quantised:
        if index in node.moved:
            return Difference(
                name, node.op, index, "moved", "int8 either way: TensorRT moves the pair to where it likes it"
            )
        return Difference(name, node.op, index, "only ours", why_modelopt_leaves_it(node, index))
    if index in mine.moved or mine.before_pair:
        return Difference(
            name, node.op, index, "moved", "int8 either way: TensorRT moves the pair to where it likes it"
        )
    return Difference(name, node.op, index, "only ModelOpt", why_we_leave_it(mine, index))


def unaligned(ours: Placement, theirs: Placement) -> Counter[str]:
    """Op types of quantised nodes of ModelOpt's file that have no counterpart in ours: folded, fused or rewritten."""
    return Counter(
        n.op
        for name, n in theirs.nodes.items()
        if n.quantised and (name not in ours.nodes or ours.nodes[name].op != n.op)
    )


# --- the rules that make the differences ---------------------------------------------------------------------------------

SMALL = 16
"""ModelOpt 0.47, find_nodes_from_convs_to_exclude and _MIN_MATMUL_DIM."""


def why_modelopt_leaves_it(node: Node, index: int) -> str:
    """The rule of ModelOpt 0.47's placement that leaves this input alone; the functions named are its own."""
    if node.op == "Conv" and small_conv(node):
        return "conv with under 16 channels (find_nodes_from_convs_to_exclude)"
    if node.op in ("MatMul", "Gemm"):
        if rule := small_matmul(node):
            return rule
        if "Softmax" in node.consumers or "Softmax" in node.producers:
            return "attention product (find_mha_partitions)"
    if node.op == "Add":
        if index in node.constant:
            return "addition of a constant"
        return "addition without a convolution of its own on one side (build_non_residual_input_map)"
    if node.op in ("AveragePool", "GlobalAveragePool", "MaxPool"):
        return "pooling whose neighbours are not quantised (find_quantizable_nodes)"
    return "not in its list of quantisable ops" if node.op not in KERNELS else "not found among its partitions"


def why_we_leave_it(node: Node, index: int) -> str:
    """The rule of scheme tensorrt-int8 that leaves this input alone."""
    if node.op in KERNELS:
        return "weight is not constant" if 1 not in node.constant else "kept in float"
    if node.op == "Add":
        return "addition: only the input that does not end a convolution is quantised (skip_only)"
    if node.op in MOVES or node.op == "Resize":
        return "moves data: quantised only where its input already is int8 (follow)"
    return f"scheme has no {node.op}: computed in float"


def small_conv(node: Node) -> bool:
    """ModelOpt's rule for int8: channels under 16 (per group, as the weight has them), with its exceptions."""
    if node.weight is None or len(node.weight) < 3:
        return False
    out, per_group = node.weight[:2]
    if out >= SMALL and per_group >= SMALL:
        return False
    kernel = node.kernel or node.weight[2:]
    if node.group == 1:
        big = node.reads_graph_input or out >= SMALL or per_group >= SMALL
        return not ((out % 8 == 0 or per_group % 8 == 0) and big and len(set(kernel)) == 1)
    return not (out % 8 == 0 and all(k >= 3 for k in kernel))


def small_matmul(node: Node) -> str:
    """ModelOpt's rule: a matrix-vector product, or a reduction or output under 16; "" where it does not apply."""
    if node.output and (len(node.output) < 3 if 1 in node.constant else True) and 1 in node.output[-2:]:
        return "matrix times vector (find_nodes_from_matmul_to_exclude)"
    sizes = [*(node.output or ())[-1:], *(node.weight or ())[-2:]]
    return (
        "product with K or N under 16 (find_nodes_from_matmul_to_exclude)" if any(0 < n < SMALL for n in sizes) else ""
    )


# --- reading -------------------------------------------------------------------------------------------------------------


class _Scope:
    """All nodes of a graph and its bodies, by what they make; names are unique across them in files of either tool."""

    def __init__(self) -> None:
        self.protos: list[onnx.NodeProto] = []
        self.maker: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constants: set[str] = set()
        self.inputs: set[str] = set()

    def add(self, graph: onnx.GraphProto) -> None:
        for weight in graph.initializer:
            self.shapes[weight.name] = tuple(weight.dims)
            self.constants.add(weight.name)
        for value in (*graph.input, *graph.output, *graph.value_info):
            if value.name not in self.shapes and value.type.tensor_type.HasField("shape"):
                self.shapes[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
        self.inputs |= {v.name for v in graph.input} - self.constants
        for node in graph.node:
            self.protos.append(node)
            self.maker |= dict.fromkeys(node.output, node)
            for name in node.input:
                self.readers.setdefault(name, []).append(node)
            if node.op_type == "Constant":
                self.constants |= set(node.output)
            for body in bodies(node):
                self.add(body)

    def node(self, proto: onnx.NodeProto) -> Node:
        attrs = {a.name: a for a in proto.attribute}
        held = {p.key: p.value for p in proto.metadata_props}
        names = held.get(FROM_KEY) or proto.name or proto.output[0]
        made = [self.maker.get(self.through_casts(x)) for x in proto.input]
        weight = self.through_pairs(proto.input[1]) if len(proto.input) > 1 else ""
        return Node(
            name="\n".join(dict.fromkeys([*names.split("\n"), proto.name or names])),
            op=proto.op_type,
            quantised=frozenset(i for i, m in enumerate(made) if m is not None and m.op_type == "DequantizeLinear"),
            moved=frozenset(i for i, x in enumerate(proto.input) if self.is_moved(x)),
            constant=frozenset(i for i, x in enumerate(proto.input) if self.through_pairs(x) in self.constants),
            producers=tuple(m.op_type if m is not None else "" for m in made),
            consumers=frozenset(k.op_type for x in proto.output for k in self.readers.get(x, ())),
            weight=self.shapes.get(weight),
            output=self.shapes.get(proto.output[0]),
            group=attrs["group"].i if "group" in attrs else 1,
            kernel=tuple(attrs["kernel_shape"].ints) if "kernel_shape" in attrs else (),
            reads_graph_input=any(self.through_pairs(x) in self.inputs for x in proto.input),
            before_pair=proto.op_type in MOVES and self.is_before_pair(proto),
        )

    def through_casts(self, name: str) -> str:
        return self.through(name, {"Cast"})

    def through_pairs(self, name: str) -> str:
        return self.through(name, {"Cast", *PAIRS})

    def through(self, name: str, ops: set[str]) -> str:
        while (made := self.maker.get(name)) is not None and made.op_type in ops:
            name = made.input[0]
        return name

    def is_moved(self, name: str) -> bool:
        """Whether an input is int8 but for data moves in between. A concatenation is when all its inputs are."""
        made = self.maker.get(self.through_casts(name))
        if made is None or made.op_type not in MOVES:
            return False
        count = len(made.input) if made.op_type == "Concat" else 1
        sources = [(x, self.maker.get(self.through_casts(x))) for x in made.input[:count]]
        return all((m is not None and m.op_type == "DequantizeLinear") or self.is_moved(x) for x, m in sources)

    def is_before_pair(self, proto: onnx.NodeProto) -> bool:
        """Whether pairs stand behind a node, but for nodes that only move data in between."""
        readers = [k for x in proto.output for k in self.readers.get(x, ())]
        return bool(readers) and all(
            k.op_type == "QuantizeLinear" or (k.op_type in MOVES and self.is_before_pair(k)) for k in readers
        )


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
