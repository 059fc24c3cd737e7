"""Transposes that meet are merged; those that move no data become Reshape or nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgec.passes.optimize.transpose_rules import CANCEL
from edgec.pipeline import Contract, RewritePass
from edgec.rewrite import RuleSet


@dataclass(frozen=True)
class CancelTransposes(RewritePass):
    """No Transpose reads a Transpose, and none only moves dimensions of size 1."""

    name: ClassVar[str] = "cancel-transposes"
    contract: ClassVar[Contract] = "exact"
    rules: ClassVar[RuleSet] = CANCEL
