"""What changed in each operator from opset to opset, as steps up: (operator, version) -> function.

Versions that only widened types need no step. Sources: onnx/docs/Changelog.md and the operators' schemas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph, constant, ir, static_shape


class Up:
    """One node on its way up, and the few things a step does to it."""

    def __init__(self, graph: Graph, node: ir.Node, version: int) -> None:
        self.graph, self.node, self.version = graph, node, version
        self.made: list[ir.Node] = []  # new nodes, written as of `version`

    def refuse(self, why: str) -> Exception:
        message = f"cannot bring {self.node.op_type} to opset {self.version}: {why}"
        return error("EC0304", message, Location(self.graph.source, node=self.node.name),
                     "export the model again with a newer opset")  # fmt: skip

    def get(self, name: str, default: Any = None) -> Any:
        a = self.node.attributes.get(name)
        if a is None:
            return default
        if a.is_ref():
            raise self.refuse("its attributes come from a function's caller; run inline-functions first")
        return a.value

    def pop(self, name: str, default: Any = None) -> Any:
        value = self.get(name, default)
        self.node.attributes.pop(name, None)
        return value

    def set(self, name: str, value: Any) -> None:
        self.node.attributes[name] = ir.Attr(name, _attr_type(value), value)

    def input(self, i: int) -> ir.Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def rank(self, i: int) -> int | None:
        v = self.input(i)
        return None if v is None or v.shape is None else v.shape.rank()

    def dtype(self, i: int, default: Any = np.float32) -> npt.DTypeLike:
        v = self.input(i)
        return v.dtype.numpy() if v is not None and v.dtype is not None else default

    def put(self, i: int, value: ir.Value | None) -> None:
        """Make `value` input `i`; inputs before it that do not exist yet stay empty."""
        if i >= len(self.node.inputs):
            self.node.resize_inputs(i + 1)
        self.node.replace_input_with(i, value)

    def const(self, array: npt.NDArray[Any], hint: str) -> ir.Value:
        """A new weight beside the node (a Constant node where the node is in a function's body)."""
        name = self.graph.fresh(f"{self.node.name or self.node.op_type}.{hint}")
        tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), name=name)
        owner = self.node.graph
        if isinstance(owner, ir.Graph) and all(owner is not f.graph for f in self.graph.model.functions.values()):
            v = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
            owner.register_initializer(v)
            return v
        return self.op("Constant", [], {"value": tensor})

    def ints(self, values: Sequence[int], hint: str) -> ir.Value:
        return self.const(np.array(values, np.int64), hint)

    def op(self, op_type: str, inputs: Sequence[ir.Value | None], attrs: Mapping[str, Any] | None = None) -> ir.Value:
        """A new node before this one; returns its output."""
        attributes = [ir.Attr(k, _attr_type(v), v) for k, v in (attrs or {}).items()]
        name = self.graph.fresh(f"{self.node.name or self.node.op_type}.{op_type}")
        n = ir.Node("", op_type, inputs, attributes, num_outputs=1, name=name, metadata_props=self.origin())
        n.outputs[0].name = name
        owner = self.node.graph
        assert owner is not None
        owner.insert_before(self.node, n)
        self.made.append(n)
        return n.outputs[0]

    def origin(self) -> dict[str, str]:
        props = dict(self.node.metadata_props)
        props.setdefault("edgec.from", self.node.name or "")
        props.setdefault("edgec.rule", "upgrade-opset")
        return props

    def become(self, op_type: str, inputs: Sequence[ir.Value | None], attrs: Mapping[str, Any]) -> None:
        """The same node object with another operator."""
        self.node.op_type = op_type
        self.node.resize_inputs(len(inputs))
        for i, v in enumerate(inputs):
            self.node.replace_input_with(i, v)
        self.node.attributes.clear()
        for k, v in attrs.items():
            self.set(k, v)

    def after(self, op_type: str, extra: Sequence[ir.Value | None], attrs: Mapping[str, Any] | None = None) -> None:
        """`op_type` put behind the node's first output, which keeps its name and uses."""
        old = self.node.outputs[0]
        attributes = [ir.Attr(k, _attr_type(v), v) for k, v in (attrs or {}).items()]
        name = self.graph.fresh(f"{self.node.name or self.node.op_type}.{op_type}")
        n = ir.Node("", op_type, [None, *extra], attributes, num_outputs=1, name=name, metadata_props=self.origin())
        owner = self.node.graph
        assert owner is not None
        owner.insert_after(self.node, n)
        self.made.append(n)
        new = n.outputs[0]
        new.type, new.shape, public = old.type, old.shape, old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
        n.replace_input_with(0, old)
        old.name, new.name = name, public
        old.shape = None


def _attr_type(value: Any) -> ir.AttributeType:
    if isinstance(value, ir.TensorProtocol):
        return ir.AttributeType.TENSOR
    if isinstance(value, (list, tuple)):
        return ir.AttributeType.FLOATS if value and isinstance(value[0], float) else ir.AttributeType.INTS
    if isinstance(value, str):
        return ir.AttributeType.STRING
    return ir.AttributeType.FLOAT if isinstance(value, float) else ir.AttributeType.INT


Step = Callable[[Up], None]

STEPS: dict[tuple[str, int], Step] = {}
"""(operator, the version that changed it) -> what brings a node of the version before to it."""


def step(version: int, *ops: str) -> Callable[[Step], Step]:
    def add(f: Step) -> Step:
        for op in ops:
            STEPS[op, version] = f
        return f

    return add


# --- attributes that became inputs -----------------------------------------------------------------------------------

_REDUCE = ("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
           "ReduceProd", "ReduceSumSquare")  # fmt: skip


@step(13, "Squeeze", "Unsqueeze", "ReduceSum")
@step(18, *_REDUCE)
def axes_to_input(up: Up) -> None:
    axes = up.pop("axes")
    if axes:
        up.put(1, up.ints(axes, "axes"))


@step(13, "Split")
def split_to_input(up: Up) -> None:
    split = up.pop("split")
    if split:
        up.put(1, up.ints(split, "split"))


@step(18, "Split")
def split_counts_outputs(up: Up) -> None:
    if up.input(1) is None:
        up.set("num_outputs", len(up.node.outputs))


@step(10, "Slice")
def slice_to_inputs(up: Up) -> None:
    starts, ends, axes = list(up.pop("starts", [])), list(up.pop("ends", [])), up.pop("axes")
    up.put(1, up.ints(starts, "starts"))
    up.put(2, up.ints(ends, "ends"))
    if axes:
        up.put(3, up.ints(axes, "axes"))


@step(10, "TopK")
def topk_to_input(up: Up) -> None:
    up.put(1, up.ints([up.pop("k")], "k"))


@step(11, "Clip")
def clip_to_inputs(up: Up) -> None:
    for i, name in ((1, "min"), (2, "max")):
        bound = up.pop(name)
        if bound is not None:
            up.put(i, up.const(np.array(bound, up.dtype(0)), name))


@step(2, "Pad")
def pad_renamed(up: Up) -> None:
    if "paddings" in up.node.attributes:
        up.set("pads", up.pop("paddings"))


@step(11, "Pad")
def pad_to_inputs(up: Up) -> None:
    pads, value, mode = list(up.pop("pads", [])), up.pop("value", 0.0), up.get("mode", "constant")
    up.put(1, up.ints(pads, "pads"))
    if mode == "constant" and value:
        up.put(2, up.const(np.array(value, up.dtype(0)), "value"))


@step(5, "Reshape")
def reshape_to_input(up: Up) -> None:
    up.pop("consumed_inputs")
    up.put(1, up.ints(up.pop("shape", []), "shape"))


@step(12, "Dropout")
def dropout_to_inputs(up: Up) -> None:
    ratio = up.pop("ratio")
    if ratio is not None:
        up.put(1, up.const(np.array(ratio, up.dtype(0)), "ratio"))


@step(20, "DFT")
def dft_axis_to_input(up: Up) -> None:
    up.put(2, up.const(np.array(up.pop("axis", 1), np.int64), "axis"))


# --- renamed and removed attributes ----------------------------------------------------------------------------------


@step(6, "Abs", "Add", "Ceil", "Div", "Elu", "Exp", "Floor", "HardSigmoid", "InstanceNormalization", "LeakyRelu", "Log",
      "Max", "Mean", "Min", "Mul", "Neg", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sqrt", "Sub", "Sum",
      "Tanh", "Clip", "Dropout", "BatchNormalization")  # fmt: skip
def drop_consumed_inputs(up: Up) -> None:
    up.pop("consumed_inputs")


@step(6, "Cast")
def cast_by_number(up: Up) -> None:
    to = up.get("to")
    if isinstance(to, str):
        up.set("to", int(ir.DataType[to.upper()]))


@step(2, "LpPool", "GlobalLpPool")
def lp_by_integer(up: Up) -> None:
    p = up.get("p", 2)
    if int(p) != p:
        raise up.refuse(f"p={p} is not a whole number")
    up.set("p", int(p))


@step(4, "Concat")
def concat_axis_given(up: Up) -> None:
    if up.get("axis") is None:
        up.set("axis", 1)


@step(7, "Dropout")
def dropout_infers(up: Up) -> None:
    up.pop("is_test")


@step(10, "Dropout")
def dropout_mask_is_bool(up: Up) -> None:
    if len(up.node.outputs) > 1 and (up.node.outputs[1].uses() or up.node.outputs[1].is_graph_output()):
        raise up.refuse("its mask output is used, whose type changed")


@step(7, "BatchNormalization")
def bn_infers(up: Up) -> None:
    up.pop("is_test")


@step(9, "BatchNormalization")
def bn_spatial(up: Up) -> None:
    if up.pop("spatial", 1) == 0:
        raise up.refuse("spatial=0 (statistics for each element) was removed")


@step(14, "BatchNormalization")
def bn_training_outputs(up: Up) -> None:
    if any(v.uses() or v.is_graph_output() for v in up.node.outputs[1:]):
        raise up.refuse("it is in training mode")
    up.node.resize_outputs(1)


@step(7, "LSTM", "GRU", "RNN")
def rnn_output_sequence(up: Up) -> None:
    up.pop("output_sequence")


@step(7, "Gemm")
def gemm_broadcasts(up: Up) -> None:
    up.pop("broadcast")


@step(16, "RoiAlign")
def roi_align_old_default(up: Up) -> None:
    up.set("coordinate_transformation_mode", "output_half_pixel")


@step(20, "GridSample")
def grid_sample_modes(up: Up) -> None:
    mode = up.get("mode", "bilinear")
    up.set("mode", {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode))


@step(11, "Scatter")
def scatter_renamed(up: Up) -> None:
    up.node.op_type = "ScatterElements"


# --- broadcasting before numpy's rules (opset 6) ---------------------------------------------------------------------


@step(7, "Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less")
def numpy_broadcasting(up: Up) -> None:
    """`axis` said where B's first dimension stands in A; numpy aligns the last ones: ones are appended to B."""
    axis, broadcast = up.pop("axis"), up.pop("broadcast", 0)
    if not broadcast or axis is None:
        return
    a, b = up.rank(0), up.rank(1)
    if a is None or b is None:
        raise up.refuse("broadcasting along an axis needs inputs of known rank")
    trailing = a - (axis % a) - b
    if trailing > 0:
        _append_ones(up, 1, trailing)


@step(7, "PRelu")
def prelu_slope_broadcast(up: Up) -> None:
    """A slope for each channel stood for axis 1; numpy aligns it with the last one."""
    x, slope = up.rank(0), up.rank(1)
    if slope != 1:
        return
    if x is None:
        raise up.refuse("it needs an input of known rank")
    if x > 2:
        _append_ones(up, 1, x - 2)


def _append_ones(up: Up, i: int, count: int) -> None:
    v = up.input(i)
    array = constant(v)
    if array is not None:
        up.put(i, up.const(array.reshape(*array.shape, *[1] * count), "broadcast"))
        return
    rank = up.rank(i)
    assert rank is not None
    up.put(i, up.op("Unsqueeze", [v], {"axes": list(range(rank, rank + count))}))


# --- meanings that changed -------------------------------------------------------------------------------------------


@step(13, "Softmax", "LogSoftmax", "Hardmax")
def softmax_over_one_axis(up: Up) -> None:
    """Before 13 the input was flattened to 2-D at `axis` (1 if not given); since then only `axis` is reduced."""
    axis, rank, x = up.pop("axis", 1), up.rank(0), up.input(0)
    if rank is not None and axis % rank == rank - 1:
        up.set("axis", -1)
        return
    shape = static_shape(x)
    if shape is not None and all(d == 1 for d in shape[axis % len(shape) + 1 :]):
        up.set("axis", axis)
        return
    size = up.op("Shape", [x])
    up.put(0, up.op("Flatten", [x], {"axis": axis}))
    up.set("axis", -1)
    up.after("Reshape", [size])


@step(10, "Upsample")
def upsample_to_resize(up: Up) -> None:
    """Upsample's scales were an attribute before 9. Its coordinates are Resize 11's asymmetric ones, floored."""
    scales = up.input(1)
    if scales is None:
        values = up.pop("scales")
        if values is None:
            height, width = up.pop("height_scale"), up.pop("width_scale")
            if height is None or width is None:
                raise up.refuse("it has no scales")
            values = [1.0, 1.0, height, width]
        scales = up.const(np.array(values, np.float32), "scales")
    mode = up.get("mode", "nearest")
    mode = {"bilinear": "linear"}.get(mode, mode)
    up.become("Resize", [up.input(0), scales], {"mode": mode})


@step(11, "Resize")
def resize_asymmetric(up: Up) -> None:
    """Resize 10 took the nearest pixel by floor when enlarging and, in ONNX Runtime, by ceil when shrinking."""
    scales = up.input(1)
    mode = up.get("mode", "nearest")
    attrs = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        values = constant(scales)
        shrinks, grows = (bool((values < 1).any()), bool((values > 1).any())) if values is not None else (False, True)
        if shrinks and grows:
            raise up.refuse("it enlarges one side and shrinks another, with rounding no single mode expresses")
        attrs["nearest_mode"] = "ceil" if shrinks else "floor"
    up.become("Resize", [up.input(0), None, scales], attrs)


@step(13, "Resize")
def resize_optional_inputs(up: Up) -> None:
    """Inputs not meant were empty tensors; now they are left out. tf_half_pixel_for_nn is gone."""
    if up.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        up.put(1, None)
    v = up.input(2)
    if up.input(3) is not None and v is not None and _is_empty(v):
        up.put(2, None)
    if up.get("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        if up.get("mode", "nearest") != "nearest" or up.get("nearest_mode", "round_prefer_floor") != "floor":
            raise up.refuse("tf_half_pixel_for_nn without nearest_mode=floor was removed")
        up.set("coordinate_transformation_mode", "half_pixel")  # floor(p + 0.5) is rounding that prefers ceil
        up.set("nearest_mode", "round_prefer_ceil")


def _is_empty(v: ir.Value) -> bool:
    shape = static_shape(v)
    return shape is not None and 0 in shape


@step(21, "GroupNormalization")
def group_norm_per_channel(up: Up) -> None:
    """Scale and bias were one a group; since 21 they are one a channel."""
    groups, x = int(up.get("num_groups")), up.input(0)
    channels = x.shape[1] if x is not None and x.shape is not None and x.shape.rank() > 1 else None
    if not isinstance(channels, int):
        raise up.refuse("it needs a known number of channels")
    each = channels // groups
    for i, name in ((1, "scale"), (2, "bias")):
        v = up.input(i)
        array = constant(v)
        if array is not None:
            up.put(i, up.const(np.repeat(array, each), name))
        else:
            column = up.op("Reshape", [v, up.ints([groups, 1], f"{name}.column")])
            wide = up.op("Expand", [column, up.ints([groups, each], f"{name}.wide")])
            up.put(i, up.op("Reshape", [wide, up.ints([channels], f"{name}.channels")]))


@step(9, "Scan")
def scan_without_batch(up: Up) -> None:
    raise up.refuse("Scan 8 scanned with a batch axis, which later versions do not have")


@step(6, "Tile")
def tile_by_repeats(up: Up) -> None:
    raise up.refuse("Tile 1 took one axis and a count")
