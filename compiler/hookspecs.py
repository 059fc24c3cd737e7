"""The plugin interface: everything a third party can add to edgec, on one page.

A plugin is a module (or object) with functions marked `@hookimpl`, named in the package's metadata:

    [project.entry-points.edgec]
    acme = "edgec_acme"

Every hook returns a mapping from a name to a class, or to a string "package.module:Class" that is imported only when
that name is used, so that listing costs nothing. The built-in passes and targets use the same hooks.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from edgec.artifact_format import ArtifactFormat
    from edgec.pipeline import Pass
    from edgec.target import Target

hookspec = pluggy.HookspecMarker("edgec")
hookimpl = pluggy.HookimplMarker("edgec")


@hookspec
def edgec_targets() -> Mapping[str, str | type[Target]]:  # type: ignore[empty-body]
    """Targets: the name users give to `--target` -> the class that emits for it. One class may serve many names."""


@hookspec
def edgec_passes() -> Mapping[str, str | type[Pass]]:  # type: ignore[empty-body]
    """Passes, usable by name in any pipeline."""


@hookspec
def edgec_toolchains() -> Mapping[str, str | PathLike[str]]:  # type: ignore[empty-body]
    """Toolchains: name -> path of the YAML file that describes the vendor SDK's environment (docs/writing-a-target)."""


@hookspec
def edgec_formats() -> Mapping[str, str | type[ArtifactFormat]]:  # type: ignore[empty-body]
    """Files that `edgec inspect` and `edgec compare` read besides ONNX: suffix with its dot -> the class that reads them."""
