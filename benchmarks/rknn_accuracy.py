"""Top-1 of what the RKNN compiler built, run in its simulator, beside the float model: same images, same judge.

    EDGEC_EVAL_DIR=... python benchmarks/rknn_accuracy.py --task mobilenet_v2 --precision fp16 int8 --limit 900
    EDGEC_EVAL_DIR=... python benchmarks/rknn_accuracy.py --precision int8 --quantizer sdk edgec    # who quantises better

Prints one Markdown row a precision and quantiser. The images and labels are those
that evaluate.py of EDGEC_EVAL_DIR judges with.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import numpy as np

import edgec

SHAPES = {"mobilenet_v2": "1x3x224x224", "efficientnet_lite0": "1x3x224x224", "cifar10_resnet20": "1x3x32x32"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="mobilenet_v2", choices=SHAPES)
    parser.add_argument("--target", default="rk3588")
    parser.add_argument("--precision", nargs="+", default=["fp16"])
    parser.add_argument("--quantizer", nargs="+", default=["best"], choices=["best", "edgec", "sdk"], help="for int8")
    parser.add_argument("--limit", type=int, default=0, help="judged images (default: all)")
    parser.add_argument("--calibration", type=int, default=100, help="calibration images for int8")
    args = parser.parse_args()
    home = Path(os.environ["EDGEC_EVAL_DIR"])
    sys.path.insert(0, str(home))
    import evaluate  # type: ignore[import-not-found]

    model = home / "models" / f"{args.task}.onnx"
    print(
        "| task | precision | quantised by | images | float top-1 % | simulator top-1 % | agreement % | SQNR dB | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        images, calib = Path(scratch, "images"), Path(scratch, "calib")
        images.mkdir()
        calib.mkdir()
        labels = []
        for i, (x, label) in enumerate(islice(evaluate._samples(args.task, judged=True), args.limit or None)):
            np.save(images / f"{i:05}.npy", x)
            labels.append(label)
        for i, x in enumerate(islice(evaluate.calibration(args.task), args.calibration)):
            np.save(calib / f"{i:05}.npy", x)
        runs = [(p, q) for p in args.precision for q in (args.quantizer if p == "int8" else ["best"])]
        for precision, quantizer in runs:
            start = time.perf_counter()
            compiled = edgec.compile(
                model,
                target=args.target,
                precision=precision,
                samples=images,
                calibration=calib if precision == "int8" else None,
                input_shapes=[SHAPES[args.task]],
                options={"quantizer": quantizer},
            )
            seconds = time.perf_counter() - start
            simulated = compiled.artifact.simulated
            assert simulated is not None
            name = compiled.graph.outputs[0].name or ""
            floats = top1_of_float(model, images)
            ours = np.array([int(np.argmax(s[name].reshape(-1))) for s in simulated])
            right = 100 * np.mean(ours == labels), 100 * np.mean(floats == labels)
            assert compiled.report.verification is not None
            assert compiled.report.verification.comparison is not None
            sqnr = compiled.report.verification.comparison["outputs"][0]["sqnr_db"]
            print(
                f"| {args.task} | {precision} | {compiled.artifact.facts.get('quantizer', '')} | {len(labels)} | {right[1]:.2f} | {right[0]:.2f} | "
                f"{100 * np.mean(ours == floats):.2f} | {sqnr:.1f} | {seconds:.0f} |",
                flush=True,
            )


def top1_of_float(model: Path, images: Path) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    feed = session.get_inputs()[0].name
    files = sorted(images.glob("*.npy"))
    return np.array([int(np.argmax(session.run(None, {feed: np.load(f)})[0].reshape(-1))) for f in files])


if __name__ == "__main__":
    main()
