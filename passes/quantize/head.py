"""The head of a network: what stands between its last weights and its outputs.

Detectors decode boxes and scores there: data movement and pointwise arithmetic on few values. Tensors of the head hold
numbers that mean something one by one, where those of the body are summed by the next layer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edgec.graph import Graph, constant, ir, is_constant, static_shape

MOVES = frozenset({
    "Concat", "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Ops that move values and compute none."""

POINTWISE = frozenset({
    "Abs", "Add", "Cast", "Ceil", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
    "LeakyRelu", "Log", "LogSoftmax", "Max", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu",
    "Round", "Sigmoid", "Sin", "Softmax", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Swish", "Tanh", "Where",
})  # fmt: skip
"""Ops that compute each value from those at its place (Softmax: from those along one axis)."""

SELECTS = frozenset({
    "ArgMax", "ArgMin", "Compress", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "NonMaxSuppression",
    "NonZero", "ReduceMax", "ReduceMin", "ReduceSum", "ScatterElements", "ScatterND", "TopK",
})  # fmt: skip
"""What a head does besides: pick the best."""

WEIGHTED = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
"""Ops whose multiply-accumulates quantisation is for."""


@dataclass(frozen=True)
class Head:
    """`nodes`: those from which an output is reached without passing an op that has weights, in execution order.

    `sources`: values with weights behind them that enter the head, or are outputs themselves.
    """

    nodes: tuple[ir.Node, ...]
    sources: tuple[ir.Value, ...]

    def region(self, start: Iterable[ir.Node], barred: Collection[ir.Node] = ()) -> list[ir.Node]:
        """What has to stay in float for `start` to: all of the head after it, and what of it only leads there.

        Nodes before `start` go along where nothing else reads them: converting between float and integers around single
        pointwise ops costs more than they do, and precision. `barred` nodes are never in it.
        """
        inside = {n for n in start if n in self._set and n not in barred}
        for node in self.nodes:  # forwards
            if node not in barred and any(p in inside for p in _producers(node)):
                inside.add(node)
        for node in reversed(self.nodes):  # backwards
            if node in inside or node in barred:
                continue
            users = [u for v in node.outputs for u, _ in v.uses() if u.op_type not in ("Shape", "Size")]
            public = any(v.is_graph_output() for v in node.outputs)
            if users and not public and all(u in inside for u in users):
                inside.add(node)
        return [n for n in self.nodes if n in inside]

    def __contains__(self, node: object) -> bool:
        return node in self._set

    @property
    def _set(self) -> frozenset[ir.Node]:
        return frozenset(self.nodes)


def find_head(graph: Graph) -> Head:
    """The head of the main graph. Integer arithmetic on shapes is no part of it."""
    top = list(graph.model.graph)
    inside: set[ir.Node] = set()
    sources: dict[ir.Value, None] = {}
    for node in reversed(top):
        reaches = any(v.is_graph_output() or any(u in inside for u, _ in v.uses()) for v in node.outputs)
        if not reaches:
            continue
        if node.domain == "" and (node.op_type in MOVES | POINTWISE | SELECTS or is_expectation(node)):
            inside.add(node)
        else:
            sources.update(
                {v: None for v in node.outputs if v.is_graph_output() or any(u in inside for u, _ in v.uses())}
            )
    nodes = tuple(n for n in top if n in inside)
    return Head(nodes, tuple(reversed(sources)))


def last_layers(head: Head, depth: int = 3) -> list[ir.Value]:
    """Values of the layers that only lead to the head: up to `depth` with weights, counted from it.

    Of dense heads, which say something of every place: a detector's boxes and scores, a mask. A classifier has none.
    """
    out: dict[ir.Value, None] = {}
    level = [v for v in head.sources if _dense(v)]
    for i in range(depth):
        out.update(dict.fromkeys(level))
        if i == depth - 1:
            break
        before: dict[ir.Value, None] = {}
        for value in level:
            producer = value.producer()
            if producer is not None and producer.op_type in WEIGHTED:
                before.update(dict.fromkeys(_back_to_weights(producer.inputs[0], head, out)))
        level = list(before)
    return list(out)


def _dense(value: ir.Value) -> bool:
    shape, producer = value.shape, value.producer()
    if shape is None or shape.rank() < 3 or producer is None or producer.op_type not in ("Conv", "ConvTranspose"):
        return False
    return any(not isinstance(d, int) or d > 1 for d in list(shape)[2:])


def _back_to_weights(value: ir.Value | None, head: Head, out: dict[ir.Value, None]) -> list[ir.Value]:
    """`value` and those before it, pointwise, back to the last that weights computed; nothing where others read one."""
    chain: list[ir.Value] = []
    while value is not None:
        users = [u for u, _ in value.uses() if u.op_type not in ("Shape", "Size")]
        known = all(any(o in out or o in chain for o in u.outputs) for u in users)
        if not known or value.is_graph_output():
            return []
        producer = value.producer()
        chain.append(value)
        if producer is None or producer.domain:
            return []
        if producer.op_type in WEIGHTED:
            return [*reversed(chain)]
        inputs = [i for i in producer.inputs if i is not None and not is_constant(i)]
        if len(inputs) == 2 and (gate := next((i for i in inputs if _is_gate(i, inputs)), None)) is not None:
            chain.append(gate)
            inputs.remove(gate)
        if producer.op_type not in POINTWISE or len(inputs) != 1:
            return []
        value = inputs[0]
    return []


def silu_of(value: ir.Value) -> ir.Node | None:
    """The Mul of x * sigmoid(x), where `value` is x."""
    for user, i in value.uses():
        other = user.inputs[1 - i] if user.op_type == "Mul" and user.domain == "" else None
        if other is not None and _is_gate(other, [value]):
            return user
    return None


def _is_gate(value: ir.Value, inputs: list[ir.Value]) -> bool:
    """Whether the value is the Sigmoid of one of `inputs`, and has one reader."""
    producer = value.producer()
    sigmoid = producer is not None and producer.op_type == "Sigmoid" and producer.domain == ""
    return sigmoid and producer is not None and producer.inputs[0] in inputs and len(value.uses()) == 1


def is_expectation(node: ir.Node) -> bool:
    """Whether the node is a Conv that weighs the bins of a Softmax with their places: how YOLOv8 and GFL decode boxes.

    Source: Li et al., "Generalized Focal Loss", 2020, equation 5. The weight is [1, bins, 1, 1].
    """
    if node.op_type != "Conv" or not is_constant(node.inputs[1]):
        return False
    shape = static_shape(node.inputs[1])
    if shape is None or shape[0] != 1 or any(d != 1 for d in shape[2:]) or shape[1] > 64:
        return False
    producer = node.inputs[0].producer() if node.inputs[0] is not None else None
    while producer is not None and producer.op_type in MOVES and producer.op_type != "Concat":
        producer = producer.inputs[0].producer() if producer.inputs[0] is not None else None
    weight = constant(node.inputs[1])
    return producer is not None and producer.op_type == "Softmax" and weight is not None


def behind_moves(value: ir.Value | None) -> Iterable[ir.Value]:
    """The values whose numbers `value` holds: through data movement, up to what computes."""
    stack, seen = [value], set()
    while stack:
        v = stack.pop()
        if v is None or v in seen:
            continue
        seen.add(v)
        producer = v.producer()
        if producer is None or producer.domain or producer.op_type not in MOVES:
            yield v
        elif producer.op_type == "Concat":
            stack.extend(producer.inputs)
        else:
            stack.append(producer.inputs[0])


def _producers(node: ir.Node) -> Iterable[ir.Node]:
    return (p for v in node.inputs if v is not None and (p := v.producer()) is not None)
