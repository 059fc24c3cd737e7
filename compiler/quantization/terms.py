"""Terms: the single roundings a quantised graph consists of, and which of them go when layers stay in float.

A term is the weights of one layer, or one value as one node reads it. A layer that computes on integers stores what it
makes, whoever reads it, and asks for what it reads in integers. So the rounding of a value between two convolutions is
there until both stay in float. Additions, pooling and data movement follow: they compute on integers where something
they read is stored, and somebody who does not follow reads them, directly or through others that do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgec.diagnostics import Location, error
from edgec.graph import Graph, ir, is_constant

if TYPE_CHECKING:
    from edgec.specs.scheme import Scheme

MOVERS = frozenset({
    "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Gather", "Split", "Expand", "Tile", "Concat",
    "MaxPool", "GlobalMaxPool", "DepthToSpace", "SpaceToDepth", "Identity", "Relu", "Clip",
})  # fmt: skip
"""Ops whose outputs are some of their inputs' values: stored with the same parameters, nothing is rounded twice."""

_ASKS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


@dataclass(frozen=True)
class Term:
    """One rounding: of the weights of `reader` (`value` is None), or of `value` as `reader` ("": the caller) gets it."""

    reader: str
    value: str | None = None
    maker: str | None = None
    """The layer that stores the value, for all that read it."""
    asks: bool = True
    """Whether the reader wants it stored even if the maker does not."""

    @property
    def owner(self) -> str:
        """The layer whose account it goes to: that which stores."""
        return self.maker or self.reader

    def active(self, off: Collection[str]) -> bool:
        """Whether it is there with these layers in float."""
        if self.maker is not None and self.maker not in off:
            return True
        return self.asks and self.reader not in off


@dataclass(frozen=True)
class Follower:
    """A layer that computes on integers only where others do: `reads` from layers, `readers` are layers."""

    reads: frozenset[str | None]
    readers: frozenset[str]


@dataclass
class Terms:
    """Of one quantised graph. `layers`: nodes of the float graph that compute on integers, in execution order."""

    layers: list[ir.Node] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    followers: dict[str, Follower] = field(default_factory=dict)
    """In execution order."""
    weights: dict[str, tuple[ir.Node, ir.Node]] = field(default_factory=dict)
    """Layer -> its node in both graphs, where weights are stored."""
    reads: dict[Term, list[tuple[ir.Node, int]]] = field(default_factory=dict)
    """Term of a value -> the inputs of the float graph's node it is about; empty for a public output."""
    quantizers: dict[str, ir.Node] = field(default_factory=dict)
    """Stored value of the float graph, by name -> the QuantizeLinear that says how."""


def off(keep: Collection[str], followers: Mapping[str, Follower]) -> set[str]:
    """The layers in float when those of `keep` are: besides them, the followers that have nothing to follow.

    `followers` are in execution order.
    """
    gone = set(keep)
    while True:
        before = len(gone)
        for name, f in followers.items():  # what they read
            if name not in gone and all(r is None or r in gone for r in f.reads):
                gone.add(name)
        for name in reversed(tuple(followers)):  # who reads them
            if name not in gone and followers[name].readers <= gone:
                gone.add(name)
        if len(gone) == before:
            return gone


def layer_name(node: ir.Node) -> str:
    """What a node is called in tables and options: its name, or its first output's."""
    return node.name or (node.outputs[0].name if node.outputs else None) or node.op_type


def align(reference: Graph, quantized: Graph) -> list[tuple[ir.Node, ir.Node]]:
    """The nodes of both main graphs, Q/DQ left out, pair by pair.

    Raises:
        EdgecError: EC0751 they differ by more than Q/DQ nodes.
    """
    a, b = ([n for n in g.model.graph if n.op_type not in _PAIR] for g in (reference, quantized))
    if [n.op_type for n in a] != [n.op_type for n in b]:
        what = f"the float graph has {len(a)} nodes, the quantised one {len(b)} besides Q/DQ"
        at = next((x for x, y in zip(a, b, strict=False) if x.op_type != y.op_type), None)
        where = Location(reference.source, node=layer_name(at) if at is not None else None)
        raise error("EC0751", what if len(a) != len(b) else "the graphs have other nodes", where)
    return list(zip(a, b, strict=True))


def paired(node: ir.Node, stored: ir.Node) -> list[tuple[ir.Value | None, ir.Value | None]]:
    """The inputs of one node in both graphs, pair by pair. A bias that correcting added has no counterpart."""
    return list(zip(node.inputs, stored.inputs, strict=False))


def dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes a value."""
    producer = value.producer() if value is not None else None
    return producer if producer is not None and producer.op_type == "DequantizeLinear" else None


def quantizer(value: ir.Value | None) -> ir.Node | None:
    """The QuantizeLinear of the pair that makes a value; None for stored weights."""
    dq = dequantized(value)
    producer = dq.inputs[0].producer() if dq is not None and dq.inputs[0] is not None else None
    return producer if producer is not None and producer.op_type == "QuantizeLinear" else None


def find_terms(reference: Graph, quantized: Graph, scheme: Scheme | None = None) -> Terms:
    """The roundings of `quantized`, in words of `reference`. Raises what `align` does.

    `scheme`: which ops follow, and which never store what they make (TensorRT's read integers and write floats).
    Without it, ops without weights follow, and all store.
    """
    return _Finder(reference, quantized, scheme).find()


class _Finder:
    def __init__(self, reference: Graph, quantized: Graph, scheme: Scheme | None) -> None:
        self.reference, self.quantized = reference, quantized
        ops = list(scheme.ops.items()) if scheme is not None else []
        whole = scheme is not None and scheme.whole
        self.asking = {op for op, rules in ops if whole or not any(r.follow for r in rules)} | _ASKS
        self.silent = {op for op, rules in ops if all(r.outputs == "never" for r in rules)}
        self.pairs = align(reference, quantized)
        self.stored = dict(self.pairs)
        self.made = Terms()
        self.kernels = {a for a, b in self.pairs if self._computes(a, b)}

    def find(self) -> Terms:
        for node, stored in self.pairs:
            if any(dequantized(v) and is_constant(a) for a, v in paired(node, stored)):
                name = layer_name(node)
                self.made.terms.append(Term(name))
                self.made.weights[name] = (node, stored)
            for i, (value, v) in enumerate(paired(node, stored)):
                if value is not None and quantizer(v) is not None and not is_constant(value):
                    self._read(value, quantizer(v), node, i)
        for value, v in zip(self.reference.outputs, self.quantized.outputs, strict=True):
            if (q := quantizer(v)) is not None:
                self._read(value, q, None, 0)
        self.made.layers = [a for a, _ in self.pairs if a in self.kernels]
        for node in self.made.layers:
            if self._follows(node):
                self.made.followers[layer_name(node)] = self._follower(node)
        return self.made

    def _read(self, value: ir.Value, q: ir.Node | None, node: ir.Node | None, i: int) -> None:
        assert q is not None  # callers looked
        self.made.quantizers[value.name or ""] = q
        term = Term(
            layer_name(node) if node is not None else "",
            value.name or "",
            self._maker(value),
            node in self.kernels,
        )
        if term not in self.made.reads:
            self.made.terms.append(term)
            self.made.reads[term] = []
        if node is not None:
            self.made.reads[term].append((node, i))

    def _computes(self, node: ir.Node, stored: ir.Node) -> bool:
        """Whether a node works on integers: its weights are stored, or all of the floats it reads are."""
        reads = [(a, v) for a, v in paired(node, stored) if a is not None and _float(a)]
        if any(is_constant(a) and dequantized(v) for a, v in reads):
            return True
        found = [quantizer(v) is not None for a, v in reads if not is_constant(a)]
        return bool(found) and (all(found) or (node.op_type == "Add" and any(found)))

    def _follows(self, node: ir.Node) -> bool:
        """Neither weights nor a product, and all it reads is stored (a residual addition with one input asks for it)."""
        if layer_name(node) in self.made.weights or node.op_type in self.asking:
            return False
        stored = self.stored[node]
        return all(
            quantizer(v) is not None or is_constant(a) for a, v in paired(node, stored) if a is not None and _float(a)
        )

    def _maker(self, value: ir.Value) -> str | None:
        """The layer whose unit ends in the value: the nearest node upstream that reads something stored."""
        node = value.producer()
        while node is not None and node not in self.kernels:
            if any(quantizer(v) for v in self.stored[node].inputs):
                return None  # a float op on stored values
            node = next((v.producer() for v in node.inputs if v is not None and not is_constant(v)), None)
        return layer_name(node) if node is not None and node.op_type not in self.silent else None

    def _follower(self, node: ir.Node) -> Follower:
        reads = {self._maker(v) for v in node.inputs if v is not None and _float(v) and not is_constant(v)}
        readers: set[str] = set()
        front = list(node.outputs)
        while front:  # through the rest of its unit
            for user, _ in front.pop().uses():
                if user in self.kernels:
                    readers.add(layer_name(user))
                elif not any(quantizer(v) for v in self.stored[user].inputs if v is not None):
                    front += user.outputs
        return Follower(frozenset(reads), frozenset(readers))


def _float(v: ir.Value) -> bool:
    return v.dtype is None or v.dtype.is_floating_point()
