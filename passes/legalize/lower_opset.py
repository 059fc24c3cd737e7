"""The model written in an older opset, by our own rules: onnx's version converter has no way down for many ops.

Three things happen to an op whose definition changed between the two opsets: it is expanded (`expansions.py`) where the
older opset lacks it, changed (`opset_changes.py`) where it was written otherwise, and then checked against the older
schema: an attribute, input or type that schema does not know, and that is not at its neutral value, is a refusal.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from edgec.diagnostics import Diagnostics, Location, error
from edgec.graph import Graph, ir
from edgec.passes.legalize.expansions import EXPANSIONS, expansion_rule
from edgec.passes.legalize.opset_changes import CHANGES, EXPANDED_BELOW, NEUTRAL
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.plugin_ops import is_plugin
from edgec.rewrite import RewriteStats, RuleSet

if TYPE_CHECKING:
    import onnx

OLDEST = 13
"""Below, Squeeze, Unsqueeze, Softmax and others have other meanings that no rule here knows."""


@lru_cache(maxsize=4096)
def _schema(op: str, opset: int) -> onnx.defs.OpSchema | None:
    """The definition of a default-domain op that holds in `opset`, if it has one there."""
    import onnx

    try:
        return onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return None


def _expanded(op: str, to: int) -> bool:
    return _schema(op, to) is None or to < EXPANDED_BELOW.get(op, 0)


def _neutral(node: ir.Node, a: ir.Attr, new: onnx.defs.OpSchema) -> bool:
    """Whether the attribute says what its absence says."""
    if (node.op_type, a.name) in NEUTRAL:
        return all(v == NEUTRAL[node.op_type, a.name] for v in a.as_ints())
    default = new.attributes[a.name].default_value
    if not default.name:
        return False
    have: Any = a.value
    want: Any = ir.serde.deserialize_attribute(default).value
    return bool(have == want)


def _check_attributes(node: ir.Node, old: onnx.defs.OpSchema, new: onnx.defs.OpSchema) -> str:
    """Drop what is neutral and unknown to the older definition; write out defaults that were different."""
    for name, a in list(node.attributes.items()):
        if name in old.attributes:
            continue
        if name not in new.attributes or not _neutral(node, a, new):
            return f"attribute {name} = {a.value} exists from opset {new.since_version}"
        del node.attributes[name]
    for name, spec in new.attributes.items():
        if name in node.attributes or name not in old.attributes or not spec.default_value.name:
            continue
        if old.attributes[name].default_value != spec.default_value:
            node.attributes[name] = ir.serde.deserialize_attribute(spec.default_value)
    return ""


def _check_values(node: ir.Node, old: onnx.defs.OpSchema) -> str:
    """Whether the older definition knows as many inputs, and their types."""
    import onnx

    inputs = list(node.inputs)
    while inputs and inputs[-1] is None:
        inputs.pop()
    if len(inputs) > old.max_input:
        return f"it has {len(inputs)} inputs, at most {old.max_input} there"
    node.resize_inputs(len(inputs))
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    for formal, values in ((old.inputs, inputs), (old.outputs, list(node.outputs))):
        for i, v in enumerate(values):
            if v is None or v.type is None or not formal:
                continue
            spec = formal[min(i, len(formal) - 1)]
            if i >= len(formal) and spec.option != variadic:
                if v.uses() or v.is_graph_output():
                    return f"output {v.name} does not exist there"
                continue
            if isinstance(v.type, ir.TensorType) and spec.types and _type_name(v.type) not in spec.types:
                return f"{v.name} is {_type_name(v.type)}, which is not allowed there"
    return ""


def _type_name(t: ir.TensorType) -> str:
    """The schema's name of a tensor type: `tensor(float)`."""
    names = {"FLOAT": "float", "DOUBLE": "double", "BOOL": "bool", "STRING": "string"}
    return f"tensor({names.get(t.dtype.name, t.dtype.name.lower())})"


def _reason_missing(op: str, to: int, stats: RewriteStats, node: ir.Node) -> str:
    if op not in EXPANSIONS:
        return f"{op} does not exist in opset {to} and there is no expansion of it"
    why = stats.rejected.get(f"expand-{op.lower()}", {}).get(node.name or (node.outputs[0].name or "?"), "")
    return f"{op} does not exist in opset {to} and its expansion does not apply: {why}"


@dataclass(frozen=True)
class LowerOpset(Pass):
    """The same model in opset `to` (13 or later), or a list of every node that has no equivalent there.

    Raises:
        EdgecError: EC0371, an op does not exist there and cannot be expanded; EC0372, a node uses what its op lacks
            there; EC0373, `to` is below 13. The graph is then partly converted: do not go on with it.
    """

    to: int = 19
    name: ClassVar[str] = "lower-opset"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        if self.to < OLDEST:
            raise error("EC0373", f"opset {self.to} is below {OLDEST}, the oldest this pass writes")
        if graph.opset <= self.to:
            return PassResult(False)
        ops = {n.op_type for n in graph.nodes() if n.domain == ""}
        rules = RuleSet(expansion_rule(op) for op in sorted(EXPANSIONS) if _expanded(op, self.to))
        stats = rules.apply(graph) if rules.rules else RewriteStats()
        found = Diagnostics()
        changed = 0
        for node in list(graph.nodes()):
            if node.domain == "" and not is_plugin(node):  # plugins have no opset
                changed += self._lower(node, graph, stats, found)
        found.raise_if_errors()
        graph.model.opset_imports[""] = self.to
        for function in graph.model.functions.values():
            function.opset_imports[""] = self.to
        _lower_ir_version(graph)
        graph.remove_dead()
        return PassResult(True, {**stats.applied, "changed": changed, "ops": len(ops)})

    def _lower(self, node: ir.Node, graph: Graph, stats: RewriteStats, found: Diagnostics) -> int:
        """Bring one node down; 1 if its definition had changed."""
        op, place = node.op_type, Location(graph.source, node=node.name or node.outputs[0].name)
        old, new = _schema(op, self.to), _schema(op, graph.opset)
        if old is None or _expanded(op, self.to):
            found.error("EC0371", _reason_missing(op, self.to, stats, node), place, "expand or replace the node before")
            return 0
        if new is None or old.since_version == new.since_version:
            return 0
        why = ""
        for step in CHANGES.get(op, ()):
            if self.to < step.since <= graph.opset and not why:
                why = step.apply(node, graph)
        if node.graph is None:  # the change put others in its place
            return 1
        why = why or _check_attributes(node, old, new) or _check_values(node, old)
        if why:
            found.error("EC0372", f"{op} cannot be written in opset {self.to}: {why}", place, "replace the node before")
        return 1


def _lower_ir_version(graph: Graph) -> None:
    """Write the oldest file format that goes with the opsets: readers of old opsets refuse newer ones."""
    import onnx

    imports = [onnx.helper.make_opsetid(d, v) for d, v in graph.model.opset_imports.items() if d in ("", "ai.onnx.ml")]
    oldest = onnx.helper.find_min_ir_version_for(imports, ignore_unknown=True)
    graph.model.ir_version = min(graph.model.ir_version, max(oldest, 8))
