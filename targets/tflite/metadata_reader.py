"""TFLite Metadata of a file, of anybody's, as plain figures."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgec.targets.tflite.flatbuffer_reader import Bytes, Malformed, TableView
from edgec.targets.tflite.metadata import IDENTIFIER

_TEXTS = ("name", "description", "version", "author", "license", "min_parser_version")


def read_metadata(data: bytes) -> dict[str, Any]:
    """What an entry TFLITE_METADATA says: texts, and for inputs and outputs name, description, mean, std and files.

    Raises: `Malformed`, where it is damaged.
    """
    if data[4:8] != IDENTIFIER:
        raise Malformed("it does not have M001 at byte 4")
    root = Bytes(data).root("ModelMetadata")
    out: dict[str, Any] = {f: text for f in _TEXTS if (text := root.get(f))}
    for graph in (root.get("subgraph_metadata") or [])[:1]:
        for end in ("input", "output"):
            out[f"{end}s"] = [_tensor(t) for t in graph.get(f"{end}_tensor_metadata") or []]
    return out


def _tensor(table: TableView) -> dict[str, Any]:
    out: dict[str, Any] = {f: text for f in ("name", "description") if (text := table.get(f))}
    for unit in table.get("process_units") or []:
        kind, options = unit.get("options") or ("", None)
        if kind == "NormalizationOptions" and options is not None:
            for f in ("mean", "std"):
                values = options.get(f)
                out[f] = [] if values is None else [float(f"{v:.7g}") for v in values.tolist()]
    content = table.get("content")
    kind, properties = (content.get("content_properties") if content is not None else None) or ("", None)
    if kind == "ImageProperties" and properties is not None:
        out["image"] = properties.get("color_space")
    if files := [f.get("name") or "" for f in table.get("associated_files") or []]:
        out["files"] = files
    return out


def associated(path: Path) -> Mapping[str, int]:
    """Name -> bytes of the files behind the model; none where nothing is there or it is no zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {entry.filename: entry.file_size for entry in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return {}
