"""What a step is too coarse for: scores of 0..1 joined with boxes of hundreds of pixels, and stored with one scale."""

from __future__ import annotations

from collections.abc import Iterator

from edgec.graph import Graph, ir
from edgec.quantization.findings import Report
from edgec.quantization.pairs import Linear, is_linear, limits_of

SPANS = {"Sigmoid": 1.0, "Softmax": 1.0, "HardSigmoid": 1.0, "Tanh": 2.0}
"""Ops whose outputs are known without data: how wide their range is."""

COPIES = frozenset({"Reshape", "Transpose", "Slice", "Split", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Gather"})

MIN_LEVELS = 16.0
"""Fewer steps than this for all of a range lose what is in it (the same bound as that of the pass `quantize`)."""


def coarse_steps(stored: Graph, linears: list[Linear], report: Report) -> None:
    """Report each Q whose step leaves less than MIN_LEVELS levels to a part of what it stores (rule `range`)."""
    for lin in linears:
        if lin.node.op_type == "DequantizeLinear" or lin.scale is None or lin.scale.size != 1:
            continue
        step, (low, high) = float(lin.scale.reshape(())), limits_of(lin.dtype)
        for part in _parts(lin.real, step, stored.opset):
            levels = SPANS[_op(part)] / step if step > 0 else MIN_LEVELS
            if levels < min(MIN_LEVELS, (high - low) / 8):
                what = f"{part.name!r} ({_op(part)}) is stored in steps of {step:.3g}: "
                what += f"{'less than 1 level' if levels < 1 else f'{levels:.0f} levels'} left for all of it"
                hint = "store it apart from the wider values: end the model before the node that joins them, or let "
                hint += "`edgec quantize` start from the float model, which keeps them apart"
                report.add(lin.node, "range", what, hint)


def _parts(value: ir.Value | None, step: float, opset: int) -> Iterator[ir.Value]:
    """Outputs of ops in SPANS that `value` copies or joins. A step as coarse on the way was reported there."""
    waiting, seen = [value], set()
    while waiting:
        v = waiting.pop()
        node = v.producer() if v is not None else None
        if v is None or node is None or v in seen:
            continue
        seen.add(v)
        if node.op_type in SPANS:
            yield v
        elif node.op_type == "Concat":
            waiting.extend(node.inputs)
        elif node.op_type in COPIES:
            waiting.append(node.inputs[0])
        elif is_linear(node):
            scale = Linear(node, opset).scale
            if scale is not None and scale.size == 1 and float(scale.reshape(())) < step / 2:
                waiting.append(node.inputs[0])


def _op(value: ir.Value) -> str:
    producer = value.producer()
    assert producer is not None  # parts are outputs of nodes
    return producer.op_type
