"""edgec: from a trained ONNX model to what an edge accelerator runs.

import edgec
result = edgec.compile("model.onnx", target="rk3588", output="build/model-rk3588")
print(result.report.summary())
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
EDGEC_API = 1  # the version of the plugin interface: hookspecs, Pass, Target, spec schema

__all__ = [
    "EDGEC_API",
    "Artifact",
    "Compiled",
    "Diagnostic",
    "Diagnostics",
    "EdgecError",
    "Graph",
    "Pass",
    "PassContext",
    "PassManager",
    "PassResult",
    "Registry",
    "Report",
    "Target",
    "__version__",
    "check",
    "compile",
    "hookimpl",
    "quantize",
]

_HOME = {
    "Artifact": "target",
    "Compiled": "api",
    "check": "api",
    "Diagnostic": "diagnostics",
    "Diagnostics": "diagnostics",
    "EdgecError": "diagnostics",
    "Graph": "graph",
    "Pass": "pipeline",
    "PassContext": "pipeline",
    "PassManager": "pipeline",
    "PassResult": "pipeline",
    "Registry": "plugins",
    "Report": "report",
    "Target": "target",
    "compile": "api",
    "hookimpl": "hookspecs",
    "quantize": "quantizing",
}

if TYPE_CHECKING:
    from edgec.api import Compiled as Compiled
    from edgec.api import check as check
    from edgec.api import compile as compile
    from edgec.diagnostics import Diagnostic as Diagnostic
    from edgec.diagnostics import Diagnostics as Diagnostics
    from edgec.diagnostics import EdgecError as EdgecError
    from edgec.graph import Graph as Graph
    from edgec.hookspecs import hookimpl as hookimpl
    from edgec.pipeline import Pass as Pass
    from edgec.pipeline import PassContext as PassContext
    from edgec.pipeline import PassManager as PassManager
    from edgec.pipeline import PassResult as PassResult
    from edgec.plugins import Registry as Registry
    from edgec.quantizing import quantize as quantize
    from edgec.report import Report as Report
    from edgec.target import Artifact as Artifact
    from edgec.target import Target as Target


def __getattr__(name: str) -> object:
    """PEP 562: `import edgec` costs a millisecond; onnx and numpy are imported when something needs them."""
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f"edgec.{_HOME[name]}"), name)
    raise AttributeError(f"module 'edgec' has no attribute {name!r}")
