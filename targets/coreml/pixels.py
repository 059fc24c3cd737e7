"""Image inputs: the package takes pixels, and mean and std are in the model.

Core ML gives a program the pixels of an image as 0..255 in float32, [1, channels, height, width], in the order of colours
that the feature asks for (RGB, BGR, grayscale), and resizes nothing. A scale and bias of the feature, which coremltools
would put in as operations, are not needed: `fold-preprocess` has mean and std, each by channel, in the model's own first
convolution or in one before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph, ir, static_shape
from edgec.passes.legalize.fold_preprocess import folded, strip
from edgec.passes.optimize.cancel_transposes import CancelTransposes
from edgec.pipeline import PassContext

if TYPE_CHECKING:
    from edgec.affine import Affine
    from edgec.recipe import Step
    from edgec.samples import Preprocess
    from edgec.targets.coreml.options import CoreMlOptions
    from edgec.targets.coreml.program import Array

Colours = Literal["RGB", "BGR", "GRAYSCALE"]

_BEFORE = frozenset({"split-heads", "split-norms", "smooth", "quantize", "to-float16"})
"""These passes see the model as it will be."""


@dataclass(frozen=True)
class Image:
    """How an input of the ONNX model is the pixels of an image.

    pixel = value * scale + offset, each one number or one a channel. `channel_axis`: of the ONNX value, 1 or 3; the image
    has its channels first. `folded`: where mean and std went (`fold_preprocess`).
    """

    colours: Colours
    width: int
    height: int
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    channel_axis: int
    folded: str

    def pixels(self, value: Array) -> Array:
        """Whole numbers of 0..255, [1, channels, height, width], float32: what Core ML makes of an 8-bit image."""
        scale, offset = (self._along(part) for part in (self.scale, self.offset))
        found = np.clip(np.rint(value.astype(np.float64) * scale + offset), 0, 255).astype(np.float32)
        return found if self.channel_axis == 1 else np.ascontiguousarray(found.transpose(0, 3, 1, 2))

    def _along(self, values: Sequence[float]) -> Array:
        shape = [1] * 4
        shape[self.channel_axis] = -1
        return np.asarray(values, np.float64).reshape(shape)

    def __str__(self) -> str:
        return f"image {self.colours} {self.width}x{self.height}"


def with_folding(steps: Sequence[Step], options: CoreMlOptions, preprocess: Preprocess | None) -> Sequence[Step]:
    """The steps with `fold-preprocess` where images are to be image inputs. EC0646 where one is named, but not how pixels
    become its values."""
    named = options.image not in ("auto", "none")
    if options.image == "none" or (preprocess is None and not named):
        return steps
    if preprocess is None:
        hint = "--mean and --std (or --scale) say how pixels become what the model takes; --scale 1: as they are"
        raise error("EC0646", f"image={options.image}: it is not said what preprocessing its pixels need", hint=hint)
    fold: dict[str, Any] = {"inputs": [options.image]} if named else {"optional": True}
    if preprocess.mean_values:
        fold["mean"] = list(preprocess.mean_values)
    if preprocess.std_values:
        fold["std"] = list(preprocess.std_values)
    if preprocess.layout is not None:
        fold["layout"] = preprocess.layout
    names = [next(iter(step)) if isinstance(step, Mapping) else step for step in steps]
    if "quantize" in names:
        fold["in_float"] = True
    at = next((i for i, name in enumerate(names) if name in _BEFORE), len(steps))
    return [*steps[:at], {"fold-preprocess": fold}, *steps[at:]]


def image_inputs(graph: Graph, preprocess: Preprocess | None) -> tuple[Graph, dict[str, Image]]:
    """The graph of pixels, channels first, and what its images are of the ONNX model's inputs, by name.

    An input that Core ML has no image for (a batch, four channels) keeps its values; their preprocessing is undone and done
    again in the model.
    """
    how = folded(graph) if preprocess is not None else {}
    axes = {v.name or "": axis for v in graph.inputs if v.name in how and (axis := _axis(v, preprocess)) is not None}
    if preprocess is None or not axes:
        return graph, {}
    stripped, affines = strip(graph, axes)
    found: dict[str, Image] = {}
    for v in stripped.inputs:
        name, shape = v.name or "", static_shape(v)
        if name in axes and shape is not None:
            if axes[name] == 3:
                _channels_first(stripped, v)
            found[name] = _image(shape, axes[name], preprocess, affines.get(name), how[name])
    if 3 in axes.values():
        CancelTransposes().run(stripped, PassContext())
    return stripped, found


def _axis(v: ir.Value, preprocess: Preprocess | None) -> int | None:
    """Where the channels of one image of one or three colours are; None for anything else."""
    shape = static_shape(v)
    if shape is None or len(shape) != 4 or shape[0] != 1 or preprocess is None:
        return None
    first = preprocess.layout == "NCHW" or (preprocess.layout is None and shape[1] in (1, 3))
    axis = 1 if first else 3
    return axis if shape[axis] in (1, 3) else None


def _image(shape: Sequence[int], axis: int, preprocess: Preprocess, affine: Affine | None, how: str) -> Image:
    colours: Colours = "GRAYSCALE" if shape[axis] == 1 else "BGR" if preprocess.colour == "BGR" else "RGB"
    height, width = shape[2:] if axis == 1 else shape[1:3]
    scale, offset = (
        ((1.0,), (0.0,)) if affine is None else (tuple(affine.scale.tolist()), tuple(affine.offset.tolist()))
    )
    return Image(colours, width, height, scale, offset, axis, how)


def _channels_first(graph: Graph, v: ir.Value) -> None:
    """The input channels first, and a Transpose back for its readers: behind its Cast, where that is all that reads it."""
    shape = static_shape(v)
    assert shape is not None  # an image has one
    n, h, w, c = shape
    x, first = v, next(iter(graph.model.graph))
    readers = [use.node for use in v.uses()]
    if len(readers) == 1 and readers[0].op_type == "Cast" and not readers[0].outputs[0].is_graph_output():
        x, first = readers[0].outputs[0], readers[0]
    uses = list(x.uses())
    node = ir.Node("", "Transpose", [x], [ir.AttrInt64s("perm", [0, 2, 3, 1])], name=graph.fresh(f"{v.name}_last"))
    out = node.outputs[0]
    out.name, out.shape = graph.fresh(f"{v.name}_channels_last"), ir.Shape((n, h, w, c))
    out.dtype = x.dtype or ir.DataType.FLOAT  # an image is float32
    for use in uses:
        use.node.replace_input_with(use.idx, out)
    v.shape = ir.Shape((n, c, h, w))
    if x is v:
        graph.model.graph.insert_before(first, node)
    else:
        x.shape = v.shape
        graph.model.graph.insert_after(first, node)
