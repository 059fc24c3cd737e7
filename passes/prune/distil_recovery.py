"""Recovery by distillation: what is left is trained towards the float graph, on views of unlabelled inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgec.graph import Graph, constant, ir
from edgec.pipeline import PassContext, PassResult
from edgec.samples import Samples
from edgec.training import DistillOptions, require_torch
from edgec.training.defaults import automatic_views, checkpoint_folder
from edgec.training.outcome import tell

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from edgec.quantization.record import QuantRecord


@dataclass(frozen=True)
class Training:
    """How a recovery trains, beside what `DistillOptions` has defaults for."""

    epochs: int
    steps: int
    batch: int
    lr: float
    temperature: float
    augment: tuple[str, ...]
    features: tuple[str, ...]
    seed: int
    threads: int
    scales: bool
    checkpoints: str
    at_least: int
    """Batches, whatever `epochs` makes of the number of samples."""


def recover(
    graph: Graph,
    teacher: Graph,
    kept: Mapping[str, Mapping[int, npt.NDArray[np.int64]]],
    calibration: Samples,
    training: Training,
    options: DistillOptions,
    ctx: PassContext,
) -> PassResult:
    """Train the weights of `graph`, in place, towards what `teacher` computes; weights that were not better stay.

    State is kept in the folder `training.checkpoints`, by default one of edgec's cache: a run that was stopped goes on when
    the same pass is run on the same graph and samples.

    Raises:
        EdgecError: EC0320 torch is missing; see `edgec.training.distill`.
    """
    require_torch()
    from edgec.training import distill
    from edgec.training.written_back import write_back

    folder = Path(training.checkpoints).expanduser() if training.checkpoints else checkpoint_folder()
    result = distill(
        graph, teacher, calibration, options, kept=kept, checkpoints=folder, diagnostics=ctx.diagnostics, progress=ctx.progress,
    )  # fmt: skip
    tell(result, graph, ctx.diagnostics)
    if not result.best_step:
        return PassResult(False)
    stored = graph.model.graph.initializers
    trained = result.graph.model.graph.initializers
    changed = {n: v.const_value.numpy() for n, v in trained.items() if _differs(v, stored.get(n))}
    write_back(graph, changed)
    if training.scales and ctx.quantization is not None:
        _record_scales(graph, ctx.quantization)
    return PassResult(True, {"weights trained": len(changed), "batches": result.steps})


def options_for(graph: Graph, calibration: Samples, training: Training) -> DistillOptions:
    """The options of a run; where they are left open, by what the inputs look like and how many samples there are.

    Raises:
        EdgecError: EC0323 one is out of its range.
    """
    augment: Any = automatic_views(graph) if training.augment == ("auto",) else training.augment
    features: Any = "auto" if training.features == ("auto",) else training.features
    options = DistillOptions(
        epochs=training.epochs, steps=training.steps, batch=training.batch, lr=training.lr,
        temperature=training.temperature, augment=augment, features=features, seed=training.seed,
        threads=training.threads, train_scales=training.scales,
    )  # fmt: skip
    if options.steps:
        return options
    per_epoch = max(1, -(-len(calibration) * 9 // (10 * options.batch)))
    return replace(options, epochs=max(options.epochs, -(-training.at_least // per_epoch)))


def _record_scales(graph: Graph, record: QuantRecord) -> None:
    """What the passes and reports after this one read of the weights' scales."""
    stored = graph.model.graph.initializers
    for name, (node, params) in record.weights.items():
        users = [u.node for u in stored[name].uses()] if name in stored else []
        scale = constant(users[0].inputs[1]) if users and users[0].op_type == "DequantizeLinear" else None
        if scale is not None and scale.shape == params.scale.shape:
            record.weights[name] = (node, replace(params, scale=scale.astype(params.scale.dtype)))


def _differs(new: ir.Value, old: ir.Value | None) -> bool:
    if old is None or old.const_value is None or new.const_value is None:
        return False
    return bool((new.const_value.numpy() != old.const_value.numpy()).any())
