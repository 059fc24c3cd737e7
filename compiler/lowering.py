"""A model through a target's pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from edgec.accuracy import Accuracy, keep_enough, quantize_at
from edgec.blame import blaming
from edgec.graph import Graph
from edgec.pipeline import Instrument, Pass, PassContext, PassManager, PassRecord
from edgec.plugins import Registry
from edgec.recipe import Step, build_passes, parse_pipeline, pipeline_text
from edgec.specs.schema import builtin_pipeline
from edgec.stages import StageRecorder
from edgec.target import Target, settled

if TYPE_CHECKING:
    from edgec.quantization.mixed import Mixed
    from edgec.samples import Preprocess
    from edgec.specs.schema import Effort
    from edgec.stages import Made

_FLOAT = "float"
"""The pipeline before `compress`: pruning works on folded, plain layers."""

Verify = Literal["none", "structure", "each"]


@dataclass(frozen=True)
class Lowered:
    """A model taken through a target's pipeline."""

    target: Target
    precision: str
    reference: Graph
    """The model as loaded, with the outputs the passes give it: what everything is compared with."""
    graph: Graph
    records: Sequence[PassRecord]
    pipeline: str
    mixed: Mixed | None = None
    """What was tried to reach the accuracy asked for."""
    stages: Sequence[Made] = ()
    """The graph after each of `compress`."""


def lower(
    graph: Graph,
    target: Target,
    precision: str | None = None,
    *,
    input_shapes: Sequence[str] = (),
    compress: str | Sequence[Step] | None = None,
    pipeline: str | Sequence[Step] | None = None,
    effort: Effort = "medium",
    calibrate: bool = True,
    accuracy: Accuracy | None = None,
    options: Mapping[str, Any] | None = None,
    preprocess: Preprocess | None = None,
    verify: Verify = "none",
    instruments: Sequence[Instrument] = (),
    registry: Registry,
    ctx: PassContext,
) -> Lowered:
    """Run the target's pipeline on a copy of `graph`; `graph` itself becomes the reference.

    `precision`: as the user asked for it; `Lowered.precision` is the settled one.
    `options`, `preprocess`: the target's options, and how pixels become inputs; a target may have steps for them.
    `compress`: passes that make the float model smaller, after the target-independent ones and before the target's own.
    `accuracy`: what a quantised result must reach; nodes are then kept in higher precision until it does.
    `calibrate`: False leaves out the passes that need calibration data: enough to see who would run each node.
    """
    spec = target.spec()
    precision = settled(target, precision, options or {})
    ctx.target, ctx.precision = spec, precision
    steps = _steps(target.pipeline(precision, effort) if pipeline is None else pipeline)
    steps = list(target.prepare(steps, precision, options or {}, preprocess))
    first: list[Step] = [{"freeze-shapes": {"shapes": list(input_shapes)}}] if input_shapes else []
    smaller = build_passes(_steps(compress), registry.passes())
    before = builtin_pipeline(_FLOAT).steps if smaller else ()
    passes = build_passes(steps, registry.passes())
    if not calibrate:
        passes = [p for p in passes if not any(q.needs_calibration for q in p.flat())]
    recorder = StageRecorder(smaller)
    instruments = [*instruments, recorder] if smaller else instruments
    passes = [*build_passes([*first, *before], registry.passes()), *smaller, *passes]
    after = graph.clone()
    if spec.static_shapes or spec.precisions[precision].static_shapes:
        from edgec.passes.prepare.freeze_shapes import require_static_inputs

        frozen = after
        if input_shapes:
            frozen = graph.clone()
            freeze(frozen, input_shapes, registry)
        require_static_inputs(frozen)
    manager = PassManager(passes, instruments, verify)
    manager.check(after.facts)
    with blaming(lambda: graph):
        graph = _with_outputs_of(passes, graph)
        lowered = _run(graph, after, target, precision, passes, manager, accuracy, ctx)
    return replace(lowered, stages=tuple(recorder.made))


def _steps(pipeline: str | Sequence[Step] | None) -> list[Step]:
    return list(parse_pipeline(pipeline)) if isinstance(pipeline, str) else list(pipeline or ())


def _with_outputs_of(passes: Sequence[Pass], graph: Graph) -> Graph:
    """The reference: `graph`, or a copy taken through the passes that give the model other outputs, and through no others."""
    changing = [q for p in passes for q in p.flat() if q.changes_interface]
    if not changing:
        return graph
    copy = graph.clone()
    PassManager(changing).run(copy, PassContext())
    return copy


def _run(
    graph: Graph,
    after: Graph,
    target: Target,
    precision: str,
    passes: Sequence[Pass],
    manager: PassManager,
    accuracy: Accuracy | None,
    ctx: PassContext,
) -> Lowered:
    """All passes; from `quantize` on as often as the accuracy asked for takes."""
    at = quantize_at(passes) if accuracy else None
    if at is None:
        return Lowered(target, precision, graph, after, manager.run(after, ctx), pipeline_text(passes))
    assert accuracy is not None  # else there is nothing to search for
    records = replace(manager, passes=passes[:at]).run(after, ctx)
    rest, mixed = keep_enough(passes[at:], after, ctx, accuracy)
    records += replace(manager, passes=rest).run(after, ctx)
    return Lowered(target, precision, graph, after, records, pipeline_text([*passes[:at], *rest]), mixed)


def frozen(graph: Graph, input_shapes: Sequence[str], registry: Registry) -> Graph:
    """`graph` with its inputs fixed, what samples must fit: a copy, or itself where nothing is to be fixed."""
    if not input_shapes:
        return graph
    copy = graph.clone()
    freeze(copy, input_shapes, registry)
    return copy


def freeze(graph: Graph, input_shapes: Sequence[str], registry: Registry) -> None:
    """Fix the inputs of `graph`, in place, as `--input-shape` does."""
    steps: list[Step] = [{"freeze-shapes": {"shapes": list(input_shapes)}}]
    PassManager(build_passes(steps, registry.passes())).run(graph)
