"""Ranges of options that types do not tell."""

from __future__ import annotations

from edgec.diagnostics import error
from edgec.pipeline import Pass


def require_positive(p: Pass, *options: str) -> None:
    """Refuse a count below 1.

    Raises:
        EdgecError: EC0204 it is.
    """
    for option in options:
        if (value := getattr(p, option)) < 1:
            message = f"pass {p.name!r}, option {option}: {value} cannot be"
            raise error("EC0204", message, hint="a whole number from 1")
