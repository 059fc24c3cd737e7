"""How long models run on this host."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgec.runtime import Session


@dataclass(frozen=True)
class Latency:
    """Seconds of whole runs on this host, after warm-up."""

    median: float
    least: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        return cls(statistics.median(seconds), min(seconds), len(seconds))


@runtime_checkable
class Timed(Protocol):
    """A runner whose runs take the time they take for a user: no simulator."""

    def latency(self, sample: Mapping[str, npt.NDArray[Any]], *, runs: int = 20, warm_up: int = 3) -> Latency:
        """With one thread."""


def in_turns(sessions: Sequence[tuple[Session, dict[str, Any]]], warm_up: int, runs: int) -> list[list[float]]:
    """Seconds of each run of each session. They take turns, so that a slow moment of the machine hits all of them."""
    out: list[list[float]] = [[] for _ in sessions]
    for i in range(warm_up + runs):
        for (session, feeds), seconds in zip(sessions, out, strict=True):
            start = time.perf_counter()
            session.run(feeds)
            if i >= warm_up:
                seconds.append(time.perf_counter() - start)
    return out
