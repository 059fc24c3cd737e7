"""What is in a .tflite file, of edgec or of others: interface, operators, sizes, quantisation, metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.artifact_format import Inspection
from edgec.summary import size
from edgec.targets.tflite.dump import describe, dump
from edgec.targets.tflite.flatbuffer_reader import Malformed
from edgec.targets.tflite.metadata import NAME
from edgec.targets.tflite.metadata_reader import associated, read_metadata
from edgec.targets.tflite.model import Operator, Tensor, TfliteModel
from edgec.targets.tflite.reader import read

if TYPE_CHECKING:
    from edgec.summary import Line

_INTEGERS = ("int8", "uint8", "int16")
_MOVES = frozenset({"QUANTIZE", "DEQUANTIZE"})
PRODUCTS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"})
"""Operators that multiply and accumulate."""

_LARGEST = 5


def inspect_model(path: Path) -> Inspection:
    """Raises EC0651 and EC0652 as `reader.read`."""
    model = read(path)
    found = _figures(model, path)
    return Inspection(list(_lines(path, model, found)), found, dump(model))


def arithmetic(o: Operator) -> str:
    """What an operator computes in: "int8", "float32", "hybrid" (float activations, integer weights) ..."""
    made = next((t.dtype for t in o.outputs), "")
    weights = {t.dtype for t in o.inputs if t is not None and t.data is not None and t.quant is not None}
    if o.op in PRODUCTS and made == "float32" and weights & {"int8", "int4", "uint8"}:
        return "hybrid"
    read_ = next((t.dtype for t in o.inputs if t is not None and t.data is None), made)
    return read_ if read_ in (*_INTEGERS, "float32", "float16") and made not in _INTEGERS else made


def _figures(model: TfliteModel, path: Path) -> dict[str, Any]:
    operators = [o for g in model.subgraphs for o in g.operators]
    constants = _constants(model)
    out: dict[str, Any] = {
        "format": "tflite",
        "bytes": path.stat().st_size,
        "description": model.description,
        "subgraphs": len(model.subgraphs),
        "inputs": [_end(t, n) for t, n in _named(model.main.inputs, model.input_names)],
        "outputs": [_end(t, n) for t, n in _named(model.main.outputs, model.output_names)],
        "signature": bool(model.input_names or model.output_names),
        "operators": dict(Counter(_name(o) for o in operators).most_common()),
        "custom": sorted({str(o.options.get("custom_code")) for o in operators if o.op == "CUSTOM"}),
        "arithmetic": dict(Counter(arithmetic(o) for o in operators if o.op not in _MOVES).most_common()),
        "products": dict(Counter(arithmetic(o) for o in operators if o.op in PRODUCTS).most_common()),
        "constant_bytes": _by_dtype(constants),
        "largest_constants": [
            {"name": t.name, "dtype": t.dtype, "shape": list(t.shape), "bytes": t.nbytes}
            for t in sorted(constants, key=lambda t: -_bytes(t))[:_LARGEST]
            if t.data is not None
        ],
        "metadata": {k: len(v) for k, v in model.metadata.items()},
        "min_runtime_version": model.metadata.get("min_runtime_version", b"").rstrip(b"\0").decode("ascii", "replace"),
        "files": dict(associated(path)),
    }
    if NAME in model.metadata:
        try:
            out["tflite_metadata"] = read_metadata(model.metadata[NAME])
        except Malformed as e:
            out["tflite_metadata_damaged"] = str(e)
    return out


def _name(o: Operator) -> str:
    return f"CUSTOM {o.options.get('custom_code')}" if o.op == "CUSTOM" else o.op


def _named(tensors: list[Tensor], names: Any) -> Iterator[tuple[Tensor, str]]:
    for i, t in enumerate(tensors):
        yield t, names[i] if i < len(names) else t.name


def _end(t: Tensor, name: str) -> dict[str, Any]:
    q = t.quant
    return {
        "name": name,
        "tensor": t.name,
        "dtype": t.dtype,
        "shape": list(t.shape_signature or t.shape),
        "scale": None if q is None else [float(s) for s in q.scale],
        "zero_point": None if q is None else [int(z) for z in q.zero_point],
    }


def _constants(model: TfliteModel) -> list[Tensor]:
    found = {id(t): t for g in model.subgraphs for t in g.tensors() if t.data is not None}
    return list(found.values())


def _bytes(t: Tensor) -> int:
    """Strings and the like have no size of their own: what the file holds."""
    if t.dtype == "int4":
        return t.nbytes
    return 0 if t.data is None else int(t.data.nbytes)


def _by_dtype(constants: list[Tensor]) -> dict[str, int]:
    out: Counter[str] = Counter()
    for t in constants:
        out[t.dtype] += _bytes(t)
    return dict(out.most_common())


def _lines(path: Path, model: TfliteModel, found: Mapping[str, Any]) -> Iterator[Line]:
    yield "title", f"{path}: {found['description']}" if found["description"] else str(path)
    newest = f", needs TensorFlow Lite {found['min_runtime_version']}" if found["min_runtime_version"] else ""
    graphs = f", {found['subgraphs']} subgraphs" if found["subgraphs"] > 1 else ""
    signature = "with a signature" if found["signature"] else "without a signature"
    yield "text", f"  TFLite, {size(found['bytes'])}{newest}{graphs}, {signature}"
    for title, tensors, names in (
        ("inputs", model.main.inputs, model.input_names),
        ("outputs", model.main.outputs, model.output_names),
    ):
        shown = [describe(t) + ("" if n == t.name else f" (signature: {n})") for t, n in _named(tensors, names)]
        yield "text", f"  {title}:  {', '.join(shown)}"
    yield "heading", f"operators: {sum(found['operators'].values())}"
    yield "text", "  " + ", ".join(f"{op} {n}" for op, n in found["operators"].items())
    if found["custom"]:
        yield "warning", f"  custom operators, which the app must bring along: {', '.join(found['custom'])}"
    yield "heading", "computed in"
    yield "text", "  " + _share("operators", found["arithmetic"])
    if found["products"]:
        yield "text", "  " + _share("convolutions and products", found["products"])
    yield "heading", f"constants: {size(sum(found['constant_bytes'].values()))}"
    yield "text", "  " + ", ".join(f"{dtype} {size(n)}" for dtype, n in found["constant_bytes"].items())
    for c in found["largest_constants"]:
        yield "text", f"  {size(c['bytes']):>10}  {c['name']} {c['dtype']}{c['shape']}"
    yield from _metadata_lines(found)


def _share(what: str, counts: Mapping[str, int]) -> str:
    return f"{what}: " + ", ".join(f"{dtype} {n}" for dtype, n in counts.items())


def _metadata_lines(found: Mapping[str, Any]) -> Iterator[Line]:
    told = found.get("tflite_metadata")
    if "tflite_metadata_damaged" in found:
        yield "warning", f"the TFLite Metadata cannot be read: {found['tflite_metadata_damaged']}"
    if told:
        head = [f"{k} {told[k]}" for k in ("version", "author", "license") if k in told]
        yield "heading", "metadata: " + ", ".join([told.get("name", "without a name"), *head])
        if "description" in told:
            yield "text", f"  {told['description']}"
        for t in (*told.get("inputs", ()), *told.get("outputs", ())):
            if len(t) > 1:
                yield "text", f"  {t.get('name', '?')}: " + ", ".join(f"{k} {v}" for k, v in t.items() if k != "name")
    if found["files"]:
        yield "text", "  files in it: " + ", ".join(f"{name} ({size(n)})" for name, n in found["files"].items())
