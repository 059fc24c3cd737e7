"""What `plan_on_mac.py` wrote on a Mac, read back: where Core ML really runs each operation of a package."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.diagnostics import EdgecError, Location, error
from edgec.targets.coreml.spec_reader import MODEL

if TYPE_CHECKING:
    from edgec.report import Report
    from edgec.targets.coreml.program import Program

SCRIPT = "plan_on_mac.py"
FACT = "placement"
"""Of the report: `{"sources": {output of an operation: node}}`, which says what node an operation does the work of."""

_DEVICES = {
    "MLNeuralEngineComputeDevice": "Neural Engine",
    "MLGPUComputeDevice": "GPU",
    "MLCPUComputeDevice": "CPU",
}
"""MLComputePlan's classes (coremltools.models.compute_device)."""


class _Operation(BaseModel):
    model_config = ConfigDict(frozen=True)
    outputs: tuple[str, ...]
    operator: str
    preferred: str
    supported: tuple[str, ...] = ()
    cost: float | None = None


class _Plan(BaseModel):
    model_config = ConfigDict(frozen=True)
    plan: Literal["MLComputePlan"]
    system: str
    machine: str
    compute_units: str
    model_sha256: str
    operations: tuple[_Operation, ...]


def sources(program: Program) -> dict[str, str]:
    """First output of each operation -> the node it does the work of."""
    return {o.outputs[0].name: o.source for o in program.operations if o.source and o.op != "const"}


def read_plan(path: Path, report: Report) -> ActualPlacement:
    """EC0663 where the file is no plan, or one of another package."""
    try:
        plan = _Plan.model_validate(json.loads(path.read_bytes()))
    except ValidationError as e:
        first = e.errors()[0]
        raise _unread(path, f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg'].lower()}") from None
    except (OSError, ValueError) as e:
        raise _unread(path, str(e)) from None
    artifact = report.artifact
    model = (
        next((f for name, f in artifact.files.items() if name.endswith(MODEL.as_posix())), None) if artifact else None
    )
    if model is None or artifact is None:
        raise _unread(path, "the report is of no Core ML package")
    if model.sha256 != plan.model_sha256:
        hint = f"run {SCRIPT} with the package of this very folder"
        raise error("EC0663", "the plan is of another package than the folder's", Location(str(path)), hint)
    fact = artifact.facts.get(FACT)
    told = fact.get("sources") if isinstance(fact, Mapping) else None
    device = (report.placement or {}).get("device", "")
    nodes = [_actual(o, told if isinstance(told, Mapping) else {}, str(device)) for o in plan.operations]
    source = f"MLComputePlan on {plan.system} ({plan.machine}), compute units {plan.compute_units}"
    return ActualPlacement(tuple(nodes), source)


def _actual(o: _Operation, told: Mapping[str, Any], device: str) -> ActualNode:
    """`device`: what the prediction calls the accelerator."""
    name = o.outputs[0] if o.outputs else "?"
    runs = _DEVICES.get(o.preferred, o.preferred)
    node = told.get(name)
    where: Literal["accelerator", "fallback"] = "accelerator" if runs in device else "fallback"
    return ActualNode(name, o.operator, where, (str(node),) if node else (), runs, o.cost)


def _unread(path: Path, why: str) -> EdgecError:
    return error("EC0663", f"the plan cannot be read: {why}", Location(str(path)), f"{SCRIPT} writes one, on a Mac")
