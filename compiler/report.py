"""Report: what one compilation did to a model, as data. `report.json` is this, `summary.py` prints it.

Everything in it is plain (numbers, strings, lists, mappings), so a report read back is equal to the one written.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.coverage import Coverage
from edgec.diagnostics import Diagnostic, Location, Severity, error
from edgec.pipeline import PassRecord

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgec.graph import Graph
    from edgec.target import Artifact

SCHEMA_VERSION = 1
"""Of `report.json`. Fields may be added within a version; renaming or removing one raises it."""


@dataclass(frozen=True)
class TensorInfo:
    """A public input or output of the model. A dimension is a number, a symbol, or None where nothing is known."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else "x".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype}[{dims}]"


@dataclass(frozen=True)
class ModelFacts:
    """The source model as loaded, before any pass."""

    path: str
    sha256: str
    name: str
    opset: int
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    parameters: int
    """Elements of all initializers, and of what Constant nodes hold that is a weight: floats that are no scalar."""
    weight_bytes: int
    """Bytes of the same."""
    nodes: int

    @classmethod
    def of(cls, graph: Graph, *, path: str, sha256: str) -> ModelFacts:
        """Facts of `graph`; reads no weight."""
        constants = list(_constant_weights(graph))
        inputs = [v for v in graph.inputs if v.name not in graph.model.graph.initializers]
        return cls(
            path=path,
            sha256=sha256,
            name=graph.model.graph.name or "",
            opset=graph.opset,
            inputs=tuple(_tensor_info(v) for v in inputs),
            outputs=tuple(_tensor_info(v) for v in graph.outputs),
            parameters=parameters(graph) + sum(t.size for t in constants),
            weight_bytes=graph.weight_bytes() + sum(t.nbytes for t in constants),
            nodes=sum(1 for _ in graph.nodes()),
        )


def _tensor_info(v: ir.Value) -> TensorInfo:
    dims = None if v.shape is None else tuple(d if isinstance(d, int) else d.value for d in v.shape)
    return TensorInfo(v.name or "", v.dtype.name.lower() if v.dtype is not None else "?", dims)


def parameters(graph: Graph) -> int:
    """Elements of all initializers."""
    import onnx_ir as ir

    graphs = (g for g in graph.graphs() if isinstance(g, ir.Graph))
    return sum(v.const_value.size for g in graphs for v in g.initializers.values() if v.const_value is not None)


def _constant_weights(graph: Graph) -> Iterator[ir.TensorProtocol]:
    """Float tensors of Constant nodes that are no scalars: some exporters (Paddle) keep all weights there."""
    for node in graph.nodes():
        attribute = node.attributes.get("value") if node.op_type == "Constant" else None
        tensor = attribute.as_tensor() if attribute is not None else None
        if tensor is not None and tensor.dtype.is_floating_point() and len(tensor.shape) > 0:
            yield tensor


@dataclass(frozen=True)
class FileFacts:
    """One file of the artifact."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class ArtifactFacts:
    """The files a target made, and what the vendor's toolchain said about them (memory, cycles, versions)."""

    entry: str
    files: Mapping[str, FileFacts]
    facts: Mapping[str, Any] = field(default_factory=dict)
    reproducible: bool = True

    @classmethod
    def of(cls, artifact: Artifact) -> ArtifactFacts:
        files = {name: FileFacts(artifact.size(name), digest) for name, digest in artifact.hashes().items()}
        return cls(artifact.entry, files, plain(artifact.facts), artifact.reproducible)


@dataclass(frozen=True)
class Verification:
    """What was executed and compared with the source model, and what could not be.

    `runner` and `comparison` are None where nothing was executed. `generated`: the inputs are random numbers, not real
    data, so that accuracy figures say little about the task. `comparison` is `edgec.compare.Comparison.to_json()` of
    the artifact as executed; `optimised` the same of the graph after our passes, before the target took it.
    """

    runner: str | None = None
    samples: int = 0
    source: str | None = None
    """Where the samples come from, in words."""
    generated: bool = False
    comparison: Mapping[str, Any] | None = None
    optimised: Mapping[str, Any] | None = None
    not_verified: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stage:
    """One step of a compression. None: not measured. `name`: "float", the pass, or what the target made.

    `bytes`: of the weights; of the last stage, of the artifact. `latency_ms`: median on this host with one thread, by `latency_by`.
    `sqnr_db`: of the worst output against the float model (None where it is infinite too), `agreement`: the least share of samples
    with the float model's class. `metric`: the user's.
    """

    name: str
    seconds: float
    bytes: int
    parameters: int
    macs: int
    latency_ms: float | None = None
    latency_by: str | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    metric: float | None = None
    coded_bytes: int | None = None
    """Of the weights with an ideal entropy code of each tensor's values."""


@dataclass(frozen=True)
class Report:
    """What happened in one compilation. `placement` and `differences` are the JSON forms of edgec.placement's types."""

    edgec_version: str
    model: ModelFacts
    target: str
    precision: str
    passes: tuple[PassRecord, ...]
    ops_before: Mapping[str, int]
    ops_after: Mapping[str, int]
    placement: Mapping[str, Any] | None = None
    differences: tuple[Mapping[str, Any], ...] = ()
    """Where the vendor's compiler placed a node elsewhere than the op table said."""
    artifact: ArtifactFacts | None = None
    coverage: Coverage | None = None
    """Of a quantised artifact: what computes in integers."""
    verification: Verification | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time of each stage."""
    compression: tuple[Stage, ...] = ()
    """Where the model was made smaller, or a metric given: the float model, each step, and the artifact."""
    options: Mapping[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> dict[str, Any]:
        """Plain data in a stable order: `schema_version` first, then the fields as declared."""
        out: dict[str, Any] = {"schema_version": self.schema_version}
        for f in dataclasses.fields(self):
            out[f.name] = plain(getattr(self, f.name))
        for key in ("ops_before", "ops_after"):
            out[key] = dict(sorted(out[key].items(), key=lambda kv: (-kv[1], kv[0])))
        return out

    def dumps(self) -> str:
        """The text of report.json. Undecodable bytes of file names (lone surrogates) are escaped: it is valid UTF-8."""
        text = json.dumps(self.to_json(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def write(self, path: str | Path) -> None:
        Path(path).write_text(self.dumps(), encoding="utf-8")

    @classmethod
    def from_json(cls, data: Any, *, source: str | None = None) -> Report:
        """A report from the data of report.json. Unknown fields are ignored: a newer edgec may have written them.

        Raises:
            EdgecError: EC0901 it is no report, or one of another schema version.
        """
        from pydantic import TypeAdapter, ValidationError

        place = Location(file=source)
        if not isinstance(data, dict) or "schema_version" not in data:
            raise error("EC0901", "this is not an edgec report: it has no schema_version", place)
        if data["schema_version"] != SCHEMA_VERSION:
            message = f"the report has schema version {data['schema_version']!r}, this edgec reads {SCHEMA_VERSION}"
            raise error("EC0901", message, place, hint="use the edgec that wrote it, or compile again")
        try:
            said = [diagnostic_from_json(d) for d in data.get("diagnostics", ())]
            return TypeAdapter(cls).validate_python({**data, "diagnostics": said})
        except ValidationError as e:
            first = e.errors()[0]
            what = f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}"
            raise error("EC0901", f"the report is not valid: {what}", place) from None
        except (KeyError, TypeError, AttributeError) as e:
            raise error("EC0901", f"the report's diagnostics are not valid: {e!r}", place) from None

    @classmethod
    def read(cls, path: str | Path) -> Report:
        """Read a report.json."""
        try:
            data = json.loads(Path(path).read_bytes())
        except (OSError, ValueError) as e:
            raise error("EC0901", f"cannot read the report: {e}", Location(file=str(path))) from None
        return cls.from_json(data, source=str(path))

    def summary(self, folder: str | Path | None = None) -> str:
        """The report in about forty lines of plain text."""
        from edgec.summary import summary_text

        return summary_text(self, folder)


def diagnostic_from_json(data: Mapping[str, Any]) -> Diagnostic:
    """The inverse of `Diagnostic.to_json`."""
    where = Location(**data.get("location", {}))
    return Diagnostic(data["code"], Severity[data["severity"].upper()], data["message"], where, data.get("hint"))


def plain(value: Any) -> Any:
    """JSON-ready data. Numbers that are not finite become the strings "inf", "-inf" and "nan"."""
    if isinstance(value, Diagnostic):
        return value.to_json()
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v) for v in value)
    if isinstance(value, Path):
        return value.as_posix()
    if isinstance(value, Sequence):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Iterable):
        return [plain(v) for v in value]
    raise TypeError(f"{type(value).__name__} has no place in a report: {value!r}")


def json_schema() -> dict[str, Any]:
    """The JSON Schema of report.json; docs/schema/report.json is this, and a test keeps them equal."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(Report).json_schema(mode="serialization")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "edgec report"
    schema["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    schema["$defs"]["Diagnostic"] = _DIAGNOSTIC_SCHEMA
    for unused in ("Location", "Severity"):
        schema["$defs"].pop(unused, None)
    return schema


_DIAGNOSTIC_SCHEMA: dict[str, Any] = {
    "title": "Diagnostic",
    "type": "object",
    "required": ["code", "severity", "message"],
    "properties": {
        "code": {"type": "string", "pattern": "^EC[0-9]{4}$"},
        "severity": {"enum": ["note", "warning", "error"]},
        "message": {"type": "string"},
        "hint": {"type": "string"},
        "location": {
            "type": "object",
            "properties": {
                "file": {"type": "string"},
                "line": {"type": "integer"},
                "column": {"type": "integer"},
                "node": {"type": "string"},
            },
        },
    },
}
