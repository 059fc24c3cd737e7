"""Models through a target's own lowering, compared with the answers they must give: what is the same for all such targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort

from edgec.diagnostics import EdgecError
from edgec.graph import IR_OPSET, Graph

Arrays = dict[str, Any]
Verdict = Literal["pass", "refused", "wrong", "crashed"]

RTOL, ATOL = 1e-4, 1e-5
HALF = 4e-3
"""Of models in float16 and bfloat16: we compute in float32, the answers are rounded after each node."""


@dataclass(frozen=True)
class Result:
    """What became of a case. `code`: of the refusal. `ops`: what it was lowered to."""

    name: str
    verdict: Verdict
    code: str = ""
    why: str = ""
    ops: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A lowered model to run, its inputs, and the answers. `ops`: what it was lowered to."""

    name: str
    model: Any
    ops: tuple[str, ...]
    feeds: Arrays
    want: Mapping[str, Any]
    proto: onnx.ModelProto
    tolerance: tuple[float, float]


Lower = Callable[[Graph], tuple[Any, tuple[str, ...]]]
"""What a target makes of a graph: the lowered model, and the names of its operators. Raises EdgecError."""


def node_case(
    name: str, model: onnx.ModelProto, inputs: Sequence[Any], outputs: Sequence[Any], lower: Lower
) -> Task | Result:
    """A node test ready to run, or refused.

    First with every input given at run time; then integers and booleans behind the first input as constants (axes, shapes,
    indices); then all but the first input, as weights are; so that a case passes in the most general form that works.
    """
    inputs, outputs = [_array(a) for a in inputs], [_array(a) for a in outputs]
    if not all(isinstance(a, np.ndarray | np.generic) for a in (*inputs, *outputs)):
        return Result(name, "refused", "none", "sequences and optionals")
    if not _in_opset(model):
        return Result(name, "refused", "none", f"not in opset {IR_OPSET}")
    if any(np.asarray(a).dtype.kind in "OSU" for a in (*inputs, *outputs)):
        return Result(name, "refused", "none", "strings")
    first = None
    tried: set[frozenset[str]] = set()
    for frozen in _constants(model, inputs):
        if frozen in tried:
            continue
        tried.add(frozen)
        proto, feeds = _freeze(model, inputs, frozen)
        if not proto.graph.input and any(np.asarray(a).ndim > 1 for a in inputs):
            continue  # nothing left to run; shapes and limits alone may all be constants (Range)
        found = _lowered_case(name, proto, feeds, outputs, lower)
        if isinstance(found, Task):
            return found
        first = first or found
    return first or Result(name, "refused", "none", "no inputs")


def _array(a: Any) -> Any:
    return onnx.numpy_helper.to_array(a) if isinstance(a, onnx.TensorProto) else a


def _in_opset(model: onnx.ModelProto) -> bool:
    """Whether a case of a later opset says the same in the IR's."""
    if all(o.version <= IR_OPSET for o in model.opset_import if o.domain in ("", "ai.onnx")):
        return True
    try:
        onnx.checker.check_model(_freeze(model, (), frozenset())[0], full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def _lowered_case(
    name: str, proto: onnx.ModelProto, feeds: Arrays, outputs: Sequence[Any], lower: Lower
) -> Task | Result:
    try:
        done, ops = lower(Graph.from_proto(proto))
    except EdgecError as e:
        d = e.diagnostics[0]
        return Result(name, "refused", d.code, d.message)
    want = dict(zip((v.name for v in proto.graph.output), outputs, strict=True))
    kinds = {np.asarray(a).dtype.name for a in (*feeds.values(), *outputs)}
    rough = HALF if kinds & {"float16", "bfloat16"} else 0
    return Task(name, done, ops, feeds, want, proto, (max(RTOL, rough), max(ATOL, rough)))


def _constants(model: onnx.ModelProto, inputs: Sequence[Any]) -> Iterator[frozenset[str]]:
    names = [v.name for v in model.graph.input]
    yield frozenset()
    yield frozenset(
        n for i, (n, a) in enumerate(zip(names, inputs, strict=True)) if i and np.asarray(a).dtype.kind in "iub"
    )
    yield frozenset(names[1:])
    if len(names) > 1:
        yield frozenset([names[0], *names[2:]])
    yield frozenset(names)


def _freeze(model: onnx.ModelProto, inputs: Sequence[Any], names: frozenset[str]) -> tuple[onnx.ModelProto, Arrays]:
    """The case in the IR's opset, with the inputs named as initializers; and what is left to feed."""
    proto = onnx.ModelProto.FromString(model.SerializeToString())
    for o in proto.opset_import:
        if o.domain in ("", "ai.onnx") and o.version > IR_OPSET:
            o.version = IR_OPSET
    feeds: Arrays = {}
    for v, a in zip(list(proto.graph.input), inputs, strict=False):
        if v.name in names:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(a), v.name))
            proto.graph.input.remove(v)
        else:
            feeds[v.name] = np.asarray(a)
    return proto, feeds


def judge(t: Task, got: Mapping[str, Any]) -> Result:
    """The answers of a lowered model against those it must give."""
    wrong = _wrong(t, t.want, got)
    if wrong and (other := _runtime_answers(t)) is not None and _wrong(t, t.want, other):
        # answers that ONNX Runtime does not give either (typed with four digits): then its own count
        wrong = _wrong(t, other, got)
    return Result(t.name, "wrong" if wrong else "pass", "", "; ".join(wrong), t.ops)


def _wrong(t: Task, want: Mapping[str, Any], got: Mapping[str, Any]) -> list[str]:
    return [f"{n}: {d}" for n, w in want.items() if (d := differs(w, got.get(n), *t.tolerance))]


def _runtime_answers(t: Task) -> Arrays | None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(t.proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return dict(zip((v.name for v in session.get_outputs()), session.run(None, t.feeds), strict=True))
    except Exception:  # noqa: BLE001  ONNX Runtime has no kernel for the model: the case's own answers stand
        return None


def differs(want: Any, got: Any, rtol: float, atol: float) -> str | None:
    """What is wrong with an answer, or None."""
    if got is None:
        return "missing"
    a, b = np.asarray(want), np.asarray(got)
    if a.dtype != b.dtype or a.shape != b.shape:
        return f"{b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
    if a.dtype.kind in "fV" or a.dtype.name == "bfloat16":
        a, b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(all="ignore"):
            same = np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True)
            return None if same.all() else f"values differ by up to {np.nanmax(np.abs(b - a)):.3g}"
    return None if np.array_equal(a, b) else "values differ"
