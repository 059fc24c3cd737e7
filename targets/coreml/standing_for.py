"""An .mlpackage of anybody's as one that stands for an ONNX model: which feature is which, and what runs it here.

edgec's own report, beside the package, says it. Else names, then positions, tell them apart.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Location, error
from edgec.runtime import Session
from edgec.targets.coreml.evaluate.rules import NotEvaluated
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.interface import Interface, Port
from edgec.targets.coreml.package import decode, not_evaluated
from edgec.targets.coreml.program import FLOATS, Dim, Program, Value, spelt
from edgec.targets.coreml.spec_reader import MODEL, read_model

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.target import Arrays
    from edgec.toolchain import ToolchainManager


class StandingFor:
    """See `edgec.artifact_format.ArtifactRun`. EC0681 where an operation has no evaluation rule, EC0660 where the features are
    another model's."""

    def __init__(self, path: Path, reference: Graph, toolchains: ToolchainManager, folder: Path) -> None:
        self.program = decode(path, toolchains.ensure("coreml"), folder)
        ends = reported(path)
        if ends is None or not _fits(ends, reference):
            ends = derived(self.program, reference, path)
        self._interface, self._path = ends, path
        self._session = self._loaded(())
        self.describe = f"the decoded package in {self._session.describe} (fp16 rounded after each operation)"
        self.input_shapes = {
            p.name: tuple(d for d in p.onnx_shape if isinstance(d, int))
            for p in ends.inputs
            if all(isinstance(d, int) for d in p.onnx_shape)
        }
        self._inside = _same_names(self.program, reference)
        self.names = self._inside.keys()

    def run(self, samples: Iterable[Arrays]) -> Iterator[Arrays]:
        for sample in samples:
            yield self._interface.restore(self._session.run(self._fed(sample)))

    def values(self, samples: Iterable[Arrays], shapes: Mapping[str, tuple[int, ...]]) -> Iterator[Arrays]:
        """Those that have the name of a value of the ONNX model, as Core ML spells it, and its shape."""
        known = {n: v for n, v in self._inside.items() if n in shapes and v.shape == shapes[n] and v.dtype in FLOATS}
        session = self._loaded([v.name for v in known.values()])
        for sample in samples:
            found = session.run(self._fed(sample))
            yield {n: found[v.name] for n, v in known.items()}

    def _loaded(self, inside: Sequence[str]) -> Session:
        try:
            return Session(to_onnx(self.program, half=True, inside=inside))
        except NotEvaluated as e:
            raise not_evaluated(self._path, e) from e

    def _fed(self, sample: Arrays) -> Arrays:
        kinds = {v.name: "float32" if v.dtype in FLOATS else "int64" for v in self.program.inputs}
        return {k: a.astype(kinds[k]) for k, a in self._interface.store(sample).items()}


def reported(path: Path) -> Interface | None:
    """The interface in report.json beside the package, if that report is of this very package."""
    report, model = path.with_name("report.json"), path / MODEL
    if not report.is_file() or not model.is_file():
        return None
    try:
        artifact = json.loads(report.read_text(encoding="utf-8"))["artifact"]
        told = artifact["files"][f"{path.name}/{MODEL.as_posix()}"]["sha256"]
        if hashlib.sha256(model.read_bytes()).hexdigest() != told:
            return None
        return Interface.from_json(artifact["facts"]["interface"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return None  # another program's report: the package itself says enough


def _fits(ends: Interface, reference: Graph) -> bool:
    """Whether the model has these inputs and outputs; inputs that nothing reads are in no package."""
    have = ({v.name for v in reference.inputs}, {v.name for v in reference.outputs})
    return {p.name for p in ends.inputs} <= have[0] and {p.name for p in ends.outputs} == have[1]


def derived(program: Program, reference: Graph, path: Path) -> Interface:
    """The interface by names, as Core ML spells them, or by positions. EC0660 where it is another model's, or takes images:
    nothing in a package says which numbers of the ONNX model its pixels are."""
    images = [f.name for f in read_model(path / MODEL).inputs if f.about.startswith("image")]
    if images:
        message = f"input {images[0]!r} of the package is an image, and no report.json beside it says what its pixels stand for"
        raise error("EC0660", message, Location(str(path)), "keep the package in the folder edgec wrote")
    ends = []
    for what, features, values in (
        ("input", program.inputs, reference.inputs),
        ("output", program.outputs, reference.outputs),
    ):
        by_name = {spelt(v.name or ""): v for v in values}
        if all(f.name in by_name for f in features):
            pairs = [by_name[f.name] for f in features]
        elif len(features) == len(values):
            pairs = list(values)
        else:
            mine, its = ", ".join(f.name for f in features), ", ".join(v.name or "" for v in values)
            message = f"the package has the {what}s {mine}, the ONNX model {its}"
            raise error(
                "EC0660", message, Location(str(path)), "compare a package with the model that it was made from"
            )
        ends.append([_port(f, v, what, path) for f, v in zip(features, pairs, strict=True)])
    return Interface(ends[0], ends[1])


def _port(feature: Value, v: ir.Value, what: str, path: Path) -> Port:
    inside = feature.known
    dims: tuple[Any, ...] = inside if v.shape is None else tuple(v.shape)
    scalar = not dims and inside == (1,)
    fits = scalar or (len(dims) == len(inside) and all(_may_be(a, b) for a, b in zip(dims, inside, strict=True)))
    if not fits:
        message = (
            f"{what} {v.name!r} has shape {list(inside)} in the package and {list(map(str, dims))} in the ONNX model"
        )
        raise error("EC0660", message, Location(str(path)), "compare a package with the model that it was made from")
    kind = v.dtype.numpy().name if v.dtype is not None else "float32"
    return Port(v.name or "", feature.name, inside, feature.dtype, () if scalar else inside, kind)


def _may_be(a: object, b: Dim) -> bool:
    return not isinstance(a, int) or not isinstance(b, int) or a == b


def _same_names(program: Program, reference: Graph) -> dict[str, Value]:
    """Values of the ONNX model by name that have a namesake in the package, each other's only one."""
    inside = {v.name: v for o in program.operations for v in o.outputs}
    out: dict[str, Value] = {}
    taken: set[str] = set()
    for node in reference.model.graph:
        for v in node.outputs:
            name = spelt(v.name or "")
            if v.name and name in inside:
                if name in taken:
                    out = {n: i for n, i in out.items() if i.name != name}
                else:
                    out[v.name] = inside[name]
                taken.add(name)
    return out
