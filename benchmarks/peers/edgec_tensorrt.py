"""edgec's conversion for TensorRT: the bundle of a Jetson, whose model.onnx becomes OUT.

Options: target (jetson-orin-nx), precision, jetpack (decides the form), effort.
"""

import harness  # isort: skip  (starts the clock)

import shutil

from edgec.cli import main


def convert(job: harness.Job) -> None:
    defaults = {"target": "jetson-orin-nx", "precision": "int8", "jetpack": "6.2", "effort": "medium"}
    chosen = {k: job.options.get(k, v) for k, v in defaults.items()}
    bundle = job.out.with_name("bundle")
    options = [x for k, v in chosen.items() for x in (f"--{k}", v)]
    if chosen["precision"] == "int8":
        options += ["--calib", str(job.samples[0].parent)]
    command = ["compile", str(job.source), *options, "-o", str(bundle), "--option", "oracle=none", "-q"]
    if code := main(command):
        raise SystemExit(code)
    shutil.copy(bundle / "model.onnx", job.out)


harness.work(convert, ("edgec", "onnx", "onnxruntime"))
