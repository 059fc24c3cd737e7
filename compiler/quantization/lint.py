"""Is a Q/DQ graph, whoever made it, what a target's scheme wants? Every breach, with the node and what to do.

Three readings of the graph: each Q and DQ by itself, each input of each op in its role (activation, weight, bias), each
kernel (a node or a fused unit) as a whole. Which ops form units and which rule an op has is asked of the graph without
its pairs (`float_view`), as the quantising pass asks it.
"""

from __future__ import annotations

from edgec.graph import Graph
from edgec.infer import infer_shapes
from edgec.quantization.findings import Finding, Report, summarise
from edgec.quantization.lint_kernels import KernelRules
from edgec.quantization.lint_ranges import coarse_steps
from edgec.quantization.lint_tensors import TensorRules
from edgec.quantization.pairs import float_view, is_integer_op, is_linear, linears, with_constants
from edgec.specs.conditions import Setting
from edgec.specs.scheme import Scheme

__all__ = ["Finding", "lint", "summarise"]


def lint(graph: Graph, scheme: Scheme, setting: Setting, *, newest_opset: int | None = None) -> list[Finding]:
    """All breaches of `scheme` in `graph`, in execution order; none where the graph holds nothing quantised.

    `newest_opset`: the newest one the target reads, where that is known. The graph is not changed.
    """
    if not any(is_linear(n) or is_integer_op(n) for n in graph.nodes()):
        return []
    stored = with_constants(graph)
    infer_shapes(stored)
    view, of = float_view(stored)
    report = Report(scheme, {n: i for i, n in enumerate(stored.nodes())})
    tensors = TensorRules(stored, scheme, setting, report, newest_opset)
    kernels = KernelRules(stored, view, of, scheme, setting, report)
    for node in report.order:
        if is_integer_op(node) and not scheme.integer_ops:
            hint = "the pass qoperator-to-qdq turns it into Q/DQ"
            report.add(node, "form", f"{scheme.name} does not read {node.op_type}, only Q/DQ", hint)
    for lin in linears(stored):
        tensors.alone(lin)
    for kernel in kernels.kernels():
        rule = scheme.rule(kernel.main, setting)
        for node in kernel.nodes:
            tensors.roles(node, of[node], rule if node is kernel.main else None)
        kernels.check(kernel, rule)
    for lin in linears(stored):
        tensors.activation(lin)
    coarse_steps(stored, list(linears(stored)), report)
    return report.in_order()
