"""Boxes and scores in one tensor: what int8 leaves of the scores, edgec beside its peers.

    EDGEC_EVAL_DIR=... python benchmarks/hazard.py --work FOLDER [--models ...] [--tools edgec ort-minmax ...] [--limit N]

Detectors whose one output holds boxes in pixels and scores: nudenet_320n as it was published, and two heads put on
EfficientNet-Lite0's trained features, whose own weights are made up: `yolo-head` (a convolution for boxes, one for scores, decoded as
YOLOv5 does, concatenated) and `one-conv-head` (one convolution computes both). All are calibrated on the same photos and
compared with the float model on others. Tools run as in accuracy.py, and what they make is kept in --work.

Columns: levels: how many different numbers the scores take; zero: scores that are exactly 0; corr: correlation of scores with
those of the float model; top 100: of the float model's 100 highest scores of all photos, how many are among the 100 highest;
score dB and box dB: SQNR of either part; box px: mean error of a box's number; int8 conv: integer kernels of all.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper
from peers import inputs
from peers.integer_share import integer_share
from peers.runs import Runs, hashed
from peers.tools import TOOLS

INTEGER_CONV, FLOAT_CONV = {"QLinearConv", "ConvInteger"}, {"Conv", "FusedConv", "NhwcFusedConv", "ConvTranspose"}
CLASSES, GRID, STRIDE, COMPONENTS = 8, 7, 32, 16


@dataclass(frozen=True)
class Detector:
    """`axis` of the output along which the first four numbers are a box and the others scores."""

    source: Path
    calibration: Path
    photos: list[dict[str, np.ndarray]]
    axis: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=list(MAKERS), choices=MAKERS)
    parser.add_argument("--tools", nargs="+", default=["edgec", "ort-minmax", "ort-entropy"], choices=TOOLS)
    parser.add_argument("--limit", type=int, default=100, help="judged photos")
    parser.add_argument("--calibration", type=int, default=100, help="calibration photos")
    args = parser.parse_args()
    runs = Runs(args.work, samples=args.calibration)
    for name in args.models:
        detector = MAKERS[name](runs, args.limit)
        print(f"\n### {name}\n")
        print("| tool | levels | zero % | corr | top 100 | score dB | box dB | box px | int8 conv |")
        print("|---|---|---|---|---|---|---|---|---|")
        float_out = outputs(detector.source, detector)
        print(row("float", detector, float_out, float_out, detector.source), flush=True)
        for tool in args.tools:
            made = quantized(runs, detector, name, tool)
            if isinstance(made, str):
                print(f"| {tool} | failed: {made} | | | | | | | |", flush=True)
                continue
            print(row(tool, detector, float_out, outputs(made, detector), made), flush=True)


def quantized(runs: Runs, detector: Detector, name: str, tool: str) -> Path | str:
    """The tool's file, or why there is none."""
    if name in inputs.BENCHES:
        kept = runs.quantized(name, tool)
        assert kept is not None  # it may run
        return kept.out or str(kept.report["failed"])
    key = hashed(detector.source, (Path(__file__).parent / "peers" / f"{TOOLS[tool].worker}.py"))
    folder = runs.work / "quantized" / f"{name}-{tool}-{key[:10]}"
    report = runs.execute(TOOLS[tool], detector.source, detector.calibration, folder)
    return str(report["failed"]) if "failed" in report else folder / "out.onnx"


def outputs(model: Path, detector: Detector) -> np.ndarray:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return np.stack([session.run(None, feeds)[0] for feeds in detector.photos])


def row(tool: str, detector: Detector, want: np.ndarray, got: np.ndarray, model: Path) -> str:
    box, score = (np.split(np.moveaxis(x, detector.axis, -1), [4], axis=-1) for x in (want, got))
    (want_box, want_score), (got_box, got_score) = box, score
    cells: list[Any] = [
        tool,
        f"{np.unique(got_score).size:,}",
        f"{100 * (got_score == 0).mean():.1f}",
        f"{correlation(want_score, got_score):.4f}",
        top(want_score, got_score, 100),
        f"{sqnr(want_score, got_score):.1f}",
        f"{sqnr(want_box, got_box):.1f}",
        f"{np.abs(want_box - got_box).mean():.2f}",
        "{}/{}".format(*integer_share(model, INTEGER_CONV, FLOAT_CONV)),
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Of all scores; 0 where one of them does not vary."""
    return 0.0 if np.ptp(b) == 0 else float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])


def top(want: np.ndarray, got: np.ndarray, count: int) -> int:
    """Scores that are among the highest `count` in both; a tie at the end counts for no one."""
    if np.ptp(got) == 0:
        return 0
    a, b = (set(np.argsort(-x.reshape(-1), kind="stable")[:count].tolist()) for x in (want, got))
    return len(a & b)


def sqnr(want: np.ndarray, got: np.ndarray) -> float:
    noise = float(((want.astype(np.float64) - got) ** 2).sum())
    return 10 * float(np.log10((want.astype(np.float64) ** 2).sum() / noise)) if noise else np.inf


# --- the detectors -----------------------------------------------------------------------------------------------------


def nudenet(runs: Runs, limit: int) -> Detector:
    folder = runs.prepared("nudenet_320n")
    photos = list(inputs.judged("nudenet_320n", limit))
    return Detector(folder / "source.onnx", folder / "calibration", photos, axis=-2)


def yolo_head(runs: Runs, limit: int) -> Detector:
    """Two convolutions on 7x7 features, decoded: centre = (2 s - 0.5 + grid) * 32, size = (2 s)^2 * anchor; scores = s."""
    head = Head(runs)
    box = head.op("Sigmoid", head.conv("box", [1.5] * 4, [0.0] * 4))
    at, size = head.op("Split", box, outputs=2, axis=1, num_outputs=2)
    twice = head.op("Mul", at, head.constant("two", np.float32(2)))
    grid = np.stack(np.meshgrid(np.arange(GRID), np.arange(GRID)))[None] - 0.5
    centre = head.op("Add", twice, head.constant("grid", grid.astype(np.float32)))
    centre = head.op("Mul", centre, head.constant("stride", np.float32(STRIDE)))
    twice = head.op("Mul", size, "two")
    square = head.op("Mul", twice, twice)
    anchor = np.float32([116, 90]).reshape(1, 2, 1, 1)
    size = head.op("Mul", square, head.constant("anchor", anchor))
    score = head.op("Sigmoid", head.conv("score", [2.0] * CLASSES, [-3.0] * CLASSES))
    return head.detector(head.op("Concat", centre, size, score, axis=1), limit)


def one_conv_head(runs: Runs, limit: int) -> Detector:
    """Boxes in pixels and scores by one convolution; scores are logits cut off at 0 and 1."""
    head = Head(runs)
    both = head.conv("both", [60.0] * 4 + [0.3] * CLASSES, [112.0] * 4 + [0.1] * CLASSES)
    low, high = (np.float32(x).reshape(1, -1, 1, 1) for x in ([0] * (4 + CLASSES), [224] * 4 + [1] * CLASSES))
    clipped = head.op("Max", both, head.constant("low", low))
    return head.detector(head.op("Min", clipped, head.constant("high", high)), limit)


MAKERS = {"nudenet_320n": nudenet, "yolo-head": yolo_head, "one-conv-head": one_conv_head}


class Head:
    """Builds a head on the last features of efficientnet_lite0. Its channels read random mixtures of what the features of some
    calibration photos vary in most (16 principal components: a trained head reads signal, no noise); what `conv` is given
    are the standard deviations and means that they have there.
    """

    def __init__(self, runs: Runs) -> None:
        folder = runs.prepared("efficientnet_lite0")
        self.work, self.calibration = runs.work, folder / "calibration"
        self.model = onnx.load(folder / "source.onnx")
        pool = next(i for i, n in enumerate(self.model.graph.node) if n.op_type == "GlobalAveragePool")
        self.features = self.model.graph.node[pool].input[0]
        del self.model.graph.node[pool:], self.model.graph.output[:]
        self.rng = np.random.default_rng(0)
        self.seen = self._features()
        centred = self.seen - self.seen.mean(axis=1, keepdims=True)
        self.components = np.linalg.svd(centred, full_matrices=False)[0][:, :COMPONENTS].T

    def _features(self) -> np.ndarray:
        probe = onnx.ModelProto.FromString(self.model.SerializeToString())
        probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(self.features))
        session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
        found = []
        for path in sorted(self.calibration.glob("*.npz"))[:16]:
            with np.load(path) as z:
                found.append(session.run(None, dict(z))[0][0].reshape(-1, GRID * GRID))
        return np.concatenate(found, axis=1)

    def constant(self, name: str, data: Any) -> str:
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(data), name))
        return name

    def op(self, op: str, *given: str, outputs: int = 1, **attributes: Any) -> Any:
        names = [f"{op}_{len(self.model.graph.node)}_{i}" for i in range(outputs)]
        if op == "Split":  # opset 13 has no num_outputs
            attributes.pop("num_outputs")
        self.model.graph.node.append(helper.make_node(op, list(given), names, name=f"/head/{names[0]}", **attributes))
        return names[0] if outputs == 1 else names

    def conv(self, name: str, spread: list[float], mean: list[float]) -> str:
        w = (self.rng.standard_normal((len(spread), COMPONENTS)) @ self.components).astype(np.float32)
        y = w @ self.seen
        w *= (np.float32(spread) / y.std(axis=1))[:, None]
        b = np.float32(mean) - (w @ self.seen).mean(axis=1)
        weight = self.constant(f"{name}.weight", w[:, :, None, None])
        return self.op("Conv", self.features, weight, self.constant(f"{name}.bias", b))

    def detector(self, out: str, limit: int) -> Detector:
        value = helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, [1, 4 + CLASSES, GRID, GRID])
        self.model.graph.output.append(value)
        used = {i for n in self.model.graph.node for i in n.input}
        kept = [w for w in self.model.graph.initializer if w.name in used]
        del self.model.graph.initializer[:]
        self.model.graph.initializer.extend(kept)
        onnx.checker.check_model(self.model)
        data = self.model.SerializeToString(deterministic=True)
        source = self.work / "models" / f"head-{hashed(data)}.onnx"
        source.write_bytes(data)
        judged = islice(inputs.judge()._samples("efficientnet_lite0", judged=True), limit)
        return Detector(source, self.calibration, [{"input": x} for x, _ in judged], axis=-3)


if __name__ == "__main__":
    main()
