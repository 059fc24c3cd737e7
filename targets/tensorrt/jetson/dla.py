"""The DLA of Jetson Orin and Xavier: what a bundle holds for it, and who runs what.

Up to TensorRT 10.7 the DLA quantises implicitly: a float ONNX file without Q/DQ (`model.dla.onnx`) and a calibration cache
(`calib.cache`) made of the Q/DQ graph's scales. From TensorRT 11.4 on it takes strongly typed networks: the bundle's
`model.onnx` itself, in float16; how int8 is said there is documented nowhere, so it is refused. What the DLA does not take
runs on the GPU, by the op tables tensorrt-dla-*: NVIDIA's rules, not tried on a DLA. What runs on this host is the Q/DQ
graph; that the DLA computes the same is not verified.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics, Location, error
from edgec.placement import NodePlacement, Placement, place
from edgec.targets.tensorrt.jetson.script import Dla
from edgec.targets.tensorrt.releases import Release, Span, boards, releases

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.specs.schema import TargetSpec
    from edgec.target import EmitJob
    from edgec.targets.tensorrt.jetson.implicit import Implicit
    from edgec.targets.tensorrt.options import JetsonOptions

MODEL, CACHE, RESIDUE = "model.dla.onnx", "calib.cache", "dla.json"

LAST_CACHE = Span((8, 5), (10, 8))
"""TensorRT 10.7 is the last 10.x with a DLA (TensorRT 11.4.1 documentation, Working with DLA)."""

FIRST_TYPED = Span((11, 4), (12,))
"""Strongly typed networks on the DLA of AGX Orin (same page)."""

LOADABLES = 16
"""DLA loadables a core holds at once (TensorRT developer guide, DLA, General Restrictions)."""

SRAM = "dlaSRAM:1"
"""MiB for each loadable: what an Orin core has; Xavier's 4 MiB are shared by four (same page, memory pools)."""

PRECISIONS = ("fp16", "int8")


@dataclass(frozen=True)
class DlaParts:
    """What the DLA adds to a bundle. `model`: the ONNX file build_engine.sh builds; `files`: those that are added.
    `versions`: the TensorRT versions that take them, None for all of the bundle's form."""

    model: str
    files: Mapping[str, Path | bytes]
    dla: Dla
    versions: Span | None
    facts: Mapping[str, Any]
    not_verified: Sequence[str] = field(default_factory=tuple)


def settle(board: str, release: Release, precision: str) -> str:
    """The variant of `precision` for the DLA.

    Raises:
        EdgecError: EC0695 the board has no DLA, its TensorRT does not drive it, or it does not compute so.
    """
    known = boards()
    if not known[board].dla_cores:
        have = ", ".join(name for name, b in known.items() if b.dla_cores)
        raise error("EC0695", f"{board} has no DLA", hint=f"leave out --dla; boards that have one: {have}")
    if release.dla == "none":
        good = ", ".join(r.jetpack for r in releases(board) if r.dla != "none")
        what = f"TensorRT {release.tensorrt_text} of JetPack {release.jetpack} does not drive the DLA of {board}"
        raise error("EC0695", what, hint=f"--jetpack {good} does" if good else "leave out --dla")
    if precision not in PRECISIONS:
        raise error(
            "EC0695", f"the DLA does not compute in {precision}", hint="--precision fp16 or int8; or without --dla"
        )
    if release.dla == "typed":
        if precision == "int8":
            good = ", ".join(r.jetpack for r in releases(board) if r.dla == "cache")
            what = (
                f"how TensorRT {release.tensorrt_text} takes int8 for the DLA is not known: calibration caches are gone, and "
                "its documentation says of strongly typed DLA networks only that they are float16"
            )
            raise error("EC0695", what, hint=f"--precision fp16, or --jetpack {good}")
        return f"{precision}-dla-strong"
    return f"{precision}-dla"


def dla_placement(graph: Graph, spec: TargetSpec, precision: str) -> Placement:
    """Who runs each node of the graph as the DLA's compiler gets it: up to TensorRT 10, without Q/DQ."""
    from edgec.quantization.pairs import DQ, Q

    if any(n.op_type in (Q, DQ) for n in graph.nodes()):
        from edgec.passes.quantize.dequantize import Dequantize
        from edgec.pipeline import PassContext

        graph = graph.clone()
        Dequantize().run(graph, PassContext())
    return place(graph, spec, precision)


def dla_parts(graph: Graph, job: EmitJob, release: Release, options: JetsonOptions, folder: Path) -> DlaParts:
    """Write what the DLA takes of `graph`, for `release`, into `folder`.

    Raises:
        EdgecError: EC0696 nodes run on the GPU and gpu-fallback=false; EC0699 the Q/DQ fit no calibration cache; EC0698 the
            cache that was written does not say what the graph does.
    """
    from edgec.specs.schema import builtin_target

    spec = builtin_target(release.board.name)
    if release.dla == "typed":
        placed = place(graph, spec, job.precision)
        parts = DlaParts(
            "model.onnx", {}, Dla(options.gpu_fallback, None, SRAM), _both(FIRST_TYPED, release), {}, _UNTRIED
        )
    else:
        from edgec.targets.tensorrt.jetson.implicit import implicit

        found = implicit(graph)
        placed = place(found.graph, spec, job.precision)
        parts = _cached(found, release, options, folder, job.precision.startswith("int8"), placed, job.diagnostics)
    _residue(placed, options, job.diagnostics, graph.source)
    subgraphs = dla_subgraphs(graph if release.dla == "typed" else found.graph, placed)
    if subgraphs > LOADABLES:
        what = f"the DLA's part of the model is in {subgraphs} pieces; a DLA core holds {LOADABLES} at once"
        job.diagnostics.warn("EC0697", what, Location(graph.source), hint="fewer nodes on the GPU between them")
    facts = {"DLA": _summary(placed, subgraphs), **parts.facts}
    report = _json({"rules": _RULES, "subgraphs": subgraphs, **placed.to_json()})
    return DlaParts(
        parts.model, {**parts.files, RESIDUE: report}, parts.dla, parts.versions, facts, (_RULES, *parts.not_verified)
    )


_RULES = "which layers the DLA takes: rule-based, from NVIDIA's documentation; not validated on hardware"
_UNTRIED = ("the DLA: ONNX Runtime ran model.onnx on this host's CPU",)


def _cached(
    found: Implicit,
    release: Release,
    options: JetsonOptions,
    folder: Path,
    quantised: bool,
    placed: Placement,
    notes: Diagnostics,
) -> DlaParts:
    """The file without Q/DQ and, for int8, the cache, read back and compared."""
    from edgec.targets.tensorrt.jetson.calibration_cache import disagreements, read_cache, write_cache

    written = found.graph.save(folder / MODEL)
    files: dict[str, Path | bytes] = {p.name: p for p in written}
    if not quantised:
        return DlaParts(MODEL, files, Dla(options.gpu_fallback, None, SRAM), _both(LAST_CACHE, release), {}, _UNTRIED)
    cache = write_cache(found.scales, release.tensorrt)
    if wrong := disagreements(read_cache(cache), found.scales):
        raise error(
            "EC0698", f"calib.cache does not say what the graph does: {wrong[0]}", hint="this is a bug in edgec"
        )
    files[CACHE] = cache
    arguments: tuple[str, ...] = ()
    if found.half:
        layers = ",".join(f"{name}:fp16" for name in found.half)
        arguments = ("--precisionConstraints=prefer", f"--layerPrecisions={layers}")
    not_verified = [
        "the DLA: ONNX Runtime ran model.onnx, the Q/DQ graph that calib.cache was made of, on this host's CPU",
        "which tensors TensorRT adds of its own and finds no scale for in calib.cache",
    ]
    if found.coarser:
        names = ", ".join(list(found.coarser)[:3])
        what = f"{len(found.coarser)} weights do not use int8 to its end in every channel ({names}): TensorRT rounds them anew"
        notes.warn("EC0698", what, hint="quantize{weights=cut} leaves TensorRT's rounding nothing to change")
        not_verified.append(what)
    facts = {"calib.cache": f"{len(found.scales)} tensors, {len(found.stated)} of them with the scale of a Q/DQ pair"}
    if found.half:
        facts["in fp16"] = f"{len(found.half)} layers"
    return DlaParts(
        MODEL,
        files,
        Dla(options.gpu_fallback, CACHE, SRAM, arguments=arguments),
        _both(LAST_CACHE, release),
        facts,
        not_verified,
    )


def _both(span: Span, release: Release) -> Span:
    """The TensorRT versions of a span that also take files of the release's form."""
    return Span(max(span.first, release.versions.first), min(span.end, release.versions.end))


def _residue(placed: Placement, options: JetsonOptions, notes: Diagnostics, source: str | None) -> None:
    """EC0696 where something runs on the GPU and may not."""
    left = [n for n in placed.nodes if n.where == "fallback"]
    if options.gpu_fallback or not left:
        return
    for op, reason, nodes in _grouped(left):
        what = f"{op} {', '.join(nodes[:5])}{' and others' if len(nodes) > 5 else ''}: {reason}"
        hint = next((f"pass {n.rewrite} rewrites it" for n in left if n.op == op and n.rewrite), None)
        notes.error(
            "EC0696",
            f"with gpu-fallback=false nothing may run on the GPU; {what}",
            Location(source, node=nodes[0]),
            hint,
        )
    notes.raise_if_errors()


def _grouped(nodes: Sequence[NodePlacement]) -> Sequence[tuple[str, str, list[str]]]:
    groups: dict[tuple[str, str], list[str]] = {}
    for n in nodes:
        groups.setdefault((n.op, n.reason or ""), []).append(n.node)
    return [(op, reason, names) for (op, reason), names in groups.items()]


def dla_subgraphs(graph: Graph, placed: Placement) -> int:
    """How many pieces the DLA's nodes are in: TensorRT makes a loadable of each. Connected ones count as one, which is the
    fewest there can be."""
    on_dla = {n.node for n in placed.nodes if n.where == "accelerator"}
    nodes = [n for n in graph.nodes() if (n.name or (n.outputs[0].name if n.outputs else None) or "?") in on_dla]
    inside, pieces = set(nodes), 0
    while inside:
        pieces += 1
        stack = [inside.pop()]
        while stack:
            node = stack.pop()
            around = [v.producer() for v in node.inputs if v is not None]
            around += [use.node for v in node.outputs for use in v.uses()]
            for other in around:
                if other is not None and other in inside:
                    inside.remove(other)
                    stack.append(other)
    return pieces


def _summary(placed: Placement, subgraphs: int) -> str:
    c = placed.counts
    work = f", {placed.mac_share:.1%} of the multiply-adds" if placed.macs else ""
    text = f"{c['accelerator']} nodes on the DLA in {subgraphs} piece{'s' if subgraphs != 1 else ''}{work}; {c['fallback']} on the GPU"
    left = [n for n in placed.nodes if n.where == "fallback"]
    why = "; ".join(f"{len(nodes)} {op}: {reason}" for op, reason, nodes in _grouped(left)[:4])
    return f"{text} ({why})" if why else text


def _json(data: Any) -> bytes:
    import json

    return (json.dumps(data, indent=1, ensure_ascii=False) + "\n").encode()
