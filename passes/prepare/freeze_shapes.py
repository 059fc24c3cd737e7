"""Dynamic dimensions of the inputs made numbers: what every compiler for a fixed accelerator needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from edgec.diagnostics import Diagnostic, Diagnostics, EdgecError, Location, Severity, did_you_mean, error
from edgec.graph import Graph, ir, static_shape
from edgec.pipeline import Contract, Pass, PassContext, PassResult

_SPEC = re.compile(r"^(?:(?P<name>.+)[=:])?(?P<dims>\d+(?:[x,]\d+)*|scalar)$")


@dataclass(frozen=True)
class FreezeShapes(Pass):
    """`freeze-shapes{shapes=["images=1x3x640x640"] batch=1}`.

    `shapes`: one `name=1x3x640x640` for each input; without a name if the model has one input. `batch`: the number for
    a dynamic first dimension of inputs no shape is given for. A symbol (`N`) gets one number everywhere. Shapes of the
    values in between are forgotten: infer-shapes finds them again.

    Raises:
        EdgecError: EC0050 a spec does not parse or names no input, EC0051 rank or fixed dimension differs, EC0052 one
            symbol would get two numbers.
    """

    shapes: tuple[str, ...] = ()
    batch: int | None = None

    name: ClassVar[str] = "freeze-shapes"
    contract: ClassVar[Contract] = "exact"
    invalidates: ClassVar[frozenset[str]] = frozenset({"shapes-inferred"})

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        given = parse_shapes(self.shapes, graph)
        found = Diagnostics()
        symbols: dict[str, tuple[int, str]] = {}
        for v in graph.inputs:
            if v.name in given:
                _bind(v, given[v.name], symbols, found, graph)
            elif self.batch is not None and v.shape is not None and v.shape.rank() and not isinstance(v.shape[0], int):
                _bind(v, (self.batch, *v.shape[1:]), symbols, found, graph)
        found.raise_if_errors()
        changed = 0
        for v in graph.inputs:
            dims = _substitute(v, given.get(v.name or ""), symbols, self.batch)
            if dims is not None and (v.shape is None or dims != list(v.shape)):
                v.shape = ir.Shape(dims)
                changed += 1
        if changed:
            _forget_shapes(graph, symbols)
        return PassResult(bool(changed), {"inputs": changed} if changed else {})


Dim = int | ir.SymbolicDim


def parse_shapes(specs: Sequence[str], graph: Graph) -> dict[str, tuple[int, ...]]:
    """Input name -> dimensions, of texts like `images=1x3x640x640`, or `1x3x640x640` if the model has one input."""
    names = [v.name or "" for v in graph.inputs]
    out: dict[str, tuple[int, ...]] = {}
    bad: list[Diagnostic] = []

    def fault(message: str, hint: str) -> None:
        bad.append(Diagnostic("EC0050", Severity.ERROR, message, Location(graph.source), hint))

    for text in specs:
        m = _SPEC.match(text.strip())
        if m is None:
            fault(f"{text!r} is not an input shape", "write --input-shape NAME=1x3x224x224")
            continue
        dims = () if m["dims"] == "scalar" else tuple(int(d) for d in re.split("[x,]", m["dims"]))
        name = m["name"]
        if name is None and len(names) == 1:
            name = names[0]
        if name is None:
            fault(f"{text!r} does not say for which of the inputs {', '.join(names)}", f"write {names[0]}={text}"
                  if names else "the model has no inputs")  # fmt: skip
        elif name not in names:
            fault(f"the model has no input {name!r}", did_you_mean(name, names, f"its inputs are {', '.join(names)}"))
        elif name in out and out[name] != dims:
            fault(f"input {name!r} is given two shapes", "give one")
        elif any(d < 1 or d > 1 << 31 for d in dims):
            fault(f"{text!r} has a dimension that is not between 1 and 2147483648", "dimensions are positive numbers")
        else:
            out[name] = dims
    if bad:
        raise EdgecError(*bad)
    return out


def _bind(
    v: ir.Value, dims: Sequence[Dim], symbols: dict[str, tuple[int, str]], found: Diagnostics, graph: Graph
) -> None:
    """Check `dims` against the declared shape of input `v`; note the number of each symbol."""
    where = Location(graph.source)
    if v.shape is None:
        return
    if v.shape.rank() != len(dims):
        message = f"input {v.name!r} has {v.shape.rank()} dimensions {shape_text(v)}; {len(dims)} are given"
        found.error("EC0051", message, where)
        return
    for i, (old, new) in enumerate(zip(v.shape, dims, strict=True)):
        if not isinstance(new, int):
            continue
        if isinstance(old, int):
            if old != new:
                message = f"dimension {i} of input {v.name!r} is fixed at {old} in the model; {new} is given"
                hint = "export the model with that dimension dynamic, or give the fixed number"
                found.error("EC0051", message, where, hint)
        elif old.value is not None and is_symbol(old.value):
            number, owner = symbols.setdefault(old.value, (new, v.name or ""))
            if number != new:
                message = f"dimension {old.value!r} is {number} in input {owner!r} and {new} in input {v.name!r}"
                found.error("EC0052", message, where, "the model says these are the same: give one number")


def is_symbol(text: str) -> bool:
    """Whether two dimensions written like this are meant to be equal; exporters write `?` for "no idea"."""
    return bool(text) and not text.startswith("?") and text not in ("None", "-1", "unk", "unknown")


def _substitute(
    v: ir.Value, given: tuple[int, ...] | None, symbols: dict[str, tuple[int, str]], batch: int | None
) -> list[Dim] | None:
    if given is not None:
        return list(given)
    if v.shape is None:
        return None
    dims: list[Dim] = [
        symbols[d.value][0] if not isinstance(d, int) and d.value is not None and d.value in symbols else d
        for d in v.shape
    ]
    if batch is not None and dims and not isinstance(dims[0], int):
        dims[0] = batch
    return dims


def _forget_shapes(graph: Graph, symbols: dict[str, tuple[int, str]]) -> None:
    """Outputs keep their rank, with the symbols now known; every other computed value loses its shape."""
    for g in graph.graphs():
        for n in g:
            for v in n.outputs:
                if v.shape is None:
                    continue
                if g is graph.model.graph and v.is_graph_output():
                    v.shape = ir.Shape([
                        symbols[d.value][0] if not isinstance(d, int) and d.value in symbols else d
                        for d in v.shape
                    ])  # fmt: skip
                elif static_shape(v) is None or not _independent(v):
                    v.shape = None


def _independent(v: ir.Value) -> bool:
    """Whether the value is computed from weights alone, so that no input shape can change its shape."""
    node = v.producer()
    return node is not None and all(i is None or i.const_value is not None for i in node.inputs)


def shape_text(v: ir.Value) -> str:
    """`1x3x?xwidth`: a shape as people write it."""
    if v.shape is None:
        return "of unknown rank"
    return "x".join(str(d if isinstance(d, int) else d.value or "?") for d in v.shape) or "scalar"


def dynamic_inputs(graph: Graph) -> list[ir.Value]:
    return [v for v in graph.inputs if isinstance(v.type, ir.TensorType | None) and static_shape(v) is None]


def require_static_inputs(graph: Graph) -> None:
    """Raise EC0053 naming every input whose shape is not fixed, and the flags that fix them."""
    dynamic = dynamic_inputs(graph)
    if not dynamic:
        return
    flags = " ".join(f"--input-shape {v.name}={example_shape(v)}" for v in dynamic)
    names = ", ".join(f"{v.name} ({shape_text(v)})" for v in dynamic)
    what = "input has a dynamic shape" if len(dynamic) == 1 else f"{len(dynamic)} inputs have dynamic shapes"
    raise error("EC0053", f"{what}: {names}", Location(graph.source), f"fix them, for example: {flags}")


def example_shape(v: ir.Value) -> str:
    """A shape to suggest: 1 for the batch, 3 or 224 for what looks like channels and image sides, else 1."""
    if v.shape is None:
        return "1x3x224x224"
    rank = v.shape.rank()
    guess = [1, *([1] if rank < 4 else [3]), *[224] * max(0, rank - 2)][:rank]
    return "x".join(str(d if isinstance(d, int) else g) for d, g in zip(v.shape, guess, strict=True)) or "scalar"
