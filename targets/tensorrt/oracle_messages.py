"""What TensorRT-RTX said of a file, for people: the node of the model it is about, plain words, and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics, Location, Severity

if TYPE_CHECKING:
    from edgec.graph import Graph, ir
    from edgec.targets.tensorrt.oracle import Refusal, Verdict

_NOISE = (
    (r" \[checkMacros\.cpp.*", ""),  # consequences of having no GPU, behind the cause
    (r"Assertion failed: .*?: (?=[A-Z])", ""),
    (r"Invalid Node - \S+ ", ""),
    (r"\.? In [\w()]+ at /\S+\.cpp:\d+", ""),
    (r"\(In [\w()]+ at /\S+\.cpp:\d+ \((.*)\)\)", r"(\1)"),
    (r"\[\w+\.cpp:\d+: \w+\] ", ""),
    (r"\b\w+\.cpp:\d+: ", ""),
    (r"I\w+::\w+: ", ""),
    (r"Error Code \d+: [\w ]+ \((.*)\)\.?(?=$|;)", r"\1"),
    (r"Failed to import initializer: In node -1 with name: and operator: \(importInitializers\): \w+: ", ""),
)

_HINTS = (
    (r"non-zero zero point", "TensorRT quantises symmetrically: compile the float model with --precision int8, whose zero points are all 0"),
    (r"input has type int32 but must have type", "keep biases in float32: the pass `dequantize` and a new --precision int8 do"),
    (r"scale coefficients must all be positive", "a scale is 0 or negative: quantise again with samples that reach this node"),
    (r"failed to import initializer", "TensorRT has no such type: int8, int4, float8 E4M3 and float4 E2M1 are what it quantises to"),
    (r"fp32 gemm is not supported", "Turing (sm75) has no float32 products: --precision fp16, or leave sm75 out"),
    (r"hw-specific datatypes: [^.]*fp8", "fp8 needs sm89 or newer: leave the older ones out, or --precision int8"),
    (r"hw-specific datatypes: [^.]*fp4", "fp4 needs sm120 or newer: leave the older ones out, or --precision int8"),
    (r"dynamic dimensions", "--option min-shapes=x:1x3x224x224 opt-shapes=... max-shapes=..., or fix them with --input-shape"),
    (r"does not know SM\d+", "plans are built for the GPUs it serves; for a Jetson take its own target, such as jetson-orin-nano"),
    (r"empty tensor", "the shapes are too small for the model: give those it is used with, by --input-shape or opt-shapes"),
    (r"cudaerror", "`current` needs a GPU; name the capability: --option capabilities=sm89"),
)  # fmt: skip
_DEFAULT = "`edgec check MODEL --target {target}` tells of every node; rewrite this one, or cut the model before it"


def plain(message: str) -> str:
    """TensorRT's message without the places in its source; never empty."""
    text = message
    for pattern, instead in _NOISE:
        text = re.sub(pattern, instead, text)
    text = text.strip().rstrip(".")
    return text or message.strip()


def hint(message: str, target: str = "tensorrt-rtx") -> str:
    """What to do about it."""
    for pattern, advice in _HINTS:
        if re.search(pattern, message, re.IGNORECASE):
            return advice
    return _DEFAULT.format(target=target)


def tell(
    verdict: Verdict,
    graph: Graph,
    diagnostics: Diagnostics,
    *,
    target: str,
    severity: Severity = Severity.ERROR,
) -> None:
    """Add a verdict on the file of `graph` to `diagnostics`.

    EC0685 for what the parser refuses and EC0686 for what does not build, both with `severity`; EC0684, a note, where it
    cannot say; EC0683, a warning, for what it computes otherwise than ONNX says.
    """
    by = verdict.by
    for r in verdict.refusals:
        location = _location(graph, r)
        if r.needs_plugin:
            what = f"{by} has no plugin library and cannot say whether TensorRT takes {r.op or 'the file'}"
            advice = "TensorRT on the board comes with its plugins: building there shows it"
            diagnostics.note("EC0684", what, location, advice)
        else:
            who = f"{r.op} " if r.op else ""
            diagnostics.add(
                "EC0685", severity, f"TensorRT's ONNX parser refuses {who}({by}): {plain(r.message)}", location,
                hint(r.message, target),
            )  # fmt: skip
    for reason, capabilities in _reasons(verdict).items():
        what = f"{by} builds no plan for {', '.join(capabilities)}: {plain(reason)}"
        diagnostics.add("EC0686", severity, what, _named_in(graph, reason), hint(reason, target))
    for text in verdict.warnings:
        if re.search("defaulting to int8", text, re.IGNORECASE):
            what = f"{by} computes unsigned zero points as int8: values above 127 are clipped"
            advice = "give every zero point as int8 0; `edgec explain EC0683`"
            diagnostics.warn("EC0683", what, Location(graph.source), advice)


def _reasons(verdict: Verdict) -> dict[str, list[str]]:
    """Why nothing was built, and for which capabilities, where the parser took the file."""
    out: dict[str, list[str]] = {}
    for capability, reason in verdict.built.items():
        if verdict.parsed and isinstance(reason, str):
            out.setdefault(reason, []).append(capability)
    return out


def _location(graph: Graph, refusal: Refusal) -> Location:
    """The node of the user's model that a refused node was made from."""
    nodes = list(graph.nodes())
    node = next((n for n in nodes if refusal.node and n.name == refusal.node), None)
    if node is None and 0 <= refusal.index < len(nodes) and refusal.op in ("", nodes[refusal.index].op_type):
        node = nodes[refusal.index]
    if node is None:
        return _named_in(graph, refusal.message)
    return Location(graph.source, node=_source(node))


def _named_in(graph: Graph, message: str) -> Location:
    """The node a message names, or whose weight it names."""
    words = {*re.findall(r"'([^']+)'", message), *re.findall(r"initializer: (\S+)$", message), *_shapes_of(message)}
    for node in graph.nodes():
        if node.name in words or any(v is not None and v.name in words and v.producer() is None for v in node.inputs):
            return Location(graph.source, node=_source(node))
    return Location(graph.source)


def _shapes_of(message: str) -> list[str]:
    """The inputs a message about shapes names."""
    found = re.search(r"dynamic dimensions need .*shapes: (.*)", message)
    return found[1].split(", ") if found else []


def _source(node: ir.Node) -> str | None:
    from edgec.rewrite import provenance

    return provenance([node]).split("\n")[0] or node.name
