"""edgec's own command, in the environment that runs the benchmark. Options: any of the command's (effort=high, method=minmax)."""

import harness  # isort: skip  (starts the clock)

from edgec.cli import main


def quantize(job: harness.Job) -> None:
    options = [x for name, value in job.options.items() for x in (f"--{name}", value)]
    calibration = job.samples[0].parent
    if code := main(["quantize", str(job.source), "-o", str(job.out), "--calib", str(calibration), *options, "-q"]):
        raise SystemExit(code)


harness.work(quantize, ("edgec", "onnx", "onnxruntime"))
