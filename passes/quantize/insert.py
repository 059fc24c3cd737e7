"""Q/DQ nodes and stored weights, as a plan says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, constant, ir
from edgec.passes.quantize.plan import BiasSite, Plan, RescaleSite, WeightSite
from edgec.quantization.params import LIMITS, SMALLEST_SCALE, QuantParams
from edgec.rewrite import FROM_KEY, RULE_KEY

DTYPES = {
    "int4": ir.DataType.INT4,
    "uint4": ir.DataType.UINT4,
    "int8": ir.DataType.INT8,
    "uint8": ir.DataType.UINT8,
    "int16": ir.DataType.INT16,
    "uint16": ir.DataType.UINT16,
    "int32": ir.DataType.INT32,
    "float8e4m3fn": ir.DataType.FLOAT8E4M3FN,
}
"""ONNX's element types by the names schemes use."""

RULE = "quantize"


class Inserter:
    """Writes one plan into one graph."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.g = graph.model.graph

    def activations(self, plan: Plan, params: Mapping[str, QuantParams], converted: Sequence[QuantParams] = ()) -> None:
        """A pair after every planned value; its readers get the DQ's output. A second one where a reader wants it rescaled.

        `converted`: parameters of the plan's conversions, in order.
        """
        values = {v.name: v for v in self._values()}
        for name, site in plan.activations.items():
            value = values[name]
            uses = list(value.uses()) if site.uses is None else [u for u in site.uses if u in {*value.uses()}]
            self._pair(value, params[name], uses, whole=site.uses is None)
        for conversion, p in zip(plan.conversions, converted, strict=True):
            reader, i = next(iter(conversion.uses))
            read = reader.inputs[i]
            assert read is not None  # uses are made of inputs that are given
            self._pair(read, p, [u for u in read.uses() if u in conversion.uses], whole=False)
        self._rescale(plan.rescaled, params)

    def _rescale(self, sites: Sequence[RescaleSite], params: Mapping[str, QuantParams]) -> None:
        made: dict[tuple[ir.Value, float, int], ir.Value] = {}
        for site in sites:
            p, value = params[site.like], site.node.inputs[site.input]
            assert value is not None  # a site is made of an input that is given
            if (p.scale, p.zero_point) == (params[site.value].scale, params[site.value].zero_point):
                continue
            p = in_type(p, value.dtype)
            key = value, float(p.scale), int(p.zero_point)
            if key not in made:
                name = f"{site.value}_as_{site.like}"
                scale, zero = self._params(name, p, value.dtype)
                q = self._node("QuantizeLinear", [value, scale, zero], f"{name}_q", DTYPES[p.dtype], value, p)
                dq = self._node("DequantizeLinear", [q.outputs[0], scale, zero], f"{name}_dq", value.dtype, value, p)
                after = value.producer()
                assert after is not None  # a DQ
                self.g.insert_after(after, [q, dq])
                made[key] = dq.outputs[0]
            site.node.replace_input_with(site.input, made[key])

    def _values(self) -> list[ir.Value]:
        return [*self.g.inputs, *(v for n in self.g for v in n.outputs)]

    def _pair(self, value: ir.Value, p: QuantParams, uses: Sequence[tuple[ir.Node, int]], whole: bool) -> None:
        name = value.name or ""
        p = in_type(p, value.dtype)
        public = whole and value.is_graph_output()
        if public:  # the output keeps its name: the value before the pair gets another
            value.name = self.graph.fresh(f"{name}_float")
        scale, zero = self._params(name, p, value.dtype)
        q = self._node("QuantizeLinear", [value, scale, zero], f"{name}_q", DTYPES[p.dtype], value, p)
        dq = self._node("DequantizeLinear", [q.outputs[0], scale, zero], f"{name}_dq", value.dtype, value, p)
        if public:
            dq.outputs[0].name = name
            for i, out in enumerate(self.g.outputs):
                if out is value:
                    self.g.outputs[i] = dq.outputs[0]
        producer = value.producer()
        if producer is None:
            self.g.insert_before(self.g[0], [q, dq])
        else:
            self.g.insert_after(producer, [q, dq])
        for node, i in uses:
            node.replace_input_with(i, dq.outputs[0])

    def weights(
        self, sites: list[WeightSite], params: Mapping[tuple[ir.Value, int | None, str], QuantParams]
    ) -> dict[str, tuple[str, QuantParams]]:
        """Integer initializers behind DQ nodes. Returns initializer -> (node, parameters)."""
        made: dict[tuple[ir.Value, int | None, str], ir.Value] = {}
        out: dict[str, tuple[str, QuantParams]] = {}
        for site in sites:
            value = site.node.inputs[site.input]
            assert value is not None  # a site is made of an input that is given
            key = weight_key(site, value)
            p = in_type(params[key], value.dtype)
            if key not in made:
                data = constant(value)
                assert data is not None  # a weight site is constant
                stored = self._stored(value.name or "w", p.quantize(np.asarray(data, np.float32)), p)
                made[key] = self._dequantized(stored, value, p, site.node)
                out[stored.name or ""] = (site.node.name or "", p)
            site.node.replace_input_with(site.input, made[key])
        return out

    def biases(self, sites: list[BiasSite], params: Mapping[tuple[ir.Node, int], QuantParams]) -> None:
        """int32 biases behind DQ nodes."""
        for site in sites:
            value = site.node.inputs[site.input]
            p = params[site.node, site.input]
            data = constant(value)
            assert value is not None  # as for weights
            assert data is not None
            if p.scale.ndim:  # a Gemm's may be [1, N] or one number
                data = np.broadcast_to(data.reshape(-1), p.scale.shape)
            q = np.clip(np.rint(data.astype(np.float64) / p.scale), *LIMITS["int32"]).astype(np.int32)
            stored = self._stored(value.name or "b", q, p)
            real = self._dequantized(stored, value, p, site.node)
            real.shape = ir.Shape(q.shape)
            site.node.replace_input_with(site.input, real)

    def _stored(self, name: str, data: npt.NDArray[np.int32], p: QuantParams) -> ir.Value:
        return self._initializer(f"{name}_q", data.astype(DTYPES[p.dtype].numpy()), DTYPES[p.dtype])

    def _dequantized(self, stored: ir.Value, original: ir.Value, p: QuantParams, reader: ir.Node) -> ir.Value:
        scale, zero = self._params((stored.name or "w_q").removesuffix("_q"), p, original.dtype)
        name = f"{(stored.name or 'w_q').removesuffix('_q')}_dq"
        node = self._node("DequantizeLinear", [stored, scale, zero], name, original.dtype, original, p)
        self.g.insert_before(reader, node)
        return node.outputs[0]

    def _params(self, name: str, p: QuantParams, dtype: ir.DataType | None) -> tuple[ir.Value, ir.Value]:
        zero = p.zero_point.astype(DTYPES[p.dtype].numpy())
        dtype = dtype or ir.DataType.FLOAT
        return (
            self._initializer(f"{name}_scale", p.scale.astype(dtype.numpy()), dtype),
            self._initializer(f"{name}_zp", zero, DTYPES[p.dtype]),
        )

    def _initializer(self, name: str, data: npt.NDArray[np.generic], dtype: ir.DataType) -> ir.Value:
        name = self.graph.fresh(name)
        tensor = ir.Tensor(np.asarray(data), dtype=dtype, name=name)
        value = ir.Value(name=name, shape=ir.Shape(data.shape), type=ir.TensorType(dtype), const_value=tensor)
        self.g.register_initializer(value)
        return value

    def _node(
        self, op: str, inputs: list[ir.Value], name: str, dtype: ir.DataType | None, like: ir.Value, p: QuantParams
    ) -> ir.Node:
        attributes = {}
        if p.axis is not None:
            attributes["axis"] = ir.AttrInt64("axis", p.axis)
        if p.block is not None:
            attributes["block_size"] = ir.AttrInt64("block_size", p.block)
        out = ir.Value(name=self.graph.fresh(name), shape=like.shape, type=ir.TensorType(dtype or ir.DataType.FLOAT))
        node = ir.Node("", op, inputs, attributes, outputs=[out], name=out.name)
        node.metadata_props[RULE_KEY] = RULE
        node.metadata_props[FROM_KEY] = like.name or ""
        return node


def in_type(p: QuantParams, dtype: ir.DataType | None) -> QuantParams:
    """`p` with scales a tensor of this type can have: ONNX Runtime wants Q's scale in the type of what it reads."""
    if dtype is None or dtype is ir.DataType.FLOAT:
        return p
    smallest = float(np.finfo(np.float16).tiny) if dtype is ir.DataType.FLOAT16 else SMALLEST_SCALE
    scale = p.scale.astype(dtype.numpy()).astype(np.float32)
    scale = np.where(scale == p.scale, scale, np.maximum(scale, smallest)).astype(np.float32)
    return QuantParams(scale, p.zero_point, p.dtype, p.axis, p.block, p.narrow)


WeightKey = tuple[ir.Value, int | None, str]


def weight_key(site: WeightSite, value: ir.Value) -> WeightKey:
    """What makes two sites share one stored weight."""
    axis = site.block_axis if site.block_axis is not None else site.axis
    return value, axis, f"{site.kind.model_dump_json()}{site.like or ''}"
