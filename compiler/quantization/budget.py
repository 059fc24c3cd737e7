"""Budget: what a quantised model must still reach, and how far off a score is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from edgec.diagnostics import error
from edgec.quantization.metric import Drop

Figure = Literal["sqnr_db", "agreement", "metric"]


@dataclass(frozen=True)
class Score:
    """What one choice of layers reached. `agreement`: top-1, 0..1, of the output where it is lowest."""

    sqnr_db: float
    """Of the output where it is lowest."""
    agreement: float | None = None
    metric: float | None = None

    def to_json(self) -> dict[str, Any]:
        sqnr = self.sqnr_db if math.isfinite(self.sqnr_db) else None
        return {"sqnr_db": sqnr, "agreement": self.agreement, "metric": self.metric}


@dataclass(frozen=True)
class Budget:
    """All that is given must hold. `min_agreement` is a fraction. `baseline`: the float model's metric.

    Raises:
        EdgecError: EC0754 nothing is asked for, or what is asked for cannot be met by any model.
    """

    min_sqnr: float | None = None
    min_agreement: float | None = None
    max_drop: Drop | None = None
    baseline: float | None = None

    def __post_init__(self) -> None:
        if self.min_sqnr is None and self.min_agreement is None and self.max_drop is None:
            hint = "--min-sqnr 25, --min-agreement 99%, or --metric metric.py:function --max-drop 1%"
            raise error("EC0754", "no accuracy is asked for", hint=hint)
        if self.min_agreement is not None and not 0 < self.min_agreement <= 1:
            raise error("EC0754", f"an agreement of {self.min_agreement:g} is not between 0 and 1")
        if self.max_drop is not None and self.baseline is None:
            raise error("EC0754", "max-drop needs a metric", hint="--metric metric.py:function")

    @property
    def figure(self) -> Figure:
        """The figure that decides, for plots: the metric before the agreement before the SQNR."""
        if self.max_drop is not None:
            return "metric"
        return "agreement" if self.min_agreement is not None else "sqnr_db"

    @property
    def floor(self) -> float:
        """The lowest value of `figure` that is accepted."""
        return next(least for name, least in self._floors() if name == self.figure)

    def _floors(self) -> list[tuple[Figure, float]]:
        out: list[tuple[Figure, float]] = []
        if self.min_sqnr is not None:
            out.append(("sqnr_db", self.min_sqnr))
        if self.min_agreement is not None:
            out.append(("agreement", self.min_agreement))
        if self.max_drop is not None and self.baseline is not None:
            out.append(("metric", self.max_drop.floor(self.baseline)))
        return out

    def met(self, score: Score) -> bool:
        return not self.shortfalls(score)

    def shortfalls(self, score: Score) -> list[str]:
        """What a score misses, in words; empty where the budget is met."""
        out = []
        for name, least in self._floors():
            value = getattr(score, name)
            if value is None or not value >= least:
                out.append(f"{_TEXT[name](value)} where {_TEXT[name](least)} is asked for")
        return out

    def __str__(self) -> str:
        return ", ".join(f"at least {_TEXT[name](least)}" for name, least in self._floors())


_TEXT = {
    "sqnr_db": lambda v: f"{v:.1f} dB",
    "agreement": lambda v: "no top-1 agreement" if v is None else f"{v:.2%} agreement",
    "metric": lambda v: "no metric" if v is None else f"a metric of {v:.4g}",
}
