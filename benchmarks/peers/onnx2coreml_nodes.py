"""onnx2coreml on many small models, each package decoded again.  Runs in the onnx2coreml environment.

    python onnx2coreml_nodes.py DECODER_WORKER.py FOLDER CASES.json RESULTS.jsonl

CASES: a list of lists of files in FOLDER, the forms of one case; the first that converts counts. DECODER_WORKER: edgec's, which
needs coremltools alone. A line of RESULTS for each case, in order: {"done": [form, program, weights]}, {"refused": why},
{"crashed": why} (an exception that is none of onnx2coreml's own) or {"undecoded": why}. Lines that are there already are not
done again: started anew behind a case that ended the process, it goes on. The line {"crashed": ...} of a case in progress is
written before it begins, and taken back afterwards.
"""

import json
import logging
import shutil
import sys
import types
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")
logging.disable(logging.WARNING)
import onnx2coreml  # noqa: E402  imports coremltools, which warns


class Part:
    """What edgec's worker sees of its job."""

    def __init__(self, folder: Path, package: str) -> None:
        self.folder, self.request = folder, {"package": package}

    def step(self, name: str) -> None:
        """Not announced."""


def main() -> None:
    worker, folder, cases, results = map(Path, sys.argv[1:])
    decoder = types.ModuleType("decoder")
    exec(compile(worker.read_text(encoding="utf-8"), str(worker), "exec"), decoder.__dict__)
    decoder.prepare(Part(folder, ""))
    done = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
    for i, forms in enumerate(json.loads(cases.read_text())):
        if i < len(done):
            continue
        results.write_text("\n".join([*done, json.dumps({"crashed": "the process ended"})]), encoding="utf-8")
        done.append(json.dumps(case(decoder, folder, i, forms)))
    results.write_text("\n".join(done), encoding="utf-8")


def case(decoder: types.ModuleType, folder: Path, number: int, forms: list[str]) -> dict[str, object]:
    first: dict[str, object] = {"refused": "no form"}
    package = folder / f"{number}.mlpackage"
    for k, form in enumerate(forms):
        try:
            made = onnx2coreml.convert(str(folder / form), minimum_deployment_target="iOS18", compute_precision="fp32")
            made.save(str(package))
        except onnx2coreml.Onnx2CoreMLError as e:
            found = {"refused": told(e)}
        except Exception as e:  # noqa: BLE001  whatever it raises is the result of this case
            found = {"crashed": told(e)}
        else:
            try:
                read = decoder.run(Part(folder, package.name))
            except Exception as e:  # noqa: BLE001  coremltools does not read what it wrote
                return {"undecoded": told(e)}
            finally:
                shutil.rmtree(package, ignore_errors=True)
            kept = [f"{number}.{what}" for what in ("program", "weights")]
            for what, name in zip(("program", "weights"), kept, strict=True):
                (folder / read[what]).rename(folder / name)
            return {"done": [k, *kept]}
        if k == 0:
            first = found
    return first


def told(e: Exception) -> str:
    return f"{type(e).__name__}: {e}"[:300]


main()
