"""Post-training quantisation: plan, observe, choose ranges, insert Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph, constant
from edgec.passes.quantize.best_method import best_method, trial_folder
from edgec.passes.quantize.bias import bias_params
from edgec.passes.quantize.hazards import Hazards, find_hazards, hazard_values
from edgec.passes.quantize.insert import Inserter, WeightKey, weight_key
from edgec.passes.quantize.plan import Conversion, Plan, make_plan
from edgec.passes.quantize.quantized_input import already_quantized
from edgec.passes.quantize.stored_weights import StoredWeights
from edgec.passes.quantize.weight_ranges import weight_params
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.quantization.form import quantization_form
from edgec.quantization.params import QuantParams, params_of_range
from edgec.quantization.record import QuantRecord
from edgec.specs.conditions import Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgec.pipeline import Contract
    from edgec.quantization.statistics import Statistics
    from edgec.specs.scheme import Scheme

Method = Literal["mse", "minmax", "moving-average", "percentile", "entropy"]
"""How a range is chosen from what was seen: see `edgec.quantization.ranges`."""

SEVEN_BITS = 64
"""The largest weight of `reduce_range`: 2 x 255 x 64 fits int16."""


@dataclass(frozen=True)
class Quantize(Pass):
    """Q/DQ nodes where the target's scheme wants them; ranges of activations from `ctx.calibration`.

    Leaves `ctx.quantization` for the passes that correct. Does nothing where the scheme finds nothing to quantise.

    Raises:
        EdgecError: EC0220 no calibration data; EC0221 no scheme; EC0222 `keep` or `wide`
            names a node that is not there; EC0226 the scheme has no `wide`; EC0736 a weight is not finite; EC0737 nor is
            anything that was seen of an activation.
    """

    scheme: str = ""
    """A name of specs/quantization; by default that of the target's precision."""
    method: Method | Literal["best"] = "mse"
    """"best" tries several and keeps the one whose result is closest to the float model."""
    corrected: bool = False
    """"best" judges close methods with biases corrected, as `correct-bias` would: slower, for pipelines in which it follows."""
    percentile: float = 99.999
    margin: float = 1.0
    """What ranges of activations in 16 bits are widened by: they have bits to spare, and what lies outside is cut off."""
    weights: Literal["mse", "minmax", "cut"] = "mse"
    keep: tuple[str, ...] = ()
    """Nodes that stay in float."""
    wide: tuple[str, ...] = ()
    """Nodes whose activations get the 16 bits of the scheme's `wide`: less exact than float, and still integers."""
    reduce_range: bool = False
    """Weights in 7 bits, -64..64: two products with uint8 then fit 16 bits, where x86 without VNNI adds them."""
    ranges: str = ""
    """A calibration.json written before, instead of calibration data."""
    hazards: bool = True
    """Keep in float what int8 would destroy: tensors that mix very different ranges."""

    name: ClassVar[str] = "quantize"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        scheme = self._scheme(ctx)
        self._check_names(graph)
        if self.wide and scheme.wide is None:
            raise error("EC0226", f"{scheme.name} has no 16-bit activations for single layers", hint=scheme.not_wide)
        self._check_range(scheme, ctx)
        arrived = quantization_form(graph)
        if arrived.form not in ("none", "weight-only"):  # what its authors left in float they left so on purpose
            ctx.diagnostics.note("EC0794", f"the model is quantised already: {arrived}; quantize adds nothing")
            ctx.quantization = QuantRecord(graph.clone(), scheme)  # for the passes that correct: nothing to do
            return PassResult(False)
        if self.method == "best":
            with trial_folder() as folder:
                return best_method(self, graph, ctx, Path(folder)).run(graph, ctx)
        setting = Setting(ctx.precision or "", ctx.target.platform if ctx.target is not None else "", graph.opset)
        keep = dict.fromkeys(self.keep, "kept in float as asked")
        stored = StoredWeights(graph)
        taken = already_quantized(graph)
        plan = make_plan(graph, scheme, setting, keep=keep, wide=self.wide, taken=taken)
        if not plan.activations and not plan.weights:
            stored.restore()
            ctx.quantization = QuantRecord(graph.clone(), scheme, kept=plan.kept)
            return PassResult(False)
        _check_weights(plan)
        statistics, found = None, Hazards()
        if plan.activations:
            statistics = self._statistics(graph, plan, ctx)
            if self.hazards:
                found = find_hazards(graph, statistics, scheme, setting, keep=keep)
                found.report(ctx.diagnostics, graph.source)
                kept = {**found.float_nodes, **keep}
                plan = make_plan(graph, scheme, setting, keep=kept, wide=self.wide, taken=taken)
        record = QuantRecord(graph.clone(), scheme, statistics, kept=plan.kept, wide=plan.wide)
        converted: list[QuantParams] = []
        if statistics is not None:
            record.activations = self._activation_params(plan, statistics, found)
            converted = [self._converted_params(c, plan, record.activations, statistics) for c in plan.conversions]
        weights = self._weight_params(plan, stored, record.activations)
        biases = bias_params(plan, record.activations, weights, converted)
        inserter = Inserter(graph)
        record.weights = inserter.weights(plan.weights, weights)
        inserter.biases(plan.biases, biases)
        inserter.activations(plan, record.activations, converted)
        stored.restore()
        graph.remove_dead()
        ctx.quantization = record
        counts = {"activations": len(plan.activations), "weights": len(plan.weights), "kept": len(plan.kept)}
        if plan.wide:
            counts["wide"] = len(plan.wide)
        return PassResult(bool(plan.activations or plan.weights), counts)

    def settled(self, graph: Graph, ctx: PassContext) -> Quantize:
        """This pass with "best" replaced by the method it stands for on this graph, for who runs it many times."""
        if self.method != "best":
            return self
        with trial_folder() as folder:
            return replace(best_method(self, graph, ctx, Path(folder)), ranges=self.ranges)

    def _scheme(self, ctx: PassContext) -> Scheme:
        if self.scheme:
            from edgec.specs.schema import builtin_scheme

            return builtin_scheme(self.scheme)
        precision = ctx.target.precisions.get(ctx.precision or "") if ctx.target is not None else None
        if precision is None or precision.quantization is None:
            where = f"{ctx.target.name} at {ctx.precision}" if ctx.target is not None else "no target"
            raise error("EC0221", f"{where} has no quantisation scheme", hint="name one: quantize{scheme=...}")
        return precision.quantization

    def _check_range(self, scheme: Scheme, ctx: PassContext) -> None:
        from edgec.quantization.host_cpu import saturates

        if self.reduce_range:
            if scheme.weights.dtype != "int8" or not scheme.weights.symmetric:
                what = f"reduce-range is for symmetric int8 weights, {scheme.name} has {scheme.weights.dtype}"
                raise error("EC0227", what, hint="leave it out: other kernels do not saturate")
            return
        mixed = scheme.activations is not None and (scheme.activations.dtype, scheme.weights.dtype) == ("uint8", "int8")
        if mixed and ctx.target is not None and ctx.target.platform == "x86-64" and saturates():
            what = "this processor has no VNNI: sums of uint8 x int8 products saturate at 16 bits with weights of full range"
            ctx.diagnostics.warn(
                "EC0228", what, hint="--reduce-range (quantize{reduce-range=true}) stores weights in 7 bits"
            )

    def _check_names(self, graph: Graph) -> None:
        from edgec.diagnostics import did_you_mean

        names = {n.name for n in graph.nodes()} | {v.name for n in graph.nodes() for v in n.outputs}
        for option, name in [*(("keep", n) for n in self.keep), *(("wide", n) for n in self.wide)]:
            if name not in names:
                hint = did_you_mean(name, sorted(n for n in names if n), "`edgec inspect` lists them")
                raise error("EC0222", f"{option}: the graph has no node {name!r}", hint=hint)

    def _statistics(self, graph: Graph, plan: Plan, ctx: PassContext) -> Statistics:
        from edgec.quantization.fixed_values import fixed_values
        from edgec.quantization.observe import observe
        from edgec.quantization.statistics import Statistics, review

        planned = [name for name, site in plan.activations.items() if site.fixed is None]
        values = list(dict.fromkeys([*planned, *(hazard_values(graph) if self.hazards else ())]))
        if self.ranges:
            statistics = Statistics.load(self.ranges)
            if statistics.model_hash != graph.fingerprint():
                what = f"{self.ranges} was made with another model, or after other passes"
                raise error("EC0223", what, hint="calibrate again, or use the pipeline and effort it was made with")
        else:
            if ctx.calibration is None:
                hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function, with --mean and --std as in training"
                raise error("EC0220", "static quantisation needs calibration data: inputs like those in use", hint=hint)
            statistics = observe(graph, values, ctx.calibration, per_channel=values if self.hazards else ())
        missing = [v for v in planned if v not in statistics.tensors]
        if missing:
            what = f"{self.ranges} has no ranges of {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}"
            raise error("EC0223", what, hint="it was made with another model or pipeline: calibrate again")
        inputs = [v.name for v in graph.inputs if v.name]
        review(statistics, ctx.diagnostics, inputs=inputs, fixed=fixed_values(graph))
        for name in (v for v in planned if plan.activations[v].range is None):
            statistics.require_finite(name, graph.source)
        _leave_out(statistics, ctx)
        return statistics

    def _activation_params(self, plan: Plan, statistics: Statistics, found: Hazards) -> dict[str, QuantParams]:
        """Parameters by value; one choice for each group. What lies outside of limits makes no difference to readers."""
        from edgec.passes.quantize.reader_limits import within
        from edgec.quantization.ranges import choose_range
        from edgec.quantization.sketch import TensorSketch

        out: dict[str, QuantParams] = {}
        for names in plan.groups:
            sites = [plan.activations[n] for n in names]
            fixed = next((s.fixed for s in sites if s.fixed is not None), None)
            known = next((s.range for s in sites if s.range is not None), None)
            kind = sites[0].kind
            if fixed is not None:
                scale, zero = np.float32(fixed.scale), np.int32(fixed.zero_point)
                p = QuantParams(np.asarray(scale), np.asarray(zero), kind.dtype, narrow=kind.narrow)
            elif known is not None:
                p = params_of_range(*known, kind)
            else:
                sketch = TensorSketch.group(statistics.tensors[n] for n in names)
                limits = [found.limits[n] for n in names if n in found.limits]
                if len(limits) == len(names):
                    sketch = within(sketch, (min(b[0] for b in limits), max(b[1] for b in limits)))
                method = "minmax" if found.uncut.intersection(names) else self.method
                low, high = choose_range(sketch, kind, method, percentile=self.percentile)
                more = self.margin if kind.dtype in ("int16", "uint16") else 1.0
                p = params_of_range(low * more, high * more, kind)
            out.update(dict.fromkeys(names, p))
        return {name: out[name] for name in plan.activations}

    def _converted_params(
        self, c: Conversion, plan: Plan, activations: dict[str, QuantParams], statistics: Statistics
    ) -> QuantParams:
        """Of a value as it is read in other bits: those of what it must agree with, else the best for these bits."""
        from edgec.quantization.ranges import choose_range

        if c.like is not None and c.like in activations:
            return activations[c.like]
        site = plan.activations[c.value]
        if site.range is not None:
            return params_of_range(*site.range, c.kind)
        if site.fixed is not None or self.method in ("minmax", "best"):
            p = activations[c.value]  # what it is stored in says all that can still come
            low, high = ((limit - float(p.zero_point)) * float(p.scale) for limit in p.limits)
            return params_of_range(low, high, c.kind)
        sketch = statistics.tensors[c.value]
        return params_of_range(*choose_range(sketch, c.kind, self.method, percentile=self.percentile), c.kind)

    def _weight_params(
        self, plan: Plan, stored: StoredWeights, activations: Mapping[str, QuantParams]
    ) -> dict[WeightKey, QuantParams]:
        out: dict[WeightKey, QuantParams] = {}
        for site in plan.weights:
            value = site.node.inputs[site.input]
            assert value is not None  # a site is made of an input that is given
            key = weight_key(site, value)
            if site.like is not None:
                out[key] = activations[site.like]
            elif key not in out:
                data = np.asarray(constant(value), np.float32)
                axis = site.block_axis if site.kind.per == "block" else site.axis
                own = stored.params(value, site.kind)
                method = "minmax" if self.reduce_range else self.weights  # nothing is cut off: 64 is the largest
                made = own or weight_params(data, site.kind, axis, method=method)
                if self.reduce_range and own is None and site.kind.dtype == "int8":
                    made = replace(made, scale=(made.scale * np.float32(127 / SEVEN_BITS)).astype(np.float32))
                out[key] = made
        return out


def _check_weights(plan: Plan) -> None:
    """Before anything runs: what such a weight makes is not finite either."""
    for site in plan.weights:
        value = site.node.inputs[site.input]
        data = constant(value)
        if value is not None and data is not None and not np.isfinite(np.asarray(data, np.float32)).all():
            what = f"the weight {value.name!r} of {site.node.name or site.node.op_type!r} holds NaN or infinities"
            raise error("EC0736", what, hint="the model is broken: export it again, or keep that node in float")


def _leave_out(statistics: Statistics, ctx: PassContext) -> None:
    """Passes that correct, and the comparison where it uses calibration samples, do without those that spoil ranges."""
    calibration = ctx.calibration
    if not statistics.left_out or calibration is None or calibration.digest() != statistics.data_hash:
        return
    ctx.calibration = calibration.without(statistics.left_out)
    if ctx.samples is not None and calibration in (ctx.samples, ctx.samples.start_of):
        ctx.samples = ctx.calibration.take(len(ctx.samples))
