"""One graph through the SDK's worker: the `.rknn` file, what the simulator computed, and who runs what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgec.actual_placement import ActualNode, ActualPlacement
from edgec.diagnostics import Location, error
from edgec.graph import Graph, static_shape
from edgec.target import Artifact, EmitJob
from edgec.targets.rknn.flatbuffer import COMPACT_FORMAT, format_version, read_rknn
from edgec.targets.rknn.layer_table import LayerTable, parse_layer_table
from edgec.targets.rknn.options import RknnOptions
from edgec.targets.rknn.retry import build_with_retries

if TYPE_CHECKING:
    from edgec.samples import Samples
    from edgec.specs.schema import TargetSpec
    from edgec.target import Arrays
    from edgec.toolchain import Answer, Toolchain

_THREADS = "the SDK writes uninitialised memory into int8 files: two builds are the same in most cases, not in all"
_ASLR = "address randomisation could not be switched off here, and the SDK writes uninitialised memory into the file"
_ADDED = frozenset({"InputOperator", "OutputOperator"})


def emit(graph: Graph, spec: TargetSpec, job: EmitJob, folder: Path) -> Artifact:
    """Build the `.rknn` file in `folder` and read back what the SDK decided."""
    options = RknnOptions.parse(job.options)
    int8 = job.precision == "int8"
    if int8 and job.calibration is None:
        raise error(
            "EC0460",
            f"{spec.name} at int8 needs calibration data: the SDK quantises by what flows through the model",
            hint="--calib FOLDER_OF_IMAGES | data.npz | module:function, with --mean and --std as in training",
        )
    folder.mkdir(exist_ok=True)  # `warm_up` may have made it
    model = graph.clone()
    build_in_defaults(model, job)
    require_computed_outputs(model, spec.name)
    names = [v.name or "" for v in model.inputs if v.uses()]  # the SDK's loader drops the others
    original = plain_node_names(model)
    model.save(folder / "model.onnx")
    request: dict[str, Any] = {
        "model": "model.onnx",
        "target_platform": spec.platform,
        "precision": job.precision,
        "samples": _write(job.verification, names, folder, "samples"),
        "output_names": [v.name for v in graph.outputs],
        "config": options.config(int8),
    }
    if int8:
        request["calibration"] = _write(job.calibration, names, folder, "calibration")
    toolchain = job.toolchains.ensure("rknn")
    for d in toolchain.diagnostics:
        job.diagnostics.items.append(d)
    answer = build_with_retries(toolchain, request, folder, options.timeout, job)
    job.diagnostics.items.extend(answer.diagnostics)
    return _artifact(answer, spec, toolchain, job, original, model)


def _artifact(
    answer: Answer, spec: TargetSpec, toolchain: Toolchain, job: EmitJob, original: Mapping[str, str], model: Graph
) -> Artifact:
    path = answer.path(answer.values["artifact"])
    table = parse_layer_table(answer.log_text())
    _warn(table, job)
    unsteady = _ASLR if not answer.fixed_addresses else _THREADS if job.precision == "int8" else None
    versions = answer.values["versions"]
    return Artifact(
        files={"model.rknn": path},
        entry="model.rknn",
        simulated=[_load(row, answer, model, job) for row in answer.values["outputs"]],
        actual=_actual(path, table, original),
        facts={
            "runner": f"RKNN simulator of rknn-toolkit2 {versions['toolkit']}",
            "versions": {**toolchain.versions, "rknn compiler": versions["compiler"]},
            "weight memory KB": table.weight_kb,
            "internal memory KB": table.internal_kb,
            "convolution cycles": sum(r.total_cycles for r in table.rows),
            "layers": len(table.rows),
            "seconds": {s.name: s.seconds for s in answer.steps},
            "SDK peak memory MB": answer.peak_memory >> 20,
            **({"not_reproducible": unsteady} if unsteady else {}),
        },
        not_verified=(
            f"{spec.name} itself: no board was used; the simulator computes with ONNX Runtime and does not prove "
            "that a CPU op exists on the device",
        ),
        reproducible=unsteady is None,
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


def plain_node_names(graph: Graph) -> dict[str, str]:
    """Name nodes so that the SDK's tables can be read back: no blanks, unique. Returns new name -> the
    name placement knows the node by: a node without a name goes by its first output's.
    """
    original: dict[str, str] = {}
    for i, node in enumerate(graph.nodes()):
        known_as = node.name or (node.outputs[0].name if node.outputs else None) or f"{node.op_type}_{i}"
        name = "_".join(known_as.split())
        name = name if name not in original else f"{name}.{i}"
        original[name] = known_as
        node.name = name
    return original


def _write(samples: Samples | None, names: list[str], folder: Path, kind: str) -> list[list[str]]:
    """One .npy an input and sample, streamed; the file names in input order, as the worker wants them."""
    rows: list[list[str]] = []
    for i, sample in enumerate(samples or ()):
        (folder / kind).mkdir(exist_ok=True)
        row = [f"{kind}/{i}_{j}.npy" for j in range(len(names))]
        missing = [name for name in names if name not in sample]
        if missing:
            what = f"sample {i} of {samples.describe if samples else kind} has no value for input {', '.join(missing)}"
            raise error("EC0704", what, hint=f"it has {', '.join(sample) or 'nothing'}")
        for file, name in zip(row, names, strict=True):
            np.save(folder / file, sample[name])
        rows.append(row)
    return rows


def build_in_defaults(graph: Graph, job: EmitJob) -> None:
    """Inputs with a default value become weights: a program for an NPU has no optional inputs."""
    inputs = graph.model.graph.inputs
    for v in [v for v in inputs if v.const_value is not None]:
        inputs.remove(v)
        what = f"input {v.name!r} has a default value in the model; it is built in and no input of the artifact"
        job.diagnostics.note("EC0466", what)


def require_computed_outputs(graph: Graph, target: str) -> None:
    """EC0465 where an output is an input itself: the SDK leaves both out of the artifact."""
    for v in graph.outputs:
        if v.is_graph_input():
            what = f"output {v.name!r} of the model is one of its inputs; {target} has no program for it"
            raise error("EC0465", what, hint="remove the output: the caller has the tensor already")


def _load(row: Iterable[Mapping[str, Any]], answer: Answer, model: Graph, job: EmitJob) -> Arrays:
    """The simulator's outputs of one sample. Scalars come back as [1]: they get the model's shape again."""
    wanted = {v.name: static_shape(v) for v in model.outputs}
    out: Arrays = {}
    for given in row:
        name, array = given["name"], np.load(answer.path(given["file"]), allow_pickle=False)
        shape = wanted.get(name)
        if shape is not None and array.shape != shape and _bare(array.shape) == _bare(shape):
            what = f"output {name!r} has shape {list(array.shape)} in the artifact, {list(shape)} in the model"
            job.diagnostics.note("EC0467", what, hint="axes of size 1 differ; it was compared in the model's shape")
            array = array.reshape(shape)
        out[name] = array
    return out


def _bare(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)


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
        node = None if kind in _ADDED else source_node(name, original)
        where: Literal["accelerator", "fallback"] = "accelerator" if device == "NPU" else "fallback"
        layers.append(ActualNode(name, kind, where, () if node is None else (node,)))
    return ActualPlacement(tuple(layers), source)


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
