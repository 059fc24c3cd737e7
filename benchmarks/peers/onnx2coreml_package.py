"""onnx2coreml to a Core ML package.  Runs in the onnx2coreml environment. Options: minimum (iOS17), precision (fp16, fp32).

ONNX Runtime is in the environment: without it onnx2coreml folds no constants, and knows no Constant node.
"""

import harness  # isort: skip  (starts the clock)

import onnx2coreml


def convert(job: harness.Job) -> None:
    try:
        made = onnx2coreml.convert(
            str(job.source),
            minimum_deployment_target=job.options.get("minimum", "iOS17"),
            compute_precision=job.options.get("precision", "fp16"),
        )
    except onnx2coreml.UnsupportedOpError as e:
        raise SystemExit(f"no lowering for {', '.join(sorted(e.missing))}") from e
    made.save(str(job.out))


harness.work(convert, ("onnx2coreml", "coremltools", "onnx"))
