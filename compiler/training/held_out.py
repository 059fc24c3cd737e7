"""Which weights of a run are kept: each epoch is judged on samples that are not trained on, sample by sample.

Ten held-out photos order fifty epochs mostly by chance: the loss of one photo moves more than the weights of two epochs
differ. So where there are few they are judged on several views each, and epochs are compared pair by pair: a difference
counts as one when it is above twice its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from edgec.training.batches import Arrays, augmented
from edgec.training.options import DistillOptions

Losses = npt.NDArray[np.float64]

_ENOUGH = 64
"""Judgements an epoch gets from few samples by showing them in several views."""

_MOST_VIEWS = 8
_SURE = 2.0
"""Standard errors."""

_RUINED = 1.25
"""Above that times the least loss an epoch did harm, if it is sure to be above."""


def held_out_views(
    held: Sequence[Arrays], options: DistillOptions, image_axes: dict[str, tuple[int, int]]
) -> list[list[Arrays]]:
    """The samples as they are, and as often changed as `options.augment` says as it takes for enough judgements. The views
    are always the same: they hang on the seed alone."""
    views = [list(held)]
    if not options.augment or not image_axes:
        return views
    others = replace(options, seed=options.seed ^ (1 << 40))  # not those that training shows
    count = min(_MOST_VIEWS, -(-_ENOUGH // len(held)))
    return [*views, *(augmented(held, others, step, image_axes) for step in range(1, count))]


def surely_above(losses: Losses, others: Losses) -> bool:
    """Whether the mean of `losses` is above that of `others`, of the same samples, by more than chance makes; NaN is."""
    difference = losses - others
    spread = float(difference.std(ddof=1)) / len(difference) ** 0.5 if len(difference) > 1 else 0.0
    return not float(difference.mean()) <= _SURE * spread


def ruined(losses: Losses, least: Losses) -> bool:
    """Whether an epoch did harm: its steps were too large."""
    return not float(losses.mean()) <= _RUINED * float(least.mean()) and surely_above(losses, least)
