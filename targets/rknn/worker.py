"""Worker script: one ONNX model through RKNN-Toolkit2, and its simulator, in one process.

Runs in the SDK's environment: standard library, numpy and rknn only. The simulator works only in the process that
built the model, so the samples to simulate come with the request.

Request (file names relative to the folder)
    model            ONNX file, opset 19 or older, fixed shapes
    target_platform  "rk3588" ...
    precision        "fp16" or "int8": the latter asks the SDK to quantise; a model with Q/DQ nodes is given as "fp16"
    calibration      int8: one list of .npy per sample, in the model's input order, in the model's own shapes (NCHW)
    samples          what to simulate, the same form; may be empty
    output_names     the model's output names, in order
    config, load, build   more keyword arguments of rknn.config, load_onnx and build, unchecked here
Answer
    artifact, platform, versions{toolkit, compiler}, return_codes{step: int},
    outputs          per sample: [{"name", "file", "shape", "dtype"}]; floating ones are float32
"""

from __future__ import annotations

import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PROTOCOL = 1

_COMPILER = re.compile(r"librknnc version: ([^\r\n]+)")
_NOISE = re.compile(r"\x1b\[[0-9;]*m")


_rknn: Any = None


class SdkFailure(RuntimeError):
    """The SDK refused. `details` travels with the answer."""

    def __init__(self, message: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.details = details


def prepare(job: Any) -> None:
    job.step("import")
    from rknn.api import RKNN

    global _rknn
    _rknn = RKNN(verbose=True)  # the tables of layers and memory go to the log


def run(job: Any) -> dict[str, Any]:
    request = job.request
    if request["precision"] not in ("fp16", "int8"):
        raise ValueError(f"precision {request['precision']!r} is neither fp16 nor int8")
    int8 = request["precision"] == "int8"
    if int8 and not request.get("calibration"):
        raise ValueError("int8 needs calibration samples")
    dataset = _write_dataset(job.folder, request["calibration"]) if int8 else None
    codes: dict[str, int] = {}

    rknn = _rknn
    artifact = job.folder / "model.rknn"
    model = str(job.folder / request["model"])
    config = {**request.get("config", {}), "target_platform": request["target_platform"]}
    calls = (
        ("config", lambda: rknn.config(**config)),
        ("load_onnx", lambda: rknn.load_onnx(model=model, **request.get("load", {}))),
        ("build", lambda: rknn.build(do_quantization=int8, dataset=dataset, **request.get("build", {}))),
        ("export_rknn", lambda: rknn.export_rknn(str(artifact))),
    )
    for step, call in calls:
        codes[step] = _call(job, step, call)
    if not artifact.is_file():
        raise SdkFailure("export_rknn reported success and wrote nothing", {"return_codes": codes})
    outputs = []
    if request.get("samples"):
        codes["init_runtime"] = _call(job, "init_runtime", rknn.init_runtime)  # no target: the simulator
        outputs = _simulate(job, rknn, request["samples"], request["output_names"])
    job.step("release")
    rknn.release()
    compiler = _COMPILER.findall(job.log_text())
    versions = {"toolkit": metadata.version("rknn-toolkit2"), "compiler": compiler[-1].strip() if compiler else None}
    return {
        "artifact": artifact.name,
        "platform": request["target_platform"],
        "versions": versions,
        "return_codes": codes,
        "outputs": outputs,
    }


def _call(job: Any, step: str, call: Any) -> int:
    """One SDK call. It fails in two ways: a ValueError with a traceback as text, or a return code other than 0."""
    job.step(step)
    before = len(job.log_text())
    try:
        code = call()
    except Exception as e:
        # The last line of the text is the inner exception; the whole of it goes to the log.
        lines = [line.strip() for line in str(e).splitlines() if line.strip()]
        message = lines[-1] if lines else type(e).__name__
        print("\n".join(lines))
        raise SdkFailure(message, {"style": "exception", "type": type(e).__name__, "lines": lines[-12:]}) from e
    if code not in (0, None):
        said = _error_lines(job.log_text()[before:])
        reason = said[-1] if said else "no reason in the log"
        details = {"style": "return code", "return_code": code, "lines": said[-12:]}
        raise SdkFailure(f"{step} returned {code}: {reason}", details)
    return 0


def _error_lines(log: str) -> list[str]:
    """What the SDK logged as errors ("E build: ..."), without the one that every successful build prints too."""
    lines = _NOISE.sub("", log).replace("\r", "\n").split("\n")
    return [line[2:].strip() for line in lines if line.startswith("E ") and "Unkown op target" not in line]


def _write_dataset(folder: Path, samples: list[list[str]]) -> str:
    """The SDK's list: a sample a line, its inputs separated by blanks, paths relative to the list."""
    for name in (name for sample in samples for name in sample):
        if any(c.isspace() for c in name):
            raise ValueError(f"calibration file {name!r} has a blank in its name; the SDK's list cannot hold it")
        if not (folder / name).is_file():
            raise FileNotFoundError(f"calibration file {name} is missing")
    path = folder / "dataset.txt"
    path.write_text("".join(" ".join(sample) + "\n" for sample in samples), encoding="utf-8")
    return str(path)


def _simulate(job: Any, rknn: Any, samples: list[list[str]], names: list[str]) -> list[list[dict[str, Any]]]:
    import numpy as np

    job.step("simulate")
    (job.folder / "outputs").mkdir(exist_ok=True)
    answer = []
    for i, sample in enumerate(samples):
        inputs = [np.load(job.folder / name, allow_pickle=False) for name in sample]
        # The simulator takes no float64, and reads 4-D inputs as NHWC unless told.
        inputs = [x.astype(np.float32) if x.dtype == np.float64 else x for x in inputs]
        got = rknn.inference(inputs=inputs, data_format=["nchw"] * len(inputs))
        if got is None:
            said = _error_lines(job.log_text())
            raise SdkFailure(f"the simulator gave nothing: {said[-1] if said else 'no reason in the log'}", {})
        if len(got) != len(names):
            raise SdkFailure(f"the simulator gave {len(got)} outputs, the model has {len(names)}", {})
        row = []
        for j, (name, value) in enumerate(zip(names, got)):  # noqa: B905 - Python 3.8
            array = np.asarray(value)
            if np.issubdtype(array.dtype, np.floating):
                array = array.astype(np.float32)
            file = os.path.join("outputs", f"{i}_{j}.npy")
            np.save(job.folder / file, array)
            row.append({"name": name, "file": file, "shape": list(array.shape), "dtype": str(array.dtype)})
        answer.append(row)
    return answer
