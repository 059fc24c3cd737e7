"""One way to make the `.rknn` file of a model: which graph the SDK gets, who quantises it, what came out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from edgec.diagnostics import Diagnostics, Location, error
from edgec.graph import Graph, ir, static_shape
from edgec.targets.rknn.layer_table import LayerTable, parse_layer_table
from edgec.targets.rknn.retry import Build

if TYPE_CHECKING:
    from edgec.samples import Samples
    from edgec.specs.schema import TargetSpec
    from edgec.target import Arrays, EmitJob
    from edgec.targets.rknn.options import RknnOptions
    from edgec.toolchain import Answer, Toolchain, Worker

By = Literal["edgec", "sdk", "model"] | None
"""Who quantises: edgec with Q/DQ nodes in the graph, the SDK from calibration data, the model came with Q/DQ, or nobody."""


@dataclass(frozen=True)
class Built:
    """What came out of one variant."""

    variant: Variant
    answer: Answer
    table: LayerTable
    simulated: list[Arrays]

    @property
    def layers(self) -> list[tuple[str, str]]:
        """(NPU or CPU, element type) of each layer that computes."""
        return [(r.target, r.dtype) for r in self.table.rows if r.op not in ADDED]

    @property
    def on_cpu(self) -> int:
        return sum(target != "NPU" for target, _ in self.layers)

    @property
    def in_float(self) -> int:
        return sum(dtype.startswith("FLOAT") for _, dtype in self.layers)


ADDED = frozenset({"InputOperator", "OutputOperator"})


@dataclass
class Variant:
    """A graph prepared for the SDK in a folder of its own. `build` carries it out."""

    by: By
    model: Graph
    names: dict[str, str]
    """Node name in the file -> the name placement knows the node by."""
    build: Build
    diagnostics: Diagnostics = field(default_factory=Diagnostics)

    @classmethod
    def prepare(
        cls,
        by: By,
        graph: Graph,
        spec: TargetSpec,
        job: EmitJob,
        options: RknnOptions,
        toolchain: Toolchain,
        folder: Path,
        worker: Worker | None,
        log: str,
    ) -> Variant:
        """Write model and samples. `worker` must have been started in `folder`, with that log."""
        folder.mkdir(exist_ok=True)  # `warm_up` may have made it
        diagnostics = Diagnostics()
        model = graph.clone()
        build_in_defaults(model, diagnostics)
        require_computed_outputs(model, spec.name)
        part_outputs(model, diagnostics)
        inputs = [v.name or "" for v in model.inputs if v.uses()]  # the SDK's loader drops the others
        names = plain_node_names(model)
        model.save(folder / "model.onnx")
        config = options.config(by == "sdk")
        if has_pairs(model):
            config["disable_rules"] = [*_HARMFUL_TO_PAIRS, *(_ENDLESS if any(map(_low_rank, model.inputs)) else ())]
        request: dict[str, Any] = {
            "model": "model.onnx",
            "target_platform": spec.platform,
            "precision": "int8" if by == "sdk" else "fp16",
            "samples": write_samples(job.verification, inputs, folder, "samples"),
            "output_names": [v.name for v in graph.outputs],
            "config": config,
        }
        if by == "sdk":
            request["calibration"] = write_samples(job.calibration, inputs, folder, "calibration", finite=True)
        path = job.logs / f"{log}.log"
        label = "" if worker is not None or by != "edgec" else "with edgec's Q/DQ: "
        build = Build(
            toolchain,
            request,
            folder,
            path,
            options.timeout,
            lambda text: job.progress(label + text),
            worker,
            diagnostics,
        )
        return cls(by, model, names, build, diagnostics)

    def run(self) -> Built:
        """Build and simulate. Raises WorkerError."""
        answer = self.build.run()
        self.diagnostics.items.extend(answer.diagnostics)
        simulated = [_load(row, answer, self.model, self.diagnostics) for row in answer.values["outputs"]]
        return Built(self, answer, parse_layer_table(answer.log_text()), simulated)


_HARMFUL_TO_PAIRS = ("fuse_concat_conv",)
"""Rules that make tensors without a scale from a quantised graph: this one turns Concat and Conv into two convolutions
and an addition, all of them float16 (measured, 2.5.0)."""

_ENDLESS = ("swap_reshape_transpose_v2",)
"""With Q/DQ behind an input of rank 2 or 3 it and two others undo each other's work for ever (measured, 2.5.0)."""


def _output_name(node: ir.Node) -> str | None:
    """The name of a node's first output, or of the model's output that Q/DQ nodes make of it."""
    value = node.outputs[0] if node.outputs else None
    name = value.name if value is not None else None
    if node.op_type in PAIR:
        return name
    while value is not None and not value.is_graph_output():
        users = [u for u, _ in value.uses() if u.op_type in PAIR]
        value = users[0].outputs[0] if len(users) == 1 else None
    return value.name if value is not None else name


PAIR = frozenset({"QuantizeLinear", "DequantizeLinear"})


def has_pairs(graph: Graph) -> bool:
    """The graph is quantised: it has Q/DQ nodes."""
    return any(n.op_type == "DequantizeLinear" for n in graph.model.graph)


def _low_rank(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.rank() in (2, 3)


def plain_node_names(graph: Graph) -> dict[str, str]:
    """Name nodes so that the SDK's tables can be read back: no blanks, unique. Returns new name -> the
    name placement knows the node by: a node without a name goes by its first output's. Q/DQ nodes are no layers.
    """
    original: dict[str, str] = {}
    for i, node in enumerate(graph.nodes()):
        known_as = node.name or _output_name(node) or f"{node.op_type}_{i}"
        name = "_".join(known_as.split())
        name = name if name not in original else f"{name}.{i}"
        node.name = name
        if node.op_type not in PAIR:
            original[name] = known_as
    return original


def write_samples(
    samples: Samples | None, names: list[str], folder: Path, kind: str, *, finite: bool = False
) -> list[list[str]]:
    """One .npy an input and sample, streamed; the file names in input order, as the worker wants them.

    `finite`: raise EC0470 for a sample with NaN or infinity, of which the SDK would make ranges without a word.
    """
    rows: list[list[str]] = []
    for i, sample in enumerate(samples or ()):
        (folder / kind).mkdir(exist_ok=True)
        row = [f"{kind}/{i}_{j}.npy" for j in range(len(names))]
        missing = [name for name in names if name not in sample]
        if missing:
            what = f"sample {i} of {samples.describe if samples else kind} has no value for input {', '.join(missing)}"
            raise error("EC0704", what, hint=f"it has {', '.join(sample) or 'nothing'}")
        for file, name in zip(row, names, strict=True):
            if finite and sample[name].dtype.kind == "f" and not np.isfinite(sample[name]).all():
                what = f"calibration sample {i} has NaN or infinite values in input {name!r}"
                where = Location(samples.describe if samples is not None else None)
                raise error(
                    "EC0470", what, where, hint="ranges cannot be chosen from it: leave the sample out or repair it"
                )
            np.save(folder / file, sample[name])
        rows.append(row)
    return rows


def build_in_defaults(graph: Graph, notes: Diagnostics) -> None:
    """Inputs with a default value become weights: a program for an NPU has no optional inputs."""
    inputs = graph.model.graph.inputs
    for v in [v for v in inputs if v.const_value is not None]:
        inputs.remove(v)
        what = f"input {v.name!r} has a default value in the model; it is built in and no input of the artifact"
        notes.note("EC0466", what)


def require_computed_outputs(graph: Graph, target: str) -> None:
    """EC0465 where an output is an input itself: the SDK leaves both out of the artifact."""
    for v in graph.outputs:
        if v.is_graph_input():
            what = f"output {v.name!r} of the model is one of its inputs; {target} has no program for it"
            raise error("EC0465", what, hint="remove the output: the caller has the tensor already")


def part_outputs(graph: Graph, notes: Diagnostics) -> None:
    """Outputs that are one tensor become two: what makes it is computed once more.

    Measured (2.5.0): the SDK removes whatever merely copies (Identity, Reshape to the same shape, x * 1, Clip to all of
    float16), and then an artifact lacks the second output, or the int8 build fails with a KeyError.
    """
    g = graph.model.graph
    seen: dict[ir.Value, str] = {}
    for i, out in enumerate(g.outputs):
        source = _copied(out)
        node = source.producer()
        if source not in seen or node is None:
            seen[source] = out.name or ""
            continue
        what = f"outputs {seen[source]!r} and {out.name!r} of the model are the same tensor"
        notes.note("EC0472", what, hint=f"the SDK cannot return one tensor twice: its {node.op_type} is computed twice")
        twin = ir.node(
            node.op_type, list(node.inputs), node.attributes, domain=node.domain, num_outputs=len(node.outputs)
        )
        for old, new in zip(node.outputs, twin.outputs, strict=True):
            new.name, new.type, new.shape = graph.fresh(f"{old.name}.again"), old.type, old.shape
        g.insert_after(node, twin)
        g.outputs[i] = twin.outputs[node.outputs.index(source)]
    graph.remove_dead()


def _copied(value: ir.Value) -> ir.Value:
    """The tensor that `value` is a copy of."""
    while (node := value.producer()) is not None and node.inputs and node.inputs[0] is not None:
        source = node.inputs[0]
        same = node.op_type == "Identity" or (
            node.op_type == "Reshape"
            and static_shape(source) is not None
            and static_shape(source) == static_shape(value)
        )
        if node.domain or not same or source.is_graph_input():
            break
        value = source
    return value


def _load(row: Iterable[Mapping[str, Any]], answer: Answer, model: Graph, notes: Diagnostics) -> Arrays:
    """The simulator's outputs of one sample. Scalars come back as [1]: they get the model's shape again."""
    out: Arrays = {}
    for given, shape in zip(row, map(static_shape, model.outputs), strict=True):
        name, array = given["name"], np.load(answer.path(given["file"]), allow_pickle=False)
        if shape is not None and array.shape != shape and _bare(array.shape) == _bare(shape):
            what = f"output {name!r} has shape {list(array.shape)} in the artifact, {list(shape)} in the model"
            notes.note("EC0467", what, hint="axes of size 1 differ; it was compared in the model's shape")
            array = array.reshape(shape)
        out[name] = array
    return out


def _bare(shape: Iterable[int]) -> tuple[int, ...]:
    return tuple(d for d in shape if d != 1)
