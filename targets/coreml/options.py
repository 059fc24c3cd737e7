"""What `--option key=value` takes for Core ML targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class CoreMlOptions:
    """`minimum`: the oldest system that shall run the model; by default the target's own."""

    minimum: Literal["ios15", "ios16", "ios17", "ios18", "ios26"] | None = None
    ranges: str | None = None
    shapes: str | None = None
    image: str = "auto"
    labels: str | None = None
    labels_as: Literal["classifier", "metadata"] = "classifier"
    author: str | None = None
    license: str | None = None
    model_version: str | None = None
    description: str | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)
    user_metadata: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 600.0

    HELP: ClassVar[Mapping[str, str]] = {
        "minimum": "oldest system that runs it: ios15, ios16, ios17, ios18 or ios26 (macOS 12, 13, 14, 15, 26)",
        "ranges": 'sizes of open dimensions, least..most or least..most..default: "N=1..8; H=64..1024..224"',
        "shapes": 'whole shapes instead, the default first: "1x3x224x224; 1x3x320x320", or "a=1x64,b=1x64; a=1x128,b=1x128"',
        "image": "auto (default): images are image inputs where --mean, --std or the like are given; an input's name; none",
        "labels": "a text file with one class a line: the model becomes a classifier, as Vision takes it",
        "labels-as": "classifier (default), or metadata: the user-defined entry `classes`, for detectors and the like",
        "author": "for the metadata",
        "license": "for the metadata",
        "model-version": "for the metadata",
        "description": "for the metadata",
        "descriptions": "of inputs and outputs, name=text; name=text",
        "user-metadata": "user-defined entries of the metadata, name=text; name=text",
        "timeout": "seconds coremltools may take (600)",
    }
