"""`labels=FILE`: the names of classes."""

from __future__ import annotations

from pathlib import Path

from edgec.diagnostics import Location, error


def read_labels(path: str) -> list[str]:
    """One name a line; empty lines at the end do not count. EC0653 where they cannot be read."""
    where, hint = Location(path), "a text file in UTF-8, one label a line"
    try:
        lines = Path(path).read_text(encoding="utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise error("EC0653", f"the labels cannot be read: {e}", where, hint) from None
    if not lines:
        raise error("EC0653", "the file of labels is empty", where, hint)
    return [line.strip() for line in lines]
