"""Images enter as pixels, 0 to 255: (x - mean) / std moves into the model.

The graph's own input keeps its meaning (samples, calibration and comparison stay as they are): it is turned back into
pixels by nodes marked as `edgec.pixels`, which an emitter leaves out (`strip`), so that the artifact takes the pixels.

With x = (pixel - mean) / std for each channel, and r = pixel - shift what the first kernel reads:

    as it is    std and mean are one number, the mean a whole one: r is x in other units. x stays, and gets the scale
                1 / std and the zero point that makes stored = pixel - 128
    weights     all readers are convolutions: W' = W / std, b' = b + sum W (shift - mean) / std. Zero padding then means
                the pixel `shift`; it meant `mean` before. Exact without padding; in 8 bits also where every mean is
                within half a step of `shift`, as near as any stored number can be
    depthwise   otherwise: one convolution 1x1 for each channel, W = 1 / std, b = -mean / std, before all readers
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from edgec.affine import Affine
from edgec.diagnostics import Location, error
from edgec.graph import Graph, attribute, constant, ir, is_constant, static_shape
from edgec.passes.legalize.half_decisions import KEPT_KEY
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.quantization.marks import set_float, set_range

if TYPE_CHECKING:
    from edgec.pipeline import Contract

Array = npt.NDArray[Any]

PIXELS = "edgec.pixels"
"""In a node's metadata: it turns the ONNX model's input into pixels. In an input's: how its preprocessing was folded."""

_UNDOES = "undoes the preprocessing; the artifact does not have it"


@dataclass(frozen=True)
class FoldPreprocess(Pass):
    """The artifact takes pixels, 0 to 255: mean and std move into the first kernel.

    Raises:
        EdgecError: EC0230 an input that is no image.
    """

    mean: tuple[float, ...] = ()
    """In units of 0..255; one number, or one a channel."""
    std: tuple[float, ...] = ()
    inputs: tuple[str, ...] = ()
    """By default every input that is an image."""
    layout: Literal["NCHW", "NHWC", ""] = ""
    bits: Literal[0, 8, 16] = 0
    """Of the integers that are the artifact's input; 0: it takes float."""
    in_float: bool = False
    """Mean and std stay before what is quantised, in a convolution 1x1 of their own: symmetric integers would lose half of
    the range to pixels, which have no sign."""
    optional: bool = False
    """A model without images is left as it is, instead of an error."""

    name: ClassVar[str] = "fold-preprocess"
    contract: ClassVar[Contract] = "lossy"  # with 8 bits, images may be padded with a pixel that is half a step off

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        counts: dict[str, int] = {}
        for v in self._images(graph):
            how = _Input(graph, v, self._channel_axis(graph, v), self).fold()
            v.metadata_props[PIXELS] = how
            counts[how] = counts.get(how, 0) + 1
        return PassResult(bool(counts), counts)

    def _images(self, graph: Graph) -> list[ir.Value]:
        if self.inputs:
            by_name = {v.name: v for v in graph.inputs}
            for name in self.inputs:
                if name not in by_name:
                    raise error("EC0230", f"the model has no input {name!r}", Location(graph.source))
            return [by_name[n] for n in self.inputs]
        found = [v for v in graph.inputs if self._axis(v) is not None]
        if not found and not self.optional:
            what = "no input of the model is an image of fixed size in float32, [1, channels, height, width]"
            raise error(
                "EC0230",
                what,
                Location(graph.source),
                "fix its shape with --input-shape, or leave mean and std to the app",
            )
        return found

    def _axis(self, v: ir.Value) -> int | None:
        from edgec.samples.inputs import InputSpec, image_axes

        shape = static_shape(v)
        if shape is None or len(shape) != 4 or v.dtype is not ir.DataType.FLOAT:
            return None
        axes = image_axes(InputSpec(v.name or "", np.dtype(np.float32), shape), self.layout or None)
        if axes is None or any(len(values) not in (0, 1, axes.channels) for values in (self.mean, self.std)):
            return None
        return axes.channel_axis % 4

    def _channel_axis(self, graph: Graph, v: ir.Value) -> int:
        axis = self._axis(v)
        if axis is None:
            what = (
                f"input {v.name!r} is no float32 image that {len(self.mean)} means and {len(self.std)} deviations fit"
            )
            raise error("EC0230", what, Location(graph.source), "give one number, or one for each channel")
        return axis


class _Input:
    def __init__(self, graph: Graph, v: ir.Value, axis: int, options: FoldPreprocess) -> None:
        self.graph, self.v, self.axis, self.bits = graph, v, axis, options.bits
        self.in_float = options.in_float
        shape = static_shape(v)
        assert shape is not None  # an image has one
        channels = shape[axis]
        self.mean = np.broadcast_to(np.asarray(options.mean or (0.0,), np.float64), (channels,))
        self.std = np.broadcast_to(np.asarray(options.std or (1.0,), np.float64), (channels,))
        self.readers = [(u.node, u.idx) for u in v.uses()]

    def fold(self) -> str:
        """Returns how."""
        if self._fits_as_it_is():
            mean, std = float(self.mean[0]), float(self.std[0])
            set_range(self.v, *(limit / std for limit in self._limits(mean)))
            return "as it is"
        shift = None if self.in_float else self._shift()
        if shift is None:
            r = self._pixels(0.0)
            self._depthwise(r)
            return "depthwise"
        convolutions = dict.fromkeys(n for n, _ in self.readers)
        r = self._pixels(shift)
        for node in convolutions:
            self._into(node, shift)
        for node, i in self.readers:
            node.replace_input_with(i, r)
        return "weights"

    def _limits(self, shift: float) -> tuple[float, float]:
        """What r can be; in 16 bits, which have no zero point, the range that makes a step one pixel."""
        return (-32767.0, 32767.0) if self.bits == 16 else (-shift, 255.0 - shift)

    def _fits_as_it_is(self) -> bool:
        one = bool(np.all(self.mean == self.mean[0]) and np.all(self.std == self.std[0]))
        mean = float(self.mean[0])
        if not self.bits:
            return one and mean == 0 and self.std[0] == 1
        whole = mean.is_integer() and 0 <= mean <= 255 and (self.bits == 8 or mean == 0)
        return one and whole and all(self._keeps_scale(n, mean) for n, _ in self.readers)

    def _keeps_scale(self, reader: ir.Node, mean: float) -> bool:
        """Whether the input will be stored in the scale of pixels: a model that arrived quantised has its own."""
        if reader.op_type != "QuantizeLinear":
            return True
        if len(reader.inputs) < 3 or not all(is_constant(v) for v in reader.inputs[1:3]):
            return False
        scale, zero = (np.asarray(constant(v), np.float64) for v in reader.inputs[1:3])
        exact = scale.size == zero.size == 1 and bool(np.isclose(scale * self.std[0], 1, rtol=1e-5).all())
        return exact and bool(np.all(zero == (mean - 128 if self.bits == 8 else 0)))

    def _shift(self) -> float | None:
        """What to take from the pixels so that the weights can hold the rest; None where they cannot."""
        if self.v.is_graph_output() or not self.readers:
            return None
        padded = False
        for node, i in self.readers:
            if node.op_type != "Conv" or node.domain or i != 0 or not is_constant(node.inputs[1]):
                return None
            if self.axis != 1 or not all(b is None or is_constant(b) for b in node.inputs[2:]):
                return None
            padded |= any(attribute(node, "pads") or ()) or attribute(node, "auto_pad") not in (None, "NOTSET", "VALID")
        if not padded:
            return 0.0
        if self.bits == 8:
            shift = float(np.clip(np.rint((self.mean.min() + self.mean.max()) / 2), 0, 255))
            return shift if np.abs(self.mean - shift).max() <= 0.5 else None
        return 0.0 if not self.mean.any() else None

    def _pixels(self, shift: float) -> ir.Value:
        """r, with its range."""
        out = self.v
        for op, values, neutral in (("Mul", self.std, 1.0), ("Add", self.mean - shift, 0.0)):
            if np.all(values == neutral):
                continue
            shape = [1] * 4
            shape[self.axis] = -1
            c = self._constant(values.reshape(shape), f"{self.v.name}_{op.lower()}")
            out = self._node(op, [out, c], f"{self.v.name}_pixels")
            node = out.producer()
            assert node is not None  # just made
            node.metadata_props[PIXELS] = self.v.name or ""
            set_float(node, _UNDOES)
            node.metadata_props[KEPT_KEY] = _UNDOES
        set_range(out, *self._limits(shift))
        return out

    def _into(self, conv: ir.Node, shift: float) -> None:
        weight = np.asarray(constant(conv.inputs[1]))
        group = int(attribute(conv, "group") or 1)
        std, rest = self.std.reshape(group, -1), ((shift - self.mean) / self.std).reshape(group, -1)
        per_group = weight.astype(np.float64).reshape(group, weight.shape[0] // group, *weight.shape[1:])
        shape = (group, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        scaled = (per_group / std.reshape(shape)).reshape(weight.shape)
        moved = (per_group * rest.reshape(shape)).reshape(weight.shape[0], -1).sum(axis=1)
        old = conv.inputs[2] if len(conv.inputs) > 2 else None
        bias = moved if old is None else moved + np.asarray(constant(old), np.float64)
        stem = conv.inputs[1].name if conv.inputs[1] is not None else "weight"
        inputs = [
            conv.inputs[0],
            self._constant(scaled, f"{stem}_of_pixels"),
            self._constant(bias, f"{stem}_bias_of_pixels"),
        ]
        conv.resize_inputs(3)
        for i, value in enumerate(inputs):
            conv.replace_input_with(i, value)

    def _depthwise(self, r: ir.Value) -> None:
        """x again, of pixels."""
        channels = self.std.size
        x, last = r, self.axis == 3
        if last:
            x = self._node("Transpose", [x], f"{self.v.name}_first", perm=[0, 3, 1, 2])
        kernel = (channels, 1, 1, 1)
        if self._arrived_quantised():
            x, weight, bias = self._in_integers(x, kernel)
        else:
            weight = self._constant((1 / self.std).reshape(kernel), f"{self.v.name}_by_std")
            bias = self._constant(-self.mean / self.std, f"{self.v.name}_mean")
        x = self._node("Conv", [x, weight, bias], f"{self.v.name}_normalised", group=channels, kernel_shape=[1, 1])
        if self.in_float and (conv := x.producer()) is not None:
            set_float(conv, "turns pixels into what the model was trained with")
        if last:
            x = self._node("Transpose", [x], f"{self.v.name}_normalised_last", perm=[0, 2, 3, 1])
        for node, i in self.readers:
            node.replace_input_with(i, x)
        self.graph.model.graph.sort()

    def _arrived_quantised(self) -> bool:
        """Whether all readers are QuantizeLinear to int8: nothing quantises this convolution later."""
        zeros = [n.inputs[2] if n.op_type == "QuantizeLinear" and len(n.inputs) > 2 else None for n, _ in self.readers]
        return self.bits == 8 and all(z is not None and z.dtype is ir.DataType.INT8 for z in zeros)

    def _in_integers(self, r: ir.Value, kernel: tuple[int, ...]) -> tuple[ir.Value, ir.Value, ir.Value]:
        """r, weight and bias through Q/DQ: a stored pixel is pixel - 128, a stored weight 127."""
        name, zeros = self.v.name, np.zeros(self.std.size)
        grid = (self._constant(np.ones(()), f"{name}_step"), self._constant(np.asarray(-128), f"{name}_zero", np.int8))
        stored = self._node("QuantizeLinear", [r, *grid], f"{name}_q", dtype=ir.DataType.INT8)
        x = self._node("DequantizeLinear", [stored, *grid], f"{name}_dq")
        scale = self._constant(1 / (127 * self.std), f"{name}_by_std_scale")
        parts = []
        for data, dtype, hint in (
            (np.full(kernel, 127), np.int8, "by_std"),
            (np.rint(-127 * self.mean), np.int32, "mean"),
        ):
            zero = self._constant(zeros, f"{name}_{hint}_zero", dtype)
            constants = [self._constant(data, f"{name}_{hint}_q", dtype), scale, zero]
            parts.append(self._node("DequantizeLinear", constants, f"{name}_{hint}", axis=0))
        return x, parts[0], parts[1]

    def _constant(self, data: Array, hint: str, dtype: npt.DTypeLike = np.float32) -> ir.Value:
        name = self.graph.fresh(hint)
        tensor = ir.tensor(np.array(data, dtype), name=name)
        value = ir.Value(name=name, const_value=tensor)
        value.dtype, value.shape = tensor.dtype, ir.Shape(data.shape)
        self.graph.model.graph.register_initializer(value)
        return value

    def _node(
        self, op: str, inputs: list[ir.Value], hint: str, dtype: ir.DataType = ir.DataType.FLOAT, **attributes: Any
    ) -> ir.Value:
        g = self.graph.model.graph
        attrs = [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()]
        node = ir.Node("", op, inputs, attrs, num_outputs=1, name=self.graph.fresh(f"{hint}_{op.lower()}"))
        out = node.outputs[0]
        out.name, out.dtype = self.graph.fresh(hint), dtype
        shape = static_shape(inputs[0])
        assert shape is not None  # images are of fixed size
        perm = attributes.get("perm")
        out.shape = ir.Shape([shape[i] for i in perm] if perm else shape)
        before = inputs[0].producer()
        if before is None:
            first = next(iter(g), None)
            if first is None:
                g.append(node)
            else:
                g.insert_before(first, node)
        else:
            g.insert_after(before, node)
        return out


def folded(graph: Graph) -> dict[str, str]:
    """Inputs whose preprocessing is in the model, and how: "as it is", "weights" or "depthwise"."""
    return {v.name or "": v.metadata_props[PIXELS] for v in graph.inputs if PIXELS in v.metadata_props}


def strip(graph: Graph, inputs: Collection[str] | None = None) -> tuple[Graph, Mapping[str, Affine]]:
    """A copy whose inputs (those named, or all that were folded) are the pixels less the shift, and what they are of the
    inputs before."""
    graph = graph.clone()
    found: dict[str, Affine] = {}
    for v in graph.inputs if inputs is None else [v for v in graph.inputs if v.name in inputs]:
        scale, offset, axis = np.ones(1), np.zeros(1), 1
        while (node := _undoes(v)) is not None:
            data = np.asarray(constant(node.inputs[1]), np.float64)
            axis = int(np.argmax(data.shape))
            if node.op_type == "Mul":
                scale = scale * data.reshape(-1)
            else:
                offset = offset + data.reshape(-1)
            node.outputs[0].replace_all_uses_with(v)
            graph.model.graph.remove(node, safe=True)
            found[v.name or ""] = Affine(scale, offset, axis)
    graph.remove_dead()
    return graph, found


def _undoes(v: ir.Value) -> ir.Node | None:
    uses = list(v.uses())
    if len(uses) != 1 or v.is_graph_output() or PIXELS not in uses[0].node.metadata_props:
        return None
    return uses[0].node
