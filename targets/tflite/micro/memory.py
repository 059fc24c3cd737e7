"""Flash and RAM a model takes, against what there is, and what would help where it is too much."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostic, EdgecError, Location, Severity

if TYPE_CHECKING:
    from edgec.targets.tflite.micro.options import MicroOptions
    from edgec.targets.tflite.model import Operator, Tensor, TfliteModel
    from edgec.targets.tflite.runner import Arena


@dataclass(frozen=True)
class Budget:
    """Bytes there are, each with who says so; None: nobody does."""

    flash: int | None
    ram: int | None
    flash_from: str = "the budget"
    ram_from: str = "the budget"

    @classmethod
    def of(cls, options: MicroOptions, memory: Mapping[str, int], target: str) -> Budget:
        """The user's where given, else what the target's spec says the chip has."""
        chip = f"what the spec of {target} says the chip has"
        flash = options.flash if options.flash is not None else memory.get("flash")
        ram = options.ram if options.ram is not None else memory.get("ram")
        return cls(
            flash,
            ram,
            "the budget" if options.flash is not None else chip,
            "the budget" if options.ram is not None else chip,
        )


@dataclass(frozen=True)
class Need:
    """What an artifact takes. `arena`: bytes its arena surely needs; `how`: who says so; `measured`: if a runtime does."""

    flash: int
    arena: int
    measured: Arena | None
    how: str = "the tensor arena takes"


@dataclass(frozen=True)
class Peak:
    """The operator that runs while most bytes of tensors are alive; no plan of memory can do with less."""

    bytes: int
    operator: Operator | None


def peak(model: TfliteModel) -> Peak:
    """Tensors live from the operator that writes them to the last that reads them, inputs from the start, outputs to the end.

    Constants are not counted: they stay in flash.
    """
    g = model.main
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    tensors: dict[int, Tensor] = {}

    def touch(t: Tensor | None, at: int) -> None:
        if t is None or t.data is not None:
            return
        tensors[id(t)] = t
        first.setdefault(id(t), at)
        last[id(t)] = at

    for t in g.inputs:
        touch(t, 0)
    for i, o in enumerate(g.operators):
        for read_or_written in (*o.inputs, *o.outputs):
            touch(read_or_written, i)
    for t in g.outputs:
        touch(t, len(g.operators) - 1)
    changes = [0] * (len(g.operators) + 1)
    for k, t in tensors.items():
        changes[first[k]] += t.nbytes
        changes[last[k] + 1] -= t.nbytes
    best, live = Peak(0, None), 0
    for i, o in enumerate(g.operators):
        live += changes[i]
        if live > best.bytes:
            best = Peak(live, o)
    return best


def check(model: TfliteModel, need: Need, budget: Budget, precision: str, source: str | None) -> None:
    """Nothing where both fit.

    Raises:
        EdgecError: EC0665 flash, EC0666 RAM: by how much, and what would help.
    """
    found = []
    if budget.flash is not None and need.flash > budget.flash:
        what = f"the model takes {_kb(need.flash)} of flash, {budget.flash_from} is {_kb(budget.flash)}"
        hint = "; ".join(_smaller_weights(model, need.flash, budget.flash, precision))
        found.append(_error("EC0665", f"{what}: {_kb(need.flash - budget.flash)} too much", source, hint))
    if budget.ram is not None and need.arena > budget.ram:
        what = f"{need.how} {_kb(need.arena)} of RAM, {budget.ram_from} is {_kb(budget.ram)}"
        hint = "; ".join(_smaller_tensors(model, need, budget.ram, precision))
        found.append(_error("EC0666", f"{what}: {_kb(need.arena - budget.ram)} too much", source, hint))
    if found:
        raise EdgecError(*found)


def _error(code: str, what: str, source: str | None, hint: str) -> Diagnostic:
    return Diagnostic(code, Severity.ERROR, what, Location(source), hint)


def _smaller_weights(model: TfliteModel, have: int, budget: int, precision: str) -> Iterator[str]:
    constants = list({id(t): t for g in model.subgraphs for t in g.tensors() if t.data is not None}.values())
    floats = sum(t.nbytes for t in constants if t.dtype == "float32")
    weights = sum(t.nbytes for t in constants)
    if floats > weights // 2 and precision == "fp32":
        estimate = have - floats * 3 // 4
        fits = "fits" if estimate <= budget else "is still too much"
        yield f"--precision int8 makes it about {_kb(estimate)}, which {fits} (estimated)"
    over = have - budget
    largest = max(constants, key=lambda t: t.nbytes, default=None)
    if over < weights:
        share = math.ceil(100 * over / weights)
        yield f"channels pruned away until {share} % of the weights are gone (zeros alone do not shrink the file), or a narrower model"
    else:
        yield f"the weights are only {_kb(weights)} of it: this model has too many operators for the budget"
    if largest is not None and largest.nbytes * 4 > weights:
        yield f"the largest weight is {largest.name!r}, {_kb(largest.nbytes)}"
    yield "a smaller input does not help here"


def _smaller_tensors(model: TfliteModel, need: Need, budget: int, precision: str) -> Iterator[str]:
    top = peak(model)
    if precision == "fp32":
        yield f"--precision int8 makes it about a quarter, {_kb(need.arena // 4)} (estimated)"
    elif precision == "int16x8":
        yield f"--precision int8 makes it about half, {_kb(need.arena // 2)} (estimated)"
    fixed = need.measured.tail if need.measured is not None else 0
    images = [size for t in model.main.inputs if (size := _image(t)) is not None]
    if images and budget > fixed:
        side = math.sqrt((budget - fixed) / (need.arena - fixed))
        h, w = images[0]
        small = f"{max(int(h * side), 1)}x{max(int(w * side), 1)}"
        yield f"an input of about {small} instead of {h}x{w}: tensors shrink with the area (estimated)"
    if top.operator is not None:
        name = top.operator.source or top.operator.outputs[0].name
        made = sum(t.nbytes for t in top.operator.outputs)
        yield (
            f"most is alive at {top.operator.op} of node {name!r}, {_kb(top.bytes)} with an output of {_kb(made)}: "
            "fewer channels or an earlier stride there"
        )


def _image(t: Tensor) -> tuple[int, int] | None:
    """Height and width of an image, stored channels last or first."""
    if t.rank != 4 or t.shape[0] != 1:
        return None
    h, w = t.shape[1:3] if t.shape[3] <= t.shape[1] else t.shape[2:4]
    return (h, w) if min(h, w) > 1 else None


def _kb(n: int) -> str:
    return f"{n / 1000:.1f} KB" if n < 10_000_000 else f"{n / 1e6:.1f} MB"
