"""TorchGraph: a graph that torch executes and differentiates. Importing this needs torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity, error
from edgec.graph import Graph, bodies, ir
from edgec.pipeline import PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.training.learned_scales import learnable_scales
from edgec.training.ops import OPS, Call, Tensor, torch_dtype
from edgec.training.ops.quantization import fake_quantize, spread, stored_range
from edgec.training.trainable import scale_names, stored_weights, trainable_names

_PREPARE = ("inline-functions", "constants-to-initializers", "upgrade-opset", "infer-shapes")
"""What brings any model to the form the ops are written for."""

_WIDENED = frozenset({"uint16", "uint32", "uint64"})
"""Integers that torch stores, but computes nothing with."""


class TorchGraph:
    """Runs a copy of `graph` in torch, in `dtype`, whatever floating-point types the model has.

    `parameters`: name of an initialiser -> the tensor that training changes: weights and biases, and with `train_scales` the
    scales of Q/DQ: all, or those of stored weights that may move alone. Weights stored as integers are trained as floats behind the rounding, and written back rounded.
    `parameters` are copies: the graph given is never changed; `edgec.training.write_back` takes the results over.

    Raises:
        EdgecError: EC0321 a node is of an op that cannot be trained through; all such nodes are in it.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        train_scales: Literal["weights", "all"] | None = None,
        dtype: Any = torch.float32,
        device: str = "cpu",
    ) -> None:
        self.graph = graph.clone()
        PassManager(build_passes(_PREPARE, Registry().passes())).run(self.graph)
        self._check_ops()
        self._dtype, self._device = dtype, torch.device(device)
        self._calls: dict[ir.Node, Call] = {}
        self.inputs: list[str] = [v.name or "" for v in self.graph.inputs]
        self.outputs: list[str] = [v.name or "" for v in self.graph.outputs]
        self.parameters: dict[str, Tensor] = {}
        self._stored = stored_weights(self.graph)
        self._limits: dict[ir.Value, tuple[int, int]] = {}
        self._inside: dict[ir.Graph, dict[str, Tensor]] = {}
        """Constants of subgraphs: two branches may use a name for different things."""
        for g in self.graph.graphs():
            if isinstance(g, ir.Graph):
                held = {n: self._tensor(v.const_value) for n, v in g.initializers.items() if v.const_value is not None}
                self._inside[g] = held
        self._constants = self._inside.pop(self.graph.model.graph)
        scales = {"all": scale_names, "weights": learnable_scales}[train_scales](self.graph) if train_scales else []
        for name in [*trainable_names(self.graph), *scales]:
            self.parameters[name] = _laid_out(self._constants.pop(name).clone()).requires_grad_()
        for name, node in self._stored.items():
            self.parameters[name] = _laid_out(self._dequantized(node).detach().clone()).requires_grad_()
        self._main = list(self.graph.model.graph)

    def _check_ops(self) -> None:
        unknown = [n for n in self.graph.nodes() if n.op_type != "If" and (n.domain or n.op_type not in OPS)]
        if unknown:
            hint = "only networks of ops edgec can differentiate are trained; expand or replace the node"
            raise EdgecError(
                *(
                    Diagnostic(
                        "EC0321", Severity.ERROR, f"{n.domain + '::' if n.domain else ''}{n.op_type} cannot be trained through",
                        Location(self.graph.source, node=n.name or n.outputs[0].name), hint,
                    )
                    for n in unknown
                )
            )  # fmt: skip

    def _tensor(self, t: ir.TensorProtocol) -> Tensor:
        array = np.array(t.numpy())  # writable, and no view of a memory-mapped file
        if t.dtype.is_floating_point():
            return torch.from_numpy(array.astype(np.float32)).to(self._dtype).to(self._device)
        if t.dtype == ir.DataType.STRING:
            raise error("EC0321", "strings cannot be trained through", Location(self.graph.source, node=t.name))
        if t.dtype.itemsize < 1 or array.dtype.name in _WIDENED:
            array = array.astype(np.int64)
        return torch.from_numpy(array).to(torch_dtype(t.dtype, self._dtype))  # indices and shapes stay on the CPU

    # --- running -------------------------------------------------------------------------------------------------

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any] | Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """The values `wanted` (default: the outputs) for inputs by name; differentiable in `parameters` and in inputs that
        require it. Batches may be larger than the model declares, where its nodes allow it.

        Raises:
            EdgecError: EC0322 `wanted` names a value that is not there; EC0811 an input is missing.
            RuntimeError: what torch says of shapes that do not fit.
        """
        wanted = self.outputs if wanted is None else list(wanted)
        missing = [n for n in self.inputs if n not in feeds]
        if missing:
            raise error("EC0811", f"no value for input {', '.join(map(repr, missing))}", Location(self.graph.source))
        values: dict[str, Tensor] = {n: self._feed(feeds[n]) for n in self.inputs}
        values |= self._constants
        values |= {n: p for n, p in self.parameters.items() if n not in self._stored}
        nodes = self._needed(wanted)
        self._execute(nodes, values, frozenset(wanted))
        unknown = [n for n in wanted if n not in values]
        if unknown:
            names = ", ".join(map(repr, unknown))
            raise error("EC0322", f"the graph has no value {names}", Location(self.graph.source))
        return {n: values[n] for n in wanted}

    def _feed(self, value: npt.NDArray[Any] | Tensor) -> Tensor:
        if isinstance(value, torch.Tensor):
            return _laid_out(value.to(self._device, self._dtype)) if value.is_floating_point() else value
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.kind in "OUS":
            raise error("EC0321", "only numbers can be trained through", Location(self.graph.source))
        if value.dtype.name in _WIDENED:
            value = value.astype(np.int64)
        t = torch.from_numpy(np.require(value, requirements=["C", "W"]))
        return _laid_out(t.to(self._device, self._dtype)) if t.is_floating_point() else t

    def _needed(self, wanted: Collection[str]) -> list[ir.Node]:
        """Nodes of the main graph that `wanted` depends on, in order."""
        needed: set[str] = set(wanted)
        kept: list[ir.Node] = []
        for node in reversed(self._main):
            if any(v.name in needed for v in node.outputs):
                kept.append(node)
                needed.update(v.name for v in node.inputs if v is not None and v.name)
                for body in bodies(node):
                    needed.update(v.name for n in body.all_nodes() for v in n.inputs if v is not None and v.name)
                    needed.update(v.name for v in body.outputs if v.name)
        return kept[::-1]

    def _execute(self, nodes: Sequence[ir.Node], values: dict[str, Tensor], keep: Collection[str]) -> None:
        """Compute `nodes` into `values`. What no later node reads is dropped, unless it is in `keep`."""
        last: dict[str, ir.Node] = {}
        for node in nodes:
            for v in node.inputs:
                if v is not None and v.name:
                    last[v.name] = node
            for body in bodies(node):
                for n in body.all_nodes():
                    last.update({v.name: node for v in n.inputs if v is not None and v.name})
        for node in nodes:
            results = self._compute(node, values)
            for out, result in zip(node.outputs, results, strict=False):
                if out.name:
                    values[out.name] = result
            for v in node.inputs:
                if (
                    v is not None
                    and v.name
                    and last[v.name] is node
                    and v.name not in keep
                    and v.producer() is not None
                ):
                    values.pop(v.name, None)

    def _compute(self, node: ir.Node, values: dict[str, Tensor]) -> Sequence[Tensor]:
        if node.op_type == "If":
            return self._branch(node, values)
        first = node.inputs[0] if node.inputs else None
        if node.op_type == "DequantizeLinear" and first is not None and first.name in self._stored:
            return [self._dequantized(node, self.parameters[first.name], values)]
        call = self._calls.setdefault(node, Call(node, self.graph.source, self._dtype))
        given = [None if v is None else self._value(v, values) for v in node.inputs]
        if any(t is not None and t.device != self._device for t in given):
            given = [t.to(self._device) if t is not None and t.is_floating_point() else t for t in given]
        result = OPS[node.op_type](call, *given)
        return result if isinstance(result, tuple | list) else [result]

    def _value(self, v: ir.Value, values: Mapping[str, Tensor]) -> Tensor:
        assert v.name is not None  # an input that is there has a name
        return values[v.name]

    def _branch(self, node: ir.Node, values: dict[str, Tensor]) -> list[Tensor]:
        condition = node.inputs[0]
        assert condition is not None  # If has one
        chosen = "then_branch" if bool(self._value(condition, values).item()) else "else_branch"
        body = node.attributes[chosen].as_graph()
        inside = values | self._inside[body]
        outs = [v.name or "" for v in body.outputs]
        self._execute(list(body), inside, frozenset([*inside, *outs]))
        return [inside[n] for n in outs]

    # --- weights stored as integers ------------------------------------------------------------------------------

    def _dequantized(
        self, node: ir.Node, latent: Tensor | None = None, values: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """What a DequantizeLinear of a stored weight gives: of the integers, or of `latent` rounded to their grid."""
        values = self._constants if values is None else values
        call = self._calls.setdefault(node, Call(node, self.graph.source, self._dtype))
        v, s = node.inputs[0], node.inputs[1]
        z = node.inputs[2] if len(node.inputs) > 2 else None
        assert v is not None  # both are required
        assert s is not None
        scale = self._value(s, values if s.name in values else self.parameters)
        zero = None if z is None else self._value(z, values)
        if latent is None:
            result: Tensor = OPS["DequantizeLinear"](call, self._value(v, values).to(self._device), scale, zero)
            return result
        bounds = self._bounds(v)
        whole = self._on_grid(call, latent, scale, zero, bounds)
        restored: Tensor = OPS["DequantizeLinear"](call, whole, scale, zero)
        return restored

    def _bounds(self, stored: ir.Value) -> tuple[int, int]:
        """The integers a weight may have: without the least of its type where it has none of them, as symmetric schemes
        want it."""
        if stored not in self._limits:
            limits = stored_range(stored.dtype)
            assert limits is not None  # else the initialiser would not be integers
            least = self._constants[stored.name or ""].min()
            self._limits[stored] = (limits[0] + int(least > limits[0]), limits[1])
        return self._limits[stored]

    def _on_grid(self, call: Call, x: Tensor, scale: Tensor, zero: Tensor | None, bounds: tuple[int, int]) -> Tensor:
        axis, block = call["axis"], call["block_size"] or 0
        offset = torch.zeros((), dtype=x.dtype) if zero is None else zero.to(x.dtype)
        offset = offset.to(x.device)
        return fake_quantize(x, spread(scale, x, axis, block), spread(offset, x, axis, block), bounds)

    # --- results -------------------------------------------------------------------------------------------------

    def arrays(self, parameters: Mapping[str, Tensor] | None = None) -> dict[str, npt.NDArray[Any]]:
        """The initialisers that `parameters` (default: the present ones) stand for, by name: float32, or whole numbers
        where the model stores integers."""
        chosen = self.parameters if parameters is None else parameters
        out: dict[str, npt.NDArray[Any]] = {}
        with torch.no_grad():
            for name, p in chosen.items():
                if name not in self._stored:
                    out[name] = p.detach().cpu().numpy().copy(order="C")
                    continue
                node = self._stored[name]
                call, s = self._calls.setdefault(node, Call(node, self.graph.source, self._dtype)), node.inputs[1]
                z = node.inputs[2] if len(node.inputs) > 2 else None
                assert s is not None  # DequantizeLinear has a scale
                scale = self._value(s, chosen if s.name in chosen else self._constants)
                zero = None if z is None else self._constants[z.name or ""]
                first = node.inputs[0]
                assert first is not None  # and an input
                out[name] = self._on_grid(call, p, scale, zero, self._bounds(first)).cpu().numpy().copy(order="C")
        return out


def _laid_out(t: Tensor) -> Tensor:
    """Images and kernels with channels last in memory: depthwise convolutions are several times as fast so."""
    return t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t
