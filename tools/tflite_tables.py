"""Write specs/ops/{tflite,tflite-micro,ethos-u,ethos-u55,ethos-u85}.yaml from tests/data/tflite_sweep.csv.

    python tools/tflite_tables.py

`ROWS` says which TFLite operators an ONNX op becomes and which limits its conditions know; who runs them is measured. An op
that becomes several operators runs where the worst of them runs. At int8 and int16x8 an op that the quantisation scheme
does not name stays in float between DEQUANTIZE and QUANTIZE, so its float result counts.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from edgec.specs.schema import builtin_scheme

ROOT = Path(__file__).resolve().parent.parent
INTEGERS = ["int64", "int32", "int16", "uint8", "uint16", "uint32", "uint64", "bool"]
SCHEMES = {"int8": "tflite-int8", "int16x8": "tflite-int16x8"}
FLOAT = "fp32"


@dataclass(frozen=True)
class Limit:
    """What the op becomes when `when` holds. `only`: the table it is about, where it says nothing of the others."""

    when: Mapping[str, Any]
    cases: str
    reason: str
    only: str | None = None


@dataclass(frozen=True)
class Row:
    """`cases`: names of the sweep, space between; the operators the op becomes. `any_type`: integers come through it too."""

    cases: str
    limits: Sequence[Limit] = field(default_factory=tuple)
    any_type: bool = False
    note: str = ""


def rank(low: int, high: int | None = None, of: int = 0) -> dict[str, Any]:
    return {"rank": {of: {"min": low, **({} if high is None else {"max": high})}}}


def steps(**bounds: int) -> dict[str, Any]:
    return {"elements": [{"of": 4, "any": bounds}]}


BATCH = {"size": [{"of": 0, "axes": [0], "min": 2}]}
WIDE = {"size": [{"of": 0, "axes": [-1], "min": 128}]}
R6 = rank(6)
NORM = "mean_c squared_difference rsqrt mul add add_const mul_const"
GATES = "fully_connected split_4 logistic tanh mul add concatenation_2"
NEAREST, LINEAR = {"attr": {"mode": ["nearest"]}}, {"attr": {"mode": ["linear"]}}


def off_scale(mode: Mapping[str, Any], case: str, *spans: tuple[float, float | None]) -> list[Limit]:
    return [
        Limit(
            {**mode, "scale": {"min": lo, **({} if hi is None else {"max": hi})}},
            case,
            "a scale that is not 2, 4 or 8",
            "ethos-u",
        )
        for lo, hi in spans
    ]


ROWS: Mapping[str, Row] = {
    # --- convolutions and matrix products
    "Conv": Row("conv_2d depthwise_conv_2d", [
        Limit(rank(5, 5), "conv_3d", "three spatial axes: CONV_3D"),
        Limit({"attr_range": {"strides": {"min": 4}, "group": {"min": 2}}}, "depthwise_stride4", "a depthwise filter with a stride above 3"),
        Limit({"precision": ["int8-dynamic"], "attr_range": {"group": {"min": 2}}}, "depthwise_conv_2d", "a hybrid DEPTHWISE_CONV_2D", "litert"),
    ]),
    "ConvTranspose": Row("transpose_conv", [
        Limit({"attr_range": {"strides": {"min": 3}}}, "transpose_conv_stride4", "a stride above 2"),
    ]),
    "Gemm": Row("fully_connected"),
    "MatMul": Row("fully_connected_rank3", [Limit({"dynamic": [1]}, "batch_matmul", "two computed factors: BATCH_MATMUL")]),
    "Einsum": Row("transpose reshape batch_matmul"),
    # --- activations
    "Relu": Row("relu"), "LeakyRelu": Row("leaky_relu"), "PRelu": Row("prelu"), "Elu": Row("elu"), "Celu": Row("elu mul_const"),
    "Selu": Row("elu mul_const"), "Sigmoid": Row("logistic"), "Tanh": Row("tanh"), "HardSwish": Row("hard_swish"), "Gelu": Row("gelu"),
    "Swish": Row("logistic mul"), "Mish": Row("exp add log tanh mul"), "Softplus": Row("exp add log"), "Softsign": Row("abs add div"),
    "HardSigmoid": Row("mul_const add_const"), "Clip": Row("relu6 maximum minimum", note="RELU, RELU6 and RELU_N1_TO_1 where the bounds are theirs"),
    "ThresholdedRelu": Row("greater select_v2 mul"), "Softmax": Row("softmax"), "LogSoftmax": Row("log_softmax"),
    # --- functions of one value
    "Abs": Row("abs"), "Neg": Row("neg"), "Exp": Row("exp"), "Log": Row("log"), "Sqrt": Row("sqrt"), "Reciprocal": Row("div"),
    "Sin": Row("sin"), "Cos": Row("cos"), "Tan": Row("sin cos div"), "Floor": Row("floor"), "Ceil": Row("ceil"), "Round": Row("round"),
    "Sign": Row("sign"), "Not": Row("logical_not"), "Cast": Row("cast_to_int32 cast_to_float"),
    # --- arithmetic, comparisons
    "Add": Row("add add_const", any_type=True), "Sub": Row("sub", any_type=True), "Mul": Row("mul mul_const", any_type=True),
    "Div": Row("div", any_type=True), "Max": Row("maximum", any_type=True), "Min": Row("minimum", any_type=True), "Sum": Row("add"),
    "Mean": Row("add mul_const"), "Pow": Row("pow", [Limit({"elements": [{"of": 1, "all": {"min": 2, "max": 2}}]}, "square", "a square"), Limit({"elements": [{"of": 1, "all": {"min": 0.5, "max": 0.5}}]}, "sqrt", "a square root")]),
    "Mod": Row("floor_mod"), "Equal": Row("equal"), "Greater": Row("greater"), "GreaterOrEqual": Row("greater_equal"), "Less": Row("less"),
    "LessOrEqual": Row("less_equal"), "And": Row("logical_and"), "Or": Row("logical_or"), "Xor": Row("not_equal"), "Where": Row("select_v2"),
    # --- normalisation
    "BatchNormalization": Row("mul_const add_const"), "LayerNormalization": Row(NORM), "InstanceNormalization": Row(NORM.replace("mean_c", "mean_hw")),
    "GroupNormalization": Row(NORM + " reshape"), "RMSNormalization": Row("square mean_c rsqrt mul mul_const"), "LRN": Row("local_response_normalization"),
    "LpNormalization": Row("l2_normalization"),
    # --- pooling, reductions
    "MaxPool": Row("max_pool_2d"),
    "AveragePool": Row("average_pool_2d", [Limit({"attr_range": {"kernel_shape": {"min": 9}}, "written": ["pads"]}, "average_pool_k9_same", "a padded window above 8")]),
    "GlobalAveragePool": Row("mean_hw"), "GlobalMaxPool": Row("reduce_max"), "ReduceMean": Row("mean_c", [
        *(Limit({"elements": [{"of": 1, "all": {"min": lo, "max": hi}}], **rank(4, 4)}, "mean_hw", "over the image") for lo, hi in ((2, 3), (-2, -1))),
        Limit(rank(3, 3), "mean_rank3_last", "over the last axis"),
    ]), "ReduceSum": Row("sum_hw sum_c"),
    "ReduceMax": Row("reduce_max reduce_max_c"), "ReduceMin": Row("reduce_min"), "ReduceProd": Row("reduce_prod"), "ReduceL1": Row("abs sum_c"),
    "ReduceL2": Row("square sum_c sqrt"), "ReduceSumSquare": Row("square sum_c"), "ReduceLogSum": Row("sum_c log"), "ReduceLogSumExp": Row("exp sum_c log"),
    "ArgMax": Row("arg_max"), "ArgMin": Row("arg_min"), "CumSum": Row("cumsum"), "TopK": Row("topk_v2"),
    # --- data movement
    **{n: Row("reshape", any_type=True) for n in ("Reshape", "Flatten", "Squeeze", "Unsqueeze")},
    "Transpose": Row("transpose", [Limit(rank(6), "transpose_rank6", "6 axes")], any_type=True),
    "Concat": Row("concatenation_2", [Limit({"inputs": {"min": 6}}, "concatenation_6", "more inputs than XNNPACK takes")], any_type=True),
    "Split": Row("split_2", [Limit({"outputs": {"min": 5}}, "split_5", "more parts than XNNPACK takes")], any_type=True),
    "Slice": Row("strided_slice", [Limit(steps(max=-1), "strided_slice_reverse", "a step below 0"), Limit(steps(min=2), "strided_slice_step2", "a step above 1", "litert")], any_type=True),
    "Pad": Row("pad", [Limit({"attr": {"mode": ["reflect"]}}, "mirror_pad", "MIRROR_PAD"), Limit({"given": [2]}, "padv2", "a value of its own: PADV2")]),
    "Expand": Row("broadcast_to"), "Tile": Row("tile"), "Gather": Row("gather"), "GatherND": Row("gather_nd"), "GatherElements": Row("gather_nd"),
    "ScatterND": Row("scatter_nd"), "ScatterElements": Row("scatter_nd"), "OneHot": Row("one_hot"), "Shape": Row("shape"),
    "DepthToSpace": Row("depth_to_space"), "SpaceToDepth": Row("space_to_depth"),
    "Resize": Row("resize_bilinear_2x_half_pixel resize_nearest_2x", [
        *off_scale(NEAREST, "resize_nearest_3x", (1.001, 1.999), (2.001, 3.999), (4.001, 7.999), (8.001, None)),
        Limit(NEAREST, "resize_nearest_2x", "RESIZE_NEAREST_NEIGHBOR"),
        *off_scale(LINEAR, "resize_bilinear_3x", (1.001, 1.999), (2.001, 3.999), (4.001, 7.999), (8.001, None)),
        Limit({**LINEAR, "attr": {"mode": ["linear"], "coordinate_transformation_mode": ["half_pixel", "pytorch_half_pixel"]}, "scale": {"min": 4}}, "resize_bilinear_4x_half_pixel", "a factor above 2 from pixel centres", "ethos-u"),
        Limit(LINEAR, "resize_bilinear_2x_half_pixel", "RESIZE_BILINEAR"),
    ]),
    "QuantizeLinear": Row("", note="becomes the quantisation of a tensor; at a float interface an operator, which Vela leaves to the CPU"), "DequantizeLinear": Row("", note="becomes the quantisation of a tensor; at a float interface an operator, which Vela leaves to the CPU"),
    **{n: Row("", note="nothing is left of it") for n in ("Identity", "Dropout", "Constant")},
    # --- recurrent, control
    "LSTM": Row(GATES, note="unrolled: one product and its gates a step"), "GRU": Row(GATES + " sub", note="unrolled"), "RNN": Row("fully_connected tanh add", note="unrolled"),
    "If": Row("select_v2", note="both branches are computed and one result is selected"),
}  # fmt: skip

# Limits of Vela that its report states; those the sweep can check are checked there (conv_stride4_same, arg_max_c200 ...).
ETHOS_LIMITS: Mapping[str, Sequence[tuple[str, Mapping[str, Any], str]]] = {
    "Conv": [("ethos-u", {"attr_range": {"strides": {"min": 4}, "pads": {"min": 1}}}, "the NPU takes strides above 3 without padding only")],
    "ArgMax": [("ethos-u", WIDE, "the NPU takes at most 127 channels"), ],
    "Softmax": [("both", {"size": [{"of": 0, "axes": [0, 1, 2], "min": 65536}], **rank(4, 4)}, "the NPU takes fewer than 65536 rows")],
    "GlobalAveragePool": [("both", BATCH, "the NPU averages a batch of 1 only")],
    "ReduceMean": [("both", BATCH, "the NPU averages a batch of 1 only")],
    "MaxPool": [("both", {"attr_range": {"kernel_shape": {"min": 257}}}, "the NPU takes windows up to 256")],
    "AveragePool": [("both", {"attr_range": {"kernel_shape": {"min": 257}}}, "the NPU takes windows up to 256")],
}  # fmt: skip

Sweep = Mapping[str, Mapping[str, str]]
ORDER = {"xnnpack": 0, "ok": 0, "NPU": 0, "none": 0, "builtin": 1, "CPU NPU": 1, "CPU": 1, "fail": 2, "": 2}


def read() -> Sweep:
    with open(ROOT / "tests" / "data" / "tflite_sweep.csv") as f:
        return {r["case"]: r for r in csv.DictReader(f)}


def result(sweep: Sweep, row: str, cases: str, column: str, op: str, precision: str) -> tuple[str, str]:
    """The worst answer of the operators, and which one gave it; at integers the float one for what stays in float."""
    stays = precision in SCHEMES and op not in builtin_scheme(SCHEMES[precision]).ops and row != "ethos"
    measured = FLOAT if stays else MEASURED.get(precision, precision)
    answers = [(sweep[c][f"{column} {measured}"], sweep[c]["op"]) for c in cases.split()]
    return max(answers, key=lambda x: ORDER[x[0]], default=("none", ""))


MEASURED = {"int8-dynamic": "dynamic", "int8-weights": "weight-int8", "fp16": "weight-fp16"}
CLASSES = {
    "litert": {"xnnpack": "accelerator", "none": "accelerator", "builtin": "fallback", "fail": "impossible"},
    "micro": {"ok": "accelerator", "none": "accelerator", "fail": "impossible"},
}


def decide(sweep: Sweep, table: str, op: str, cases: str, precision: str) -> tuple[str, str | None]:
    if table in CLASSES:
        answer, which = result(sweep, table, cases, table, op, precision)
        run = CLASSES[table][answer]
        if run == "fallback":
            return run, f"XNNPACK does not take {which}{kind(op, precision)}; a kernel of LiteRT itself runs it"
        if run == "impossible":
            who = "tflite-micro" if table == "micro" else "LiteRT"
            return run, f"{who} has no kernel of {which}{kind(op, precision)}"
        return run, None
    if cases and op not in builtin_scheme(SCHEMES[precision]).ops:
        return "fallback", "it computes in float, which the NPU does not"
    answer, which = result(sweep, "ethos", cases, table, op, precision)
    if answer in ("NPU", "none"):
        return "accelerator", None
    return "fallback", f"Vela leaves {which} to the CPU"


def kind(op: str, precision: str) -> str:
    if precision in SCHEMES and op in builtin_scheme(SCHEMES[precision]).ops:
        return {"int8": " in int8", "int16x8": " in int16"}[precision]
    return ""


def row_of(sweep: Sweep, table: str, op: str, row: Row) -> dict[str, Any]:
    precisions = ("int8", "int16x8") if table.startswith("ethos") else (FLOAT, "int8", "int16x8")
    base = {p: decide(sweep, table, op, row.cases, p) for p in precisions}
    main = base[precisions[0]]
    cases: list[dict[str, Any]] = []
    if row.any_type and table == "litert":
        cases.append(
            {
                "when": {"dtype": {0: INTEGERS}},
                "run": "fallback",
                "reason": "XNNPACK computes in float and 8-bit integers only",
                "evidence": "LiteRT, delegates/xnnpack/README.md",
            }
        )
    if row.any_type and table.startswith("ethos"):
        cases.append(
            {
                "when": {"dtype": {0: INTEGERS}},
                "run": "fallback",
                "reason": "the NPU has no such element type",
                "evidence": "Vela 5.2.0 SUPPORTED_OPS.md",
            }
        )
    if op == "Split" and table == "litert":
        cases.append(
            {
                "when": {"given": [1]},
                "run": "either",
                "reason": "parts of different lengths become SPLIT_V, which XNNPACK does not take",
            }
        )
    if op == "Slice" and table.startswith("ethos"):
        cases.append(
            {
                "when": steps(min=2),
                "run": "either",
                "reason": "the NPU takes steps over height and width, not over channels",
            }
        )
    family = {"ethos-u55-128": "ethos-u", "ethos-u85-256": "ethos-u85"}.get(table, table)
    for who, when, reason in ETHOS_LIMITS.get(op, ()) if family.startswith("ethos") else ():
        if who in ("both", family):
            cases.append(
                {"when": dict(when), "run": "fallback", "reason": reason, "evidence": "Vela 5.2.0 SUPPORTED_OPS.md"}
            )
    for limit in row.limits:
        if limit.only not in (None, family):
            continue
        about = tuple(limit.when.get("precision", precisions))
        here = {p: decide(sweep, table, op, limit.cases, p) for p in about}
        if all(here[p][0] == base.get(p, main)[0] for p in about) and not any(
            q.when.keys() & limit.when.keys() for q in row.limits if q is not limit
        ):
            continue
        for p in about:
            run, why = here[p]
            reason = "; ".join(x for x in (limit.reason if run != "accelerator" else "", why or "") if x)
            entry = {"when": {**limit.when, "precision": [p]}, "run": run, **({"reason": reason} if reason else {})}
            same = next(
                (
                    c
                    for c in cases
                    if c["when"] == {**entry["when"], "precision": c["when"].get("precision")}
                    and c["run"] == run
                    and c.get("reason") == entry.get("reason")
                ),
                None,
            )
            if same is not None:
                same["when"]["precision"].append(p)
            else:
                cases.append(entry)
    for p in precisions[1:]:
        if base[p][0] != main[0]:
            run, why = base[p]
            cases.append({"when": {"precision": [p]}, "run": run, **({"reason": why} if why else {})})
    for (
        c
    ) in cases:  # float precisions are all the same: what is measured in fp32 holds for fp16 weights and dynamic ranges
        if FLOAT in c["when"].get("precision", ()):
            rest = [p for p in c["when"]["precision"] if p != FLOAT]
            c["when"]["precision"] = [*FLOATS, *rest]
            if set(rest) == set(SCHEMES):
                del c["when"]["precision"]
    out: dict[str, Any] = {"run": main[0]}
    if main[1]:
        out["reason"] = main[1]
    if cases:
        out["cases"] = cases
    became = sorted({sweep[c]["op"] for c in row.cases.split()})
    note = "; ".join(x for x in (row.note, f"becomes {', '.join(became)}" if became else "") if x)
    out["note"] = note
    return out


FLOATS = ("fp32", "fp16", "int8-dynamic", "int8-weights", "int4-weights")

HEAD = """\
# yaml-language-server: $schema=../../docs/schema/ops.json
# Written by tools/tflite_tables.py from tests/data/tflite_sweep.csv; change those, not this.
schema_version: 1
"""
TABLES: Mapping[str, tuple[str, str]] = {
    "tflite": ("litert", """\
name: tflite
# accelerator: an XNNPACK kernel. fallback: a kernel of LiteRT itself, on the same CPU (nothing is copied between devices;
# it costs XNNPACK's partition and is slower). impossible: LiteRT refuses the operator in that element type.
description: LiteRT on a CPU; "accelerator" is an XNNPACK kernel, "fallback" a kernel of LiteRT itself on the same CPU
evidence: measured with ai-edge-litert 2.3.0 on x86-64, one-operator models (tests/data/tflite_sweep.csv)
unlisted: {run: either, reason: the table does not know the op; whether it can be written in TFLite's operators is found out when it is}
ops:
"""),
    "tflite-micro": ("micro", """\
name: tflite-micro
# accelerator: tflite-micro has a kernel, which runs on the microcontroller. There is nothing to fall back to.
description: tflite-micro on a microcontroller; "accelerator" is a kernel of tflite-micro
evidence: measured with tflite-micro 0.dev20261023182759 on x86-64, one-operator models (tests/data/tflite_sweep.csv)
unlisted: {run: either, reason: the table does not know the op; whether it can be written in TFLite's operators is found out when it is}
ops:
"""),
    "ethos-u": ("ethos-u55-128", """\
name: ethos-u
# accelerator: the NPU. fallback: Vela leaves the operator to the CPU beside it. What it becomes there: tflite-micro.yaml.
description: Ethos-U55 and Ethos-U65 through Vela 5.2.0; "fallback" is what Vela leaves to the CPU beside the NPU
evidence: measured with ethos-u-vela 5.2.0 for ethos-u55-128, one-operator models (tests/data/tflite_sweep.csv)
unlisted: {run: fallback, reason: Vela leaves operators it does not know to the CPU beside the NPU}
ops:
"""),
    "ethos-u85": ("ethos-u85-256", """\
name: ethos-u85
# accelerator: the NPU. fallback: Vela leaves the operator to the CPU beside it. What it becomes there: tflite-micro.yaml.
description: Ethos-U85 through Vela 5.2.0; "fallback" is what Vela leaves to the CPU beside the NPU
evidence: measured with ethos-u-vela 5.2.0 for ethos-u85-256, one-operator models (tests/data/tflite_sweep.csv)
unlisted: {run: fallback, reason: Vela leaves operators it does not know to the CPU beside the NPU}
ops:
"""),
}  # fmt: skip


ETHOS_U55 = """\
extends: ethos-u
name: ethos-u55
description: Ethos-U55, which stands beside a Cortex-M; as ethos-u, and what tflite-micro cannot run there is impossible
evidence: measured with ethos-u-vela 5.2.0 and tflite-micro 0.dev20261023182759, one-operator models (tests/data/tflite_sweep.csv)
ops:
"""
UNITS = """\
units:
  - name: conv-act
    pattern: "Conv|ConvTranspose|Gemm|MatMul|Add|Sub|Mul(...) -> Relu|Clip"
    evidence: "fused_activation_function RELU, RELU6; XNNPACK's README and Vela's supported operators name them"
  - {name: matmul-bias, pattern: "Add(MatMul(...), #b)", main: MatMul, evidence: FULLY_CONNECTED with a bias}
  - {name: hard-swish, pattern: "Mul|Div(Mul(x, Clip(Add(x, 3), 0, 6)), #)", main: Mul, evidence: HARD_SWISH}
"""


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
    for name, (table, head) in TABLES.items():
        lines = [HEAD + head.rstrip("\n")]
        lines += [f"  {op}: {flow(row_of(sweep, table, op, row))}" for op, row in ROWS.items()]
        lines.append(UNITS.rstrip("\n"))
        write(name, lines)
    lost = [op for op, row in ROWS.items() if homeless(sweep, op, row)]
    reason = "the NPU does not take it and tflite-micro on the CPU beside it has no kernel either"
    write(
        "ethos-u55", [HEAD + ETHOS_U55.rstrip("\n"), *(f"  {op}: {{run: impossible, reason: {reason}}}" for op in lost)]
    )
    return 0


def homeless(sweep: Sweep, op: str, row: Row) -> bool:
    """Whether neither the NPU nor tflite-micro runs it, at any precision and whatever its attributes."""
    names = {row.cases, *(x.cases for x in row.limits)}
    return all(
        decide(sweep, "ethos-u55-128", op, c, p)[0] == "fallback" and decide(sweep, "micro", op, c, p)[0] == "impossible"
        for c in names for p in SCHEMES
    )  # fmt: skip


def write(name: str, lines: Sequence[str]) -> None:
    (ROOT / "specs" / "ops" / f"{name}.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
