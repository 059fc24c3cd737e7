"""A .tflite model as text, one operator a line, for tests and for people."""

from __future__ import annotations

import numpy as np

from edgec.targets.tflite import schema
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel


def dump(model: TfliteModel) -> str:
    """Every subgraph: its interface, then `results = OPERATOR(arguments) {options}`.

    A tensor is written in full where it is made (an input, a result, a constant) and by name where it is used. Options
    that say what the schema says anyway are left out, padding excepted.
    """
    return "".join(_subgraph(g) for g in model.subgraphs)


def _subgraph(graph: SubGraph) -> str:
    inputs = ", ".join(describe(t) for t in graph.inputs)
    lines = [f"{graph.name}({inputs})"]
    for o in graph.operators:
        arguments = ", ".join(_argument(t) for t in o.inputs)
        results = ", ".join(describe(t) for t in o.outputs)
        lines.append(f"  {results} = {o.op}({arguments}){_options(o)}")
    lines.append("  return " + ", ".join(t.name for t in graph.outputs))
    return "\n".join(lines) + "\n"


def describe(t: Tensor) -> str:
    """`name: dtype[shape] quantisation`, as in "y: int8[1,4,4,8] (0.0235, -128)"."""
    shape = ",".join(str(d) for d in (t.shape if t.shape_signature is None else t.shape_signature))
    words = [f"{t.name}: {'const ' if t.data is not None else ''}{t.dtype}[{shape}]"]
    if t.quant is not None:
        words.append(_quant(t.quant))
    if t.is_variable:
        words.append("variable")
    return " ".join(words)


def _argument(t: Tensor | None) -> str:
    if t is None:
        return "-"
    return t.name if t.data is None else describe(t)


def _quant(q: Quant) -> str:
    """(scale, zero point), or the range of the scales along an axis."""
    if q.per_tensor:
        return f"({q.scale[0]:.6g}, {q.zero_point[0]})"
    zero = f", {q.zero_point[0]}" if np.all(q.zero_point == q.zero_point[0]) else ", several zero points"
    return f"(axis {q.axis}: {q.scale.min():.6g}..{q.scale.max():.6g}{zero})"


def _options(o: Operator) -> str:
    table = schema.OPTIONS.get(o.op)
    fields = schema.TABLES[table].fields if table else {}
    shown = []
    for name, value in o.options.items():
        field = fields.get(name)
        if field is not None and name != "padding" and _number(field.kind, value) == field.default:
            continue
        shown.append(f"{name}={value.hex() if isinstance(value, bytes) else value}")
    return " {" + " ".join(shown) + "}" if shown else ""


def _number(kind: str, value: object) -> object:
    """An enumeration's value by name as its number."""
    return schema.ENUMS[kind].values.get(value, value) if kind in schema.ENUMS and isinstance(value, str) else value
