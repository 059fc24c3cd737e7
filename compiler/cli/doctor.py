"""`edgec doctor`: is this installation all right?"""

from __future__ import annotations

from dataclasses import dataclass

from edgec.cli import options as o
from edgec.cli.app import single
from edgec.cli.console import Console

app = single()


@dataclass(frozen=True)
class _Check:
    ok: bool
    what: str
    hint: str | None = None


@app.command()
def doctor(as_json: o.Json = False) -> int:
    """Check the packages edgec needs, the plugins, every target's spec, ONNX Runtime, and the toolchains. Exit code 1
    if something is bad."""
    from edgec.cli import ERROR, OK
    from edgec.cli.toolchain import report_checks
    from edgec.plugins import Registry

    registry = Registry()
    checks = [*_packages(), *_plugins(registry), *_runtime(), *o.toolchains(True, None, registry, None).doctor()]
    return ERROR if report_checks(checks, Console(as_json=as_json)) else OK


def _packages() -> list[_Check]:
    import platform

    from edgec import __version__
    from edgec.manifest import package_versions

    found = package_versions()
    missing = [name for name, version in found.items() if version == "missing"]
    out = [_Check(True, f"edgec {__version__}, Python {platform.python_version()}, {platform.platform()}")]
    out.append(_Check(True, "packages: " + ", ".join(f"{k} {v}" for k, v in found.items() if v != "missing")))
    out += [_Check(False, f"package {name} is missing", f"pip install {name}") for name in missing]
    return out


def _plugins(registry: object) -> list[_Check]:
    from edgec.diagnostics import EdgecError
    from edgec.plugins import Registry

    assert isinstance(registry, Registry)
    out = []
    targets, passes = registry.targets(), registry.passes()
    good = 0
    for name in targets:
        try:
            targets[name](name).spec()
            good += 1
        except EdgecError as e:
            out += [_Check(False, f"target {name}: {d.message}", d.hint) for d in e.diagnostics]
    loaded = 0
    for name in passes:
        try:
            loaded += bool(passes[name])
        except EdgecError as e:
            out += [_Check(False, f"pass {name}: {d.message}", d.hint) for d in e.diagnostics]
    out += [_Check(False, d.message, d.hint) for d in registry.diagnostics]
    return [_Check(True, f"{good} targets and {loaded} passes load"), *out]


def _runtime() -> list[_Check]:
    """Run a graph of one node."""
    import numpy as np

    from edgec.diagnostics import EdgecError
    from edgec.graph import Graph
    from edgec.runtime import Session

    graph = Graph.from_text('<ir_version: 10, opset_import: ["": 21]> g (float[2] x) => (float[2] y) { y = Relu(x) }')
    try:
        session = Session(graph)
        y = session.run({"x": np.array([-1.0, 2.0], np.float32)})["y"]
    except EdgecError as e:
        return [_Check(False, d.message, d.hint) for d in e.diagnostics]
    right = y.tolist() == [0.0, 2.0]
    return [_Check(right, session.describe if right else f"ONNX Runtime computes Relu([-1, 2]) = {y.tolist()}")]
