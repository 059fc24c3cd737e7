"""Import onnx_ir without paying for sympy.

onnx-ir 1.1 imports sympy when it is itself imported, and needs it only for arithmetic on symbolic dimensions, which
edgec does not do. Measured: `import onnx_ir` 1.4 s with sympy, 0.2 s without. While onnx_ir is imported, `sympy` is a
stand-in whose attributes load the real package at their first use; afterwards the stand-in leaves `sys.modules`, so
that nobody else sees it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _StandIn(ModuleType):
    """sympy for onnx_ir's modules: functions are deferred while onnx_ir loads, everything is real afterwards."""

    loading = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if self.loading:
            return lambda *args, **kwargs: getattr(import_module("sympy"), name)(*args, **kwargs)
        return getattr(import_module("sympy"), name)


@contextmanager
def deferred() -> Iterator[None]:
    """Within this block `import onnx_ir` does not import sympy. Does nothing where either is already imported."""
    if "sympy" in sys.modules or "onnx_ir" in sys.modules:
        yield
        return
    stand_in = _StandIn("sympy")
    sys.modules["sympy"] = stand_in
    try:
        yield
    finally:
        stand_in.loading = False
        sys.modules.pop("sympy", None)
