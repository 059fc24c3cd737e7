"""Random and damaged models through the TFLite pipelines, lowering and writer, and what LiteRT does with the files.

A model is refused by an EdgecError or becomes a file; no file may take LiteRT's process down. Undamaged float models must give
ONNX Runtime's numbers, undamaged quantised ones about them. EDGEC_TFLITE_FUZZ=3000 runs so many models (CI: some 100).
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
from edgec.samples import Samples, generated_samples
from edgec.targets.tflite.endpoints import Interface
from edgec.targets.tflite.lower import LowerOptions, lower
from edgec.targets.tflite.model_runs import ModelRun, Outcome, run_litert
from edgec.targets.tflite.writer import write
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

COUNT = int(os.environ.get("EDGEC_TFLITE_FUZZ", "120"))
FIRST = int(os.environ.get("EDGEC_TFLITE_FUZZ_SEED", "0"))
GROUP = 40
"""Files in one process of LiteRT."""

REAL = ("mlperf_kws_dscnn", "mnist_cnn_digitrec")
"""Small models of EDGEC_EVAL_DIR; without it random graphs alone are damaged."""


@dataclass
class Case:
    """A file, what it is fed, and ONNX Runtime's answers where it has any."""

    told: str
    file: bytes
    interface: Interface
    feeds: dict[str, Any]
    want: dict[str, Any] | None
    damaged: bool
    integer: bool


@dataclass
class Tally:
    counts: Counter[str] = field(default_factory=Counter)
    crashed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    internal: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    """Tracebacks on models that ONNX's checker refuses and edgec's loader does not: printed, not judged here."""


class Maker:
    """Models by seed. Quantised graphs are made once and damaged many times."""

    def __init__(self, graphs: ModuleType, mutations: ModuleType, folder: Path) -> None:
        self.graphs, self.mutations, self.folder = graphs, mutations, folder
        self.registry = Registry()
        self.bases: dict[str, onnx.ModelProto] = {}

    def base(self, rng: random.Random) -> onnx.ModelProto:
        """A Q/DQ graph: of a real model or a random one."""
        folder = os.environ.get("EDGEC_EVAL_DIR")
        real = [f"{folder}/models/{n}.onnx" for n in REAL] if folder else []
        names = [*real, *real, *(f"random {i}" for i in range(12))]
        name = rng.choice(names)
        if name not in self.bases:
            graph = (
                Graph.from_proto(self.source(int(name.split()[1]))) if name.startswith("random") else Graph.load(name)
            )
            shapes = {"freeze-shapes": {"shapes": [f"{v.name}={shape}" for v, shape in _fixed(graph)]}}
            PassManager(build_passes([shapes], self.registry.passes())).run(graph)
            self.bases[name] = self.through(graph, "int8").to_proto()
        return self.bases[name]

    def source(self, seed: int) -> onnx.ModelProto:
        proto: onnx.ModelProto = self.graphs.model(seed)
        for v in (*proto.graph.input, *proto.graph.output):
            for d in v.type.tensor_type.shape.dim:
                if d.dim_param:
                    d.dim_value = 2
        return proto

    def through(self, graph: Graph, precision: str) -> Graph:
        made = [s for s, _ in zip(generated_samples(graph), range(2), strict=False)]
        samples = Samples(lambda: iter(made), describe="generated")
        target = self.registry.target("android")
        ctx = PassContext(samples=samples, calibration=samples, target=target.spec(), precision=precision)
        PassManager(build_passes(target.pipeline(precision, "low"), self.registry.passes())).run(graph, ctx)
        return graph

    def case(self, seed: int) -> Case:
        """Raises EdgecError where the model is refused."""
        rng = random.Random(seed)
        damaged = seed % 4 != 0
        if damaged and rng.random() < 0.6:
            proto, precision = self.mutations.mutate(self.base(rng), rng), "fp32"
        else:
            proto = self.source(seed)
            if damaged:
                proto = self.mutations.mutate(proto, rng)
            precision = rng.choice(("fp32", "fp32", "int8", "int16x8", "int8-dynamic"))
        path = self.folder / "model.onnx"
        path.write_bytes(proto.SerializeToString())
        graph = self.through(Graph.load(path), precision)
        options = LowerOptions(
            rng.choice(("keep", "nhwc")),
            rng.choice(("float", "integer")),
            hybrid=precision == "int8-dynamic",
            xnnpack=rng.random() < 0.5,
        )
        lowered = lower(graph, options)
        file = write(lowered.model)
        feeds = next(iter(generated_samples(graph)))
        integer = precision != "fp32" or any(n.op_type == "QuantizeLinear" for n in graph.model.graph)
        want = _answers(graph, feeds)
        told = f"seed {seed}, {precision}, {options}"
        return Case(told, file, Interface.of(lowered, graph), feeds, want, damaged, integer)


def _fixed(graph: Graph) -> list[tuple[Any, str]]:
    found = []
    for v in graph.inputs:
        dims = [d if isinstance(d, int) and d > 0 else 1 for d in (v.shape or ())]
        found.append((v, "x".join(map(str, dims))))
    return found


def _answers(graph: Graph, feeds: dict[str, Any]) -> dict[str, Any] | None:
    """ONNX Runtime's, of the very graph that was lowered; None where it has none."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(
            graph.to_proto().SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(None, {k: feeds[k] for k in feeds if k in _names(session)}), strict=True))
    except Exception:  # noqa: BLE001 - a damaged model that ONNX Runtime refuses has no answers to compare with
        return None


def _names(session: ort.InferenceSession) -> set[str]:
    return {i.name for i in session.get_inputs()}


@pytest.fixture(scope="module")
def maker(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    return Maker(random_graphs, tflite_mutations, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def litert(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("litert")


def test_no_file_takes_litert_down(maker: Maker, litert: Toolchain, tmp_path: Path) -> None:
    tally = fuzz(maker, litert, range(FIRST, FIRST + COUNT), tmp_path)
    print(dict(tally.counts), *tally.invalid, sep="\n")
    assert not tally.crashed, "\n".join(tally.crashed)
    assert not tally.internal, "\n".join(tally.internal)
    assert not tally.wrong, "\n".join(tally.wrong)
    assert tally.counts["ran"] >= COUNT // 4, tally.counts


def fuzz(maker: Maker, litert: Toolchain, seeds: range, folder: Path) -> Tally:
    tally, cases = Tally(), []
    for seed in seeds:
        try:
            cases.append(maker.case(seed))
        except EdgecError as e:
            tally.counts["refused by edgec"] += 1
            tally.counts[f"  {e.diagnostics[0].code}"] += 1
        except Exception as e:  # noqa: BLE001 - an error of edgec's own: the test fails with it, after all others ran
            at = traceback.extract_tb(e.__traceback__)[-1]
            told = f"seed {seed}: {type(e).__name__} {e} in {Path(at.filename).name}:{at.lineno} {at.name}"
            valid = _valid(maker.folder / "model.onnx")
            tally.counts["traceback" if valid else "traceback on invalid ONNX"] += 1
            (tally.internal if valid else tally.invalid).append(told)
        if len(cases) == GROUP or (cases and seed == seeds[-1]):
            judge(cases, litert, folder, tally)
            cases = []
    return tally


def _valid(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception:  # noqa: BLE001 - whatever the checker raises: the model is not valid
        return False
    return True


def judge(cases: list[Case], litert: Toolchain, folder: Path, tally: Tally) -> None:
    """The reference kernels have no ELU and no ROUND: a file with those they may refuse."""
    for kernels in ("xnnpack", "reference"):
        runs = [ModelRun(c.file, [c.interface.store(c.feeds)]) for c in cases]
        outcomes = run_litert(litert, runs, folder=folder, kernels=kernels, seconds=60)  # type: ignore[arg-type]
        for case, outcome in zip(cases, outcomes, strict=True):
            verdict = _verdict(case, outcome)
            tally.counts[verdict if kernels == "xnnpack" else f"reference kernels: {verdict}"] += 1
            if verdict in ("crashed", "hung", "memory"):
                tally.crashed.append(f"{case.told}, {kernels}: {outcome.signal} at {outcome.step}: {outcome.message}")
            if verdict == "wrong" and not case.damaged:
                tally.wrong.append(f"{case.told}, {kernels}")
            if verdict == "refused by LiteRT" and not case.damaged and "Didn't find op" not in outcome.message:
                tally.wrong.append(f"{case.told}, {kernels}: {outcome.message}")


def _verdict(case: Case, outcome: Outcome) -> str:
    if outcome.status != "ok":
        return "refused by LiteRT" if outcome.status == "refused" else outcome.status
    try:
        got = case.interface.restore(outcome.outputs[0])
    except EdgecError:
        return "wrong"  # another shape than the model's
    if case.want is None:
        return "ran"
    return "ran" if all(_close(case, want, got[k]) for k, want in case.want.items() if k in got) else "wrong"


def _close(case: Case, want: Any, got: Any) -> bool:
    """Float: rounding. Integers: three quarters of the signal; a step at an early layer may be many at a late one."""
    want, got = np.asarray(want, np.float64), np.asarray(got, np.float64)
    if want.shape != got.shape:
        return False
    fine = np.isfinite(want)
    if not fine.any() or np.abs(want[fine]).max() > 1e30:
        return True
    largest = max(float(np.abs(want[fine]).max()), 1e-3)
    difference = float(np.abs(want[fine] - got[fine]).max()) if np.isfinite(got[fine]).all() else np.inf
    return difference <= (0.25 if case.integer else 2e-3) * largest
