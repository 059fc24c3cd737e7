"""Replace an `If` whose condition is known by the nodes of the branch taken."""

from __future__ import annotations

from edgec.graph import Graph, ir
from edgec.rewrite import FROM_KEY, provenance


def inline_branch(graph: Graph, node: ir.Node, branch: str) -> None:
    """Move the nodes of `branch` in front of `node`, hand on its outputs, remove `node`.

    Names inside the two branches may coincide with each other and with names outside: moved values are renamed where
    their name is not unique. The outputs of the `If` keep their names.
    """
    owner = node.graph
    assert owner is not None  # nodes come from graphs
    body = node.attributes[branch].as_graph()
    source = provenance([node])
    for v in list(body.initializers.values()):
        del body.initializers[v.name or ""]
        v.name = graph.fresh(v.name or "constant")
        graph.model.graph.register_initializer(v)
    results = list(body.outputs)
    body.outputs.clear()
    moved = list(body)
    body.remove(moved)
    for n in moved:
        n.metadata_props.setdefault(FROM_KEY, f"{n.name or '?'}\n{source}")
        n.name = graph.fresh(n.name or n.op_type)
        for v in n.outputs:
            if v.name:
                v.name = graph.fresh(v.name)
    owner.insert_before(node, moved)
    inherited: set[ir.Value] = set()
    for old, new in zip(node.outputs, results, strict=True):
        name, public = old.name, old.is_graph_output()
        if public and (new.producer() not in moved or new in inherited):
            alias = ir.node("Identity", [new])
            alias.metadata_props[FROM_KEY] = source
            alias.name = graph.fresh(f"{name}/Identity")
            owner.insert_before(node, alias)
            new = alias.outputs[0]
        new.type = new.type or old.type
        if new.shape is None or public:
            new.shape = old.shape if old.shape is not None else new.shape
        old.replace_all_uses_with(new, replace_graph_outputs=public)
        if public:
            old.name, new.name = None, name
            inherited.add(new)
    for attr in node.attributes.values():
        if attr.type == ir.AttributeType.GRAPH:
            _release(attr.as_graph())
    owner.remove(node, safe=True)


def _release(body: ir.Graph) -> None:
    """The branch not taken reads nothing any more."""
    for g in (body, *body.subgraphs()):
        for n in g:
            for i in range(len(n.inputs)):
                n.replace_input_with(i, None)
