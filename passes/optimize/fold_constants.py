"""Nodes whose inputs are all known become weights; so does everything shapes alone decide.

* `Shape` and `Size` of values whose dimensions are known; `Gather(Shape(x), 1)` if only that dimension is.
* A Reshape whose target is computed from shapes gets a constant target where at most one dimension stays open.
* `If` with a constant condition is replaced by the branch taken.

**Size.** A result may be larger than `max-bytes` only where it is no larger than the constants it replaces: those
nothing else uses. So a 40 MB weight is transposed at compile time, and a 30-byte ConstantOfShape never becomes 100 MB.
One that is the weight of a convolution before BatchNormalization may become up to 64 MiB: folding that pays.

**Rounding.** The numbers are ONNX Runtime's, but a consumer may round otherwise once its weight is constant: runtimes
pack constant weights and take another kernel for them. Hence the contract "close".

**Kept.** Random ops, ops with side effects or bodies, and DequantizeLinear: the 8-bit weights of a model that arrives
quantised stay 8 bits (`dequantize=true` folds them).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location
from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.infer import infer_node, infer_shapes
from edgec.passes.optimize.constant_kernels import NotHere, TooLarge, evaluate
from edgec.passes.optimize.evaluate_nodes import evaluate_nodes
from edgec.passes.optimize.inline_branch import inline_branch
from edgec.passes.optimize.shape_values import ShapeValues, shape_elements
from edgec.pipeline import Contract, Pass, PassContext, PassResult
from edgec.rewrite import FROM_KEY, RULE_KEY, provenance

Array = npt.NDArray[Any]

_RANDOM = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
_KEPT = _RANDOM | {"Dropout", "If", "Loop", "Scan", "SequenceMap", "Optional", "SequenceEmpty"}
_NUMPY_BYTES = 1 << 16
"""Up to here NumPy evaluates arithmetic at once; larger arrays gain from ONNX Runtime's kernels."""
_VIEWS = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice"}
_SHRINKING = {"NonZero", "Compress", "Unique", "NonMaxSuppression"}
"""Ops whose output shape is known only after running, and is bounded by a small multiple of the input's."""


_FOLDED_WEIGHT_BYTES = 1 << 26


def _before_batch_norm(weight: ir.Value) -> bool:
    """Whether a convolution reads it as its weight, and only a BatchNormalization reads that convolution."""
    for user, index in weight.uses():
        if user.op_type in ("Conv", "ConvTranspose") and index == 1 and not user.outputs[0].is_graph_output():
            users = [u.node for u in user.outputs[0].uses()]
            if len(users) == 1 and users[0].op_type == "BatchNormalization":
                return True
    return False


@dataclass(frozen=True)
class FoldConstants(Pass):
    """`max_bytes`: results up to this size are always folded. `dequantize`: also fold DequantizeLinear."""

    max_bytes: int = 1 << 20
    dequantize: bool = False

    name: ClassVar[str] = "fold-constants"
    contract: ClassVar[Contract] = "close"

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        folder = _Folder(self, graph, ctx)
        for _ in range(16):
            if not folder.round():
                break
        removed = graph.remove_dead() if folder.stats else 0
        if removed:
            folder.stats["dead nodes removed"] = removed
        return PassResult(bool(folder.stats), folder.stats)


def _ambiguous_names(graph: Graph) -> set[str]:
    """Dimension names one input has twice: an exporter's word for "unknown" (`?`), not one and the same number."""
    found: set[str] = set()
    for v in graph.inputs:
        names = [d.value for d in v.shape or () if not isinstance(d, int) and d.value is not None]
        found.update(n for n in names if names.count(n) > 1)
    return found


def _forget_made_up_names(graph: Graph) -> None:
    """Inference keeps the names it made up before (`unk__7`); with more constants it can tell which input they come from."""
    for node in graph.nodes():
        for v in node.outputs:
            if v.shape is not None and any(
                not isinstance(d, int) and (d.value or "").startswith("unk__") for d in v.shape
            ):
                v.shape = ir.Shape(
                    [d if isinstance(d, int) or not (d.value or "").startswith("unk__") else None for d in v.shape]
                )


class _Folder:
    def __init__(self, options: FoldConstants, graph: Graph, ctx: PassContext) -> None:
        self.options, self.graph, self.ctx = options, graph, ctx
        self.stats: dict[str, int] = {}
        self.known: dict[ir.Value, Array] = {}  # results that are not yet weights of the graph
        self.deferred: dict[ir.Node, None] = {}  # for ONNX Runtime, in execution order
        self.pending: set[ir.Value] = set()  # their outputs
        self.folded: list[ir.Node] = []
        self.refused: set[ir.Node] = set()
        self.ambiguous = _ambiguous_names(graph)

    def data(self, value: ir.Value | None) -> Array | None:
        """The array of a value known now. Reads the weight."""
        if value is None:
            return None
        return self.known[value] if value in self.known else constant(value)

    def is_known(self, value: ir.Value | None) -> bool:
        return value in self.known or is_constant(value)

    def round(self) -> bool:
        """One walk over the model. Returns whether another may find more."""
        self.known, self.deferred, self.pending, self.folded = {}, {}, set(), []
        branches: list[ir.Node] = []
        for g in self.graph.graphs():
            shapes = ShapeValues(self.data)
            for node in g:
                if node.op_type == "If" and node.domain == "":
                    branches.append(node)
                elif node not in self.refused:
                    self._visit(node, shapes)
        ran_later = bool(self.deferred)
        self._run_deferred()
        open_shapes = self._materialise()
        inlined = sum(self._take_branch(node) for node in branches)
        self._count("If replaced by its branch", inlined)
        if open_shapes or inlined:
            _forget_made_up_names(self.graph)
            infer_shapes(self.graph)
        return (bool(self.folded) and (ran_later or open_shapes)) or bool(inlined)

    def _count(self, what: str, times: int) -> None:
        if times:
            self.stats[what] = self.stats.get(what, 0) + times

    def _take_branch(self, node: ir.Node) -> int:
        condition = constant(node.inputs[0])  # none in a branch already dropped: it reads nothing any more
        if condition is None or condition.size != 1:
            return 0
        inline_branch(self.graph, node, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch")
        return 1

    # --- what one node is -----------------------------------------------------------------------------------------

    def _visit(self, node: ir.Node, shapes: ShapeValues) -> None:
        if node.domain not in ("", "ai.onnx") or node.op_type in _KEPT:
            return
        if node.op_type == "Constant":
            self._constant(node)
            return
        if node.op_type == "DequantizeLinear" and not self.options.dequantize:
            return
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            return  # a public name for a weight: nothing is simpler
        if node.outputs[0].shape is None and shapes.follows(node.op_type):
            infer_node(node, self.graph.opset)  # rank 0 and rank 1 must be told apart
        elements = shapes.visit(node)
        if elements is not None and all(isinstance(e, int) for e in elements):
            self._from_elements(node, elements)
        elif node.op_type == "Size":
            dims = static_shape(node.inputs[0])
            if dims is not None:
                self._keep(node, np.asarray(math.prod(dims), np.int64))
        elif all(v is None or self.is_known(v) for v in node.inputs):
            self._all_known(node)
        elif all(v is None or v in self.pending or self.is_known(v) for v in node.inputs):
            self._defer(node)
        elif node.op_type == "Reshape":
            self._close_reshape(node, shapes)

    def _from_elements(self, node: ir.Node, elements: Iterable[int | str | None]) -> None:
        out = node.outputs[0]
        if out.shape is None or out.dtype is None:
            return
        rank, dtype = out.shape.rank(), out.dtype.numpy()
        array = np.asarray(list(elements), dtype)
        if rank <= 1 and (rank == 1 or array.size == 1):
            self._keep(node, array.reshape(-1) if rank else array.reshape(()))

    def _all_known(self, node: ir.Node) -> None:
        if not any(v is not None for v in node.inputs):
            return  # a source: EyeLike and its like need an input, generators are not ours to run
        limit = self._limit(node)
        small = sum(self._nbytes(v) for v in node.inputs) <= _NUMPY_BYTES
        if small or node.op_type in _VIEWS:
            try:
                result = evaluate(node, [self.data(v) for v in node.inputs], self.graph.opset, limit)
                if result.nbytes > limit:  # a view: nothing was allocated
                    raise TooLarge(result.nbytes)
                self._keep(node, result)
                return
            except NotHere:
                pass
            except TooLarge as e:
                self._refuse(node, f"the result has {e.nbytes} bytes, more than {limit}")
                return
            except (ValueError, IndexError, TypeError, OverflowError) as e:
                self._failed(node, f"{type(e).__name__}: {e}")
                return
        self._defer(node)

    def _defer(self, node: ir.Node) -> None:
        """Leave it to ONNX Runtime, if what comes out is known to be small enough."""
        if any(
            v.type is not None and not isinstance(v.type, ir.TensorType) for v in (*node.inputs, *node.outputs) if v
        ):
            return
        if any(v.dtype == ir.DataType.STRING for v in (*node.inputs, *node.outputs) if v):
            return
        if any(v.name and static_shape(v) is None for v in node.outputs):
            infer_node(node, self.graph.opset)
        limit = self._limit(node)
        for v in node.outputs:
            shape = static_shape(v)
            if shape is None and v.name and node.op_type not in _SHRINKING:
                return  # after this round its inputs may be constants, and inference tells
            nbytes = math.prod(shape or ()) * (v.dtype.itemsize if v.dtype else 8)
            if nbytes > limit:
                self._refuse(node, f"the result has {math.ceil(nbytes)} bytes, more than {limit}")
                return
        self.deferred[node] = None
        self.pending.update(node.outputs)

    def _close_reshape(self, node: ir.Node, shapes: ShapeValues) -> None:
        """A target with one open dimension is -1 there; a dimension copied from the same axis is 0."""
        target = shapes.get(node.inputs[1])
        if target is None or self.is_known(node.inputs[1]) or attribute(node, "allowzero"):
            return
        if any(isinstance(e, int) and (e < -1 or e == 0) for e in target):
            return
        source = shape_elements(node.inputs[0]) or ()
        dims: list[int] = []
        for i, e in enumerate(target):
            if isinstance(e, int):
                dims.append(e)
            elif i < len(source) and e is not None and source[i] == e and e not in self.ambiguous:
                dims.append(0)
            else:
                dims.append(-1)
        if dims.count(-1) > 1:
            return
        if 0 in dims and -1 not in dims and dims.count(0) == 1:
            dims[dims.index(0)] = -1
        name = self.graph.fresh(f"{node.inputs[1].name if node.inputs[1] else 'shape'}.closed")
        node.replace_input_with(1, self._weight(np.asarray(dims, np.int64), name))
        self._count("Reshape target closed", 1)

    # --- results --------------------------------------------------------------------------------------------------

    def _constant(self, node: ir.Node) -> None:
        if node.outputs[0].is_graph_output():
            return
        for key, dtype in (("value_int", np.int64), ("value_ints", np.int64), ("value_float", np.float32)):
            if key in node.attributes:
                self._keep(node, np.asarray(node.attributes[key].value, dtype))
                return
        if "value_floats" in node.attributes:
            self._keep(node, np.asarray(node.attributes["value_floats"].value, np.float32))
        elif "value" in node.attributes:
            tensor = node.attributes["value"].as_tensor()
            if tensor.dtype != ir.DataType.STRING:
                self._keep(node, tensor.numpy(), tensor)

    def _keep(self, node: ir.Node, array: Array, tensor: ir.TensorProtocol | None = None) -> None:
        self.known[node.outputs[0]] = array
        self.folded.append(node)

    def _nbytes(self, value: ir.Value | None) -> int:
        if value is None:
            return 0
        if value in self.known:
            return self.known[value].nbytes
        if value in self.pending:
            shape = static_shape(value)
            return int(math.prod(shape) * value.dtype.itemsize) if shape and value.dtype else 0
        return int(value.const_value.nbytes) if value.const_value is not None else 0

    def _limit(self, node: ir.Node) -> int:
        freed = sum(
            self._nbytes(v)
            for v in {*node.inputs}
            if v and not v.is_graph_output() and all(u.node is node for u in v.uses())
        )
        pays = _FOLDED_WEIGHT_BYTES if _before_batch_norm(node.outputs[0]) else 0
        return max(self.options.max_bytes, freed, pays)

    def _refuse(self, node: ir.Node, why: str) -> None:
        self.refused.add(node)
        self.ctx.rejections.setdefault("fold-constants", {})[node.name or str(node.outputs[0].name)] = why

    def _failed(self, node: ir.Node, why: str) -> None:
        self.refused.add(node)
        self.ctx.diagnostics.note(
            "EC0350",
            f"{node.op_type} has constant inputs but cannot be evaluated: {why}",
            Location(self.graph.source, node=node.name or node.outputs[0].name),
        )

    def _run_deferred(self) -> None:
        if not self.deferred:
            return
        nodes = list(self.deferred)
        needed = {v: None for n in nodes for v in n.inputs if v is not None and v not in self.pending}
        feeds = {v: a for v in needed if (a := self.data(v)) is not None}
        wanted = [v for n in nodes for v in n.outputs if self._escapes(v)]
        if not wanted:
            return
        opsets = dict(self.graph.model.opset_imports)
        results = evaluate_nodes(nodes, feeds, wanted, opsets, self._failed)
        self.known.update(results)
        gone: set[ir.Node] = set()  # a node whose result was only needed by one that failed stays with it
        for n in reversed(nodes):
            if n not in self.refused and all(v in results or self._read_only_by(gone, v) for v in n.outputs):
                gone.add(n)
        self.folded += [n for n in nodes if n in gone]

    def _read_only_by(self, nodes: set[ir.Node], v: ir.Value) -> bool:
        return not v.is_graph_output() and all(u.node in nodes for u in v.uses())

    def _escapes(self, v: ir.Value) -> bool:
        return v.is_graph_output() or any(u.node not in self.deferred for u in v.uses())

    def _weight(self, array: Array, name: str) -> ir.Value:
        tensor = ir.tensor(np.ascontiguousarray(array) if array.ndim else array, name=name)
        w = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.model.graph.register_initializer(w)
        return w

    def _materialise(self) -> bool:
        """Turn results into weights, drop the nodes. Returns whether shapes downstream may now be known."""
        gone = set(self.folded)
        main = self.graph.model.graph
        reveals = False
        for node in self.folded:
            for old in node.outputs:
                users = {u.node for u in old.uses()} - gone
                if old not in self.known or not (users or old.is_graph_output()):
                    continue
                reveals |= any(static_shape(v) is None for u in users for v in u.outputs)
                name = old.name or "constant"
                public = old.is_graph_output()
                fresh = self.graph.fresh(f"{name}.value") if public or node.graph is not main else name
                if not public:
                    old.name = None
                new = self._weight(self.known[old], fresh)
                if public:
                    self._publish(node, old, new)
                else:
                    old.replace_all_uses_with(new)
            self._count(node.op_type, node.op_type != "Constant")
            self._count("constants", node.op_type == "Constant")
        for g in [*self.graph.graphs()][::-1]:  # bodies first: they read values of the graphs around them
            dead = [n for n in self.folded if n.graph is g]
            if dead:
                g.remove(dead, safe=True)
        return reveals

    def _publish(self, node: ir.Node, old: ir.Value, weight: ir.Value) -> None:
        """A public output stays the output of a node."""
        alias = ir.node("Identity", [weight])
        alias.metadata_props.update({RULE_KEY: "fold-constants", FROM_KEY: provenance([node])})
        alias.name = self.graph.fresh(f"{old.name}/Identity")
        out = alias.outputs[0]
        out.type, out.shape = old.type, weight.shape
        assert node.graph is not None  # it was visited there
        node.graph.insert_after(node, alias)
        name = old.name
        old.replace_all_uses_with(out, replace_graph_outputs=True)
        old.name, out.name = None, name
