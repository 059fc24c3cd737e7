"""An artifact, run on this host, against the ONNX model it stands for."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.compare import Comparison, compare
from edgec.diagnostics import Location, error
from edgec.graph import Graph, static_shape
from edgec.lowering import freeze
from edgec.plugins import Registry
from edgec.runtime import Session
from edgec.samples import Preprocess, generated_samples, open_samples

if TYPE_CHECKING:
    from edgec.artifact_format import ArtifactFormat, ArtifactRun
    from edgec.diagnostics import Diagnostics
    from edgec.samples import Samples
    from edgec.toolchain import ToolchainManager


@dataclass(frozen=True)
class ArtifactComparison:
    """`outputs`, and `values` inside, in the order they are computed, where they were asked for."""

    outputs: Comparison
    values: Comparison | None
    ran_by: str
    source: str
    generated: bool

    def to_json(self) -> dict[str, Any]:
        inside = {} if self.values is None else {"values": self.values.to_json()["outputs"]}
        return {
            **self.outputs.to_json(),
            "source": self.source,
            "generated": self.generated,
            "runner": self.ran_by,
            **inside,
        }


def compare_artifact(
    reader: ArtifactFormat,
    reference: Path,
    path: Path,
    samples: str | None,
    preprocess: Preprocess | None,
    toolchains: ToolchainManager,
    diagnostics: Diagnostics,
    *,
    layers: bool = False,
) -> ArtifactComparison:
    """Run both on the same samples (4 generated ones where none are given).

    Raises:
        EdgecError: EC0835 the artifact cannot run here; EC0836 no value inside has a name of the model.
    """
    graph = Graph.load(reference, diagnostics=diagnostics)
    if not path.exists():
        raise error("EC0001", "there is no such file", Location(str(path)))
    with tempfile.TemporaryDirectory(prefix="edgec-") as folder:
        run = reader.open(path, graph, toolchains, Path(folder))
        if run is None:
            hint = "`edgec inspect` shows what is in it; report.json of its compilation has a comparison"
            raise error("EC0835", f"nothing on this host runs {path.suffix} files", Location(str(path)), hint)
        _fix(graph, run.input_shapes)
        if samples is not None:
            data = open_samples(samples, graph, preprocess=preprocess, diagnostics=diagnostics)
        else:
            data = generated_samples(graph, 4, diagnostics=diagnostics)
        outputs = compare(Session(graph).run_all(data), run.run(data))
        values = None
        if layers:
            values = _values(graph, run, data, path)
    return ArtifactComparison(outputs, values, run.describe, data.describe, data.generated)


def _fix(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The model's inputs as the artifact has them."""
    open_ = [v.name for v in graph.inputs if static_shape(v) is None and v.name in shapes]
    registry = Registry()
    if open_:
        freeze(graph, [f"{n}={'x'.join(map(str, shapes[n]))}" for n in open_ if n is not None], registry)


def _values(graph: Graph, run: ArtifactRun, samples: Samples, path: Path) -> Comparison:
    """Values that the artifact has by the model's names; their shapes are those of the first sample."""
    made = [v.name for n in graph.model.graph for v in n.outputs if v.name in run.names and v.name]
    session = Session(graph, all_values=made)
    floats = {n: a.shape for n, a in session.run(next(iter(samples))).items() if n in made and a.dtype.kind == "f"}
    mine, seen = tee(run.values(samples, floats))
    names = list(next(mine, {}))
    del mine
    if not names:
        hint = "edgec keeps the names of values; other converters invent their own"
        raise error(
            "EC0836", "no value inside the artifact has a name and shape of the model", Location(str(path)), hint
        )
    return compare(({n: out[n] for n in names} for out in session.run_all(samples)), seen)
