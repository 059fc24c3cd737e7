"""Mutated models: loading, the float pipeline and checking give a Graph or an EdgecError; no traceback, no crash, no hang.

The mutations run in a child process, so that a crash of onnx's C++ is seen and named.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgec.graph import Graph

MODEL = """<ir_version: 8, opset_import: ["" : 17], metadata_props: ["k": "v"]>
g (float[N,3,8,8] x, bool c) => (float[N,a] y, float[N,4,8,8] z)
<float[4,3,1,1] w = {1,2,3,4,5,6,7,8,9,10,11,12}, float[4] b = {0,1,2,3}, int64[2] s = {0,-1}>
{
  h = Conv <kernel_shape = [1,1], pads = [0,0,0,0]> (x, w, b)
  k = Constant <value = float[1] {2.0}> ()
  r = Relu (h)
  q = If (c) <then_branch = t () => (float[N,4,8,8] p) { p = Mul (r, k) }, else_branch = e () => (float[N,4,8,8] o) { o = Neg (r) }>
  y = Reshape (q, s)
  z = Softmax <axis = 1> (q)
}"""

CHILD = r"""
import random, sys, traceback
from pathlib import Path
import faulthandler; faulthandler.enable()
from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.pipeline import PassContext, PassManager
from edgec.plugins import Registry
from edgec.recipe import build_passes
registry = Registry()
passes = build_passes(registry.target("x86-64").pipeline("fp32"), registry.passes())
source, count, seed, work = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
ok = refused = 0
for i in range(count):
    rng = random.Random(seed * 1000003 + i)
    data = bytearray(source)
    at = lambda: rng.randrange(max(1, len(data)))
    for _ in range(rng.choice((1, 1, 2, 8))):
        kind = rng.randrange(6)
        if kind == 0: data[at()] ^= 1 << rng.randrange(8)
        elif kind == 1: data[at()] = rng.choice((0, 1, 0x7f, 0x80, 0xff, rng.randrange(256)))
        elif kind == 2: del data[at():]; data = data or bytearray(b"\x08")
        elif kind == 3: a, b = sorted((at(), at())); del data[a:min(b, a + 64)]; data = data or bytearray(b"\x08")
        elif kind == 4: a = at(); data[at():at()] = data[a:a + rng.randrange(1, 64)]; data = data or bytearray(b"\x08")
        else: a = at(); b = a + rng.randrange(1, 48); data[b:b] = data[a:b]
    work.write_bytes(data)
    try:
        g = Graph.load(work)
        PassManager(passes).run(g, PassContext())
        g.verify()
        ok += 1
    except EdgecError:
        refused += 1
    except BaseException:
        print("MUTATION", i, file=sys.stderr); traceback.print_exc(); sys.exit(3)
print(ok, refused)
"""


def mutate(source: Path, count: int, seed: int, tmp_path: Path) -> tuple[int, int]:
    work = tmp_path / "mutant.onnx"
    command = [sys.executable, "-c", CHILD, str(source), str(count), str(seed), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, f"exit {done.returncode}; the mutant is {work}\n{done.stderr[-3000:]}"
    ok, refused = done.stdout.split()
    return int(ok), int(refused)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return Graph.from_text(MODEL).save(tmp_path / "small.onnx")[0]


def test_mutations_of_a_small_model(small: Path, tmp_path: Path) -> None:
    Graph.load(small).verify()
    ok, refused = mutate(small, 2000, 1, tmp_path)
    assert ok + refused == 2000
    assert refused > 500


@pytest.mark.parametrize("name", ["mlperf_kws_dscnn", "mnist_cnn_digitrec", "ppocr_cls_mbv3", "silero_vad_16k_op15"])
@pytest.mark.slow
def test_mutations_of_real_models(name: str, eval_dir: Path, tmp_path: Path) -> None:
    ok, refused = mutate(eval_dir / "models" / f"{name}.onnx", 2000, 2, tmp_path)
    assert ok + refused == 2000
