"""What the user tells of a model (labels, author, preprocessing) as TFLite Metadata of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import Location, error
from edgec.targets.reading.labels import read_labels
from edgec.targets.tflite.metadata import ModelInfo, TensorInfo
from edgec.targets.tflite.pixels import normalisation

if TYPE_CHECKING:
    from edgec.samples import Preprocess
    from edgec.targets.tflite.endpoints import Endpoint, Interface
    from edgec.targets.tflite.options import TfliteOptions


def model_info(
    ends: Interface, options: TfliteOptions, preprocess: Preprocess | None, source: str | None
) -> ModelInfo | None:
    """None where nothing is known that the file does not say itself, or `metadata=none`. EC0653 for wrong labels."""
    labels = read_labels(options.labels) if options.labels is not None else []
    told = (options.model_name, options.description, options.author, options.license, options.model_version)
    images = [e for e in ends.inputs if preprocess is not None and _channels(e)]
    if options.metadata == "none" or not (labels or images or any(told)):
        return None
    labelled = _labelled(ends, labels, options.labels) if labels else None
    return ModelInfo(
        options.model_name or (Path(source).stem if source and not source.startswith("<") else "model"),
        [_image(e, preprocess) if preprocess is not None and e in images else TensorInfo(e.name) for e in ends.inputs],
        [TensorInfo(e.name, labels=labels if e is labelled else ()) for e in ends.outputs],
        options.description or "",
        options.model_version or "",
        options.author or "",
        options.license or "",
    )


def _stored_shape(e: Endpoint) -> tuple[int, ...]:
    return e.shape if e.perm is None else tuple(e.shape[i] for i in e.perm)


def _labelled(ends: Interface, labels: Sequence[str], path: str | None) -> Endpoint:
    """The output that the labels name the last axis of."""
    for e in ends.outputs:
        if e.shape and _stored_shape(e)[-1] == len(labels):
            return e
    shapes = ", ".join(f"{e.name} {list(_stored_shape(e))}" for e in ends.outputs)
    what = f"there are {len(labels)} labels, and no output has so many along its last axis: {shapes}"
    raise error("EC0653", what, Location(path), "one line a class; --io-layout nhwc puts the classes of images last")


def _channels(e: Endpoint) -> int:
    """Of an image as the file stores it or the ONNX model has it; 0 where it is none."""
    if len(e.shape) != 4 or e.onnx_dtype != "float32":
        return 0
    return next((c for c in (e.shape[1], e.shape[3]) if c in (1, 3)), 0)


def _image(e: Endpoint, preprocess: Preprocess) -> TensorInfo:
    """With the colours only where channels are last: readers take such an input for an image they can fill."""
    mean, std = normalisation(e, preprocess)
    last = _stored_shape(e)[-1]
    colours = {3: "RGB", 1: "GRAYSCALE"}.get(last) if preprocess.colour != "BGR" else None
    return TensorInfo(
        e.name,
        "an image, 0 to 255" + (", blue first" if preprocess.colour == "BGR" else ""),
        mean,
        std,
        [(0 - m) / s for m, s in zip(mean, std, strict=True)],
        [(255 - m) / s for m, s in zip(mean, std, strict=True)],
        colours,
    )
