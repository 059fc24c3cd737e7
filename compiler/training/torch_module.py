"""PyTorch, which only training needs: `pip install edgec[train]`."""

from __future__ import annotations

from edgec.diagnostics import error


def require_torch() -> None:
    """Import torch, or say how to get it.

    Raises:
        EdgecError: EC0320 torch is not installed, or does not load.
    """
    try:
        import torch  # noqa: F401  the first import: what comes later relies on it
    except ImportError as e:
        hint = 'pip install "edgec[train]"; for a small build without CUDA see `edgec explain EC0320`'
        raise error("EC0320", f"training needs PyTorch, which cannot be imported: {e}", hint=hint) from None
