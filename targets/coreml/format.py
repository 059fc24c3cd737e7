"""`edgec inspect` and `edgec compare` of .mlpackage folders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.artifact_format import ArtifactFormat, ArtifactRun, Inspection
from edgec.summary import size

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.summary import Line
    from edgec.targets.coreml.spec_reader import Feature, ModelText
    from edgec.toolchain import ToolchainManager

_COMPRESSED = "constexpr_"


class PackageFormat(ArtifactFormat):
    """Of edgec and of other converters. EC0672 where one is damaged. What runs is the decoded program, in ONNX Runtime."""

    def inspect(self, path: Path) -> Inspection:
        from edgec.targets.coreml.package import check_files, damaged
        from edgec.targets.coreml.spec_reader import MODEL, Malformed, read_model

        check_files(path)
        if not (path / MODEL).is_file():
            raise damaged(path, f"{MODEL.as_posix()} is missing")
        try:
            model = read_model(path / MODEL)
        except Malformed as e:
            raise damaged(path, f"{MODEL.as_posix()}: {e}") from e
        files = {p.relative_to(path).as_posix(): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}
        found = _figures(model, files)
        return Inspection(list(_lines(path, model, found)), found, _program(model))

    def open(self, path: Path, reference: Graph, toolchains: ToolchainManager, folder: Path) -> ArtifactRun:
        from edgec.targets.coreml.standing_for import StandingFor

        return StandingFor(path, reference, toolchains, folder)


def _figures(model: ModelText, files: dict[str, int]) -> dict[str, Any]:
    operations = [o for function in model.functions.values() for o in function]
    counts = Counter(o.type for o in operations if o.type != "const")
    kinds = Counter(t.partition("[")[0] for o in operations if o.type != "const" for _, t in o.outputs[:1])
    return {
        "format": "mlpackage",
        "bytes": sum(files.values()),
        "files": files,
        "kind": model.kind,
        "specification_version": model.version,
        "minimum_system": model.system,
        "inputs": [_end(f) for f in model.inputs],
        "outputs": [_end(f) for f in model.outputs],
        "states": [_end(f) for f in model.states],
        "functions": {name: len(function) for name, function in model.functions.items()},
        "operations": dict(counts.most_common()),
        "computed_in": dict(kinds.most_common()),
        "compressed": {op: n for op, n in counts.most_common() if op.startswith(_COMPRESSED)},
        "metadata": model.metadata,
    }


def _end(f: Feature) -> dict[str, str]:
    return {"name": f.name, "type": f.about, "description": f.description}


def _lines(path: Path, model: ModelText, found: dict[str, Any]) -> Iterator[Line]:
    yield "title", str(path)
    weights = sum(n for name, n in found["files"].items() if name.endswith(".bin"))
    yield (
        "text",
        f"  Core ML, {model.kind}, from {model.system} on; {size(found['bytes'])}, of it weights {size(weights)}",
    )
    for title, features in (("inputs", model.inputs), ("outputs", model.outputs), ("states", model.states)):
        if features:
            yield "text", f"  {title}:  " + ", ".join(f"{f.name}: {f.about}" for f in features)
    for name in found["functions"]:
        if name != "main":
            yield "text", f"  function {name}"
    operations = {op: n for op, n in found["operations"].items() if op not in found["compressed"]}
    yield "heading", f"operations: {sum(operations.values())}"
    yield "text", "  " + ", ".join(f"{op} {n}" for op, n in operations.items())
    if found["computed_in"]:
        yield "text", "  results in " + ", ".join(f"{kind} {n}" for kind, n in found["computed_in"].items())
    if found["compressed"]:
        yield "heading", f"compressed constants: {sum(found['compressed'].values())}"
        yield "text", "  " + ", ".join(f"{op.removeprefix(_COMPRESSED)} {n}" for op, n in found["compressed"].items())
    if model.metadata:
        yield "heading", "metadata"
        yield from (("text", f"  {key}: {text}") for key, text in model.metadata.items())


def _program(model: ModelText) -> str:
    """One operation a line; numbers and texts are in the lines of those that read them."""
    lines = []
    for name, function in model.functions.items():
        lines.append(f"{name}:")
        values = {o.outputs[0][0]: o.value for o in function if o.type == "const" and o.value and o.outputs}
        for o in function:
            if o.type == "const" and o.value:
                continue
            made = ", ".join(f"{n}: {t}" for n, t in o.outputs)
            read = ", ".join(f"{k}={_argument(v, values)}" for k, v in o.inputs.items())
            lines.append(f"  {made} = {o.type}({read})")
    return "\n".join(lines) + "\n"


def _argument(names: Sequence[str], values: Mapping[str, str | None]) -> str:
    told = [values.get(n) or n for n in names]
    return told[0] if len(told) == 1 else f"({', '.join(told)})"
