"""The evaluation of decoded ML Programs against the cases in coremltools' own tests: what Apple says that Core ML gives."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgec.targets.coreml
from edgec.runtime import Session
from edgec.targets.coreml.evaluate.rules import NotEvaluated
from edgec.targets.coreml.evaluate.to_onnx import to_onnx
from edgec.targets.coreml.program import NUMPY, Array
from edgec.targets.coreml.program_file import read_program
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain

WORKER = Path(__file__).with_name("coreml_replay_worker.py")
DECODER = Path(edgec.targets.coreml.__file__).with_name("decoder_worker.py")
LIMIT = 40


@pytest.fixture(scope="module")
def coreml(installed: Callable[[str], Toolchain]) -> Toolchain:
    return installed("coreml")


@pytest.fixture(scope="module")
def folder(coreml: Toolchain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    request = {"limit": LIMIT, "decoder": str(DECODER)}
    answer = coreml.run(WORKER, request, workdir=folder, timeout=600.0)
    print(json.dumps(answer.values["left_out"], indent=1))
    return folder


class Case:
    def __init__(self, data: dict[str, Any], folder: Path, weights: Array) -> None:
        self.data, self._weights = data, weights
        program = folder / "program.json"
        program.write_text(json.dumps(data["program"]))
        self.program = read_program(program, folder / "weights.bin")

    def array(self, told: tuple[int, list[int], str]) -> Array:
        at, shape, dtype = told
        kind = np.dtype(NUMPY[dtype])
        size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        return self._weights[at : at + size].view(kind).reshape(shape)

    def difference(self) -> str | None:
        """What is wrong, or None."""
        half = any(v.dtype == "fp16" for o in self.program.operations for v in o.outputs)
        session = Session(to_onnx(self.program, half=half))
        kinds = {v.name: v.dtype for v in self.program.inputs}
        wide = {"fp16": "float32", "fp32": "float32", "int8": "int8", "uint8": "uint8", "bool": "bool"}
        given = {k: self.array(a).astype(wide.get(kinds[k], "int64")) for k, a in self.data["inputs"].items()}
        for v in self.program.inputs:
            if given[v.name].size == 1 and all(d == 1 for d in v.known):
                given[v.name] = given[v.name].reshape([1] * len(v.known))
        made = session.run(given)
        for v, told in zip(self.program.outputs, self.data["expected"], strict=True):
            expected, found = self.array(told), made[v.name]
            if found.shape != expected.shape and found.size == expected.size == 1:
                found = found.reshape(expected.shape)
            if found.shape != expected.shape:
                return f"{found.shape} instead of {expected.shape}"
            least = 2e-3 if half or "CropResize" in self.data["test"] else 1e-4  # the numbers are rounded there
            tolerance = {"rtol": max(self.data["rtol"], least), "atol": max(self.data["atol"], least)}
            if not np.allclose(found.astype(np.float64), expected.astype(np.float64), equal_nan=True, **tolerance):
                return f"{found.ravel()[:12]} instead of {expected.ravel()[:12]}"
        return None


def test_replay(folder: Path) -> None:
    weights = np.memmap(folder / "weights.bin", np.uint8, "r")
    ran, unknown, wrong = 0, [], []
    operations: set[str] = set()
    for data in json.loads((folder / "cases.json").read_text()):
        if "invalid" in data["test"]:  # what Core ML refuses
            continue
        case = Case(data, folder, weights)
        try:
            what = case.difference()
        except NotEvaluated as e:
            unknown.append(f"{data['test']}: {e}")
            continue
        except Exception as e:  # noqa: BLE001  every case is to be heard of
            what = f"{type(e).__name__}: {str(e)[:300]}"
        ran += 1
        operations.update(o.op for o in case.program.operations)
        if what is not None:
            wrong.append(f"{data['test']}: {what}\n    {[o.op for o in case.program.operations if o.op != 'const']}")
    print(f"{ran} cases of {len(operations)} operations agree, {len(unknown)} are not evaluated")
    print("\n".join(unknown))
    assert ran > 2500, "the cases of coremltools 9.0 are more: what collects them finds them no longer"
    assert len(operations) > 130
    assert not wrong, f"{len(wrong)} of {ran}\n" + "\n".join(wrong)
