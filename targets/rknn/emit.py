"""A graph to the `.rknn` file: what the simulator computed, who runs what, and by whom an int8 file is quantised."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.coverage import PRODUCTS, Kernel
from edgec.diagnostics import EdgecError, Location, error
from edgec.graph import Graph
from edgec.target import Artifact, EmitJob, Estimate
from edgec.target_options import parse_options
from edgec.targets.rknn.choice import better, fidelity, figures, summary
from edgec.targets.rknn.flatbuffer import COMPACT_FORMAT, format_version, read_rknn
from edgec.targets.rknn.layer_table import LayerTable
from edgec.targets.rknn.options import RknnOptions
from edgec.targets.rknn.variant import ADDED, Built, By, Variant, has_pairs

if TYPE_CHECKING:
    from edgec.specs.schema import TargetSpec
    from edgec.toolchain import Toolchain

_THREADS = "the SDK writes uninitialised memory into int8 files: two builds are the same in most cases, not in all"
_ASLR = "address randomisation could not be switched off here, and the SDK writes uninitialised memory into the file"

PATIENCE, LEAST_PATIENCE = 5.0, 60.0
"""Seconds edgec's quantisation may take beyond the SDK's own: a multiple of that, and so many at least."""


def emit(graph: Graph, spec: TargetSpec, job: EmitJob, folder: Path) -> Artifact:
    """Build the `.rknn` file in `folder` and read back what the SDK decided."""
    options = parse_options(RknnOptions, job.options)
    toolchain = job.toolchains.ensure("rknn")
    for d in toolchain.diagnostics:
        job.diagnostics.items.append(d)
    variants: list[Variant] = []
    for by, source in graphs(graph, job, options):
        place, log = (folder, "rknn") if not variants else (folder.with_name(f"{folder.name}-{by}"), f"rknn-{by}")
        worker = job.worker if not variants else None
        variants.append(Variant.prepare(by, source, spec, job, options, toolchain, place, worker, log))
    if len(variants) == 1:
        built, told = variants[0].run(), {"quantizer": variants[0].by} if variants[0].by is not None else {}
    else:
        built, told = build_both(variants, job, integers_only="fp16" not in spec.precisions)
    job.diagnostics.items.extend(built.variant.diagnostics)
    return _artifact(built, spec, toolchain, job, told)


def graphs(graph: Graph, job: EmitJob, options: RknnOptions) -> list[tuple[By, Graph]]:
    """What the SDK gets, and who quantises it. The one to fall back on comes first."""
    if job.quantization is None and has_pairs(graph):
        return [("model", graph)]
    if job.precision != "int8":
        return [(None, graph)]
    before = job.quantization.reference if job.quantization is not None else graph
    ways: dict[By, Graph] = {}
    if options.quantizer == "edgec" and job.quantization is None:
        what = "edgec quantised nothing of this model: the SDK does it"
        job.diagnostics.warn(
            "EC0473", what, hint="--effort low leaves it to the SDK, and so does a model without weights"
        )
    if options.quantizer != "edgec" or job.quantization is None:
        ways["sdk"] = before
    if options.quantizer != "sdk" and job.quantization is not None:
        ways["edgec"] = graph
    if "sdk" in ways and job.calibration is None:
        raise error(
            "EC0460",
            "int8 needs calibration data: the SDK quantises by what flows through the model",
            hint="--calib FOLDER_OF_IMAGES | data.npz | module:function, with --mean and --std as in training",
        )
    return list(ways.items())


def build_both(variants: Sequence[Variant], job: EmitJob, *, integers_only: bool) -> tuple[Built, dict[str, Any]]:
    """The SDK's own quantisation and edgec's at the same time; the better one, and what the report says of both.

    edgec's is given up (EC0468) where the SDK refuses it, crashes on it, or takes much longer than for its own.
    """
    sdk, own = variants
    start = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(own.run)
        try:
            mine, failure = _run(sdk)
            patience = own.build.timeout
            if mine is not None:
                patience = min(patience, PATIENCE * (time.monotonic() - start) + LEAST_PATIENCE)
            theirs, refusal = _wait(future, own, patience)
        except BaseException:
            own.build.stop()
            raise
    if mine is None or theirs is None:
        return _the_one_left(mine, theirs, failure, refusal, job)
    return _choose(theirs, mine, job, integers_only=integers_only)


def _run(variant: Variant) -> tuple[Built | None, EdgecError | None]:
    try:
        return variant.run(), None
    except EdgecError as e:
        return None, e


def _wait(future: Future[Built], variant: Variant, seconds: float) -> tuple[Built | None, EdgecError | None]:
    try:
        return future.result(seconds), None
    except TimeoutError:
        variant.build.stop()
        what = f"it was not done {seconds:.0f} s after the SDK's own: the SDK is known to loop on some Q/DQ graphs"
        return None, error("EC0468", what)
    except EdgecError as e:
        return None, e


def _the_one_left(
    mine: Built | None, theirs: Built | None, failure: EdgecError | None, refusal: EdgecError | None, job: EmitJob
) -> tuple[Built, dict[str, Any]]:
    if mine is not None and refusal is not None:
        why = refusal.diagnostics[0].message
        what = f"the SDK could not build edgec's own quantisation, so the file is quantised by the SDK: {why}"
        job.diagnostics.warn("EC0468", what, hint="--option quantizer=sdk does not try")
        return mine, {"quantizer": "sdk", "edgec's quantisation": f"not built: {why}"}
    if theirs is not None and failure is not None:
        why = failure.diagnostics[0].message
        what = f"the SDK could not quantise the model, so the file has edgec's own quantisation: {why}"
        job.diagnostics.warn("EC0469", what, hint="--option quantizer=edgec does not try")
        return theirs, {"quantizer": "edgec", "the SDK's quantisation": f"not built: {why}"}
    assert failure is not None  # both failed: what the SDK said of the graph without Q/DQ is the simpler story
    assert refusal is not None
    failure.add_note(f"with edgec's own quantisation it failed too: {refusal.diagnostics[0].message}")
    raise failure


def _choose(own: Built, sdk: Built, job: EmitJob, *, integers_only: bool) -> tuple[Built, dict[str, Any]]:
    """By the simulator's outputs for the verification samples, against the float graph."""
    from edgec.runtime import Session

    assert job.quantization is not None  # else there was nothing to choose from
    samples = job.verification or ()
    session = Session(job.quantization.reference)
    quality = {id(b): fidelity(session.run_all(samples), b.simulated) for b in (own, sdk)}
    best = better((own, quality[id(own)]), (sdk, quality[id(sdk)]), integers_only=integers_only)
    other = sdk if best is own else own
    by = {"edgec": "edgec's own quantisation", "sdk": "the SDK's quantisation"}
    what = f"{by[str(best.variant.by)]} was kept: {summary(best, quality[id(best)])}"
    against = f"{by[str(other.variant.by)]}: {summary(other, quality[id(other)])}"
    if integers_only and other.in_float and not best.in_float:
        against += "; it has layers in float, which this NPU cannot compute"
    job.diagnostics.note("EC0471", what, hint=against)
    told = {str(b.variant.by): figures(b, quality[id(b)]) for b in (own, sdk)}
    return best, {"quantizer": best.variant.by, "compared with": against, "quantizers": told}


def _artifact(built: Built, spec: TargetSpec, toolchain: Toolchain, job: EmitJob, told: Mapping[str, Any]) -> Artifact:
    answer, table = built.answer, built.table
    path = answer.path(answer.values["artifact"])
    _warn(table, job)
    unsteady = _ASLR if not answer.fixed_addresses else _THREADS if job.precision == "int8" else None
    versions = answer.values["versions"]
    cycles = sum(r.total_cycles for r in table.rows)
    return Artifact(
        files={"model.rknn": path},
        entry="model.rknn",
        simulated=built.simulated,
        actual=_actual(path, table, built.variant.names),
        kernels=kernels(table, built.variant) if job.precision == "int8" or built.variant.by == "model" else None,
        kernels_by="RKNN-Toolkit2's layer table",
        facts={
            "runner": f"RKNN simulator of rknn-toolkit2 {versions['toolkit']}",
            "versions": {**toolchain.versions, "rknn compiler": versions["compiler"]},
            "weight memory KB": table.weight_kb,
            "internal memory KB": table.internal_kb,
            "convolution cycles": cycles,
            "layers": len(table.rows),
            **told,
            "seconds": {s.name: s.seconds for s in answer.steps},
            "SDK peak memory MB": answer.peak_memory >> 20,
            **({"not_reproducible": unsteady} if unsteady else {}),
        },
        not_verified=(
            f"{spec.name} itself: no board was used; the simulator computes with ONNX Runtime and does not prove "
            "that a CPU op exists on the device",
        ),
        reproducible=unsteady is None,
        estimate=Estimate(cycles, "convolution cycles", f"RKNN-Toolkit2 {versions['toolkit']}") if cycles else None,
    )


def _warn(table: LayerTable, job: EmitJob) -> None:
    for name, op in table.custom_ops:
        job.diagnostics.warn(
            "EC0461",
            f"the SDK does not know {op}: on the device it is a custom op your program must register",
            Location(node=name),
            hint="rknn_register_custom_ops; or cut the model before this node",
        )
    for line in table.unparsed:
        job.diagnostics.note("EC0462", f"a row of the SDK's layer table could not be read: {line[:120]}")


def _actual(path: Path, table: LayerTable, original: Mapping[str, str]) -> ActualPlacement:
    """Who runs what: by the artifact itself, or by the compiler's table where the artifact is a program without names."""
    if format_version(path) == COMPACT_FORMAT:
        rows = [(r.full_name or r.op, r.op, r.target) for r in table.rows]
        source = "the SDK's layer table"
    else:
        rows = [(op.name, op.type, op.target) for op in read_rknn(path).operators]
        source = "the .rknn file"
    layers = []
    for name, kind, device in rows:
        node = None if kind in ADDED else source_node(name, original)
        where: Literal["accelerator", "fallback"] = "accelerator" if device == "NPU" else "fallback"
        layers.append(ActualNode(name, kind, where, () if node is None else (node,)))
    return ActualPlacement(tuple(layers), source)


_PRODUCT = re.compile(r"(?:ex)?(?:Conv(?!ert)|MatMul|Gemm|[A-Za-z]*(?:LSTM|GRU|Attention|SDPA))", re.IGNORECASE)


def kernels(table: LayerTable, variant: Variant) -> list[Kernel]:
    """The layers that are convolutions or products of the model, and not a pooling that the compiler computes as one."""
    known_as = {variant.names[n.name]: n for n in variant.model.nodes() if n.name in variant.names}
    found = []
    for row in table.rows:
        if _PRODUCT.match(row.op):
            name = source_node(row.full_name, variant.names)
            if name is None or known_as[name].op_type in PRODUCTS:
                found.append(Kernel(row.op, "INT" in row.dtype, name))
    return found


def source_node(layer: str, original: Mapping[str, str]) -> str | None:
    """The model's node a layer was made from: layers are called "OnnxType:node", with suffixes where the compiler fused
    or split ("_ConvAddRelu", "_2conv", "#2", "-rs"). The longest node name that fits, or None for layers of its own.
    """
    name = layer.partition(":")[2]
    while name:
        if name in original:
            return original[name]
        name = name[: max(name.rfind("_"), name.rfind("#"), name.rfind("-"), 0)]
    return None
