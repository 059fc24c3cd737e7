"""How the features of a package hold the inputs and outputs of the ONNX model, and the way from one to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from edgec.diagnostics import error
from edgec.targets.coreml.pixels import Image
from edgec.targets.coreml.program import NUMPY, Array, Dim

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Port:
    """One input or output.

    `name`: in the ONNX model. `feature`: in the package, where only [A-Za-z0-9_] is allowed. `shape`, `dtype`: in the
    package: a scalar is [1] there, and integers and bools are int32. `onnx_dtype`: by NumPy's name.
    """

    name: str
    feature: str
    shape: tuple[Dim, ...]
    dtype: str
    onnx_shape: tuple[Dim, ...]
    onnx_dtype: str
    image: Image | None = None
    """The package takes an image: `shape` and `dtype` are those of its pixels in the program."""

    def store(self, array: Array) -> Array:
        """An ONNX value as the package takes it; an image as whole pixels. EC0660 where an integer does not fit 32 bits."""
        if self.image is not None:
            return self.image.pixels(array)
        if array.dtype.kind in "iu" and array.size and (array.min() < _INT32.min or array.max() > _INT32.max):
            what = f"input {self.name!r} is int32 in the package, and a sample's {array.dtype} values do not fit"
            raise error("EC0660", what, hint="the package cannot take them on the device either")
        stored = array.astype(NUMPY[self.dtype])
        return stored.reshape(1) if not self.onnx_shape else stored

    def restore(self, array: Array) -> Array:
        """What the package gave as the ONNX value."""
        shaped = array.reshape(()) if not self.onnx_shape else array
        return shaped.astype(self.onnx_dtype)


@dataclass(frozen=True)
class Classifier:
    """The package gives the likeliest label, and every label's value, in place of the output that has them.

    `output`: in the ONNX model. `label`, `values`: the features, a text and a dictionary.
    """

    output: str
    labels: tuple[str, ...]
    label: str = "classLabel"
    values: str = "classLabel_probs"


@dataclass(frozen=True)
class Interface:
    """All of them. Written into the report, from which it can be read back."""

    inputs: Sequence[Port]
    outputs: Sequence[Port]
    classifier: Classifier | None = None

    def with_images(self, images: Mapping[str, Image]) -> Interface:
        """`images`: by input of the ONNX model; `onnx_shape` is that of the pixels until here."""
        inputs = []
        for p in self.inputs:
            image = images.get(p.name)
            shape = p.onnx_shape
            if image is not None and image.channel_axis == 3:
                shape = (shape[0], *shape[2:], shape[1])
            inputs.append(replace(p, image=image, onnx_shape=shape))
        return replace(self, inputs=inputs)

    def store(self, sample: Mapping[str, Array]) -> dict[str, Array]:
        """The package's inputs by feature. A sample may hold more: inputs that nothing reads are in no package."""
        return {p.feature: p.store(sample[p.name]) for p in self.inputs}

    def restore(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """The ONNX model's outputs by name; EC0660 where the package gave none."""
        missing = [p.feature for p in self.outputs if p.feature not in outputs]
        if missing:
            raise error("EC0660", f"the package gave no output {missing[0]!r}; it gave {', '.join(sorted(outputs))}")
        return {p.name: p.restore(outputs[p.feature]) for p in self.outputs}

    def to_json(self) -> dict[str, Any]:
        ports: dict[str, Any] = {end: [_told(p) for p in getattr(self, end)] for end in ("inputs", "outputs")}
        if self.classifier is not None:
            ports["classifier"] = {**asdict(self.classifier), "labels": list(self.classifier.labels)}
        return ports

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Interface:
        told = data.get("classifier")
        classifier = None if told is None else Classifier(**{**told, "labels": tuple(told["labels"])})
        inputs, outputs = ([_port(p) for p in data[end]] for end in ("inputs", "outputs"))
        return cls(inputs, outputs, classifier)

    def takes(self) -> str:
        """The inputs for people: `input: image RGB 224x224`."""
        return ", ".join(f"{p.feature}: {p.image or _array(p)}" for p in self.inputs)

    def gives(self) -> str:
        """The outputs for people: `classLabel: text, classLabel_probs: dictionary of 1000`."""
        parts = []
        for p in self.outputs:
            if self.classifier is not None and p.name == self.classifier.output:
                c = self.classifier
                parts += [f"{c.label}: text", f"{c.values}: dictionary of {len(c.labels)}"]
            else:
                parts.append(f"{p.feature}: {_array(p)}")
        return ", ".join(parts)


_NUMBERS = {"fp32": "float32", "fp16": "float16"}


def _array(p: Port) -> str:
    return f"{_NUMBERS.get(p.dtype, p.dtype)} {'x'.join(map(str, p.shape))}"


def _told(p: Port) -> dict[str, Any]:
    return {k: v for k, v in asdict(p).items() if v is not None}


def _port(p: Mapping[str, Any]) -> Port:
    image = None if p.get("image") is None else Image(**{k: _tuple(v) for k, v in p["image"].items()})
    return Port(**{**p, "shape": tuple(p["shape"]), "onnx_shape": tuple(p["onnx_shape"]), "image": image})


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
