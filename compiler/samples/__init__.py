"""Calibration and verification inputs, streamed: one sample in memory at a time.

`open_samples` reads files, folders, lists and functions; `generated_samples` makes inputs up; both give `Samples`.
"""

from __future__ import annotations

from edgec.samples.generate import generated_samples
from edgec.samples.opening import open_samples
from edgec.samples.preprocess import Preprocess
from edgec.samples.sample_set import Arrays, Samples

__all__ = ["Arrays", "Preprocess", "Samples", "generated_samples", "open_samples"]
