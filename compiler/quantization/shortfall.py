"""Why a convolution or product computes in float though the model was to be quantised."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from edgec.coverage import InFloat, is_stored
from edgec.graph import Graph, attribute, ir, is_constant
from edgec.specs.conditions import Setting, When, applies, dtype_name

if TYPE_CHECKING:
    from edgec.coverage import Kernel
    from edgec.quantization.record import QuantRecord
    from edgec.specs.scheme import Scheme


def why_in_float(
    kernel: Kernel,
    node: ir.Node | None,
    graph: Graph,
    scheme: Scheme | None,
    setting: Setting,
    record: QuantRecord | None,
    source: str,
) -> InFloat:
    """The first that holds of: kept on purpose, in a body, fused by nobody, without a rule, left out by the plan."""
    if node is None:
        cause = f"{source} made this kernel of its own"
        return InFloat(kernel.node or kernel.op, kernel.op, cause)
    name = node.name or node.outputs[0].name or node.op_type
    for known in (name, *(v.name or "" for v in node.outputs)):
        if record is not None and known in record.kept:
            return InFloat(name, node.op_type, record.kept[known], asked=True)
    holder = graph.holders().get(node.graph) if isinstance(node.graph, ir.Graph) else None
    if holder is not None:
        cause = f"it is in a body of {holder.op_type} {holder.name or holder.outputs[0].name!r}"
        hint = "bodies are not quantised; the passes if-to-where and unroll-loops take some into the graph"
        return InFloat(name, node.op_type, cause, hint)
    if is_stored(node):
        cause = f"what it reads is in integers, but {source} makes no integer kernel of it"
        return InFloat(name, node.op_type, cause, "`edgec check` says which rules of the target the Q/DQ break")
    if scheme is None:
        return InFloat(name, node.op_type, "what it reads is not stored in integers")
    exempt = scheme.why_exempt(node, setting)
    if exempt is not None:
        return InFloat(name, node.op_type, exempt, asked=True)
    if scheme.rule(node, setting) is None:
        return InFloat(name, node.op_type, *_no_rule(node, scheme, setting))
    if record is None or not record:
        return InFloat(name, node.op_type, "the model came as it is: what it reads is not stored in integers")
    return InFloat(
        name, node.op_type, f"the plan of {scheme.name} left it out: what it reads is not stored in integers"
    )


def _no_rule(node: ir.Node, scheme: Scheme, setting: Setting) -> tuple[str, str | None]:
    key = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    rules = scheme.ops.get(key, ())
    if not rules:
        hint = next((f.hint for f in scheme.float_ops.get(key, ())), None)
        return f"{scheme.name} has no rule for {node.op_type}, the runtime no integer kernel", hint
    reasons = [list(_failing(r.when, node, setting)) for r in rules if r.when is not None]
    nearest = min(reasons, key=len, default=[])
    return f"{scheme.name} has no rule for {node.op_type} where {' and '.join(nearest) or 'it is like this one'}", None


def _failing(when: When, node: ir.Node, setting: Setting) -> Iterator[str]:
    """The conditions of a rule that do not hold, in words."""
    for field in sorted(when.model_fields_set):
        if applies(When.model_validate({field: getattr(when, field)}), node, setting) is True:
            continue
        if field == "attr":
            for name, allowed in (when.attr or {}).items():
                only = When.model_validate({"attr": {name: allowed}})
                if applies(only, node, setting) is not True:
                    yield f"{name} is {attribute(node, name, setting.opset)}"
        elif field == "const":
            for i in when.const or ():
                if i >= len(node.inputs) or not is_constant(node.inputs[i]):
                    yield f"input {i} is computed"
        elif field == "dtype":
            for i in when.dtype or {}:
                v = node.inputs[i] if i < len(node.inputs) else None
                yield f"input {i} is {dtype_name(v.dtype) if v is not None and v.dtype is not None else 'unknown'}"
        elif field == "rank":
            for i in when.rank or {}:
                v = node.inputs[i] if i < len(node.inputs) else None
                yield f"input {i} has {v.shape.rank() if v is not None and v.shape is not None else '?'} axes"
        else:
            yield f"the condition {field.replace('_', ' ')} does not hold"
