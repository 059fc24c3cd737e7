"""Which passes mend a Q/DQ graph for a scheme without changing its numbers: what `edgec check --fix` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgec.specs.scheme import Scheme


def fixes(scheme: Scheme) -> list[str]:
    """Names of passes, in order; none where the scheme has no rule they serve."""
    kind = scheme.activations or scheme.weights
    names = []
    if kind.dtype == "int8" and kind.symmetric:
        names.append("fix-zero-points")
    if scheme.bias == "float":
        names.append("float-biases")
    return names
