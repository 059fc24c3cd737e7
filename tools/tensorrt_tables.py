"""Write specs/ops/{tensorrt,tensorrt-10.3,tensorrt-8.6,tensorrt-8.5,tensorrt-rtx}.yaml.

    python tools/tensorrt_tables.py

Two sources. `SINCE`, `LIMITS` and `OLDER` hold what onnx-tensorrt says of itself (importers and docs/operators.md of the releases
8.5, 8.6, 10.0, 10.1 and 10.15, changelog entries between them). tests/data/tensorrt_sweep.csv is what the parser and
ahead-of-time builder of TensorRT-RTX 1.7.1 did with one-node models (tools/tensorrt_sweep.py): it says which element types an op
takes, and every row tells how many of its models went through. Where TensorRT-RTX lacks what TensorRT proper has, a plugin mostly,
the row is in the table of TensorRT-RTX only.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edgec.passes.legalize.expansions import EXPANSIONS

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "8.5": "onnx-tensorrt release/8.5-GA: importers, docs/operators.md",
    "8.6": "onnx-tensorrt release/8.6-GA: importers, docs/operators.md",
    "10.3": "onnx-tensorrt release/10.1-GA: importers, docs/operators.md; its changelog up to 10.3",
    "10.15": "onnx-tensorrt docs/operators.md for TensorRT 10.15",
}

SINCE: Mapping[str, str] = {
    # Importers of release/8.5-GA; what came later has its release behind it.
    **dict.fromkeys(
        ["Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "ConvTranspose", "Cos", "Cosh", "CumSum", "DepthToSpace", "DequantizeLinear", "Div", "Dropout", "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "GRU", "Gather", "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "HardSigmoid", "HardSwish", "Identity", "If", "InstanceNormalization", "IsNaN", "LRN", "LSTM", "LeakyRelu", "Less", "LessOrEqual", "Log", "LogSoftmax", "Loop", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot", "Or", "PRelu", "Pad", "Pow", "QuantizeLinear", "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize", "ReverseSequence", "RoiAlign", "Round", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu", "Unsqueeze", "Upsample", "Where", "Xor"],
        "8.5",
    ),
    **dict.fromkeys(["GroupNormalization", "IsInf", "LayerNormalization"], "8.6"),
    **dict.fromkeys(["CastLike", "Gelu", "Hardmax", "Mish"], "10.0"),
    "DeformConv": "10.1",
    **dict.fromkeys(["BlackmanWindow", "HammingWindow", "HannWindow"], "10.4"),
    "STFT": "10.5",
    "Attention": "10.14",
    **dict.fromkeys(["RMSNormalization", "RotaryEmbedding", "TensorScatter"], "10.15"),
}  # fmt: skip
REFUSED = [
    "AffineGrid",
    "Bernoulli",
    "BitCast",
    "BitShift",
    "BitwiseAnd",
    "BitwiseNot",
    "BitwiseOr",
    "BitwiseXor",
    "CenterCropPad",
    "Col2Im",
    "Compress",
    "ConcatFromSequence",
    "ConvInteger",
    "CumProd",
    "DFT",
    "Det",
    "DynamicQuantizeLinear",
    "ImageDecoder",
    "MatMulInteger",
    "MaxRoiPool",
    "MaxUnpool",
    "MelWeightMatrix",
    "Multinomial",
    "NegativeLogLikelihoodLoss",
    "Optional",
    "OptionalGetElement",
    "OptionalHasElement",
    "QLinearConv",
    "QLinearMatMul",
    "RegexFullMatch",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceEmpty",
    "SequenceErase",
    "SequenceInsert",
    "SequenceLength",
    "SequenceMap",
    "SoftmaxCrossEntropyLoss",
    "SplitToSequence",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "SwiGLU",
    "Swish",
    "TfIdfVectorizer",
    "Unique",
]
"""What no TensorRT up to 10.15 imports. Swish is in TensorRT-RTX 1.7.1."""
PLUGINS = ["NonZero", "RoiAlign", "DeformConv"]
"""Run by TensorRT's plugin library, which TensorRT-RTX does not have."""
INTEGER_OPS = ["QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"]

NEVER = [
    "int16", "uint16", "uint32", "uint64", "string", "int2", "uint2", "uint4", "complex64", "complex128",
    "float8e4m3fnuz", "float8e5m2", "float8e5m2fnuz",
]  # fmt: skip
OUTSIDE = "compute it outside the engine, or write it in ops TensorRT takes (`edgec targets NAME --ops`)"
IN_OTHER_OPS = "the pipelines write it in other ops"
NO_FP8 = ["sm_72", "sm_87", "sm80", "sm86"]
"""Platforms without fp8 and fp4, as specs/targets calls them."""
TYPES = ("uint8", "int8", "bool", "int32", "int64", "float64")
FIXED = "the shape of its result depends on a value"


@dataclass(frozen=True)
class Limit:
    """What is refused. `until`: releases before that one; `cases`: of the sweep, which say so."""

    when: Mapping[str, Any]
    reason: str
    hint: str | None = None
    rewrite: str | None = None
    run: str = "impossible"
    source: str | None = None


def attr(name: str, *values: Any) -> dict[str, Any]:
    return {"attr": {name: list(values)}}


def dynamic(*inputs: int) -> dict[str, Any]:
    return {"dynamic": list(inputs)}


AXES = "fix the axes: fold-constants finds those that the shapes decide"
DILATED = Limit({"attr_range": {"dilations": {"min": 2}}}, "windows with dilation: TensorRT pools without")
SPATIAL = Limit({"rank": {0: {"min": 6}}}, "more than three spatial axes")
ZERO = "TensorRT quantises symmetrically: the zero point must be 0"
SYMMETRIC = "quantise with edgec's scheme tensorrt-int8, or let its pipeline re-express the file"
UNSIGNED = "TensorRT reads uint8 as int8: values above 127 are clipped, without an error"


def zero_point(of: int) -> list[Limit]:
    return [
        Limit({"elements": [{"of": of, "any": bound}]}, ZERO, SYMMETRIC, source="measured, cases *_int8_zero_point")
        for bound in ({"min": 1}, {"max": -1})
    ]


STORED = ["float8e4m3fn", "float4e2m1", "float8e8m0", "int4", "int8"]
CAST_TO_STORAGE = [
    Limit(
        {key: {0: STORED}},
        "types that TensorRT only quantises to and dequantises from",
        "use QuantizeLinear or DequantizeLinear",
    )
    for key in ("dtype", "output_dtype")
]
FP8 = ["float8e4m3fn", "float4e2m1"]

LIMITS: Mapping[str, Sequence[Limit]] = {
    "Conv": [SPATIAL], "ConvTranspose": [SPATIAL],
    "MaxPool": [
        SPATIAL, DILATED,
        Limit({"outputs": {"min": 2}}, "the second output, Indices, is not given"),
    ],
    "AveragePool": [SPATIAL, DILATED],
    "LpPool": [SPATIAL, DILATED, Limit({"attr_range": {"p": {"min": 3}}}, "norms of L1 and L2 only", rewrite="expand-composites")],
    "BatchNormalization": [Limit(attr("training_mode", 1), "training")],
    "Dropout": [
        Limit(dynamic(2), "training_mode must be known when the engine is built"),
        Limit({"elements": [{"of": 2, "any": {"min": 1}}]}, "training"),
    ],
    "Celu": [Limit({"dtype": {0: ["float16", "bfloat16"]}}, "Celu in float16", rewrite="expand-composites", source="measured, case test_celu_float16")],
    "Pow": [Limit({"dtype": {1: NEVER}}, "TensorRT has no such element type", "cast the exponent to float32")],
    "LayerNormalization": [Limit({"outputs": {"min": 2}}, "the second and third output are not given", rewrite="expand-composites")],
    "Resize": [
        Limit(attr("coordinate_transformation_mode", "tf_crop_and_resize", "half_pixel_symmetric"), "this coordinate transformation"),
        Limit(attr("antialias", 1), "antialiasing", "resize-as-matmul writes a fixed resize as two products", "resize-as-matmul"),
        Limit(attr("keep_aspect_ratio_policy", "not_larger", "not_smaller"), "a kept aspect ratio: only stretch", "fix the input's shape: the sizes are then known"),
        Limit(dynamic(2), "scales must be known when the engine is built", "fix the input's shape"),
    ],
    "ScatterND": [Limit(attr("reduction", "add", "mul", "max", "min"), "ScatterND with a reduction")],
    "OneHot": [Limit(dynamic(1), "depth must be known when the engine is built")],
    "CumSum": [Limit(dynamic(1), "axis must be known when the engine is built")],
    "STFT": [Limit(dynamic(1), "frame_step must be known when the engine is built", rewrite="expand-composites"), Limit(dynamic(2), "window must be known when the engine is built", rewrite="expand-composites")],
    **{f"Reduce{n}": [Limit(dynamic(1), "axes must be known when the engine is built", AXES)] for n in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    "Squeeze": [Limit(dynamic(1), "axes must be known when the engine is built", AXES)],
    "Unsqueeze": [Limit(dynamic(1), "axes must be known when the engine is built", AXES)],
    "TopK": [
        Limit(dynamic(1), FIXED, run="either", source="measured: the builder wants a bound of K"),
        Limit({"elements": [{"of": 1, "any": {"min": 3841}}]}, "K above 3840", "select in the application"),
    ],
    "Mod": [Limit({**attr("fmod", 0), "dtype": {0: ["float32", "float16", "bfloat16", "float64"]}}, "floats with fmod 0")],
    "Range": [Limit({"dtype": {0: ["float16", "bfloat16"]}}, "float16 limits")],
    "Cast": [
        Limit({"output_dtype": {0: NEVER}}, "TensorRT has no such element type"), *CAST_TO_STORAGE,
    ],
    "CastLike": [Limit({"output_dtype": {0: NEVER}}, "TensorRT has no such element type"), *CAST_TO_STORAGE],
    "QuantizeLinear": [
        Limit({"dtype": {2: FP8}, "platform": NO_FP8}, "the GPU has no fp8 and fp4", "use int8", source="measured: TensorRT-RTX builds it for SM89 and SM120, not for SM86"),
        Limit(dynamic(1), "the scale must be known when the engine is built"),
        Limit({"omitted": [2], "unwritten": ["output_dtype"]}, f"without a zero point ONNX means uint8; {UNSIGNED}", SYMMETRIC, "quantize", source="measured with the 50 Q/DQ cases: parsed, without a warning"),
        Limit({"dtype": {2: ["uint8"]}}, UNSIGNED, SYMMETRIC, "quantize", source="measured with the 50 Q/DQ cases: parsed, with a warning"),
        Limit({"dtype": {2: ["int16", "uint16", "uint4", "int32"]}}, "TensorRT quantises to int8, int4 and fp8 only", SYMMETRIC),
        *zero_point(2),
    ],
    "DequantizeLinear": [
        Limit({"dtype": {0: FP8}, "platform": NO_FP8}, "the GPU has no fp8 and fp4", "use int8", source="measured: TensorRT-RTX builds it for SM89 and SM120, not for SM86"),
        Limit(dynamic(1), "the scale must be known when the engine is built"),
        Limit({"dtype": {0: ["int32"]}}, "an int32 bias behind DequantizeLinear", "keep the bias in float: dequantize turns it back", "dequantize", source="measured, case dequantize_int32"),
        Limit({"dtype": {0: ["uint8"]}}, UNSIGNED, SYMMETRIC, "quantize", source="measured with the 50 Q/DQ cases"),
        Limit({"dtype": {0: ["int16", "uint16", "uint4"]}}, "TensorRT dequantises int8, int4 and fp8 only", SYMMETRIC),
        *zero_point(2),
    ],
    "MatMul": [Limit({"rank": {0: {"max": 1}, 1: {"min": 3}}}, "a vector times a batch of matrices", "give the vector an axis in front"), Limit({"dtype": {0: ["int32", "int64"]}}, "products of integers", "cast to float32")],
    "LSTM": [
        Limit(attr("input_forget", 1), "coupled input and forget gates"),
        Limit(attr("layout", 1), "layout must be 0", source=SOURCES["10.15"], rewrite="unroll-rnn"),
    ],
    "GridSample": [Limit({"rank": {0: {"min": 5}}}, "inputs of four axes only", source=SOURCES["10.15"])],
    "TensorScatter": [Limit(attr("mode", "circular"), "mode circular"), Limit({"rank": {0: {"max": 3}}}, "caches of four axes only")],
    "Attention": [
        Limit({"outputs": {"min": 2}}, "more than one output", rewrite="expand-composites"),
        Limit({"given": [4]}, "past keys and values", source=SOURCES["10.15"], rewrite="expand-composites"),
        Limit({"rank": {0: {"max": 3}}}, "queries of four axes only", source=SOURCES["10.15"], rewrite="expand-composites"),
        Limit({"attr_range": {"softcap": {"min": 1e-30}}}, "softcap", rewrite="expand-composites"),
    ],
    "ScatterElements": [],
}  # fmt: skip

OLDER: Mapping[str, Mapping[str, Sequence[Limit]]] = {
    "10.3": {
        "Squeeze": [Limit(dynamic(1), "axes must be known when the engine is built", AXES)],
    },
    "8.6": {
        "ScatterElements": [Limit(attr("reduction", "add", "mul", "max", "min"), "a reduction (TensorRT 10.0 and later)")],
        "Slice": [Limit(dynamic(3), "axes must be known when the engine is built", AXES)],
        "Einsum": [Limit({"inputs": {"min": 1}}, "no ellipsis and no diagonal; the table cannot read the equation", rewrite="expand-composites", run="either")],
        "InstanceNormalization": [
            Limit(dynamic(1), "scale must be a weight"), Limit(dynamic(2), "bias must be a weight"),
            Limit({"rank": {0: {"min": 6}}}, "three to five axes only"),
        ],
        "TopK": [Limit(dynamic(1), "K must be a weight")],
        "ArgMax": [Limit({"dtype": {0: ["int32", "int64"]}}, "integers (TensorRT 9.3 and later)", "cast to float32")],
        "ArgMin": [Limit({"dtype": {0: ["int32", "int64"]}}, "integers (TensorRT 9.3 and later)", "cast to float32")],
        "Pad": [Limit(attr("mode", "wrap"), "mode wrap (TensorRT 10.0 and later)")],
    },
}  # fmt: skip

RTX: Mapping[str, str | Sequence[Limit]] = {
    "NonZero": "TensorRT-RTX has no plugin library, which TensorRT runs it with",
    "RoiAlign": "TensorRT-RTX has no plugin library, which TensorRT runs it with",
    "DeformConv": "TensorRT-RTX has no plugin library, which TensorRT runs it with",
    "TensorScatter": "its builder stops at it, ahead of time",
    "NonMaxSuppression": "its builder stops at it, ahead of time",
    "ScatterElements": [Limit(attr("reduction", "add", "mul", "max", "min"), "a reduction (its plugin is not in TensorRT-RTX)")],
    "Swish": [], "GridSample": [], "LSTM": [Limit(attr("input_forget", 1), "coupled input and forget gates")],
}  # fmt: skip

GENERAL: Sequence[Limit] = (
    Limit({"dtype": {0: NEVER}}, "TensorRT has no such element type", "cast to int32, int64 or float32", source="measured, the sweep's cases in these types"),
    Limit({"rank": {0: {"min": 9}}}, "tensors have eight axes at most", source="measured, cases rank_8 and rank_9"),
)  # fmt: skip
UNITS = """\
units:
  - name: conv-act
    pattern: "Conv|ConvTranspose|Gemm|MatMul(...) -> Relu|Clip|LeakyRelu|Sigmoid|Tanh|HardSigmoid|HardSwish|Elu|Selu"
    evidence: "TensorRT documentation, types of fusions: convolution, fully connected or matrix product and activation"
  - name: conv-silu
    pattern: "Mul(c=Conv|ConvTranspose|Gemm|MatMul(...), Sigmoid(c))"
    evidence: "TensorRT documentation, types of fusions: pointwise fusion behind a convolution"
  - name: conv-add-relu
    pattern: "Conv(...) -> Add -> Relu"
    evidence: "TensorRT documentation, types of fusions: convolution and elementwise sum, with or without an activation"
"""


def read() -> Mapping[str, list[Mapping[str, str]]]:
    rows: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    with open(ROOT / "tests" / "data" / "tensorrt_sweep.csv") as f:
        for row in csv.DictReader(f):
            rows[row["op"]].append(row)
    return rows


def went(row: Mapping[str, str]) -> bool:
    """Whether a model went through, in either of its two forms."""
    return "ok" in (row["dynamic"], row["constant"])


def refused_types(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Element types of the first input that were tried and never went through; uint8 also where it was not tried."""
    tried: dict[str, bool] = {}
    for row in rows:
        first = row["types"].split(" ")[0]
        if first.endswith("int8"):  # for what a quantised tensor is, every model must have gone through
            tried[first] = tried.get(first, True) and went(row) and row["constant"] in ("", "ok")
        else:
            tried[first] = tried.get(first, False) or went(row)
    found = [t for t in TYPES if tried.get(t) is False]
    return ["uint8", *found] if tried.get("uint8") is None else found


def case(limit: Limit) -> dict[str, Any]:
    entry = {"when": dict(limit.when), "run": limit.run, "reason": limit.reason}
    entry["hint"] = limit.hint or (IN_OTHER_OPS if limit.rewrite else OUTSIDE)
    if limit.rewrite:
        entry["rewrite"] = limit.rewrite
    return {**entry, "evidence": limit.source} if limit.source else entry


def accelerator(op: str, rows: Sequence[Mapping[str, str]], limits: Sequence[Limit], source: str) -> dict[str, Any]:
    cases: list[dict[str, Any]] = []
    own = {t for x in limits for t in x.when.get("dtype", {}).get(0, ())}
    passed = any(went(r) for r in rows) and op not in ("QuantizeLinear", "DequantizeLinear")
    types = [t for t in refused_types(rows) if t not in own] if passed else []
    if "uint8" in types:
        types.remove("uint8")
        cases.append(
            {
                "when": {"dtype": {0: ["uint8"]}},
                "run": "impossible",
                "reason": "TensorRT has uint8 at the engine's inputs and outputs only",
                "hint": "cast to float32 first",
            }
        )
    if types:
        cases.append(
            {
                "when": {"dtype": {0: types}},
                "run": "impossible",
                "reason": "TensorRT does not compute it in this element type",
                "hint": "cast to float32 or int64",
            }
        )
    cases += [case(x) for x in limits]
    done = sum(map(went, rows))
    measured = f"; {done} of {len(rows)} one-node models built with TensorRT-RTX 1.7.1 for SM86" if done else ""
    return {"run": "accelerator", **({"cases": cases} if cases else {}), "evidence": source + measured}


def refusal(op: str, reason: str, source: str) -> dict[str, Any]:
    row: dict[str, Any] = {"run": "impossible", "reason": reason}
    if op in INTEGER_OPS:
        row |= {"hint": "the pipelines turn it into Q/DQ", "rewrite": "qoperator-to-qdq"}
    elif op in EXPANSIONS:
        row |= {"hint": IN_OTHER_OPS, "rewrite": "expand-composites"}
    else:
        row |= {"hint": OUTSIDE}
    return {**row, "evidence": source}


Rows = dict[str, dict[str, Any]]


def newest(sweep: Mapping[str, list[Mapping[str, str]]]) -> Rows:
    out: Rows = {op: accelerator(op, sweep.get(op, []), LIMITS.get(op, ()), SOURCES["10.15"]) for op in SINCE}
    for op in REFUSED:
        measured = "; the parser of TensorRT-RTX 1.7.1 refuses it too" if op != "Swish" else ""
        out[op] = refusal(op, "TensorRT's ONNX parser does not import it", SOURCES["10.15"] + measured)
    return out | {op: {"run": "accelerator", "evidence": source} for op, source in plugins().items()}


def plugins() -> dict[str, str]:
    """Plugin ops of specs/plugins, in the domains exporters give them, and who says that TensorRT has them. Its parser looks at the op type."""
    table = yaml.safe_load(
        (Path(__file__).resolve().parent.parent / "specs" / "plugins" / "tensorrt.yaml").read_text(encoding="utf-8")
    )
    rows = table["ops"].items()
    return {
        f"{domain}{op}": f"NVIDIA/TensorRT, {row['evidence']}"
        for op, row in rows
        for domain in ("", "TRT::", "trt.plugins::")
    }


def older(sweep: Mapping[str, list[Mapping[str, str]]], release: str) -> Rows:
    """Rows that differ from those of the next newer table."""
    version = tuple(map(int, release.split(".")))
    newer = {"10.3": (99,), "8.6": (10, 3), "8.5": (8, 6)}[release]
    out: Rows = {}
    for op, since in SINCE.items():
        at = tuple(map(int, since.split(".")))
        if version < at <= newer:
            out[op] = refusal(op, f"TensorRT's ONNX parser imports it from {since} on", SOURCES[release])
    for op, limits in OLDER.get(release, {}).items():
        kept = [x for x in LIMITS.get(op, ()) if not any(x.when == y.when for y in limits)]
        out[op] = accelerator(op, sweep.get(op, []), [*limits, *kept], SOURCES[release])
    return out


def rtx(sweep: Mapping[str, list[Mapping[str, str]]]) -> Rows:
    out: Rows = {}
    source = "parser and ahead-of-time builder of TensorRT-RTX 1.7.1 (tests/data/tensorrt_sweep.csv)"
    for op, what in RTX.items():
        out[op] = (
            refusal(op, what, source) if isinstance(what, str) else accelerator(op, sweep.get(op, []), what, source)
        )
    out["Attention"] = refusal("Attention", "its builder stops at it, ahead of time", source)
    for op in plugins():
        out[op] = {
            "run": "impossible",
            "reason": RTX["DeformConv"],
            "hint": "detach-nms writes a suppression in ONNX's ops",
            "evidence": source,
        }
    return out


HEAD = """\
# yaml-language-server: $schema=../../docs/schema/ops.json
# Written by tools/tensorrt_tables.py; change that and tests/data/tensorrt_sweep.csv, not this.
schema_version: 1
"""
TABLES: Mapping[str, str] = {
    "tensorrt": f"""\
name: tensorrt
# accelerator: the GPU. There is nothing to fall back to: an op TensorRT refuses stops the build.
description: TensorRT 10.15 and later, from its ONNX parser's documentation and one-node models through TensorRT-RTX
evidence: {SOURCES["10.15"]}
unlisted: {{run: impossible, reason: TensorRT's ONNX parser does not know the op, hint: "a plugin of that name can run it, or a rewrite into ONNX's ops"}}
""",
    "tensorrt-10.3": f"""\
extends: tensorrt
name: tensorrt-10.3
description: TensorRT 10.3 (JetPack 6.1 and 6.2); rows that differ from 10.15
evidence: "{SOURCES["10.3"]}"
""",
    "tensorrt-8.6": f"""\
extends: tensorrt-10.3
name: tensorrt-8.6
description: TensorRT 8.6 (JetPack 6.0); rows that differ from 10.3
evidence: "{SOURCES["8.6"]}"
""",
    "tensorrt-8.5": f"""\
extends: tensorrt-8.6
name: tensorrt-8.5
description: TensorRT 8.5 (JetPack 5); rows that differ from 8.6
evidence: "{SOURCES["8.5"]}"
""",
    "tensorrt-rtx": """\
extends: tensorrt
name: tensorrt-rtx
description: TensorRT-RTX 1.7.1; rows that differ from TensorRT 10.15
evidence: parser and ahead-of-time builder of TensorRT-RTX 1.7.1 (tests/data/tensorrt_sweep.csv)
""",
}


class NoAliases(yaml.SafeDumper):
    """Spec files hold no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def flow(value: Any) -> str:
    text: str = yaml.dump(
        value, Dumper=NoAliases, default_flow_style=True, width=100_000, sort_keys=False, allow_unicode=True
    )
    return text.strip()


def main() -> int:
    sweep = read()
    rows = {
        "tensorrt": newest(sweep),
        **{f"tensorrt-{v}": older(sweep, v) for v in ("10.3", "8.6", "8.5")},
        "tensorrt-rtx": rtx(sweep),
    }
    for name, head in TABLES.items():
        general = [f"  - {flow(case(x))}" for x in GENERAL] if name == "tensorrt" else []
        lines = [
            HEAD + head.rstrip("\n"),
            *(["general:", *general] if general else []),
            "ops:",
            *(f"  {op}: {flow(row)}" for op, row in sorted(rows[name].items())),
        ]
        if name == "tensorrt":
            lines.append(UNITS.rstrip("\n"))
        (ROOT / "specs" / "ops" / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
