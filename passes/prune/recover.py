"""What pruning lost, made good from unlabelled inputs, with the float graph there was as the teacher."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from edgec.diagnostics import error
from edgec.graph import Graph
from edgec.passes.prune.option_ranges import require_positive
from edgec.passes.prune.sound_samples import without_spoilt
from edgec.pipeline import Pass, PassContext, PassResult

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgec.pipeline import Contract
    from edgec.samples import Samples

Method = Literal["closed-form", "distillation"]


@dataclass(frozen=True)
class Recover(Pass):
    """Change the weights that are left so that the graph computes what it did before `prune`, or before `quantize`.

    `closed-form`: layer after layer, the weights that come closest to the outputs the layer had, by least squares on what it
    reads now. `samples`: calibration inputs used, as far as their activations fit `memory` (MiB). `columns`: places
    (pixels) taken of a layer's input, all samples together; more where the layer has many weights.

    `distillation`: the closed form, then training with all calibration inputs, the float graph as the teacher; needs the
    extra `train` (PyTorch). After `quantize` it trains behind the rounding: scales and zero points stay, weights are
    rounded to their grid; with `scales` those of weights are learnt too, and those of biases follow. `epochs` (0: 20, and at
    least 400 batches), or `steps`, of `batch` inputs, `lr` at its greatest; `augment`: flip, crop, zoom, mix, [] for none;
    auto: for colour images, flip, zoom and mix or, where they are small, flip and crop; `features`: values inside whose
    difference counts too, [] for none; `temperature` of classes; `seed`; `threads` of the CPU. State is kept in
    `checkpoints` (default: in edgec's cache), and a run that was stopped goes on from there.

    Raises:
        EdgecError: EC0204 `samples`, `columns` or `memory` is below 1, an option of training is given to the closed form, or
            `epochs` and `steps` both; EC0339 nothing was pruned or quantised in this pipeline; EC0731, EC0737 no
            calibration data, or none that is finite; EC0320 ... EC0329 see `edgec.training.distill`.
    """

    method: Method = "closed-form"
    samples: int = 1024
    columns: int = 16384
    memory: int = 2048
    epochs: int = 0
    steps: int = 0
    batch: int = 16
    lr: float = 3e-4
    temperature: float = 4.0
    augment: tuple[str, ...] = ("auto",)
    features: tuple[str, ...] = ("auto",)
    seed: int = 0
    threads: int = 0
    scales: bool = False
    checkpoints: str = ""

    name: ClassVar[str] = "recover"
    contract: ClassVar[Contract] = "lossy"
    requires: ClassVar[frozenset[str]] = frozenset({"constants-as-initializers"})
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        require_positive(self, "samples", "columns", "memory")
        if self.method == "closed-form" and (stray := sorted(_TRAINING & self.options().keys())):
            hint = f"recover{{method=distillation {stray[0]}=...}}, or leave it out"
            raise error("EC0204", f"pass 'recover', option {stray[0]}: the closed form does not train", hint=hint)
        if self.epochs and self.steps:
            hint = "one of them: rounds through the samples, or batches"
            raise error("EC0204", "pass 'recover', option steps: epochs are given too", hint=hint)
        quantised = self.method == "distillation" and bool(ctx.quantization)
        if ctx.pruning is None and not quantised:
            hint = "prune{ratio=0.3},recover: both in one pipeline"
            raise error("EC0339", "recover makes good what prune lost, and nothing has been pruned", hint=hint)
        if ctx.calibration is None:
            hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function: unlabelled inputs like those in use"
            raise error("EC0731", "recover needs calibration data", hint=hint)
        if not ctx.pruning and not quantised:
            return PassResult(False)
        return _METHODS[self.method](self, graph, ctx.calibration, ctx)


def _closed_form(p: Recover, graph: Graph, samples: Samples, ctx: PassContext) -> PassResult:
    from edgec.passes.prune.closed_form import recover

    if not ctx.pruning:  # nothing was cut
        return PassResult(False)
    stats = recover(graph, ctx.pruning, samples, p.samples, p.columns, p.memory, ctx.seed, ctx.diagnostics)
    return PassResult(any(stats.values()), stats)


def _distillation(p: Recover, graph: Graph, samples: Samples, ctx: PassContext) -> PassResult:
    """The closed form, then training. The first is not fitted to the samples that judge the second: the start would look
    better on them than it is, and nothing could beat it."""
    from edgec.passes.prune.distil_recovery import Training, options_for, recover
    from edgec.training import DistillOptions, require_torch

    require_torch()
    from edgec.training.batches import split

    training = Training(
        p.epochs or 20, p.steps, p.batch, p.lr, p.temperature, p.augment, p.features, p.seed, p.threads, p.scales, p.checkpoints,
        at_least=_LEAST_STEPS if not p.epochs else 0,
    )  # fmt: skip
    samples = without_spoilt(_teacher(ctx)[0], samples, DistillOptions.limit, ctx.diagnostics)
    options = options_for(graph, samples, training)  # refuses what cannot be, before anything is fitted
    held_out = (
        split(min(len(samples), DistillOptions.limit), DistillOptions.holdout, p.seed)[1] if len(samples) > 2 else []
    )
    first = PassResult(False) if ctx.quantization else _closed_form(p, graph, samples.without(held_out), ctx)
    then = recover(graph, *_teacher(ctx), samples, training, options, ctx)
    return PassResult(first.changed or then.changed, {**first.stats, **then.stats})


_TRAINING = frozenset(
    {"epochs", "steps", "batch", "lr", "temperature", "augment", "features", "seed", "threads", "scales", "checkpoints"}
)
"""Options that only `distillation` has a use for."""

_LEAST_STEPS = 400
"""Batches trained on at least, unless epochs are given: twenty rounds through a hundred images are too few."""


def _teacher(ctx: PassContext) -> tuple[Graph, Mapping[str, Mapping[int, npt.NDArray[np.int64]]]]:
    """The float graph there was before the first cut, or before quantising, and what is left of its activations."""
    if ctx.pruning is not None:
        return ctx.pruning.reference, ctx.pruning.kept
    assert ctx.quantization is not None  # else `run` would not have come here
    return ctx.quantization.reference, {}


_METHODS: dict[Method, Callable[[Recover, Graph, Samples, PassContext], PassResult]] = {
    "closed-form": _closed_form,
    "distillation": _distillation,
}
"""What each method runs. It is given the pass with its options, the graph to change in place, inputs, the context."""
