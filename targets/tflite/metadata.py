"""TFLite Metadata: what the Task Library, MediaPipe and Android Studio read of a model to feed it and name its results.

A flatbuffer in the model's metadata, under "TFLITE_METADATA"; files that it refers to (labels) are a zip archive behind
the model, so that unpacking the model as a zip gives them
(https://ai.google.dev/edge/litert/conversion/tensorflow/metadata, metadata_schema.fbs).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgec.targets.tflite.flatbuffer import Builder

NAME = "TFLITE_METADATA"
"""The entry of the model's metadata."""

IDENTIFIER = b"M001"
"""Of the metadata's own flatbuffer."""

_PARSER = "1.0.0"
"""The version of the metadata's schema that knows every field written here."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output, in the words of its user.

    The model takes (value - mean) / std of a value; one number, or one a channel. `minimum` and `maximum`: of what the
    model then sees. `color_space` of an image: "RGB" or "GRAYSCALE". `labels`: names along the last axis.
    """

    name: str
    description: str = ""
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    minimum: Sequence[float] = ()
    maximum: Sequence[float] = ()
    color_space: str | None = None
    labels: Sequence[str] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{self.name}: {len(self.mean)} means and {len(self.std)} standard deviations")
        if any("\n" in label for label in self.labels):
            raise ValueError(f"{self.name}: a label of more than one line")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Inputs and outputs in the order of the model's own."""

    name: str
    inputs: Sequence[TensorInfo]
    outputs: Sequence[TensorInfo]
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""


def metadata(info: ModelInfo) -> dict[str, bytes]:
    """The entry to put into `TfliteModel.metadata`."""
    files = _label_files(info)
    builder = Builder()
    root = builder.table(
        "ModelMetadata",
        {
            "name": info.name,
            "description": info.description or None,
            "version": info.version or None,
            "subgraph_metadata": [
                {
                    "input_tensor_metadata": [_tensor(t, files.get(id(t))) for t in info.inputs],
                    "output_tensor_metadata": [_tensor(t, files.get(id(t))) for t in info.outputs],
                }
            ],
            "author": info.author or None,
            "license": info.license or None,
            "min_parser_version": _PARSER,
        },
    )
    data, _ = builder.finish(root, IDENTIFIER, 4)
    return {NAME: bytes(data)}


def associated_files(info: ModelInfo, size: int) -> bytes:
    """What to append to a model file of `size` bytes: a zip archive of the labels; nothing where there are none.

    Stored, not compressed, as readers map it; the same labels give the same bytes.
    """
    files = _label_files(info)
    if not files:
        return b""
    tail = _Tail(size)
    with zipfile.ZipFile(tail, "w", zipfile.ZIP_STORED) as archive:
        for t in (*info.inputs, *info.outputs):
            if id(t) in files:
                entry = zipfile.ZipInfo(files[id(t)], (1980, 1, 1, 0, 0, 0))
                archive.writestr(entry, "".join(f"{label}\n" for label in t.labels))
    return tail.getvalue()


class _Tail(io.BytesIO):
    """The end of a file whose first `start` bytes are elsewhere; positions are those of the whole file."""

    def __init__(self, start: int) -> None:
        super().__init__()
        self._start = start

    def tell(self) -> int:
        return super().tell() + self._start

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(offset - self._start if whence == io.SEEK_SET else offset, whence) + self._start


def _label_files(info: ModelInfo) -> Mapping[int, str]:
    """id of a tensor's info -> name of its file of labels: labels.txt where there is one only."""
    labelled = [t for t in (*info.inputs, *info.outputs) if t.labels]
    if len(labelled) == 1:
        return {id(labelled[0]): "labels.txt"}
    return {id(t): f"labels_{i}.txt" for i, t in enumerate(labelled)}


def _tensor(t: TensorInfo, labels: str | None) -> dict[str, Any]:
    properties: tuple[str, dict[str, Any]] = ("FeatureProperties", {})
    if t.color_space is not None:
        properties = ("ImageProperties", {"color_space": t.color_space})
    normalization = {"mean": list(t.mean), "std": list(t.std)}
    stats = {"max": list(t.maximum) or None, "min": list(t.minimum) or None}
    file = {"name": labels, "type": "TENSOR_AXIS_LABELS", "description": f"names along the last axis of {t.name}"}
    return {
        "name": t.name,
        "description": t.description or None,
        "content": {"content_properties": properties},
        "process_units": [{"options": ("NormalizationOptions", normalization)}] if t.mean else None,
        "stats": stats if t.minimum or t.maximum else None,
        "associated_files": [file] if labels else None,
    }
