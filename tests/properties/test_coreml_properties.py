"""Random and damaged models through the Core ML pipelines, lowering, coremltools and back.

A model is refused by an EdgecError or becomes a package: nothing that is lowered may be refused by coremltools. Undamaged
models must give ONNX Runtime's numbers, those in float16 about them. EDGEC_COREML_FUZZ=3000 runs so many models.
"""

from __future__ import annotations

import os
import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import random_graphs
import tflite_mutations

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
from edgec.samples import generated_samples
from edgec.targets.coreml.evaluate.rules import NotEvaluated
from edgec.targets.coreml.lower import LoweredProgram, lower
from edgec.targets.coreml.program import Program
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

COUNT = int(os.environ.get("EDGEC_COREML_FUZZ", "100"))
FIRST = int(os.environ.get("EDGEC_COREML_FUZZ_SEED", "0"))


@dataclass
class Case:
    """A program, what it is fed, and ONNX Runtime's answers where it has any. `valid`: for ONNX's checker, shapes included."""

    told: str
    lowered: LoweredProgram
    feeds: dict[str, Any]
    want: dict[str, Any] | None
    damaged: bool
    valid: bool
    half: bool


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    refused: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    """Tracebacks and refusals by coremltools on models that ONNX's checker refuses and edgec's loader does not: printed, not judged here."""


class Maker:
    """Models by seed."""

    def __init__(self, graphs: ModuleType, mutations: ModuleType, folder: Path) -> None:
        self.graphs, self.mutations, self.folder = graphs, mutations, folder
        self.registry = Registry()

    def case(self, seed: int) -> Case:
        """Every fourth undamaged; half of those with open dimensions. Raises EdgecError where the model is refused."""
        rng = random.Random(seed)
        damaged, opened = seed % 4 != 0, rng.random() < 0.5
        proto: onnx.ModelProto = self.graphs.model(seed)
        if not opened:
            for v in (*proto.graph.input, *proto.graph.output):
                for d in v.type.tensor_type.shape.dim:
                    if d.dim_param:
                        d.dim_value = 2
        if damaged:
            proto = self.mutations.mutate(proto, rng)
        path = self.folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        graph = Graph.load(path)
        precision, system = rng.choice(("fp32", "fp16")), rng.choice(("iOS16", "iOS17", "iOS18"))
        feeds = dict(next(iter(generated_samples(graph))))
        valid = not damaged or _valid(path)
        want = _answers(graph, feeds) if valid else None  # the runtime aborts on some of the others
        target = self.registry.target("iphone")
        ctx = PassContext(target=target.spec(), precision=precision)
        PassManager(build_passes(target.pipeline(precision, "low"), self.registry.passes())).run(graph, ctx)
        told = f"seed {seed}, {precision}, {system}"
        return Case(told, lower(graph, system), feeds, want, damaged, valid, precision == "fp16")


def _answers(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """ONNX Runtime's; None where it has none."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            graph.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs()]
        taken = {i.name for i in session.get_inputs()}
        return dict(zip(names, session.run(None, {k: feeds[k] for k in feeds if k in taken}), strict=True))
    except Exception:  # noqa: BLE001 - a damaged model that ONNX Runtime refuses has no answers to compare with
        return None


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(random_graphs, tflite_mutations, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def packages() -> ModuleType:
    """How the conformance tests take many programs through coremltools in one process."""
    import coreml_cases

    return coreml_cases


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


def test_coremltools_takes_what_is_lowered(
    maker: Maker, coreml: Toolchain, packages: ModuleType, tmp_path: Path
) -> None:
    tally = Tally()
    made = (_case(maker, seed, tally) for seed in range(FIRST, FIRST + COUNT))
    cases = [case for case in made if case is not None]
    programs = packages.through_packages([c.lowered.program for c in cases], coreml, tmp_path)
    for case, found in zip(cases, programs, strict=True):
        _judge(case, found, tally)
    print(dict(tally.counts), *tally.invalid, sep="\n")
    assert not tally.internal, "\n".join(tally.internal)
    assert not tally.refused, "\n".join(tally.refused)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.counts["same"] >= COUNT // 5, tally.counts


def _case(maker: Maker, seed: int, tally: Tally) -> Case | None:
    try:
        return maker.case(seed)
    except EdgecError as e:
        tally.counts["refused by edgec"] += 1
        tally.counts[f"  {e.diagnostics[0].code} {e.diagnostics[0].message[:60]}"] += 1
    except Exception as e:  # noqa: BLE001 - an error of edgec's own: the test fails with it, after all others ran
        at = traceback.extract_tb(e.__traceback__)[-1]
        told = f"seed {seed}: {type(e).__name__} {e} in {Path(at.filename).name}:{at.lineno} {at.name}"
        valid = _valid(maker.folder / "model.onnx")
        tally.counts["traceback" if valid else "traceback on invalid ONNX"] += 1
        (tally.internal if valid else tally.invalid).append(told)
    return None


def _valid(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception:  # noqa: BLE001 - whatever the checker raises: the model is not valid
        return False
    return True


def _judge(case: Case, found: Program | str, tally: Tally) -> None:
    if isinstance(found, str):
        tally.counts["refused by coremltools" if case.valid else "refused by coremltools, invalid ONNX"] += 1
        (tally.refused if case.valid else tally.invalid).append(f"{case.told}: {found}")
        return
    if not case.valid:
        tally.counts["invalid ONNX, and a package"] += 1
        return
    try:
        (got,) = DecodedRunner(found, case.lowered.interface, half=False).run([case.feeds])
    except (EdgecError, NotEvaluated) as e:
        why = e.diagnostics[0].message if isinstance(e, EdgecError) else str(e)
        tally.counts["not run"] += 1
        if case.want is not None and not case.damaged:
            tally.wrong.append(f"{case.told}: {why}")
        return
    differ = [k for k, want in (case.want or {}).items() if not _close(case, want, got[k])]
    tally.counts["no answers to compare with" if case.want is None else "differs" if differ else "same"] += 1
    if differ and not case.damaged:
        tally.wrong.append(f"{case.told}: {', '.join(differ)}")


def _close(case: Case, want: Any, got: Any) -> bool:
    """float32: rounding. float16: weights of 11 bits; booleans and indices of theirs may be others."""
    if np.asarray(want).dtype != np.asarray(got).dtype or np.shape(want) != np.shape(got):
        return False
    if case.half and np.asarray(want).dtype.kind in "biu":
        return True
    want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
    fine = np.isfinite(want)
    if not fine.any() or np.abs(want[fine]).max() > (6e4 if case.half else 1e30):
        return True
    largest = max(float(np.abs(want[fine]).max()), 1e-3)
    difference = float(np.abs(want[fine] - got[fine]).max()) if np.isfinite(got[fine]).all() else np.inf
    return difference <= (5e-2 if case.half else 2e-3) * largest
