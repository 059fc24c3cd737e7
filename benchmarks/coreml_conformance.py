"""The node tests of the onnx package as Core ML packages: edgec beside onnx2coreml.

    python benchmarks/coreml_conformance.py --work FOLDER [--ops ...] [--json FILE]

Both convert the same models for iOS 18 in float32, each in the most general form it takes: all inputs given at run time, then
integers constant, then all but one (tests/conformance/lowered_cases.py). Every package is written, decoded by coremltools and
evaluated in ONNX Runtime by rules written from MIL's definitions, and its outputs are compared with the test's.

pass: right to 1e-4; refused: an error of the converter's own says so; wrong: a package that gives other numbers, shapes or
types; crashed: any other exception, or coremltools' refusal of what edgec lowered; not judged: a package whose operations have no
evaluation rule here, or that coremltools does not read back. Cases that no Core ML converter can take (strings, sequences, later
opsets) are refused by definition and in both columns.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from peers.environments import python_of
from peers.runs import HERE, hashed
from peers.tables import head

import edgec.targets.coreml as coreml
from edgec.targets.coreml.evaluate.rules import NotEvaluated
from edgec.targets.coreml.interface import Interface, Port
from edgec.targets.coreml.program import Program, Value, spelt
from edgec.targets.coreml.program_file import read_program
from edgec.targets.coreml.runner import DecodedRunner
from edgec.toolchain import ToolchainManager

TESTS = Path(__file__).resolve().parents[1] / "tests" / "conformance"
VERDICTS = ("pass", "refused", "wrong", "crashed", "not judged")
RESTARTS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True, help="environments and peers' packages are kept here")
    parser.add_argument("--ops", nargs="+", metavar="OP", help="cases that begin with one of these only")
    parser.add_argument("--tools", nargs="+", default=list(TOOLS), choices=TOOLS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    groups = loaded("node_cases").cases_by_op()
    cases = [(op, c) for op, found in groups.items() if not args.ops or op in args.ops for c in found]
    results = {}
    for name in args.tools:
        rows = results[name] = TOOLS[name]([c for _, c in cases], args.work)
        for verdict in ("wrong", "crashed", "not judged"):
            print(causes(name, verdict, [op for op, _ in cases], rows), flush=True)
    print("\n".join(["", *head("converter", *VERDICTS)]))
    for name, rows in results.items():
        counts = Counter(r.verdict for r in rows)
        print("| " + " | ".join([name, *(str(counts[v]) for v in VERDICTS)]) + " |")
    if args.json:
        told = [
            {"tool": tool, "op": op, "case": r.name, "verdict": r.verdict, "why": r.why}
            for tool, rows in results.items()
            for (op, _), r in zip(cases, rows, strict=True)
        ]
        args.json.write_text(json.dumps(told, indent=1))


def causes(tool: str, verdict: str, ops: Sequence[str], rows: Sequence[Any]) -> str:
    """Which ops' cases, with one reason each."""
    found = [(op, r.why) for op, r in zip(ops, rows, strict=True) if r.verdict == verdict]
    counts, why = Counter(op for op, _ in found), dict(reversed(found))
    return "\n".join(
        [f"\n{tool}, {verdict}: {len(found)}", *(f"  {op} {n}: {why[op]}" for op, n in counts.most_common())]
    )


def by_edgec(cases: Sequence[Any], work: Path) -> list[Any]:
    through = loaded("coreml_cases")
    rows = [through.node_case(c.name, c.model, *c.data_sets[0]) for c in cases]
    tasks = [t for t in rows if isinstance(t, through.Task)]
    with tempfile.TemporaryDirectory() as scratch:
        done = iter(through.run_all(tasks, ToolchainManager().ensure("coreml"), Path(scratch)))
        return [next(done) if isinstance(r, through.Task) else r for r in rows]


def by_onnx2coreml(cases: Sequence[Any], work: Path) -> list[Any]:
    shared = loaded("lowered_cases")
    rows: list[Any] = []
    models: list[list[bytes]] = []
    for c in cases:
        # what no converter can take is refused here; else each "lowering" only keeps the model
        given = shared.node_case(c.name, c.model, *c.data_sets[0], lambda g: (g, ()))
        if isinstance(given, shared.Task):
            rows.append(variants(shared, c))
            models.append([t.proto.SerializeToString() for t in rows[-1]])
        else:
            rows.append(given)
    folder, answers = converted(models, work)
    told = iter(answers)
    return [judged(shared, folder, r, next(told)) if isinstance(r, list) else r for r in rows]


def variants(shared: ModuleType, case: Any) -> list[Any]:
    """The case in each form edgec would try, most general first."""
    inputs, outputs = ([shared._array(a) for a in ends] for ends in case.data_sets[0])
    found, tried = [], set()
    for frozen in shared._constants(case.model, inputs):
        proto, feeds = shared._freeze(case.model, inputs, frozen)
        if frozen in tried or (not proto.graph.input and any(np.asarray(a).ndim > 1 for a in inputs)):
            continue
        tried.add(frozen)
        found.append(shared._lowered_case(case.name, proto, feeds, outputs, lambda g: (g, ())))
    return [t for t in found if isinstance(t, shared.Task)]


def converted(cases: Sequence[Sequence[bytes]], work: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder with decoded programs, and an answer for each case. What was done already is not done again."""
    worker, decoder = HERE / "onnx2coreml_nodes.py", Path(coreml.__file__).with_name("decoder_worker.py")
    listed = HERE / "requirements" / "onnx2coreml.txt"
    key = hashed(worker, decoder, listed, *(m for forms in cases for m in forms))
    folder = work / "coreml-nodes" / key[:10]
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [[f"{i}-{k}.onnx" for k in range(len(forms))] for i, forms in enumerate(cases)]
    for names, forms in zip(jobs, cases, strict=True):
        for name, model in zip(names, forms, strict=True):
            (folder / name).write_bytes(model)
    given, results = folder / "cases.json", folder / "results.jsonl"
    given.write_text(json.dumps(jobs))
    command = [str(python_of("onnx2coreml", work)), str(worker), str(decoder), str(folder), str(given), str(results)]
    for _ in range(RESTARTS):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            return folder, [json.loads(line) for line in results.read_text().splitlines()]
        if not results.exists():
            break
    raise SystemExit(f"onnx2coreml: {done.stderr[-2000:]}")


def judged(shared: ModuleType, folder: Path, tasks: Sequence[Any], answer: Mapping[str, Any]) -> Any:
    name = tasks[0].name
    for verdict, told in (("refused", "refused"), ("crashed", "crashed"), ("undecoded", "not judged")):
        if verdict in answer:
            return shared.Result(name, told, "", answer[verdict])
    form, program, weights = answer["done"]
    task, ops = tasks[form], ()
    try:
        read = read_program(folder / program, folder / weights)
        ops = tuple(o.op for o in read.operations if o.op != "const")
        interface = ends(read, task)
        if isinstance(interface, str):
            return shared.Result(name, "wrong", "", interface, ops)
        (got,) = DecodedRunner(read, interface, half=False).run([task.feeds])
    except NotEvaluated as e:
        return shared.Result(name, "not judged", "", str(e), ops)
    except Exception as e:  # noqa: BLE001  a package of another's that ONNX Runtime does not take: counted, with what it said
        return shared.Result(name, "not judged", "", f"{type(e).__name__}: {e}"[:200], ops)
    found = shared.judge(task, got)
    return shared.Result(name, found.verdict, "", found.why, ops)


def ends(program: Program, task: Any) -> Interface | str:
    """Features by name, else by position; shapes are as they come, so that a wrong one is found. Or what is missing."""
    sides = []
    for what, features, arrays in (("input", program.inputs, task.feeds), ("output", program.outputs, task.want)):
        names = {spelt(n): n for n in arrays}
        if all(f.name in names for f in features):
            pairs = [(f, names[f.name]) for f in features]
        elif len(features) == len(arrays):
            pairs = list(zip(features, arrays, strict=True))
        else:
            return f"{what}s {', '.join(f.name for f in features)} instead of {', '.join(arrays)}"
        sides.append([port(f, n, np.asarray(arrays[n])) for f, n in pairs])
    return Interface(*sides)


def port(feature: Value, name: str, array: np.ndarray) -> Port:
    shape = tuple(feature.known)
    scalar = array.ndim == 0 and shape in ((), (1,))
    return Port(name, feature.name, shape, feature.dtype, () if scalar else shape, array.dtype.name)


def loaded(name: str) -> ModuleType:
    """A module of the tests, which are no package."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, TESTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS = {"edgec": by_edgec, "onnx2coreml 1.1.0": by_onnx2coreml}


if __name__ == "__main__":
    main()
