"""edgec's own command, in the environment that runs the benchmark. Option effort=low|medium|high."""

import harness  # isort: skip  (starts the clock)

from edgec.cli import main


def quantize(job: harness.Job) -> None:
    effort = ["--effort", job.options["effort"]] if "effort" in job.options else []
    calibration = job.samples[0].parent
    if code := main(["quantize", str(job.source), "-o", str(job.out), "--calib", str(calibration), *effort, "-q"]):
        raise SystemExit(code)


harness.work(quantize, ("edgec", "onnx", "onnxruntime"))
