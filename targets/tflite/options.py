"""What `--option key=value` takes for TFLite targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class TfliteOptions:
    """For processors with LiteRT; microcontrollers add to them (`MicroOptions`)."""

    io_layout: Literal["keep", "nhwc"] = "keep"
    io_dtype: Literal["float", "integer", "uint8"] = "float"
    fold_preprocess: bool = False
    kernels: Literal["xnnpack", "builtin", "reference"] = "xnnpack"
    timeout: float = 600.0
    large: bool = False
    metadata: Literal["auto", "none"] = "auto"
    labels: str | None = None
    model_name: str | None = None
    description: str | None = None
    author: str | None = None
    license: str | None = None
    model_version: str | None = None

    HELP: ClassVar[Mapping[str, str]] = {
        "io-layout": "images at inputs and outputs: keep the ONNX model's order (default), or nhwc (spares a TRANSPOSE each)",
        "io-dtype": "quantised models take and give float (default), integer (int8 or int16, no conversion), or uint8",
        "fold-preprocess": "true: images enter as pixels of 0..255; --mean and --std move into the model",
        "kernels": "what LiteRT verifies with here: xnnpack (default, as in an app), builtin or reference",
        "timeout": "seconds a runtime may take for some samples (600)",
        "large": "true: over 2 GB, with the weights outside of the flatbuffer; LiteRT alone reads it",
        "metadata": "auto (default): TFLite Metadata where labels, preprocessing or the like are known; none",
        "labels": "a text file with one class a line, for the metadata and in the file",
        "model-name": "for the metadata; default: the file's name",
        "description": "for the metadata",
        "author": "for the metadata",
        "license": "for the metadata",
        "model-version": "for the metadata",
    }
