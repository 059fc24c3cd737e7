"""A .tflite file of anybody's as one that stands for an ONNX model: which input is which, and how it is stored.

edgec's own report, beside the file, says it. Else names, then positions, tell the inputs apart, shapes the order of axes,
and the file's scales what a number means.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import Location, error
from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.model import Array, Tensor, TfliteModel
from edgec.targets.tflite.reader import read
from edgec.targets.tflite.runner import LiteRtRunner
from edgec.targets.tflite.storage import channels_last, inverse, stored

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.target import Arrays
    from edgec.toolchain import ToolchainManager

Shape = tuple[int, ...]

_NUMBERS = frozenset({"float32", "int8", "uint8", "int16"})


class StandingFor:
    """See `edgec.artifact_format.ArtifactRun`."""

    def __init__(self, path: Path, reference: Graph, toolchains: ToolchainManager, folder: Path) -> None:
        self._model = read(path)
        ends = reported(path)
        self._names: dict[str, str] = {}
        if ends is None or not _fits(ends, reference):
            ends, self._names = derived(self._model, reference, path)
        self._interface = ends
        self._runner = LiteRtRunner(path, Interface(ends.inputs, ends.outputs), toolchains, folder)
        self.describe = self._runner.describe
        self.names = {t.name for t in self._model.main.tensors() if t.data is None}
        self.input_shapes = {self._names.get(e.name, e.name): e.shape for e in ends.inputs}

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        for out in self._runner.run(map(self._fed, samples)):
            yield {self._names.get(name, name): array for name, array in out.items()}

    def values(self, samples: Iterable[Arrays], shapes: Mapping[str, Shape]) -> Iterator[Arrays]:
        """The file's tensors that have the name of a value of the ONNX model, and its shape but for the order of axes."""
        tensors = list(self._model.main.tensors())
        known: dict[int, Endpoint] = {}
        for i, t in enumerate(tensors):
            if t.data is not None or t.name not in shapes or t.dtype not in _NUMBERS:
                continue
            onnx = shapes[t.name]
            fitting = [perm for perm in (None, channels_last(len(onnx))) if stored(onnx, perm) == t.shape]
            if fitting and (len(onnx) < 3 or len(fitting) == 1):  # as many channels as columns: either could be meant
                known[i] = Endpoint(t.name, onnx, "float32", t.dtype, fitting[0], t.quant)
        for found in self._runner.all_tensors(map(self._fed, samples)):
            yield {e.name: e.restore(found[i]) for i, e in known.items() if i in found}

    def _fed(self, sample: Arrays) -> dict[str, Array]:
        """The sample by the file's names."""
        return {e.name: sample[self._names.get(e.name, e.name)] for e in self._interface.inputs}


def reported(path: Path) -> Interface | None:
    """The interface in report.json beside the file, if that report is of this very file."""
    report = path.with_name("report.json")
    if not report.is_file():
        return None
    try:
        artifact = json.loads(report.read_text(encoding="utf-8"))["artifact"]
        told = artifact["files"][path.name]["sha256"]
        with path.open("rb") as f:
            if hashlib.file_digest(f, "sha256").hexdigest() != told:
                return None
        return Interface.from_json(artifact["facts"]["interface"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # another program's report: the file itself says enough


def _fits(ends: Interface, reference: Graph) -> bool:
    """Whether the model has these inputs and outputs; those that nothing reads are not in the file."""
    have = ({v.name for v in reference.inputs}, {v.name for v in reference.outputs})
    return {e.name for e in ends.inputs} <= have[0] and {e.name for e in ends.outputs} == have[1]


def derived(model: TfliteModel, reference: Graph, path: Path) -> tuple[Interface, dict[str, str]]:
    """The interface by the file's names, and those of the ONNX model where they differ. EC0660 where it is another model."""
    names: dict[str, str] = {}
    ends = []
    for what, tensors, signature, values in (
        ("input", model.main.inputs, model.input_names, reference.inputs),
        ("output", model.main.outputs, model.output_names, reference.outputs),
    ):
        found = [signature[i] if signature else t.name for i, t in enumerate(tensors)]
        pairs = _pairs(found, values)
        if pairs is None:
            message = (
                f"the file has the {what}s {', '.join(found)}, the ONNX model {', '.join(v.name or '' for v in values)}"
            )
            raise error("EC0660", message, Location(str(path)), "compare a file with the model that it was made from")
        part = []
        for name, t, v in zip(found, tensors, pairs, strict=True):
            part.append(_endpoint(name, t, v, what, path))
            if v.name != name:
                names[name] = v.name or ""
        ends.append(part)
    return Interface(*ends), names


def _pairs(names: Sequence[str], values: Sequence[ir.Value]) -> list[ir.Value] | None:
    """The ONNX value for each name: the same name, or the same position where names are all other ones."""
    by_name = {v.name: v for v in values}
    if all(n in by_name for n in names):
        return [by_name[n] for n in names]
    return list(values) if len(names) == len(values) else None


def _endpoint(name: str, t: Tensor, v: ir.Value, what: str, path: Path) -> Endpoint:
    dims = None if v.shape is None else tuple(d if isinstance(d, int) else None for d in v.shape)
    for perm in (None, channels_last(len(t.shape))):
        back = stored(t.shape, inverse(perm) if perm is not None else None)
        if dims is None or (len(dims) == len(back) and all(d in (None, b) for d, b in zip(dims, back, strict=True))):
            onnx = v.dtype.numpy().name if v.dtype is not None else "float32"
            return Endpoint(name, back, onnx, t.dtype, perm, t.quant if onnx.startswith("float") else None)
    shown = [d if d is not None else "?" for d in dims or ()]
    message = f"{what} {name!r} has shape {list(t.shape)} in the file and {shown} in the ONNX model"
    raise error("EC0660", message, Location(str(path)), "compare a file with the model that it was made from")
