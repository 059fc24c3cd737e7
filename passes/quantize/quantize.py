"""Post-training quantisation: plan, observe, choose ranges, insert Q/DQ."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from edgec.diagnostics import error
from edgec.graph import Graph, constant
from edgec.passes.quantize.bias import bias_params
from edgec.passes.quantize.hazards import find_hazards, hazard_values
from edgec.passes.quantize.insert import Inserter, WeightKey, weight_key
from edgec.passes.quantize.plan import Plan, make_plan
from edgec.passes.quantize.quantized_input import already_quantized
from edgec.passes.quantize.weight_ranges import weight_params
from edgec.pipeline import Pass, PassContext, PassResult
from edgec.quantization.params import QuantParams, params_of_range
from edgec.quantization.record import QuantRecord
from edgec.specs.conditions import Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgec.pipeline import Contract
    from edgec.quantization.statistics import Statistics
    from edgec.specs.scheme import Scheme

Method = Literal["mse", "minmax", "moving-average", "percentile", "entropy"]


@dataclass(frozen=True)
class Quantize(Pass):
    """Q/DQ nodes where the target's scheme wants them; ranges of activations from `ctx.calibration`.

    Leaves `ctx.quantization` for the passes that correct. Does nothing where the scheme finds nothing to quantise.

    Raises:
        EdgecError: EC0870 no calibration data; EC0871 no scheme; EC0872 `keep` names a node that is not there.
    """

    scheme: str = ""
    """A name of specs/quantization; by default that of the target's precision."""
    method: Method = "mse"
    percentile: float = 99.999
    weights: Literal["mse", "minmax"] = "mse"
    keep: tuple[str, ...] = ()
    """Nodes that stay in float."""
    ranges: str = ""
    """A calibration.json written before, instead of calibration data."""
    hazards: bool = True
    """Keep in float what int8 would destroy: tensors that mix very different ranges."""

    name: ClassVar[str] = "quantize"
    contract: ClassVar[Contract] = "lossy"
    needs_calibration: ClassVar[bool] = True

    def run(self, graph: Graph, ctx: PassContext) -> PassResult:
        scheme = self._scheme(ctx)
        self._check_keep(graph)
        setting = Setting(ctx.precision or "", ctx.target.platform if ctx.target is not None else "", graph.opset)
        keep = dict.fromkeys(self.keep, "kept in float as asked")
        taken = already_quantized(graph)
        plan = make_plan(graph, scheme, setting, keep=keep, taken=taken)
        if not plan.activations and not plan.weights:
            return PassResult(False)
        statistics, limits = None, {}
        if plan.activations:
            statistics = self._statistics(graph, plan, ctx)
            if self.hazards:
                found = find_hazards(graph, statistics, scheme, setting, keep=keep)
                found.report(ctx.diagnostics, graph.source)
                limits = found.limits
                plan = make_plan(graph, scheme, setting, keep={**found.float_nodes, **keep}, taken=taken)
        record = QuantRecord(graph.clone(), scheme, statistics, kept=plan.kept)
        if statistics is not None:
            record.activations = self._activation_params(plan, statistics, limits)
        weights = self._weight_params(plan)
        biases = bias_params(plan, record.activations, weights)
        inserter = Inserter(graph)
        record.weights = inserter.weights(plan.weights, weights)
        inserter.biases(plan.biases, biases)
        inserter.activations(plan, record.activations)
        graph.remove_dead()
        ctx.quantization = record
        counts = {"activations": len(plan.activations), "weights": len(plan.weights), "kept": len(plan.kept)}
        return PassResult(True, counts)

    def _scheme(self, ctx: PassContext) -> Scheme:
        if self.scheme:
            from edgec.specs.schema import builtin_scheme

            return builtin_scheme(self.scheme)
        precision = ctx.target.precisions.get(ctx.precision or "") if ctx.target is not None else None
        if precision is None or precision.quantization is None:
            where = f"{ctx.target.name} at {ctx.precision}" if ctx.target is not None else "no target"
            raise error("EC0871", f"{where} has no quantisation scheme", hint="name one: quantize{scheme=...}")
        return precision.quantization

    def _check_keep(self, graph: Graph) -> None:
        from edgec.diagnostics import did_you_mean

        names = {n.name for n in graph.nodes()} | {v.name for n in graph.nodes() for v in n.outputs}
        for name in self.keep:
            if name not in names:
                hint = did_you_mean(name, sorted(n for n in names if n), "`edgec inspect` lists them")
                raise error("EC0872", f"keep: the graph has no node {name!r}", hint=hint)

    def _statistics(self, graph: Graph, plan: Plan, ctx: PassContext) -> Statistics:
        from edgec.quantization.observe import observe
        from edgec.quantization.statistics import Statistics, review

        planned = [name for name, site in plan.activations.items() if site.fixed is None]
        values = list(dict.fromkeys([*planned, *(hazard_values(graph) if self.hazards else ())]))
        if self.ranges:
            statistics = Statistics.load(self.ranges)
        else:
            if ctx.calibration is None:
                hint = "--calib FOLDER_OF_IMAGES | data.npz | module:function, with --mean and --std as in training"
                raise error("EC0870", "static quantisation needs calibration data: inputs like those in use", hint=hint)
            statistics = observe(
                graph, values, ctx.calibration, per_channel=values if self.hazards else (),
                histogram=self.method not in ("minmax", "moving-average"),
            )  # fmt: skip
        missing = [v for v in planned if v not in statistics.tensors]
        if missing:
            what = f"{self.ranges} has no ranges of {', '.join(missing[:4])}{' ...' if len(missing) > 4 else ''}"
            raise error("EC0873", what, hint="it was made with another model or pipeline: calibrate again")
        review(statistics, ctx.diagnostics)
        return statistics

    def _activation_params(
        self, plan: Plan, statistics: Statistics, limits: Mapping[str, tuple[float, float]]
    ) -> dict[str, QuantParams]:
        """Parameters by value; one choice for each group. What lies outside of `limits` makes no difference to readers."""
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
                low, high = choose_range(sketch, kind, self.method, percentile=self.percentile)
                if all(name in limits for name in names):
                    low = max(low, min(limits[name][0] for name in names))
                    high = min(high, max(limits[name][1] for name in names))
                p = params_of_range(low, high, kind)
            out.update(dict.fromkeys(names, p))
        return {name: out[name] for name in plan.activations}

    def _weight_params(self, plan: Plan) -> dict[WeightKey, QuantParams]:
        out: dict[WeightKey, QuantParams] = {}
        for site in plan.weights:
            value = site.node.inputs[site.input]
            assert value is not None  # a site is made of an input that is given
            key = weight_key(site, value)
            if key not in out:
                data = np.asarray(constant(value), np.float32)
                axis = site.block_axis if site.kind.per == "block" else site.axis
                out[key] = weight_params(data, site.kind, axis, method=self.weights)
        return out
