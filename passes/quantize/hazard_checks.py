"""The hazards themselves: each check looks at a scene and says what it finds, with figures.

CHECKS depend on what a plan stores and are asked again after repairs; STATIC_CHECKS are asked once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from edgec.graph import constant, ir, is_constant
from edgec.passes.quantize.hazard_scene import SENTINEL, Finding, Scene
from edgec.passes.quantize.head import MOVES, WEIGHTED, behind_moves
from edgec.passes.quantize.plan import node_name

Check = Callable[[Scene], Iterator[Finding]]

_BODY_LEVELS = 4.0
"""A branch of the body with fewer levels is as good as cut off; between, the next layer's sum averages errors out."""

_CHANNEL_LEVELS = 4.0
"""Single channels differ by nature (a class that never appears); only what is nearly destroyed is worth a repair."""

_LOGIT_STEP = 0.1
"""A logit's step of 0.1 changes a small score by up to 5 %."""

_OUTLIER = 16.0
_RARE = 1.5
_SPANS_DECADES = frozenset({"Exp", "Log", "Pow", "Reciprocal"})


def masks(scene: Scene) -> Iterator[Finding]:
    """Attention masks: -1e4 or -inf added before a Softmax is no data, yet it would set the range."""
    for node in scene.nodes():
        if node.domain or node.op_type not in ("Add", "Where", "Sub", "Min") or not _marks(scene, node):
            continue
        chain = _to_softmax(node)
        if chain is None or not any(scene.step(v) is not None for n in chain for v in (*n.inputs, *n.outputs)):
            continue
        low = min(b[0] for v in (*node.inputs, *node.outputs) if (b := _raw_low(scene, v)) is not None)
        message = f"{node_name(node)} marks what attention shall not see by {low:.3g}; as a range it would leave nothing of the scores"
        yield Finding("EC0854", node, message, "attention mask", tuple(chain), figures={"low": low})


def _raw_low(scene: Scene, value: ir.Value | None) -> tuple[float, float] | None:
    """Bounds with infinities, which constants may hold."""
    if value is not None and is_constant(value):
        data = np.asarray(constant(value))
        if data.dtype.kind == "f" and data.size:
            return float(data.min()), float(data.max())
    return scene.bounds(value)


def _marks(scene: Scene, node: ir.Node) -> bool:
    """Whether an operand holds marks, and the others do not reach nearly as low."""
    lows = [b[0] for v in node.inputs if (b := _raw_low(scene, v)) is not None]
    out = scene.bounds(node.outputs[0])
    return (bool(lows) and min(lows) <= SENTINEL) or (out is not None and out[0] <= SENTINEL)


def _to_softmax(node: ir.Node) -> list[ir.Node] | None:
    """The nodes from `node` to the Softmax that reads its result, both included; None if something else reads it."""
    chain, todo = [node], [node]
    found = False
    while todo:
        for v in todo.pop().outputs:
            if v.is_graph_output():
                return None
            for user, _ in v.uses():
                if user in chain:
                    continue
                if user.op_type == "Softmax":
                    found = True
                    chain.append(user)
                elif user.domain == "" and (
                    user.op_type in MOVES or user.op_type in ("Add", "Mul", "Div", "Max", "Cast")
                ):
                    chain.append(user)
                    todo.append(user)
                elif user.op_type not in ("Shape", "Size"):
                    return None
    return chain if found else None


def concats(scene: Scene) -> Iterator[Finding]:
    """Parts that get next to no levels beside a wider one."""
    for node in scene.nodes():
        step = scene.step(node.outputs[0]) if node.op_type == "Concat" and not node.domain else None
        if step is None:
            continue
        inside = node in scene.head
        parts = [(v, b) for v in node.inputs if v is not None and (b := scene.bounds(v)) is not None and b[1] > b[0]]
        narrow = [(v, b) for v, b in parts if (b[1] - b[0]) / step < (scene.min_levels if inside else _BODY_LEVELS)]
        if not narrow:
            continue
        value, part = min(narrow, key=lambda p: p[1][1] - p[1][0])
        _, wide = max(parts, key=lambda p: p[1][1] - p[1][0])
        levels = (part[1] - part[0]) / step
        message = (
            f"{node_name(node)} puts {_range(part)} ({value.name}) and {_range(wide)} into one tensor stored in steps of "
            f"{step:.3g}: {_levels(levels)} left for the narrow part"
        )
        figures = {"step": step, "levels": levels, "narrow": part[1] - part[0], "wide": wide[1] - wide[0]}
        if inside:
            yield Finding("EC0850", node, message, "range conflict", (node,), figures=figures)
        else:
            hint = "keep its readers in float (--keep), or run equalize before quantize: it scales channels where that is free"
            yield Finding("EC0860", node, message, "range conflict", hint=hint, figures=figures)


def parts_of_mixtures(scene: Scene) -> Iterator[Finding]:
    """Split, Slice and Gather behind a tensor that mixes ranges: too late, the part is lost already."""
    for node in scene.head.nodes:
        if node.op_type not in ("Split", "Slice", "Gather") or node.inputs[0] is None:
            continue
        step = scene.step(node.inputs[0])
        if step is None:
            continue
        for out in node.outputs:
            own = scene.bounds(out)
            if own is None or own[0] == own[1] or (own[1] - own[0]) / step >= scene.min_levels:
                continue
            source = _mixer(scene, node.inputs[0])
            if source is None:
                continue
            levels = (own[1] - own[0]) / step
            message = (
                f"{out.name} takes {_range(own)} out of a tensor stored in steps of {step:.3g}: {_levels(levels)} left"
            )
            yield Finding(
                "EC0850", node, message, "range conflict", (source,), figures={"step": step, "levels": levels}
            )
            break


def _mixer(scene: Scene, value: ir.Value) -> ir.Node | None:
    """The node of the head that made the mixture: behind data movement, what may stay in float."""
    producer = value.producer()
    while (
        producer is not None
        and producer.op_type in MOVES
        and producer.op_type != "Concat"
        and producer.inputs[0] is not None
    ):
        producer = producer.inputs[0].producer()
    return producer if producer in scene.head and producer not in scene.barred else None


def channels(scene: Scene) -> Iterator[Finding]:
    """A layer whose channels differ, read by the head one by one: Conv outputs of a head that is one convolution."""
    for source in scene.head.sources:
        node = source.producer()
        unit = scene.units.of.get(node) if node is not None else None
        value = source if unit is None else unit.nodes[-1].outputs[0]
        step = scene.step(value)
        seen = scene.statistics.per_channel.get(value.name or "")
        if node is None or step is None or seen is None or node.op_type not in WEIGHTED:
            continue
        if seen.axis != (1 if node.op_type.startswith("Conv") or node.op_type == "Gemm" else _last(value)):
            continue
        width = np.asarray(seen.high - seen.low, np.float64)
        used = width > 0
        lost = used & (width / step < _CHANNEL_LEVELS)
        if not lost.any() or lost.all():
            continue
        worst = float(width[lost].min())
        message = (
            f"{int(lost.sum())} of {width.size} channels of {value.name} span {worst:.3g} to {width[lost].max():.3g}, the "
            f"widest {width.max():.3g}: stored in steps of {step:.3g} they keep {_levels(worst / step)} or little more"
        )
        hint = "run split-heads before quantize: it gives such channels a convolution of their own"
        yield Finding("EC0851", node, message, "channels of different range", hint=hint, figures={
            "step": step, "levels": worst / step, "narrow": worst, "wide": float(width.max()), "channels": float(lost.sum()),
        })  # fmt: skip


def _last(value: ir.Value) -> int:
    return value.shape.rank() - 1 if value.shape is not None else -1


def sums_and_products(scene: Scene) -> Iterator[Finding]:
    """Add, Sub and Mul whose result has a step that swallows one operand (grid + offset, strides and anchors)."""
    for node in scene.nodes():
        if node.domain or node.op_type not in ("Add", "Sub", "Mul", "Sum"):
            continue
        step = scene.step(node.outputs[0])
        if step is None:
            continue
        inside = node in scene.head
        need = scene.min_levels if inside else 1.0
        if node.op_type == "Mul":
            levels, what = _product_levels(scene, node, step)
        else:
            widths = [(w, v) for v in node.inputs if (w := scene.width(v)) is not None and w > 0 and v is not None]
            if len(widths) < 2:
                continue
            w, v = min(widths, key=lambda p: p[0])
            levels, what = w / step, f"of {v.name}, which spans {w:.3g}"
        if levels is None or levels >= need:
            continue
        message = f"the result of {node_name(node)} is stored in steps of {step:.3g}: {_levels(levels)} left {what}"
        figures = {"step": step, "levels": levels}
        if inside:
            yield Finding("EC0852", node, message, "operands of different range", (node,), figures=figures)
        else:
            yield Finding("EC0852", node, f"{message}; the branch has next to no effect in integers",
                          "operands of different range", mild=True, figures=figures)  # fmt: skip


def _product_levels(scene: Scene, node: ir.Node, step: float) -> tuple[float | None, str]:
    """Levels of what the smallest factor of a constant operand scales; None where the constant is one number."""
    if node not in scene.head:
        return None, ""
    for factor, other in (node.inputs, node.inputs[::-1]):
        width = scene.width(other)
        if not is_constant(factor) or is_constant(other) or width is None:
            continue
        size = np.abs(np.asarray(constant(factor), np.float64))
        size = size[size > 0]
        if size.size and size.max() > size.min():
            least = float(size.min())
            return width * least / step, f"of what is multiplied by {least:.3g} (others by up to {size.max():.3g})"
    return None, ""


def wide_spans(scene: Scene) -> Iterator[Finding]:
    """exp() and its like spread values over orders of magnitude, of which equal steps resolve the largest only."""
    for node in scene.nodes():
        if (
            node.domain
            or node.op_type not in _SPANS_DECADES | {"Div"}
            or (node.op_type == "Div" and is_constant(node.inputs[1]))
        ):
            continue
        out = node.outputs[0]
        step, sketch = scene.step(out), scene.statistics.tensors.get(out.name or "")
        if step is None or sketch is None or sketch.empty:
            continue
        values, counts = sketch.buckets()
        if not counts.size:
            continue
        size, order = np.abs(values), np.argsort(np.abs(values))
        median = float(size[order][np.searchsorted(np.cumsum(counts[order]), counts.sum() / 2)])
        if median == 0 or median / step >= _BODY_LEVELS:
            continue
        largest = max(abs(sketch.low), abs(sketch.high))
        message = (
            f"half of what {node.op_type} {node_name(node)} computes is below {median:.3g}, the largest is {largest:.3g}: in "
            f"steps of {step:.3g} that half keeps {_levels(median / step)}"
        )
        figures = {"step": step, "levels": median / step, "median": median, "largest": largest}
        yield Finding("EC0853", node, message, "values over orders of magnitude", (node,), figures=figures)


def scores(scene: Scene) -> Iterator[Finding]:
    """Scores stored on 0..1 of which only the lowest part is used; logits in steps that move scores."""
    for node in scene.head.nodes:
        if node.op_type not in ("Sigmoid", "Softmax", "HardSigmoid", "Exp"):
            continue
        out, step = node.outputs[0], scene.step(node.outputs[0])
        seen = scene.bounds(out)
        if node.op_type != "Exp" and step is not None and seen is not None and 0 < seen[1] / step < scene.min_levels:
            message = f"scores of {node_name(node)} reach {seen[1]:.3g} and are stored in steps of {step:.3g}: {_levels(seen[1] / step)} left"
            figures = {"step": step, "levels": seen[1] / step, "high": seen[1]}
            yield Finding("EC0855", node, message, "scores too small for their scale", (node,), figures=figures)
            continue
        source = node.inputs[0]
        step = scene.step(source)
        own = scene.own_step(source) if source is not None else None
        if source is None or step is None or step <= _LOGIT_STEP:
            continue
        mixer = _mixer(scene, source)
        figures = {"step": step, "own": own or step}
        message = (
            f"{node_name(node)} reads logits in steps of {step:.3g}: a score moves by up to {np.expm1(step / 2):.0%}"
        )
        if mixer is not None and mixer.op_type == "Concat" and _finer(scene, source, step):
            yield Finding("EC0861", node, message, "coarse logits", (mixer,), figures=figures)
        elif step > 5 * _LOGIT_STEP:
            hint = "keep the layer that computes them in higher precision: --keep, or a minimum of accuracy"
            yield Finding("EC0861", node, message, "coarse logits", hint=hint, figures=figures)


def _finer(scene: Scene, value: ir.Value, step: float) -> bool:
    """Whether what the value is put together from would be stored finer, each part on its own."""
    steps = [s for v in behind_moves(value) if (s := scene.own_step(v)) is not None]
    return bool(steps) and min(steps) < step / 1.5


def shared_sigmoids(scene: Scene) -> Iterator[Finding]:
    """x * sigmoid(x) whose Sigmoid has another reader: no backend fuses that into SiLU."""
    for node in scene.nodes():
        if (
            node.op_type != "Sigmoid"
            or node.domain
            or len(node.outputs[0].uses()) + node.outputs[0].is_graph_output() < 2
        ):
            continue
        products = [u for u, _ in node.outputs[0].uses() if u.op_type == "Mul" and node.inputs[0] in u.inputs]
        if not products:
            continue
        message = (
            f"{node_name(node)} is half of a SiLU ({node_name(products[0])}) and has other readers: it cannot be fused"
        )
        yield Finding("EC0856", node, message, "Sigmoid with several readers",
                      hint="run split-sigmoids before fuse-silu: it gives the SiLU one of its own")  # fmt: skip


def unabsorbed_clips(scene: Scene) -> Iterator[Finding]:
    """An activation that stays a kernel of its own, because what it clips is read elsewhere too."""
    for node in scene.nodes():
        if node.domain or node.op_type not in ("Relu", "Clip") or node in scene.units.of or node.inputs[0] is None:
            continue
        before = node.inputs[0].producer()
        if before is None or before.op_type not in WEIGHTED or node_name(before) not in scene.plan.quantized:
            continue
        others = [u for u, _ in node.inputs[0].uses() if u is not node]
        if others or node.inputs[0].is_graph_output():
            reader = node_name(others[0]) if others else "the model's output"
            message = f"{node_name(node)} cannot become part of {node_name(before)}: {reader} reads the value before it"
            yield Finding("EC0857", node, message, "activation not absorbed", mild=True)


def outliers(scene: Scene) -> Iterator[Finding]:
    """Few values that stretch the range of all others; the worst tensor stands for all."""
    found = []
    for name in scene.plan.activations:
        sketch = scene.statistics.tensors.get(name)
        value = scene.value(name)
        if sketch is None or sketch.empty or not sketch.buckets()[1].size or value is None or value.producer() is None:
            continue
        largest = max(abs(sketch.low), abs(sketch.high))
        usual = max(abs(sketch.quantile(0.0005)), abs(sketch.quantile(0.9995)))
        if usual > 0 and largest / usual >= _OUTLIER:
            found.append((largest / usual, largest, usual, name))
    _, largest, usual, name = max(found, default=(0.0, 0.0, 0.0, ""))
    value = scene.value(name)
    if value is None or (node := value.producer()) is None:
        return
    message = f"{name} reaches {largest:.3g}, but 99.9 % of it stays below {usual:.3g}"
    if len(found) > 1:
        message += f"; so do {len(found) - 1} more tensors" if len(found) > 2 else "; so does one more tensor"
    hint = "methods mse and percentile cut such values off; smooth moves them into weights"
    figures = {"largest": largest, "usual": usual, "tensors": float(len(found))}
    yield Finding("EC0858", node, message, "outliers", hint=hint, mild=True, figures=figures)


def rare_values(scene: Scene, last: list[str]) -> Iterator[Finding]:
    """Large values of a dense head's last layers are few, and they are the detections: none may be cut off."""
    rare = []
    for name in last:
        sketch = scene.statistics.tensors.get(name)
        if sketch is None or sketch.empty or not sketch.buckets()[1].size:
            continue
        usual = sketch.quantile(0.999)
        if usual > 0 and sketch.high > _RARE * usual:
            rare.append((sketch.high / usual, usual, sketch.high, name))
    if not rare:
        return
    _, usual, high, name = max(rare)
    value = scene.value(name)
    node = value.producer() if value is not None else None
    if node is not None:
        message = (
            f"{len(last)} values of the last layers keep all of their range: {name} stays below {usual:.3g} in 99.9 % of "
            f"places and reaches {high:.3g} where something is found"
        )
        yield Finding("EC0863", node, message, "rare values", mild=True, figures={"usual": usual, "largest": high})


def uneven_weights(scene: Scene) -> Iterator[Finding]:
    """Weights with one scale for the tensor, although channels differ: small channels are rounded to zero."""
    for site in scene.plan.weights:
        if site.kind.per != "tensor" or site.node.op_type not in WEIGHTED:
            continue
        weight = np.asarray(constant(site.node.inputs[site.input]), np.float64)
        rule = scene.scheme.rule(site.node, scene.setting)
        axis = rule.axis if rule is not None and rule.axis is not None else 0
        if weight.ndim < 2:
            continue
        largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis % weight.ndim))
        lost = (largest > 0) & (largest < largest.max() / 64)
        if lost.any():
            message = (
                f"{int(lost.sum())} of {largest.size} output channels of {node_name(site.node)} have weights below 1/64 of the "
                f"largest ({largest.max():.3g}); with one scale for all they keep 2 levels at most"
            )
            hint = "run equalize before quantize, or use a precision with one scale a channel"
            figures = {
                "channels": float(lost.sum()),
                "largest": float(largest.max()),
                "smallest": float(largest[lost].min()),
            }
            yield Finding("EC0859", site.node, message, "weights of different range", hint=hint, figures=figures)


def _range(b: tuple[float, float]) -> str:
    return f"{b[0]:.3g}..{b[1]:.3g}"


def _levels(levels: float) -> str:
    return "less than 1 level" if levels < 1 else f"{levels:.0f} levels" if levels >= 1.5 else "1 level"


CHECKS: tuple[Check, ...] = (
    masks,
    concats,
    parts_of_mixtures,
    channels,
    sums_and_products,
    wide_spans,
    scores,
)
STATIC_CHECKS: tuple[Check, ...] = (shared_sigmoids, unabsorbed_clips, outliers, uneven_weights)
