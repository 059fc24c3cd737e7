"""Models through the Core ML lowering, coremltools and back, many at once; what comes back is evaluated in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import lowered_cases
from lowered_cases import Result

import edgec.targets.coreml as coreml
from edgec.graph import Graph
from edgec.pipeline import Pass, PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.specs.schema import builtin_pipeline
from edgec.targets.coreml.lower import LoweredProgram, lower
from edgec.targets.coreml.program import Program
from edgec.targets.coreml.program_file import PROGRAM, WEIGHTS, read_program, write_program
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import Toolchain

_HERE, _WORKERS = Path(__file__).parent, Path(coreml.__file__).parent
_AT_ONCE = 400
"""Programs of one process of coremltools."""


@cache
def legal_passes(pipeline: str = "coreml-fp32") -> list[Pass]:
    return build_passes(builtin_pipeline(pipeline).steps, Registry().passes())


def lowered(graph: Graph, system: str = "iOS18") -> LoweredProgram:
    """The graph after the float pipeline of the Core ML targets, as a program. Raises EdgecError."""
    PassManager(legal_passes()).run(graph, PassContext())
    return lower(graph, system)


def node_case(name: str, model: Any, inputs: Sequence[Any], outputs: Sequence[Any]) -> Any:
    """A node test as a program ready to be built, or refused."""
    return lowered_cases.node_case(name, model, inputs, outputs, _program)


def _program(graph: Graph) -> tuple[LoweredProgram, tuple[str, ...]]:
    done = lowered(graph)
    return done, tuple(o.op for o in done.program.operations if o.op != "const")


def run_all(tasks: Sequence[Any], toolchain: Toolchain, folder: Path) -> list[Any]:
    """Every program as a package on disk, decoded, evaluated and compared."""
    found = through_packages([t.model.program for t in tasks], toolchain, folder)
    return [_judged(t, f) for t, f in zip(tasks, found, strict=True)]


def through_packages(programs: Sequence[Program], toolchain: Toolchain, folder: Path) -> Iterator[Program | str]:
    """What coremltools made of each program, read back; or what it said."""
    for start in range(0, len(programs), _AT_ONCE):
        yield from _batch(programs[start : start + _AT_ONCE], toolchain, folder / f"from_{start}")


def _batch(programs: Sequence[Program], toolchain: Toolchain, folder: Path) -> Iterator[Program | str]:
    names = []
    for i, p in enumerate(programs):
        place = folder / str(i)
        place.mkdir(parents=True)
        write_program(p, place)
        names.append([f"{i}/{PROGRAM}", f"{i}/{WEIGHTS}"])
    scripts = {name: _WORKERS / f"{name}_worker.py" for name in ("builder", "decoder")}
    request = {**{name: path.name for name, path in scripts.items()}, "programs": names}
    files = {path.name: path for path in scripts.values()}
    answer = toolchain.run(_HERE / "coreml_batch_worker.py", request, workdir=folder, files=files, timeout=1200)
    for found in answer.values["results"]:
        yield found["error"] if "error" in found else read_program(folder / found["program"], folder / found["weights"])


def _judged(t: Any, found: Program | str) -> Any:
    if isinstance(found, str):
        return Result(t.name, "crashed", "", found, t.ops)
    (got,) = DecodedRunner(found, t.model.interface, half=False).run([t.feeds])
    return lowered_cases.judge(t, got)
