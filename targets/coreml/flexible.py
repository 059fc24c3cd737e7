"""Open dimensions: which sizes a package takes. RangeDim and EnumeratedShapes of coremltools, as the builder's request has them.

--option ranges="N=1..8; H=64..1024..224" says least, most and (third) the size Core ML prepares for; --option
shapes="1x3x224x224; 1x3x320x320" lists whole shapes, of several inputs as "ids=1x64,mask=1x64; ids=1x128,mask=1x128".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgec.diagnostics import Diagnostics, Location, did_you_mean, error
from edgec.graph import Graph, ir
from edgec.targets.coreml.interface import Interface
from edgec.targets.coreml.program import Dim

_BATCHES = 64
"""The most samples at once where only the batch is open and nobody said."""

_RANGE = re.compile(r"([^=\s]+)\s*=\s*(\d+)\s*\.\.\s*(\d+)(?:\s*\.\.\s*(\d+))?")
_NAME = re.compile(r"\w[\w.:/-]*")
"""What is a name: "?", as PaddlePaddle writes, is none."""
_SIZES = re.compile(r"\d+(?:[xX,]\d+)*")


@dataclass(frozen=True)
class Flexible:
    """`ranges`: dimension -> (least, most, default). `enumerated`: input of the ONNX model -> its shapes, the default first."""

    ranges: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    enumerated: Mapping[str, Sequence[tuple[int, ...]]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """For the report; empty where nothing is open."""
        ranges = [f"{name} = {least}..{most}" for name, (least, most, _) in self.ranges.items()]
        shapes = [f"{name}: {' or '.join(_text(s) for s in shapes)}" for name, shapes in self.enumerated.items()]
        return "; ".join([*ranges, *shapes])

    def request(self, interface: Interface) -> dict[str, Any]:
        """What `builder_worker` is told: feature -> shape, with [least, most, default] where it is open, or the shapes."""
        told: dict[str, Any] = {}
        for port in interface.inputs:
            if port.name in self.enumerated:
                told[port.feature] = {"enumerated": [list(s) for s in self.enumerated[port.name]]}
            elif any(isinstance(d, str) for d in port.shape):
                told[port.feature] = {"shape": [list(self.ranges[d]) if isinstance(d, str) else d for d in port.shape]}
        return {"flexible": told} if told else {}


def flexible(
    graph: Graph, ranges: str | None, shapes: str | None, notes: Diagnostics, *, at_least_ios18: bool = True
) -> Flexible:
    """The sizes asked for. Open dimensions of inputs that have no name get one, `INPUT_AXIS`.

    Raises:
        EdgecError: EC0478 a dimension is open and nobody said how large it gets, or what was said does not fit.
    """
    where = Location(graph.source)
    inputs = _named_dims(graph)
    open_dims = list(dict.fromkeys(d for dims in inputs.values() for d in dims if isinstance(d, str)))
    if not open_dims:
        if ranges or shapes:
            raise error("EC0478", "ranges and shapes are for open dimensions, and this model has none", where)
        return Flexible()
    if shapes:
        if ranges:
            raise error("EC0478", "either ranges or shapes, not both", where)
        return _enumerated(inputs, shapes, where, at_least_ios18)
    given = _ranges(ranges or "", open_dims, where)
    missing = [d for d in open_dims if d not in given]
    if missing and not given and _only_batch(inputs, open_dims):
        given = {open_dims[0]: (1, _BATCHES, 1)}
        what = f"the batch {open_dims[0]!r} is open: the package takes 1 to {_BATCHES} samples at once"
        notes.note("EC0478", what, where, f"--option ranges={open_dims[0]}=1..8, or --input-shape for one size")
    elif missing:
        names = ", ".join(f"{n} {_text(dims)}" for n, dims in inputs.items() if any(d in missing for d in dims))
        every = ";".join(f"{d}=1..64" for d in missing)
        hint = f'--input-shape for one size, --option ranges="{every}" or --option shapes="{_example(inputs)};..."'
        raise error("EC0478", f"Core ML must know how large open dimensions get: {names}", where, hint)
    return Flexible(given)


def _named_dims(graph: Graph) -> dict[str, tuple[Dim, ...]]:
    found: dict[str, tuple[Dim, ...]] = {}
    for v in graph.inputs:
        if v.shape is None:
            continue
        dims = [
            d if isinstance(d, int) else d.value if d.value and _NAME.fullmatch(d.value) else f"{v.name}_{axis}"
            for axis, d in enumerate(v.shape)
        ]
        v.shape = ir.Shape(dims)
        found[v.name or ""] = tuple(dims)
    return found


def _ranges(text: str, known: Sequence[str], where: Location) -> dict[str, tuple[int, int, int]]:
    found: dict[str, tuple[int, int, int]] = {}
    for part in filter(None, (p.strip() for p in re.split("[;,]", text))):
        m = _RANGE.fullmatch(part)
        if m is None:
            raise error("EC0478", f"{part!r} is no range", where, "NAME=LEAST..MOST, or NAME=LEAST..MOST..DEFAULT")
        name, least, most = m[1], int(m[2]), int(m[3])
        default = int(m[4]) if m[4] else least
        if name not in known:
            hint = did_you_mean(name, list(known), f"open are {', '.join(known)}")
            raise error("EC0478", f"no input has an open dimension {name!r}", where, hint)
        if not 1 <= least <= default <= most:
            raise error("EC0478", f"{part!r}: sizes are 1 and more, the least first", where)
        found[name] = (least, most, default)
    return found


def _only_batch(inputs: Mapping[str, Sequence[Dim]], open_dims: Sequence[str]) -> bool:
    later = any(isinstance(d, str) for dims in inputs.values() for d in dims[1:])
    return len(open_dims) == 1 and not later and all(len(dims) > 1 for dims in inputs.values() if open_dims[0] in dims)


def _enumerated(inputs: Mapping[str, Sequence[Dim]], text: str, where: Location, at_least_ios18: bool) -> Flexible:
    open_inputs = [n for n, dims in inputs.items() if any(isinstance(d, str) for d in dims)]
    if len(open_inputs) > 1 and not at_least_ios18:
        hint = "--option minimum=ios18, or --option ranges"
        raise error("EC0478", "before iOS 18 one input alone may have several shapes", where, hint)
    found: dict[str, list[tuple[int, ...]]] = {n: [] for n in open_inputs}
    for part in filter(None, (p.strip() for p in text.split(";"))):
        told = dict(_assignment(p.strip(), open_inputs, where) for p in part.split(","))
        if set(told) != set(open_inputs):
            raise error("EC0478", f"{part!r} does not name each of {', '.join(open_inputs)} once", where)
        sizes: dict[str, int] = {}
        for name, shape in told.items():
            dims = inputs[name]
            fits = len(dims) == len(shape) and all(
                d == s if isinstance(d, int) else sizes.setdefault(d, s) == s for d, s in zip(dims, shape, strict=True)
            )
            if not fits or min(shape) < 1:
                raise error("EC0478", f"{_text(shape)} does not fit {name!r}, which is {_text(dims)}", where)
            found[name].append(shape)
    if not all(found.values()):
        raise error("EC0478", "no shapes were given", where)
    return Flexible(enumerated=found)


def _assignment(part: str, open_inputs: Sequence[str], where: Location) -> tuple[str, tuple[int, ...]]:
    name, _, shape = part.rpartition("=")
    name = name.strip() or (open_inputs[0] if len(open_inputs) == 1 else "")
    if not _SIZES.fullmatch(shape.strip()) or name not in open_inputs:
        raise error("EC0478", f"{part!r} is no shape of {' or '.join(open_inputs)}", where, "NAME=1x3x224x224")
    return name, tuple(int(d) for d in re.split("[xX]", shape.strip()))


def _text(dims: Sequence[Dim]) -> str:
    return "x".join(str(d) for d in dims)


def _example(inputs: Mapping[str, Sequence[Dim]]) -> str:
    shapes = {n: "x".join(str(d) if isinstance(d, int) else "64" for d in dims) for n, dims in inputs.items()}
    opened = {n: s for n, s in shapes.items() if any(isinstance(d, str) for d in inputs[n])}
    return next(iter(opened.values())) if len(opened) == 1 else ",".join(f"{n}={s}" for n, s in opened.items())
