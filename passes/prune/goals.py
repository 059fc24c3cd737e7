"""What `prune` is to reach: a part of something that goes, or what is left of it at most."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from edgec.diagnostics import EdgecError, error
from edgec.target_options import Bytes

MEASURED = ("latency", "flash")
"""What only a build for the target tells."""

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|ms|us)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


@dataclass(frozen=True)
class Goal:
    """`part` of `what` goes; or at most `most` (seconds, bytes) of it is left: one of the two."""

    what: str
    part: float | None
    most: float | None = None
    text: str = ""
    """How the user wrote the amount."""

    @property
    def measured(self) -> bool:
        return self.what in MEASURED

    @property
    def scale(self) -> str:
        """What is counted on the way to the goal: it grows with it, and needs no build."""
        return {"latency": "macs", "flash": "params"}.get(self.what, self.what)

    def limit(self, dense: float) -> float:
        """What may be left of `dense`."""
        if self.most is not None:
            return self.most
        assert self.part is not None  # one of them is given
        return (1 - self.part) * dense

    def __str__(self) -> str:
        return f"{self.what}={self.text or self.part}"


def goal_of(given: Mapping[str, float | str | None]) -> Goal:
    """The one that is given.

    Raises:
        EdgecError: EC0333 none is, or more; it is no part between 0 and 1, and no time or size.
    """
    found = {k: v for k, v in given.items() if v is not None}
    if len(found) != 1:
        names = ", ".join(given)
        raise error("EC0333", f"prune takes one goal of {names}", hint="prune{ratio=0.3}")
    ((what, value),) = found.items()
    if isinstance(value, str):
        return Goal(what, None, _absolute(what, value), value)
    if not 0 < value < 1:
        raise _impossible(what, value)
    return Goal(what, value)


def _absolute(what: str, text: str) -> float:
    try:
        if what == "flash":
            amount: float = Bytes.parse(text)
        elif what == "latency" and (found := _TIME.fullmatch(text)):
            amount = float(found[1]) * _SECONDS[found[2]]
        else:
            raise _impossible(what, text)
    except ValueError:
        raise _impossible(what, text) from None
    if not amount > 0:
        raise _impossible(what, text)
    return amount


def _impossible(what: str, value: object) -> EdgecError:
    units = {"latency": ", or what is left: 5ms", "flash": ", or what is left: 200KiB"}.get(what, "")
    return error("EC0333", f"prune: {what}={value} cannot be", hint=f"goals are parts that go, between 0 and 1{units}")
