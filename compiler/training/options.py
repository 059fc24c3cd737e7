"""What `distill` can be told."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from edgec.diagnostics import error

Loss = Literal["auto", "kl", "mse"]
Augmentation = Literal["flip", "crop", "zoom", "mix"]

_MOST_THREADS = 4096

_RANGES = {
    **dict.fromkeys(("epochs", "batch"), "a whole number from 1"),
    **dict.fromkeys(("lr", "temperature"), "a finite number above 0"),
    "hard": "a share, 0 to 1",
    "holdout": "a share between 0 and 1",
    "limit": "a whole number from 2",
    "seed": "a whole number from 0, below 2**63",
    "threads": f"a whole number up to {_MOST_THREADS}; 0: as many as PyTorch chooses",
    "augment": f"some of {', '.join(get_args(Augmentation))}",
}


@dataclass(frozen=True)
class DistillOptions:
    """All of them have defaults that suit a network of some hundred calibration samples."""

    epochs: int = 20
    steps: int = 0
    """How many batches to train on; 0: `epochs` times all of them."""
    batch: int = 32
    lr: float = 1e-3
    """The greatest, as a part of a weight's size (see `optimizer`): it rises over the first twentieth of the steps, and falls
    to 0 along a cosine. An epoch that does harm is taken back, and the steps become smaller."""
    optimizer: Literal["adam", "sgd"] = "adam"
    temperature: float = 4.0
    """Of the softmax of logits (Hinton et al., arXiv:1503.02531)."""
    loss: Loss = "auto"
    """`kl`: outputs are logits, or probabilities where a Softmax makes them; `mse`: they are numbers; `auto`: see
    `losses.loss_kind`."""
    hard: float = 0.0
    """Share of the cross-entropy with labels, 0..1; needs labels."""
    features: tuple[str, ...] | Literal["auto"] = ()
    """Values inside that student and teacher both have, with the same shape but for what was pruned: their difference
    counts too. `auto`: some between the layers, see `features.automatic_features`."""
    feature_weight: float = 1.0
    """Of their mean difference, relative to the teacher's power, beside the loss of the outputs. Logits are compared so
    too, as one of them."""
    clip: float = 1.0
    """The greatest norm of the gradient of all parameters; 0: no limit."""
    augment: tuple[Augmentation, ...] = ()
    """For images, all by chance: `flip` from left to right; `crop`: shifted by up to an eighth, edges repeated; `zoom`: a
    part of a quarter of the image or more, enlarged; `mix`: blended with another one (Beyer et al., arXiv:2106.05237: the
    teacher sees the same views, so that some hundred images teach what thousands do)."""
    holdout: float = 0.1
    """Share of the samples that are not trained on, and choose the best epoch."""
    limit: int = 10_000
    """Samples that are read at most; they are held in memory."""
    keep_zeros: bool = True
    """Weights that are exactly 0 in matrices and kernels stay so: what was pruned one by one stays pruned."""
    train_scales: bool = False
    """Of a graph with Q/DQ: the scales of its weights too (LSQ, arXiv:1902.08153); those of activations stay."""
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    """Of the CPU; 0: as many as torch chooses. Sums are rounded differently with another number."""

    def __post_init__(self) -> None:
        checks = {
            "epochs": self.epochs > 0, "steps": self.steps >= 0, "batch": self.batch > 0, "lr": 0 < self.lr < math.inf,
            "temperature": 0 < self.temperature < math.inf, "hard": 0 <= self.hard <= 1, "clip": self.clip >= 0,
            "holdout": 0 < self.holdout < 1, "limit": self.limit > 1, "feature_weight": self.feature_weight >= 0,
            "threads": 0 <= self.threads <= _MOST_THREADS, "seed": 0 <= self.seed < 2**63,
            "augment": {*self.augment} <= {*get_args(Augmentation)},
        }  # fmt: skip
        for name, fine in checks.items():
            if not fine:
                message = f"training option {name} cannot be {getattr(self, name)!r}"
                raise error("EC0323", message, hint=_RANGES.get(name, "a number that is not negative"))

    def text(self) -> str:
        """All options, always in the same spelling: part of a checkpoint's key."""
        return json.dumps(asdict(self), sort_keys=True)
