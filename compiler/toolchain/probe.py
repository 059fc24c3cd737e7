"""Worker script: prove that an SDK can be imported, and say which versions are there. Python 3.8, standard library."""

from __future__ import annotations

import importlib
import sys
from importlib import metadata
from typing import Any

PROTOCOL = 1


def run(job: Any) -> dict[str, Any]:
    """Request: `imports` (modules), `packages` (distributions). Answer: `versions`; absent packages are left out."""
    versions = {"python": "{}.{}.{}".format(*sys.version_info[:3])}
    for package in job.request["packages"]:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    for module in job.request["imports"]:
        job.step(f"import {module}")
        importlib.import_module(module)
    return {"versions": versions}
