"""manifest.json: everything needed to make the same artifact again, and to see that it is the same.

No time, no host, no absolute path: the same compilation writes the same manifest.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.report import plain

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.report import Report
    from edgec.samples import Samples
    from edgec.specs.schema import TargetSpec

MANIFEST_VERSION = 1


def build_manifest(
    report: Report,
    *,
    source: Graph,
    pipeline: str,
    spec: TargetSpec | None = None,
    calibration: Samples | None = None,
    samples: Samples | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The manifest of one compilation.

    Args:
        report: the finished report; its artifact holds the hashes of the outputs.
        source: the graph as loaded, whose external data files are hashed too.
        pipeline: the text of the passes that ran.
        spec: the target's spec; its hash tells whether the op table changed since.
        settings: the remaining options of the call: input shapes, preprocessing, no_fallback ...
    """
    facts = report.artifact.facts if report.artifact is not None else {}
    inputs: dict[str, Any] = {
        "model": {"name": os.path.basename(report.model.path), "sha256": report.model.sha256},
        "external_data": external_data_hashes(source),
        "pipeline": pipeline,
    }
    if spec is not None:
        inputs["spec"] = {"name": spec.name, "sha256": hashlib.sha256(spec.model_dump_json().encode()).hexdigest()}
    for name, given in (("calibration", calibration), ("samples", samples)):
        if given is not None:
            inputs[name] = {"count": len(given), "sha256": given.digest(), "generated": given.generated}
    return {
        **minimal_manifest(report),
        "versions": {
            "python": platform.python_version(),
            "machine": f"{platform.system().lower()}-{platform.machine()}",
            "packages": package_versions(),
            "plugins": plugin_versions(),
            "toolchain": plain(facts.get("versions", {})),
        },
        "inputs": inputs,
        "settings": {"target": report.target, "precision": report.precision, **_settings(report, settings or {})},
    }


def _settings(report: Report, more: Mapping[str, Any]) -> dict[str, Any]:
    """Options, with absolute paths reduced to their last part: a manifest names no place of the machine."""
    return {k: _without_folders(plain(v)) for k, v in {"options": report.options, **more}.items()}


def _without_folders(value: Any) -> Any:
    if isinstance(value, str) and os.path.isabs(value):
        return os.path.basename(value)
    if isinstance(value, dict):
        return {k: _without_folders(v) for k, v in value.items()}
    return [_without_folders(v) for v in value] if isinstance(value, list) else value


def minimal_manifest(report: Report) -> dict[str, Any]:
    """What marks a folder as edgec's: its files, their hashes, and whether compiling again gives the same bytes."""
    artifact = report.artifact
    out: dict[str, Any] = {
        "generator": "edgec",
        "manifest_version": MANIFEST_VERSION,
        "edgec": report.edgec_version,
        "entry": artifact.entry if artifact is not None else None,
        "outputs": plain(dict(sorted(artifact.files.items()))) if artifact is not None else {},
        "reproducible": artifact.reproducible if artifact is not None else True,
    }
    if artifact is not None and not artifact.reproducible:
        out["not_reproducible_because"] = str(artifact.facts.get("not_reproducible", "the target does not say"))
    return out


def manifest_text(data: Mapping[str, Any]) -> str:
    text = json.dumps(plain(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # file names may have undecodable bytes


def external_data_hashes(graph: Graph) -> dict[str, str]:
    """SHA-256 of each external data file of the model, by its path relative to the model's folder."""
    import onnx_ir as ir

    files: dict[str, Path] = {}
    for g in graph.graphs():
        for v in g.initializers.values() if isinstance(g, ir.Graph) else ():
            if isinstance(v.const_value, ir.ExternalTensor):
                files[Path(v.const_value.location).as_posix()] = Path(v.const_value.path)
    return {name: sha256_file(path) for name, path in sorted(files.items())}


def sha256_file(path: Path) -> str:
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def package_versions() -> dict[str, str]:
    """The installed versions of the packages edgec depends on."""
    try:
        wanted = metadata.requires("edgec") or []
    except metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return {}
    return _versions(re.split(r"[^A-Za-z0-9._-]", r, maxsplit=1)[0] for r in wanted if "extra ==" not in r)


def plugin_versions() -> dict[str, str]:
    """The installed packages that extend edgec."""
    found = {ep.dist.name for ep in metadata.entry_points(group="edgec") if ep.dist is not None}
    return _versions(found - {"edgec"})


def _versions(names: Iterable[str]) -> dict[str, str]:
    out = {}
    for name in sorted(names):
        try:
            out[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            out[name] = "missing"
    return out
