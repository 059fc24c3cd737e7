"""Whose fault a failure is: edgec's, or that of a model no rule of ONNX allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgec.diagnostics import EdgecError, error
from edgec.graph import Graph

_SLIPS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)
"""What code raises that trusts shapes and attributes to fit each other."""


@contextmanager
def blaming(model: Callable[[], Graph]) -> Iterator[None]:
    """Around work on a model that loading found sound: a slip on one that ONNX's full checker refuses is EC0023.

    Loading looks at structure only; shapes that contradict each other show where they are used. `model`: the model as it
    was given, asked for only after a failure. On a valid model the exception goes on: it is a bug.
    """
    try:
        yield
    except EdgecError:
        raise
    except _SLIPS as e:
        try:
            model().verify()
        except EdgecError as invalid:
            found = invalid.diagnostics[0]
            said = found.message.partition(": ")[2] or found.message
            hint = "export it again, or see `python -m onnx.checker MODEL`"
            raise error("EC0023", f"the model is not valid ONNX: {said}", found.location, hint) from e
        raise
