"""edgec's own command, in the environment that runs the benchmark. Options: macs=0.3 (what goes), recover=none|closed|distil,
importance=, allocation=, align= of the pass `prune`, and for distil those of the pass `recover` (epochs=20, lr=0.001 ...)."""

import harness  # isort: skip  (starts the clock)

from edgec.cli import main

PREPARE = (
    "inline-functions,constants-to-initializers,upgrade-opset,infer-shapes,fold-constants,fuse-pad,fold-bn,remove-dead"
)


def prune(job: harness.Job) -> None:
    options = dict(job.options)
    macs, how = options.pop("macs"), options.pop("recover")
    how_to_cut = "".join(f" {k}={options.pop(k)}" for k in ("importance", "allocation", "align") if k in options)
    training = " ".join(f"{k}={v}" for k, v in options.items())
    after = {"none": "", "closed": ",recover", "distil": f",recover{{method=distillation {training}}}"}[how]
    calibration = job.samples[0].parent
    pipeline = f"{PREPARE},prune{{macs={macs}{how_to_cut}}}{after}"
    if code := main(["opt", str(job.source), "-o", str(job.out), "--calib", str(calibration), "-p", pipeline, "-q"]):
        raise SystemExit(code)


harness.work(prune, ("edgec", "onnx", "onnxruntime", "torch"))
