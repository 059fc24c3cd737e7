"""Up to which count channels cost nothing more, by the vendor's own model of a chip: what `alignment` in a target's spec says.

    python tools/measure_alignment.py rk3588 rk3566 ... [--precision int8]

Builds two 3x3 convolutions with C channels between them for each C and reads what the vendor's compiler estimates. The alignment
is the largest power of two a for which C channels always take as long as the next multiple of a. Takes seconds a build.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edgec.graph import Graph, ir
from edgec.plugins import Registry
from edgec.samples import Samples
from edgec.toolchain import ToolchainManager
from edgec.trial import TrialBuilds

COUNTS = (4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 72, 80, 96)
LARGEST = 64
NEAR = 0.1
"""Estimates that differ by less are the same: with few channels it is memory that takes the time."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--precision", action="append", help="default: all that the target offers")
    args = parser.parse_args()
    registry = Registry()
    for name in args.targets:
        target = registry.target(name)
        for precision in args.precision or target.spec().choices:
            found = estimates(name, precision, registry)
            print(f"{name} {precision}: {alignment(found)} channels", found, flush=True)


def estimates(name: str, precision: str, registry: Registry, counts: Sequence[int] = COUNTS) -> dict[int, float]:
    """Count of channels -> what an inference takes, in the unit of the target's compiler."""
    rng = np.random.default_rng(0)
    inputs = [{"x": rng.normal(size=(1, 64, 28, 28)).astype(np.float32)} for _ in range(4)]
    samples = Samples(lambda: iter(inputs), describe="random", count=len(inputs))
    out: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as workdir:
        toolchains = ToolchainManager(descriptions=registry.toolchains())
        trial = TrialBuilds(
            registry.target(name), precision, None, "low", {}, None, samples, registry, toolchains, Path(workdir)
        )
        for count in counts:
            time = trial(net(count)).time
            if time is None:
                raise SystemExit(f"{name}: its compiler estimates nothing")
            out[count] = round(time.amount, 9)
    return out


def net(channels: int) -> Graph:
    graph = Graph.from_text(
        f"""<ir_version: 10, opset_import: ["" : 19]> g (float[1,64,28,28] x) => (float[1,64,28,28] y)
        <float[{channels},64,3,3] w = {{0}}, float[64,{channels},3,3] v = {{0}}> {{
            h = Conv<pads=[1,1,1,1]>(x, w)
            r = Relu(h)
            z = Conv<pads=[1,1,1,1]>(r, v)
            y = Relu(z)
        }}"""
    )
    rng = np.random.default_rng(0)
    for v in graph.model.graph.initializers.values():
        assert v.shape is not None
        v.const_value = ir.tensor((0.05 * rng.normal(size=v.shape.numpy())).astype(np.float32), name=v.name)
    return graph


def alignment(found: Mapping[int, float]) -> int:
    best = 1
    for a in (2, 4, 8, 16, 32, LARGEST):
        pairs = [(t, found.get(-(-c // a) * a)) for c, t in found.items()]
        if all(whole is None or abs(t - whole) <= NEAR * whole for t, whole in pairs):
            best = a
    return best


if __name__ == "__main__":
    main()
