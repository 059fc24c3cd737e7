"""From a file nobody vouches for to a `Graph`: every step checks before it believes.

1. the file: exists, is a regular readable file, is not another format (`formats`);
2. the protobuf: parses, is ONNX, is not from the future;
3. the contents (`model_checks`): tensors hold what their shapes say, external data stays in the model's folder, names
   are unique and defined, no cycle, no recursion. All findings of this step come in one error;
4. the `Graph`: names given where missing, weights that are also inputs made weights, nodes sorted.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostics, EdgecError, Location, error
from edgec.formats import foreign_folder, foreign_format
from edgec.graph import Graph, ir

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx
    from google.protobuf.message import Message  # type: ignore[import-untyped]

    from edgec.inline_weights import Weights

MAX_PROTO_BYTES = (1 << 31) - 1
"""A protobuf message cannot be larger."""

MAX_TEXT_BYTES = 64 << 20
MAX_TEXT_NESTING = 64
"""The text parser is recursive C++: deeper nesting is refused before it sees it."""

TEXT_SUFFIXES = (".onnxtxt", ".onnx.txt", ".onnxtext")


def load(path: str | os.PathLike[str], diagnostics: Diagnostics | None = None) -> Graph:
    """Read a model file (`.onnx`, or ONNX text as `.onnxtxt`) into a Graph.

    Weights in external files stay on disk, memory-mapped. Notes and warnings (weights with NaN, nodes that had to be
    sorted, names given) go to `diagnostics`.

    Raises:
        EdgecError: the file is missing, unreadable, corrupt, of another format or hostile; it carries every finding.
    """
    notes = diagnostics if diagnostics is not None else Diagnostics()
    path = Path(path)
    proto, weights = _read(path)
    _check_versions(proto, path)

    from edgec.model_checks import check_model
    from edgec.weight_scan import warn_about_values

    found = Diagnostics()
    check_model(proto, path, found, {i: w.nbytes for i, w in weights.items()})
    found.raise_if_errors()
    for d in found:
        notes.add(d.code, d.severity, d.message, d.location, d.hint)
    graph = _to_graph(proto, weights, path)
    _tidy(graph, path, notes)
    warn_about_values(graph, path, notes)
    return graph


# --- the file --------------------------------------------------------------------------------------------------------


def _read(path: Path) -> tuple[onnx.ModelProto, Weights]:
    """The parsed file, and the large weights that were kept out of the protobuf."""
    size = _file_size(path)
    from edgec import inline_weights
    from edgec.inline_weights import split

    where = Location(str(path))
    text = path.name.endswith(TEXT_SUFFIXES)
    limit = MAX_TEXT_BYTES if text else MAX_PROTO_BYTES
    if size > limit:
        raise error(
            "EC0008",
            f"the file has {size:,} bytes, but {'ONNX text' if text else 'a protobuf'} ends at {limit:,}",
            where,
            "save the model with its weights as external data",
        )
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            if text:
                return _parse_text(bytes(data), path), {}
            other = foreign_format(path, data[:4096])
            if other:
                raise error("EC0005", f"this is {other[0]}, not ONNX", where, other[1])
            parts = split(data, file) if size >= inline_weights.MIN_FILE_BYTES else None
            if parts is not None:
                return _parse(parts[0], path), parts[1]
            file.seek(0)
            return _parse(file.read(), path), {}
    except OSError as e:
        raise error("EC0002", f"cannot read the model: {e.strerror or e}", where) from None


def _file_size(path: Path) -> int:
    """Size of a regular, readable, non-empty file; everything else is an error that says what it is."""
    where = Location(str(path))
    try:
        info = path.stat()
    except FileNotFoundError:
        raise error("EC0001", "there is no such file", where, _nearby(path)) from None
    except (OSError, ValueError) as e:  # permission, a loop of links, a name too long, a zero byte in the name
        raise error("EC0002", f"cannot read the model: {getattr(e, 'strerror', None) or e}", where) from None
    if stat.S_ISDIR(info.st_mode):
        other = foreign_folder(path)
        if other:
            raise error("EC0005", f"this is {other[0]}, not ONNX", where, other[1])
        models = sorted(p.name for p in path.glob("*.onnx"))[:5] if os.access(path, os.R_OK) else []
        hint = f"give a file in it: {', '.join(models)}" if models else "give a .onnx file"
        raise error("EC0002", "this is a folder, not a model file", where, hint)
    if not stat.S_ISREG(info.st_mode):
        raise error("EC0002", "this is not a regular file (a pipe, socket or device)", where)
    if not os.access(path, os.R_OK):
        raise error("EC0002", "cannot read the model: permission denied", where)
    if info.st_size == 0:
        raise error("EC0003", "the file is empty", where, "copy or export the model again")
    return info.st_size


def _nearby(path: Path) -> str:
    """A hint with the most similar model name in the same folder."""
    from difflib import get_close_matches

    folder = path.parent
    if not folder.is_dir():
        return f"the folder {folder} does not exist either"
    names = sorted(p.name for p in folder.iterdir() if p.suffix == ".onnx") if os.access(folder, os.R_OK) else []
    near = get_close_matches(path.name, names, 1)
    return f"did you mean {folder / near[0]}?" if near else "check the path"


def _parse(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    where, hint = Location(str(path)), "the file is cut short, damaged or not ONNX; copy or export the model again"
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as e:
        raise error("EC0003", f"the file is not a readable protobuf: {str(e)[:200]}", where, hint) from None
    bad = _not_text(proto)
    if bad is not None:
        raise error("EC0003", f"a name in the model is not UTF-8: {bad[:60]!r}", where, hint)
    if not proto.HasField("graph"):
        raise error("EC0003", "the file is a protobuf but holds no ONNX graph", where, hint)
    return proto


def _not_text(message: Message) -> bytes | None:
    """The first string field whose bytes are not UTF-8: protobuf hands those out as bytes, unasked."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for item in [value] if isinstance(value, (str, bytes)) or hasattr(value, "ListFields") else value:
            if isinstance(item, bytes):
                return item
            if not isinstance(item, str) and (bad := _not_text(item)) is not None:
                return bad
    return None


def _parse_text(data: bytes, path: Path) -> onnx.ModelProto:
    import onnx

    where = Location(str(path))
    depth = deepest = 0
    for c in data:
        if c in b"({[<":
            depth += 1
            deepest = max(deepest, depth)
        elif c in b")}]>":
            depth -= 1
    if deepest > MAX_TEXT_NESTING:
        raise error("EC0004", f"brackets are nested {deepest} deep; at most {MAX_TEXT_NESTING} are read", where)
    try:
        return onnx.parser.parse_model(data.decode())
    except UnicodeDecodeError as e:
        raise error("EC0004", f"the text is not UTF-8: {e}", where) from None
    except (onnx.parser.ParseError, ValueError) as e:
        lines = str(e).strip().splitlines() or ["no reason given"]
        raise error("EC0004", f"the ONNX text does not parse: {' '.join(lines)[:300]}", where) from None


def _check_versions(proto: onnx.ModelProto, path: Path) -> None:
    import onnx

    found = Diagnostics()
    where = Location(str(path))
    newest = onnx.defs.onnx_opset_version()
    if proto.ir_version > onnx.IR_VERSION:
        message = f"IR version {proto.ir_version} is from the future: this edgec knows up to {int(onnx.IR_VERSION)}"
        found.error("EC0006", message, where, "upgrade edgec and onnx, or export for an older IR version")
    if proto.ir_version < 0:
        found.error("EC0003", f"IR version {proto.ir_version} does not exist", where)
    seen: dict[str, int] = {}
    for o in proto.opset_import:
        domain = "" if o.domain == "ai.onnx" else o.domain
        if domain in seen and seen[domain] != o.version:
            message = f"opset of domain {domain or 'ai.onnx'!r} is given twice, as {seen[domain]} and {o.version}"
            found.error("EC0006", message, where)
        seen[domain] = o.version
        if domain == "" and o.version > newest:
            message = f"opset {o.version} is from the future: this edgec knows up to {newest}"
            found.error("EC0006", message, where, f"upgrade edgec and onnx, or export for opset {newest} or older")
        if o.version < 1 and domain == "":
            found.error("EC0006", f"opset {o.version} does not exist", where)
    if "" not in seen and any(n.domain in ("", "ai.onnx") for n in proto.graph.node):
        message = "the model does not say which opset its operators are of"
        found.error("EC0006", message, where, "export it again, or set opset_import to the exporter's opset")
    found.raise_if_errors()


# --- the graph -------------------------------------------------------------------------------------------------------


def _to_graph(proto: onnx.ModelProto, weights: Weights, path: Path) -> Graph:
    names = {i: proto.graph.initializer[i].name for i in weights}
    try:
        model = ir.from_proto(proto)
        for i, data in weights.items():
            _put_weight(model.graph.initializers[names[i]], data)
        ir.external_data.set_base_dir(model.graph, path.parent)
    except EdgecError:
        raise
    except Exception as e:  # noqa: BLE001  the checks passed, yet onnx_ir refuses: any exception means a bad file
        reason = (str(e).strip().splitlines() or [type(e).__name__])[0][:300]
        raise error("EC0003", f"the model is inconsistent: {reason}", Location(str(path))) from None
    return Graph(model, source=str(path))


def _put_weight(value: ir.Value, data: npt.NDArray[np.uint8]) -> None:
    t = value.const_value
    assert t is not None  # it came from the list of initializers
    array = data.view(t.dtype.numpy()).reshape(tuple(t.shape.numpy()))
    value.const_value = ir.Tensor(array, dtype=t.dtype, name=t.name, doc_string=t.doc_string,
                                  metadata_props=dict(t.metadata_props))  # fmt: skip


def _tidy(graph: Graph, path: Path, notes: Diagnostics) -> None:
    where = Location(str(path))
    weights = [v for v in graph.inputs if v.name in graph.model.graph.initializers]
    if weights:
        for v in weights:
            graph.model.graph.inputs.remove(v)
        notes.note("EC0020", f"{len(weights)} inputs are weights with a default ({weights[0].name}, ...)"
                   if len(weights) > 1 else f"input {weights[0].name} is a weight with a default",
                   where, "they are compiled as weights and can no longer be fed")  # fmt: skip
    # before IR version 4 every weight had to be an input; ours no longer are
    graph.model.ir_version = max(graph.model.ir_version or 0, 4)
    _name_nodes(graph)
    _rename_shadowing(graph)


def _name_nodes(graph: Graph) -> None:
    """Every node has a name of its own: messages and reports point with it."""
    taken: set[str] = set()
    for n in graph.nodes():
        stem = n.name or (n.outputs[0].name if n.outputs and n.outputs[0].name else n.op_type)
        name, i = stem, 0
        while name in taken:
            i += 1
            name = f"{stem}_{i}"
        taken.add(name)
        if n.name != name:
            n.name = name


def _rename_shadowing(graph: Graph) -> None:
    """A value of a subgraph with the name of an outer one gets its own name, so that rewrites cannot mix them up."""
    taken: set[str] = set()
    for g in graph.graphs():
        own: list[ir.Value] = [*g.inputs]
        if isinstance(g, ir.Graph):
            own += [v for v in g.initializers.values() if not v.is_graph_input()]
        own += [v for n in g for v in n.outputs]
        clashes = [v for v in own if v.name and v.name in taken]
        taken.update(v.name for v in own if v.name)
        if isinstance(g, ir.Graph):
            for v in clashes:
                name, i = f"{v.name}.inner", 0
                while name in taken:
                    i += 1
                    name = f"{v.name}.inner{i}"
                taken.add(name)
                v.name = name
