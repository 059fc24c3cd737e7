"""Goals of prune that only the target tells: reached with few builds, refused where nothing measures them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.infer import infer_shapes
from edgec.passes.prune.goals import goal_of
from edgec.passes.prune.prune import Prune
from edgec.pipeline import PassContext
from edgec.placement import macs
from edgec.report import parameters
from edgec.specs.schema import builtin_target
from edgec.target import Artifact, Estimate
from edgec.trial import Weight, check_promises


def net(hidden: int = 128) -> Graph:
    """Three 3x3 convolutions; two groups of `hidden` channels."""
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[1,4,8,8] x) => (float[1,6,8,8] y)
        <float[{hidden},4,3,3] a = {{0}}, float[{hidden},{hidden},3,3] b = {{0}}, float[6,{hidden},3,3] c = {{0}}> {{
            p = Conv<pads=[1,1,1,1]>(x, a)
            q = Relu(p)
            r = Conv<pads=[1,1,1,1]>(q, b)
            s = Relu(r)
            y = Conv<pads=[1,1,1,1]>(s, c)
        }}"""
    )
    rng = np.random.default_rng(0)
    for v in graph.model.graph.initializers.values():
        assert v.shape is not None
        v.const_value = ir.tensor(rng.normal(size=v.shape.numpy()).astype(np.float32), name=v.name)
    infer_shapes(graph)
    return graph


def size_of(graph: Graph) -> tuple[float, float]:
    """Multiply-accumulates, parameters."""
    infer_shapes(graph)
    return float(sum(macs(n, batch=1) for n in graph.nodes())), float(parameters(graph))


class Device:
    """A made-up target: a fixed part of the time, the rest grows with the work; `form` bends it."""

    def __init__(self, form: Callable[[float], float], unit: str | None = "s") -> None:
        self.form, self.unit, self.builds = form, unit, 0
        self.full = size_of(net())[0]

    def __call__(self, graph: Graph) -> Weight:
        self.builds += 1
        work, params = size_of(graph.clone())
        time = Estimate(0.01 * self.form(work / self.full), self.unit, "a model") if self.unit else None
        return Weight(int(1000 + params), time)


FORMS: dict[str, Callable[[float], float]] = {
    "as the work": lambda w: w,
    "half of it fixed": lambda w: 0.5 + 0.5 * w,
    "in steps": lambda w: 0.2 + 0.8 * np.ceil(10 * w) / 10,
    "at first nothing": lambda w: min(1.0, 0.2 + w),
    "at once": lambda w: w**3,
}


def run(graph: Graph, device: Device | None, **options: Any) -> PassContext:
    step = Prune(**options)
    graph.facts |= step.requires
    ctx = PassContext(weigh=device)
    step.run(graph, ctx)
    graph.verify()
    return ctx


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("goal", [0.1, 0.3, "7ms"])
def test_a_goal_in_time_is_met_with_few_builds_and_little_more_than_needed(form: str, goal: float | str) -> None:
    device, graph = Device(FORMS[form]), net()
    ctx = run(graph, device, latency=goal)
    assert device.builds <= 9
    limit = 7e-3 if goal == "7ms" else (1 - float(goal)) * 0.01
    (told,) = (d for d in ctx.diagnostics if d.code == "EC0362")
    left = device(graph).time
    assert left is not None
    assert left.amount <= limit
    assert f"{left.amount * 1e3:.3g} ms of 10 ms" in told.message
    if form != "in steps":
        assert left.amount > 0.85 * limit, "more was cut than the goal takes"


@pytest.mark.parametrize("goal", [0.4, "90KB"])
def test_a_goal_in_flash_is_met(goal: float | str) -> None:
    device, graph = Device(FORMS["as the work"], unit=None), net()
    dense = device(graph).bytes
    run(graph, device, flash=goal)
    limit = 90_000 if goal == "90KB" else 0.6 * dense
    assert 0.85 * limit < device(graph).bytes <= limit


REFUSED: dict[str, tuple[dict[str, Any], Device | None, str]] = {
    "no target": ({"latency": 0.3}, None, "EC0363.*needs a target"),
    "no target, flash": ({"flash": "10KB"}, None, "EC0363.*needs a target"),
    "no estimate": ({"latency": 0.3}, Device(lambda w: w, unit=None), "EC0363.*nothing estimates"),
    "cycles": ({"latency": "3ms"}, Device(lambda w: w, unit="cycles"), "EC0333.*counts cycles"),
    "too much": ({"latency": 0.6}, Device(lambda w: 0.5 + 0.5 * w), "EC0334.*are left of 10 ms"),
    "met already": ({"latency": "20ms"}, Device(lambda w: w), "EC0333.*10 ms already"),
    "a size for a time": ({"latency": "20KB"}, Device(lambda w: w), "EC0333.*20KB cannot be"),
    "a time for a size": ({"flash": "5ms"}, Device(lambda w: w), "EC0333.*5ms cannot be"),
    "in the user's words": ({"latency": "1us"}, Device(lambda w: 0.5 + 0.5 * w), "EC0334.*latency=1us cannot"),
    "nothing left": ({"flash": "0KB"}, Device(lambda w: w), "EC0333.*cannot be"),
    "two": ({"latency": 0.3, "macs": 0.3}, Device(lambda w: w), "EC0333.*one goal"),
}


@pytest.mark.parametrize(("options", "device", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_measured_or_met_is_refused_and_nothing_changes(
    options: dict[str, Any], device: Device | None, message: str
) -> None:
    graph = net()
    before = graph.fingerprint()
    with pytest.raises(EdgecError) as e:
        run(graph, device, **options)
    assert any(re.search(message, f"{d.code}: {d.message}") for d in e.value.diagnostics)
    assert graph.fingerprint() == before


def test_smaller_multiples_are_taken_and_told_where_whole_ones_cannot_reach_the_goal() -> None:
    def cut(hidden: int, **options: Any) -> tuple[list[str], int]:
        graph = net(hidden)
        step = Prune(macs=0.3, **options)
        graph.facts |= step.requires
        ctx = PassContext(target=builtin_target("rk3588"), precision="int8")
        step.run(graph, ctx)
        (left,) = (v.shape for v in (n.outputs[0] for n in graph.nodes()) if v.name == "p")
        assert left is not None
        return [d.code for d in ctx.diagnostics], left.numpy()[1]

    codes, left = cut(128)
    assert codes == []
    assert left % 32 == 0
    codes, left = cut(32)
    assert codes == ["EC0364"]
    assert left == 16
    assert cut(32, align=16) == ([], 16)
    with pytest.raises(EdgecError, match="EC0334"):
        cut(32, align=32)


def test_flash_takes_smaller_multiples_too() -> None:
    graph = net(32)
    step = Prune(flash=0.3)
    graph.facts |= step.requires
    ctx = PassContext(target=builtin_target("rk3588"), precision="int8", weigh=Device(lambda w: w))
    step.run(graph, ctx)
    assert {d.code for d in ctx.diagnostics} == {"EC0362", "EC0364"}


def test_an_artifact_above_the_goal_is_told() -> None:
    ctx = run(net(), Device(FORMS["as the work"]), flash="90KB")
    assert ctx.pruning is not None
    (promise,) = ctx.pruning.promises
    assert (promise.goal, promise.limit) == ("flash=90KB", 90_000)
    notes = Diagnostics()
    check_promises([promise], Artifact({"m": bytes(90_000)}, "m"), notes)
    assert not notes.items
    check_promises([promise], Artifact({"m": bytes(90_900)}, "m"), notes)
    (told,) = notes.items
    assert told.code == "EC0365"
    assert "missed by 1.00%: the artifact takes 90,900 bytes" in told.message


def test_cycles_are_cut_by_a_part() -> None:
    ctx = run(net(), Device(FORMS["half of it fixed"], unit="cycles"), latency=0.2)
    assert any("cycles" in d.message for d in ctx.diagnostics if d.code == "EC0362")


def test_goals_are_read_as_parts_times_and_sizes() -> None:
    def most(**given: float | str) -> float | None:
        return goal_of(given).most

    assert most(latency="500us") == pytest.approx(5e-4)
    assert most(latency="1.5 ms") == pytest.approx(1.5e-3)
    assert most(flash="200KiB") == 204_800
    assert goal_of({"macs": 0.25, "params": None}).part == 0.25
    for wrong in ({"macs": 1.0}, {"macs": "3"}, {"latency": "fast"}, {"flash": "-1KB"}, {"ratio": 0.0}, {}):
        with pytest.raises(EdgecError, match="EC0333"):
            goal_of(wrong)
