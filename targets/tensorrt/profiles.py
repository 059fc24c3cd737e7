"""Optimisation profiles: the shapes an engine is built for, where an input's shape is not fixed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics, Location, did_you_mean, error

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.targets.tensorrt.options import TensorRtOptions

Shape = tuple[int, ...]

_KINDS = ("min", "opt", "max")


@dataclass(frozen=True)
class Profile:
    """What an engine must be able to take at one input (`min` to `max`), and what it is made fast for (`opt`)."""

    name: str
    min: Shape
    opt: Shape
    max: Shape

    def __contains__(self, shape: Sequence[int]) -> bool:
        return len(shape) == len(self.min) and all(
            lo <= n <= hi for lo, n, hi in zip(self.min, shape, self.max, strict=True)
        )

    def to_json(self) -> dict[str, Any]:
        return {"min": list(self.min), "opt": list(self.opt), "max": list(self.max)}


def parse_shapes(text: str, option: str) -> dict[str, Shape]:
    """ "x:1x3x224x224,y:4" as trtexec takes it: the last colon ends the name; single quotes may enclose it.

    Raises:
        EdgecError: EC0692.
    """
    out: dict[str, Shape] = {}
    for part in text.split(","):
        name, colon, dims = part.strip().rpartition(":")
        name = name.strip("'")
        if not colon or not name or not re.fullmatch(r"\d+(x\d+)*", dims):
            raise error(
                "EC0692", f"{option}: {part.strip()!r} is not a shape", hint='write "input:1x3x224x224,other:1x4"'
            )
        if name in out:
            raise error("EC0692", f"{option} gives {name!r} twice")
        out[name] = tuple(int(d) for d in dims.split("x"))
    return out


def profiles(
    graph: Graph,
    options: TensorRtOptions,
    sample: Mapping[str, Any] | None,
    notes: Diagnostics,
    *,
    guessed: bool = False,
) -> tuple[Profile, ...]:
    """One for each input with dynamic dimensions, in the order of the inputs.

    `guessed`: the sample was made up. What the user does not give: opt is the shape of the samples (else of the model, with 1 for what is open), held between
    min and max; min and max are opt. Inputs whose shape is then fixed though the model leaves it open are told (EC0693).

    Raises:
        EdgecError: EC0692 a shape does not fit its input, the bounds contradict each other, or an input's name cannot be
            written in trtexec's syntax.
    """
    given = {k: parse_shapes(text, f"{k}-shapes") for k in _KINDS if (text := getattr(options, f"{k}_shapes"))}
    dynamic = {
        v.name or "": v for v in graph.inputs if v.shape is not None and any(not isinstance(d, int) for d in v.shape)
    }
    found = Diagnostics()
    where = Location(graph.source)
    static = {v.name or "": v for v in graph.inputs if v.name not in dynamic}
    for kind, shapes in given.items():
        for name, shape in shapes.items():
            if name in dynamic:
                _fits(dynamic[name], shape, f"{kind}-shapes", found, where)
            elif name in static:
                wanted = static[name].shape
                if wanted is not None and tuple(wanted) != shape:
                    what = f"{kind}-shapes: input {name!r} is {_text(wanted)} whatever happens, not {_text(shape)}"
                    found.error("EC0692", what, where)
            else:
                known = [v.name or "" for v in graph.inputs]
                hint = did_you_mean(name, known, f"its inputs: {', '.join(known)}")
                found.error("EC0692", f"{kind}-shapes: the model has no input {name!r}", where, hint)
    found.raise_if_errors()
    out = []
    for name, v in dynamic.items():
        if "," in name or "'" in name:
            raise error(
                "EC0692", f"trtexec cannot be told a shape for an input called {name!r}", where, "rename the input"
            )
        usual = _usual(v, sample.get(name) if sample is not None else None)
        wanted_min, wanted_max = (given.get(k, {}).get(name) for k in ("min", "max"))
        opt = given.get("opt", {}).get(name)
        if opt is None:
            opt = _between(wanted_min, usual, wanted_max)
        profile = Profile(name, wanted_min or opt, opt, wanted_max or opt)
        if not all(a <= b <= c for a, b, c in zip(profile.min, profile.opt, profile.max, strict=True)):
            what = f"input {name!r}: min {_text(profile.min)}, opt {_text(profile.opt)}, max {_text(profile.max)} do not grow"
            raise error("EC0692", what, where)
        out.append(profile)
        if not any(name in shapes for shapes in given.values()):
            why = ", which is a guess: no samples were given" if guessed else ""
            what = f"input {name!r} is {_text(v.shape or ())}; the engine will take {_text(opt)} only{why}"
            hint = f'--option max-shapes="{name}:..." (and min-shapes, opt-shapes) for a range'
            notes.warn("EC0693", what, where, hint)
    _same_symbols(out, dynamic, where)
    return tuple(out)


def trtexec_shapes(given: Sequence[Profile]) -> dict[str, str]:
    """The values of --minShapes, --optShapes and --maxShapes; empty where every input has a fixed shape."""
    return {
        kind: ",".join(f"{p.name}:{'x'.join(map(str, getattr(p, kind)))}" for p in given) for kind in _KINDS
    }  # fmt: skip


def _fits(v: ir.Value, shape: Shape, option: str, found: Diagnostics, where: Location) -> None:
    wanted = v.shape or ()
    if len(wanted) != len(shape) or any(isinstance(d, int) and d != n for d, n in zip(wanted, shape, strict=True)):
        found.error(
            "EC0692", f"{option}: {_text(shape)} does not fit input {v.name!r}, which is {_text(wanted)}", where
        )
    elif 0 in shape:
        found.error("EC0692", f"{option}: {v.name!r} would be empty: {_text(shape)}", where)


def _usual(v: ir.Value, array: Any) -> Shape:
    if array is not None:
        return tuple(int(n) for n in array.shape)
    return tuple(d if isinstance(d, int) else 1 for d in v.shape or ())


def _between(low: Shape | None, shape: Shape, high: Shape | None) -> Shape:
    if low is not None:
        shape = tuple(map(max, low, shape))
    return tuple(map(min, high, shape)) if high is not None else shape


def _same_symbols(given: Sequence[Profile], inputs: Mapping[str, ir.Value], where: Location) -> None:
    """Dimensions that the model calls by the same symbol must have one length in each of min, opt and max."""
    for kind in _KINDS:
        seen: dict[str, tuple[str, int]] = {}
        for p in given:
            for dim, n in zip(inputs[p.name].shape or (), getattr(p, kind), strict=True):
                symbol = None if isinstance(dim, int) else dim.value
                if symbol is None:
                    continue
                other, m = seen.setdefault(symbol, (p.name, n))
                if m != n:
                    what = f"{kind}-shapes: {symbol!r} is {m} at input {other!r} and {n} at {p.name!r}"
                    raise error("EC0692", what, where, "the model says they are equal")


def _text(shape: Any) -> str:
    return "x".join(str(d if isinstance(d, int) else d.value or "?") for d in shape)
