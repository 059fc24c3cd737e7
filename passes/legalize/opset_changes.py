"""What to do with a node so that it means the same in an older opset: one table, op -> the changes on the way down.

A change belongs to the opset that introduced what the older ones lack: lowering below that opset applies it. It edits the
node in place and returns why it cannot, or "". Everything else about a definition (attributes, inputs and types an
older one does not know) is checked against ONNX's own schemas by `lower_opset`, whatever the op.

Source: the version history of each operator in onnx/docs/Changelog.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, attribute, constant, ir, static_shape

Change = Callable[[ir.Node, Graph], str]


@dataclass(frozen=True, slots=True)
class Step:
    """`apply` is due when the model goes to an opset below `since`."""

    since: int
    apply: Change


def add_weight(graph: Graph, array: npt.NDArray[Any], hint: str) -> ir.Value:
    """A new initializer of the main graph."""
    name = graph.fresh(hint)
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.model.graph.register_initializer(value)
    return value


def _input(node: ir.Node, i: int) -> ir.Value | None:
    return node.inputs[i] if len(node.inputs) > i else None


def _ints(v: ir.Value | None) -> list[int] | None:
    data = constant(v)
    return None if data is None else [int(i) for i in np.asarray(data).reshape(-1)]


def _rank(v: ir.Value | None) -> int | None:
    return v.shape.rank() if v is not None and v.shape is not None else None


def axes_to_attribute(node: ir.Node, graph: Graph) -> str:
    """Reductions: the axes input becomes an attribute."""
    axes_input = _input(node, 1)
    axes = _ints(axes_input)
    if axes_input is not None and axes is None:
        return "its axes are computed at run time"
    if not axes and attribute(node, "noop_with_empty_axes"):
        return "noop_with_empty_axes without axes"
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    if axes:
        node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    return ""


def split_sizes(node: ir.Node, graph: Graph) -> str:
    """Split: `num_outputs` becomes explicit sizes; the last part is the smaller one."""
    count = node.attributes.get("num_outputs")
    node.attributes.pop("num_outputs", None)
    if count is None:
        return ""
    shape, axis = static_shape(node.inputs[0]), attribute(node, "axis")
    if shape is None:
        return "num_outputs, and the size of what is split is not known at compile time"
    size = -(-shape[axis] // count.as_int())
    sizes = [min(size, max(0, shape[axis] - i * size)) for i in range(count.as_int())]
    value = add_weight(graph, np.array(sizes, np.int64), f"{node.outputs[0].name}.split")
    node.resize_inputs(2)
    node.replace_input_with(1, value)
    return ""


def pad_axes(node: ir.Node, graph: Graph) -> str:
    """Pad: pads of chosen axes become pads of all axes."""
    axes_input = _input(node, 3)
    if axes_input is None:
        node.resize_inputs(min(3, len(node.inputs)))
        return ""
    axes, pads, rank = _ints(axes_input), _ints(_input(node, 1)), _rank(node.inputs[0])
    if axes is None or pads is None or rank is None:
        return "its axes or pads are computed at run time"
    full = [0] * (2 * rank)
    for i, axis in enumerate(axes):
        full[axis % rank], full[axis % rank + rank] = pads[i], pads[i + len(axes)]
    node.replace_input_with(1, add_weight(graph, np.array(full, np.int64), f"{node.outputs[0].name}.pads"))
    node.resize_inputs(3)
    return ""


def pad_wrap(node: ir.Node, graph: Graph) -> str:
    return "mode wrap exists from opset 19" if attribute(node, "mode") == "wrap" else ""


def resize_axes(node: ir.Node, graph: Graph) -> str:
    """Resize: scales or sizes of chosen axes become those of all axes; antialias and aspect policies do not exist."""
    if attribute(node, "antialias"):
        return "antialias exists from opset 18"
    if attribute(node, "keep_aspect_ratio_policy") != "stretch":
        return "keep_aspect_ratio_policy exists from opset 18"
    for name in ("antialias", "keep_aspect_ratio_policy"):
        node.attributes.pop(name, None)
    axes = node.attributes.get("axes")
    if axes is None:
        return ""
    shape = static_shape(node.inputs[0])
    if shape is None or _input(node, 1) is not None:
        return "axes, and the shape of its input is not known or a region is given"
    for i, fill in ((2, [1.0] * len(shape)), (3, [float(d) for d in shape])):
        data = constant(_input(node, i))
        if _input(node, i) is None or (data is not None and data.size == 0):
            continue
        if data is None:
            return "axes, and its scales or sizes are computed at run time"
        for axis, value in zip(axes.as_ints(), data.tolist(), strict=True):
            fill[axis] = value
        full = np.array(fill, data.dtype)
        node.replace_input_with(i, add_weight(graph, full, f"{node.outputs[0].name}.{'scales' if i == 2 else 'sizes'}"))
    del node.attributes["axes"]
    return ""


def resize_symmetric(node: ir.Node, graph: Graph) -> str:
    mode = attribute(node, "coordinate_transformation_mode")
    return "half_pixel_symmetric exists from opset 19" if mode == "half_pixel_symmetric" else ""


def dft_axis(node: ir.Node, graph: Graph) -> str:
    """DFT: the axis input (default -2) becomes an attribute (default 1)."""
    axis, rank = _ints(_input(node, 2)), _rank(node.inputs[0])
    if _input(node, 2) is not None and axis is None:
        return "its axis is computed at run time"
    if rank is None:
        return "the rank of its input is not known"
    node.resize_inputs(min(2, len(node.inputs)))
    node.attributes["axis"] = ir.AttrInt64("axis", (axis[0] if axis else -2) % rank)
    return ""


def quantize_output_type(node: ir.Node, graph: Graph) -> str:
    """QuantizeLinear: the type of the result is that of the zero point."""
    dtype, zero_point = attribute(node, "output_dtype"), _input(node, 2)
    node.attributes.pop("output_dtype", None)
    if not dtype or zero_point is not None:
        return ""
    scale = node.inputs[1]
    shape = static_shape(scale)
    if shape is None:
        return "output_dtype, and the shape of its scale is not known"
    zeros = np.zeros(shape, ir.DataType(dtype).numpy())
    node.resize_inputs(3)
    node.replace_input_with(2, add_weight(graph, zeros, f"{node.outputs[0].name}.zero_point"))
    return ""


def dequantize_output_type(node: ir.Node, graph: Graph) -> str:
    """DequantizeLinear: the type of the result is that of the scale."""
    dtype, scale = attribute(node, "output_dtype"), node.inputs[1]
    node.attributes.pop("output_dtype", None)
    if dtype and (scale is None or scale.dtype != dtype):
        return "an output type other than that of the scale"
    return ""


def grid_sample_modes(node: ir.Node, graph: Graph) -> str:
    """GridSample: linear and cubic were called bilinear and bicubic."""
    if _rank(node.inputs[0]) != 4:
        return "only 4-D inputs are known before opset 20"
    mode = attribute(node, "mode")
    node.attributes["mode"] = ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))
    return ""


def cast_float8(node: ir.Node, graph: Graph) -> str:
    """Cast: `saturate` and `round_mode` speak of 8-bit floats only; whether those exist is the type check's business."""
    for name in ("saturate", "round_mode"):
        node.attributes.pop(name, None)
    return ""


def scatter_reduction(node: ir.Node, graph: Graph) -> str:
    mode = attribute(node, "reduction")
    return f"reduction {mode} exists from opset 18" if mode in ("min", "max") else ""


def roi_align_mode(node: ir.Node, graph: Graph) -> str:
    """RoiAlign: the old op is what the new one calls output_half_pixel; the new default is another one."""
    if attribute(node, "coordinate_transformation_mode") != "output_half_pixel":
        return "coordinate_transformation_mode half_pixel exists from opset 16"
    node.attributes.pop("coordinate_transformation_mode", None)
    return ""


def allow_zero(node: ir.Node, graph: Graph) -> str:
    """Reshape: `allowzero` says nothing where the target shape has no 0."""
    shape = _ints(_input(node, 1))
    if attribute(node, "allowzero") and (shape is None or 0 in shape):
        return "allowzero exists from opset 14"
    node.attributes.pop("allowzero", None)
    return ""


def shape_range(node: ir.Node, graph: Graph) -> str:
    """Shape: a range of dimensions becomes a Slice of all of them."""
    start, end = attribute(node, "start") or 0, node.attributes.get("end")
    for name in ("start", "end"):
        node.attributes.pop(name, None)
    if start == 0 and end is None:
        return ""
    out, owner = node.outputs[0], node.graph
    assert owner is not None  # the pass visits nodes of graphs
    last = end.as_int() if end is not None else int(np.iinfo(np.int64).max)
    bounds = [
        add_weight(graph, np.array([i], np.int64), f"{out.name}.{n}") for n, i in (("start", start), ("end", last))
    ]
    everything = ir.node("Shape", [node.inputs[0]])
    everything.outputs[0].name = graph.fresh(f"{out.name}.shape")
    everything.outputs[0].type = out.type
    everything.name = graph.fresh(f"{everything.outputs[0].name}/Shape")
    part = ir.node("Slice", [everything.outputs[0], *bounds], num_outputs=1)
    part.outputs[0].type, part.outputs[0].shape = out.type, out.shape
    part.name = node.name
    owner.insert_after(node, [everything, part])
    public, public_name = out.is_graph_output(), out.name
    out.replace_all_uses_with(part.outputs[0], replace_graph_outputs=public)
    out.name = None
    part.outputs[0].name = public_name
    owner.remove(node, safe=True)
    return ""


_REDUCTIONS = ["L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare"]

CHANGES: dict[str, tuple[Step, ...]] = {
    **{f"Reduce{r}": (Step(18, axes_to_attribute),) for r in _REDUCTIONS},
    "ReduceSum": (Step(13, axes_to_attribute),),
    "Split": (Step(18, split_sizes),),
    "Pad": (Step(19, pad_wrap), Step(18, pad_axes)),
    "Resize": (Step(19, resize_symmetric), Step(18, resize_axes)),
    "DFT": (Step(20, dft_axis),),
    "QuantizeLinear": (Step(21, quantize_output_type),),
    "DequantizeLinear": (Step(23, dequantize_output_type),),
    "GridSample": (Step(20, grid_sample_modes),),
    "Cast": (Step(19, cast_float8),),
    "ScatterElements": (Step(18, scatter_reduction),),
    "ScatterND": (Step(18, scatter_reduction),),
    "RoiAlign": (Step(16, roi_align_mode),),
    "Reshape": (Step(14, allow_zero),),
    "Shape": (Step(15, shape_range),),
}

EXPANDED_BELOW: dict[str, int] = {"GroupNormalization": 21}
"""Ops that exist in older opsets with another meaning: below this opset they are expanded."""

NEUTRAL: dict[tuple[str, str], int] = {
    ("AveragePool", "dilations"): 1,
    ("LpPool", "dilations"): 1,
}
"""Attributes without a default in the schema: what each of their numbers is when they change nothing."""
