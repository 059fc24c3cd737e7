"""quantize(): a float model in, an ONNX model with Q/DQ out, compared with the float one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import tee
from typing import TYPE_CHECKING, Any

from edgec.accuracy import Accuracy
from edgec.compare import Comparison, compare
from edgec.coverage import Coverage, measure, stored_kernels
from edgec.diagnostics import Diagnostics, error
from edgec.graph import Graph
from edgec.lowering import Lowered, frozen, lower
from edgec.pipeline import Instrument, PassContext, PassRecord
from edgec.plugins import Registry
from edgec.quantization.form import quantization_form
from edgec.quantization.record import QuantRecord
from edgec.samples import Arrays, Preprocess, Samples
from edgec.samples.given import JUDGED_SAMPLES, given_samples
from edgec.specs.conditions import Setting
from edgec.target import settled

if TYPE_CHECKING:
    from edgec.quantization.mixed import Mixed
    from edgec.recipe import Step
    from edgec.runtime import Session
    from edgec.specs.schema import Effort, TargetSpec
    from edgec.target import Target


@dataclass(frozen=True)
class Quantized:
    """What one call made. `record` is None where nothing was quantised; `comparison` None where there are no samples."""

    graph: Graph
    record: QuantRecord | None
    comparison: Comparison | None
    passes: Sequence[PassRecord]
    pipeline: str
    diagnostics: Diagnostics
    seconds: float
    mixed: Mixed | None = None
    coverage: Coverage | None = None
    """None where weights alone are stored, for kernels in float."""


def quantize(
    model: str | os.PathLike[str] | Graph,
    *,
    target: str = "x86-64",
    precision: str | None = None,
    calibration: str | os.PathLike[str] | Samples | None = None,
    samples: str | os.PathLike[str] | Samples | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[str] = (),
    effort: Effort = "medium",
    accuracy: Accuracy | None = None,
    options: Mapping[str, Any] | None = None,
    target_options: Mapping[str, Any] | None = None,
    instruments: Sequence[Instrument] = (),
    registry: Registry | None = None,
    diagnostics: Diagnostics | None = None,
    progress: Callable[[str], None] | None = None,
) -> Quantized:
    """Quantise by the scheme of a target's precision, and compare with the float model on this host.

    Args:
        model: an ONNX file, or a Graph (left unchanged).
        precision: by default the first of the target that has a quantisation scheme.
        calibration: unlabelled inputs: .npy, .npz, a folder of images, "module:function", or Samples.
        samples: inputs to compare on; default: the first calibration samples.
        effort: "low" is fastest, "high" most accurate.
        accuracy: what the result must reach; nodes stay in float until it does.
        options: options of the pass `quantize` (`edgec passes quantize`): method, keep, scheme, ranges ...
        target_options: options of the target, which may choose the variant of the precision.

    Raises:
        EdgecError: EC0224 the target quantises nothing; and what loading, samples and passes raise.
    """
    start = time.perf_counter()
    tell = progress or (lambda text: None)
    notes = diagnostics if diagnostics is not None else Diagnostics()
    registry = registry or Registry()
    tell("load")
    graph = model.clone() if isinstance(model, Graph) else Graph.load(model, diagnostics=notes)
    chosen = registry.target(target)
    precision = settled(chosen, precision or _quantised_precision(chosen.spec()), target_options or {})
    shaped = frozen(graph, input_shapes, registry)
    inputs, checked = given_samples(calibration, samples, shaped, preprocess, notes, choosing=bool(accuracy))
    steps = with_options(chosen.pipeline(precision, effort), "quantize", options or {})
    ctx = PassContext(diagnostics=notes, samples=checked, calibration=inputs, progress=tell)
    tell("quantise")
    lowered = lower(
        graph, chosen, precision, input_shapes=input_shapes, pipeline=steps, accuracy=accuracy, options=target_options,
        instruments=instruments, registry=registry, ctx=ctx,
    )  # fmt: skip
    notes.raise_if_errors()
    checked = ctx.samples
    if samples is not None and checked is not None and ctx.quantization:
        _judge_data(ctx.quantization, checked, notes)
    comparison = None
    if checked is not None:
        from edgec.runtime import Session

        tell("compare")
        before = Session(graph, fallback=True, background=True)
        after = Session(lowered.graph, optimise=True, background=True)
        wanted, made = tee(_side_by_side(before, after, checked))
        comparison = compare((want for want, _ in wanted), (got for _, got in made))
    covered = _coverage(chosen, lowered, ctx.quantization, notes)
    tell("done")
    seconds = time.perf_counter() - start
    return Quantized(
        lowered.graph,
        ctx.quantization or None,
        comparison,
        lowered.records,
        lowered.pipeline,
        notes,
        seconds,
        lowered.mixed,
        covered,
    )


def graph_coverage(graph: Graph, record: QuantRecord | None, notes: Diagnostics) -> Coverage | None:
    """Of a graph for no target in particular, by its Q/DQ; None where it has none, or where weights alone are stored."""
    if record is None and quantization_form(graph).form in ("none", "weight-only"):
        return None
    scheme = record.scheme if record is not None else None
    if scheme is not None and scheme.mode == "weight-only":
        return None
    dynamic = scheme is not None and scheme.mode == "dynamic"
    kernels = stored_kernels(graph, weights_only=dynamic)
    found = measure(kernels, graph, scheme, Setting("", "", graph.opset), record, source="the Q/DQ graph")
    found.diagnose(notes, graph.source)
    return found


def _coverage(target: Target, lowered: Lowered, record: QuantRecord | None, notes: Diagnostics) -> Coverage | None:
    """By the target's runtime where the graph has its scheme, else by the Q/DQ; warns of products in float."""
    spec = target.spec()
    own = spec.precisions[lowered.precision].quantization
    scheme = record.scheme if record is not None else own
    if scheme is None or scheme.mode == "weight-only":
        return None
    told = target.kernels(lowered.graph) if own is not None and own.name == scheme.name else None
    kernels, source = told or (stored_kernels(lowered.graph, weights_only=scheme.mode == "dynamic"), "the Q/DQ graph")
    setting = Setting(lowered.precision, spec.platform, lowered.graph.opset)
    found = measure(kernels, lowered.graph, scheme, setting, record, source=source)
    found.diagnose(notes, lowered.reference.source)
    return found


def _side_by_side(before: Session, after: Session, samples: Samples) -> Iterator[tuple[Arrays, Arrays]]:
    """Outputs of both for one sample after another, each with half of the cores; a sample is read once."""
    with ThreadPoolExecutor(1) as pool:
        for sample in samples:
            want = pool.submit(before.run, sample)
            got = after.run(sample)
            yield want.result(), got


def _judge_data(record: QuantRecord, samples: Samples, notes: Diagnostics) -> None:
    """Say where the samples for verification are unlike those that ranges were chosen by."""
    from edgec.quantization.observe import observe
    from edgec.quantization.statistics import unlike

    if record.statistics is None:
        return
    known = {v.name for v in record.reference.inputs} | {v.name for n in record.reference.nodes() for v in n.outputs}
    values = [name for name in record.statistics.tensors if name in known]
    unlike(record.statistics, observe(record.reference, values, samples.take(JUDGED_SAMPLES)), notes)


def with_options(steps: Sequence[Step], name: str, options: Mapping[str, Any]) -> list[Step]:
    """The steps with more options for the pass `name`, in groups too."""
    if not options:
        return list(steps)
    out: list[Step] = []
    for step in steps:
        if step == name:
            out.append({name: dict(options)})
        elif isinstance(step, Mapping) and name in step:
            out.append({name: {**(step[name] or {}), **options}})
        elif isinstance(step, Mapping) and "repeat" in step:
            out.append({"repeat": with_options(step["repeat"], name, options)})
        else:
            out.append(step)
    return out


def _quantised_precision(spec: TargetSpec) -> str:
    for name in spec.choices:
        if spec.precisions[name].quantization is not None:
            return name
    hint = "a target with a quantisation scheme, such as x86-64; `edgec targets` lists them"
    raise error("EC0224", f"{spec.name} has no precision that edgec quantises for", hint=hint)
