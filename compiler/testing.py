"""For pass and target authors, inside and outside this repository: inputs, equality, and plugin checks."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgec.graph import Graph, ir

if TYPE_CHECKING:
    from edgec.plugins import Registry

Arrays = dict[str, npt.NDArray[Any]]


def random_inputs(graph: Graph, *, seed: int = 0, free_dim: int = 2) -> Arrays:
    """Inputs by name: normal floats, small non-negative integers, random booleans; `free_dim` for unknown dimensions."""
    rng = np.random.default_rng(seed)
    out: Arrays = {}
    for v in graph.inputs:
        assert v.shape is not None
        assert v.dtype is not None
        assert v.name is not None
        shape = [d if isinstance(d, int) else free_dim for d in v.shape]
        dtype = v.dtype.numpy()
        if dtype.kind == "b":
            out[v.name] = rng.integers(0, 2, shape).astype(bool)
        elif dtype.kind in "iu":
            out[v.name] = rng.integers(0, 4, shape).astype(dtype)
        else:
            out[v.name] = rng.standard_normal(shape).astype(dtype)
    return out


def run(graph: Graph, feeds: Arrays) -> list[npt.NDArray[Any]]:
    """With ONNX Runtime, its own optimisations off: it must run the graph we made, not its own."""
    import onnxruntime as ort

    o = ort.SessionOptions()
    o.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    o.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(graph.model).SerializeToString(), o, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return list(session.run(None, {k: v for k, v in feeds.items() if k in names}))


def assert_equivalent(before: Graph, after: Graph, *, rtol: float = 1e-4, atol: float = 1e-5, seeds: int = 2) -> None:
    """Both graphs have the same interface and compute the same numbers on random inputs."""
    assert [(v.name, v.dtype) for v in before.inputs] == [(v.name, v.dtype) for v in after.inputs]
    assert [(v.name, v.dtype) for v in before.outputs] == [(v.name, v.dtype) for v in after.outputs]
    for seed in range(seeds):
        feeds = random_inputs(before, seed=seed)
        want, got = run(before, feeds), run(after, feeds)
        for v, a, b in zip(before.outputs, want, got, strict=True):
            assert a.shape == b.shape, f"output {v.name}: shape {b.shape} instead of {a.shape}"
            np.testing.assert_allclose(b, a, rtol=rtol, atol=atol, err_msg=f"output {v.name}, seed {seed}")


def check_plugin(plugin: object, name: str = "plugin") -> list[str]:
    """What is wrong with a plugin, each finding one sentence; empty if edgec can use all it offers.

    Checked: its hooks; that every class can be imported; that passes carry the name they are registered under and, where
    no option is required, their text reads back; that targets have a valid spec whose pipelines name known passes.
    """
    from edgec.diagnostics import EdgecError
    from edgec.plugins import Registry

    registry, builtin = Registry(discover=False), Registry()
    try:
        registry.register(plugin, name)
    except ValueError as e:  # pluggy.PluginValidationError too; the same plugin twice
        return [str(e)]
    except Exception as e:  # noqa: BLE001  whatever a plugin does on registration is a finding about it
        return [f"registering it fails: {type(e).__name__}: {e}"]
    passes, targets = registry.passes(), registry.targets()
    known = {*builtin.passes(), *passes}
    found: list[str] = []
    for kind, item in [*((_check_pass, n) for n in passes), *((_check_target, n) for n in targets)]:
        try:
            found += kind(item, registry, known)
        except EdgecError as e:
            found += [d.message for d in e.diagnostics]
        except Exception as e:  # noqa: BLE001  as above
            found.append(f"{type(e).__name__}: {e}")
    return [d.message for d in registry.diagnostics] + found


def _check_pass(name: str, registry: Registry, known: set[str]) -> list[str]:
    from edgec.recipe import parse_pipeline

    cls = registry.passes()[name]
    found: list[str] = []
    if getattr(cls, "name", None) != name:
        found.append(f"pass {name!r} calls itself {getattr(cls, 'name', None)!r}")
    options = {f.name for f in fields(cls)}
    own = [k for k, kind in inspect.get_annotations(cls).items() if "ClassVar" not in str(kind)]
    if lost := [k for k in own if k not in options]:
        return [*found, f"pass {name!r} lacks @dataclass(frozen=True): {lost} are no options"]
    if all(f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING for f in fields(cls)):
        text = cls().spec()
        if parse_pipeline(text) != [{name: {}}]:
            found.append(f"pass {name!r} prints itself as {text!r}")
    return found


def _check_target(name: str, registry: Registry, known: set[str]) -> list[str]:
    from edgec.specs.schema import step_names

    target = registry.target(name)
    spec = target.spec()
    return [
        f"target {name!r}, {precision}: no pass is called {step!r}"
        for precision in spec.precisions
        for step in step_names(target.pipeline(precision))
        if step not in known
    ]
