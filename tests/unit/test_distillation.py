"""distill(): that it learns, that it is a function of its arguments, and that interrupted runs end with the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.diagnostics import Diagnostics, EdgecError
from edgec.graph import Graph, ir
from edgec.samples import Samples
from edgec.training import DistillOptions, distill
from edgec.training.checkpoint import Checkpoint, State

NET = """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,3,8,8] x) => (float[N,4] y)
<float[6,3,3,3] w1, float[6] b1, float[4,6] w2, float[4] b2>
{
    c = Conv<pads = [1,1,1,1]>(x, w1, b1)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    y = Gemm<transB = 1>(f, w2, b2)
}"""

SHAPES = {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (4, 6), "b2": (4,)}


def net(seed: int) -> Graph:
    rng = np.random.default_rng(seed)
    text = NET
    for name, shape in SHAPES.items():
        numbers = ", ".join(f"{v:.6f}" for v in rng.standard_normal(shape).reshape(-1))
        text = text.replace(f"] {name}", f"] {name} = {{{numbers}}}")
    return Graph.from_text(text)


def samples(count: int = 24) -> Samples:
    def make() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(9)
        for _ in range(count):
            yield {"x": rng.standard_normal((1, 3, 8, 8)).astype(np.float32)}

    return Samples(make, describe="random images")


OPTIONS = DistillOptions(epochs=4, batch=8, lr=0.01, augment=("flip",), threads=1)


def weights(graph: Graph) -> bytes:
    return graph.to_bytes()


def test_the_student_learns_and_neither_graph_changes() -> None:
    student, teacher = net(1), net(0)
    prints = student.fingerprint(), teacher.fingerprint()
    result = distill(student, teacher, samples(), DistillOptions(epochs=30, batch=8, lr=0.02, threads=1))
    assert (student.fingerprint(), teacher.fingerprint()) == prints
    assert result.loss_after < 0.2 * result.loss_before
    assert result.history[0][0] == 0
    assert len(result.history) == 31
    result.graph.verify()


def test_the_same_run_gives_the_same_bytes_and_another_seed_does_not() -> None:
    one, two = (distill(net(1), net(0), samples(), OPTIONS).graph for _ in range(2))
    assert weights(one) == weights(two)
    other = DistillOptions(epochs=4, batch=8, lr=0.01, augment=("flip",), threads=1, seed=1)
    assert weights(distill(net(1), net(0), samples(), other).graph) != weights(one)


def test_what_improves_nothing_leaves_the_student_as_it_was() -> None:
    student = net(0)
    result = distill(student, student, samples(), DistillOptions(epochs=1, lr=1.0, loss="mse"))
    assert result.best_step == 0
    assert result.graph.fingerprint() == student.fingerprint()


def test_steps_that_are_too_large_are_taken_back() -> None:
    told: list[str] = []
    near = Graph.from_text(net(0).to_text())
    w = near.model.graph.initializers["w1"]
    assert w.const_value is not None
    w.const_value = ir.Tensor(w.const_value.numpy() * np.float32(1.1), name="w1")
    options = DistillOptions(epochs=12, batch=8, lr=0.5, threads=1)
    result = distill(near, net(0), samples(), options, progress=told.append)
    assert any("back to the best weights" in t for t in told)
    assert result.loss_after < result.loss_before


def test_a_sample_may_be_several_rows_of_an_output() -> None:
    """Heads of detectors: [N, boxes, classes] as [N * boxes, classes]."""
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[N,3,8,8] x) => (float[M,6] y)
        <float[6,3,1,1] w = {WEIGHTS}, int64[2] s = {-1, 6}> {
            c = Conv(x, w)
            t = Transpose <perm = [0, 2, 3, 1]> (c)
            y = Reshape(t, s)
        }"""
    student, teacher = (
        Graph.from_text(
            text.replace("WEIGHTS", ", ".join(f"{v:.4f}" for v in np.random.default_rng(seed).normal(size=18)))
        )
        for seed in (0, 1)
    )
    result = distill(student, teacher, samples(), DistillOptions(epochs=20, batch=8, lr=0.05, threads=1))
    assert result.loss_after < 0.3 * result.loss_before


class _Stop(Exception):
    pass


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, _Stop])
def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path, interruption: type[BaseException]) -> None:
    want = distill(net(1), net(0), samples(), OPTIONS)
    told = []

    def stop(text: str) -> None:
        told.append(text)
        if len([t for t in told if t.startswith("train:")]) == 2:
            raise interruption

    with pytest.raises(interruption):
        distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path, progress=stop)
    again: list[str] = []
    result = distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path, progress=again.append)
    assert result.resumed_at > 0
    assert any("resume" in t for t in again)
    assert weights(result.graph) == weights(want.graph)
    assert result.history == want.history
    finished = distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path)
    assert finished.resumed_at == finished.steps
    assert weights(finished.graph) == weights(want.graph)


def test_a_damaged_checkpoint_costs_time_but_not_the_result(tmp_path: Path) -> None:
    want = distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path)
    (state,) = tmp_path.glob("*/state.npz")
    state.write_bytes(state.read_bytes()[:100])
    found = Diagnostics()
    result = distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path, diagnostics=found)
    assert [d.code for d in found] == ["EC0325"]
    assert result.resumed_at == 0
    assert weights(result.graph) == weights(want.graph)


CHILD = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("here", sys.argv[1])
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
options = here.DistillOptions(epochs=60, batch=8, lr=0.01, augment=("flip",), threads=1)
def tell(text):
    print(text, flush=True)
result = here.distill(here.net(1), here.net(0), here.samples(), options, checkpoints=Path(sys.argv[2]), progress=tell)
result.graph.save(sys.argv[3])
"""


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    """kill -9, three times, in the middle of training: the last process ends with the bytes of an undisturbed one."""

    def start(folder: Path, out: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, __file__, str(folder), str(out)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ)
        )

    whole = start(tmp_path / "undisturbed", tmp_path / "want.onnx")
    printed, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, printed
    resumed = 0
    for kill_after in (2, 5, 15):
        child = start(tmp_path / "killed", tmp_path / "got.onnx")
        assert child.stdout is not None
        epochs = 0
        for line in child.stdout:
            resumed += line.startswith("resume")
            epochs += line.startswith("train:")
            if epochs == kill_after:
                time.sleep(0.01)  # not at the moment a checkpoint is whole
                child.kill()
                break
        child.wait()
        child.stdout.close()
    last = start(tmp_path / "killed", tmp_path / "got.onnx")
    printed, _ = last.communicate(timeout=300)
    assert last.returncode == 0, printed
    assert resumed + printed.count("resume") == 3
    assert (tmp_path / "got.onnx").read_bytes() == (tmp_path / "want.onnx").read_bytes()


def test_two_processes_do_not_train_in_one_folder(tmp_path: Path) -> None:
    def nested(text: str) -> None:
        if text.startswith("train:"):
            distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path)

    with pytest.raises(EdgecError) as e:
        distill(net(1), net(0), samples(), OPTIONS, checkpoints=tmp_path, progress=nested)
    assert e.value.diagnostics[0].code == "EC0905"


def test_labels_count_where_they_are_asked_for() -> None:
    options = DistillOptions(epochs=40, batch=8, lr=0.03, hard=1.0, threads=1)
    wanted = [i % 4 for i in range(24)]
    result = distill(net(1), net(0), samples(), options, labels=wanted)
    assert result.loss_after < result.loss_before


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "hard without labels": ("EC0323", {"options": {"hard": 0.5}}),
    "fewer labels than samples": ("EC0323", {"options": {"hard": 0.5}, "labels": [0, 1]}),
    "no such feature": ("EC0322", {"options": {"features": ("nothing",)}}),
    "one sample": ("EC0324", {"count": 1}),
    "diverging": ("EC0328", {"options": {"lr": 1e30, "optimizer": "sgd", "clip": 0.0, "loss": "mse", "batch": 2}}),
}


@pytest.mark.parametrize(("code", "given"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_refused(code: str, given: dict[str, Any]) -> None:
    options = DistillOptions(**given.get("options", {}))
    with pytest.raises(EdgecError) as e:
        distill(net(1), net(0), samples(given.get("count", 8)), options, labels=given.get("labels"))
    assert e.value.diagnostics[0].code == code


@pytest.mark.parametrize("field", ["epochs", "batch", "lr", "temperature", "holdout", "seed", "threads"])
def test_options_out_of_range_are_refused(field: str) -> None:
    with pytest.raises(EdgecError) as e:
        DistillOptions(**{field: -1})
    assert e.value.diagnostics[0].code == "EC0323"
    assert e.value.diagnostics[0].hint


@pytest.mark.parametrize("given", [{"lr": float("inf")}, {"temperature": float("inf")}, {"augment": ("turn",)}])
def test_options_that_are_nothing_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(EdgecError, match="EC0323"):
        DistillOptions(**given)


def test_labels_of_classes_that_there_are_not() -> None:
    with pytest.raises(EdgecError, match=r"EC0323.*label 7"):
        distill(net(1), net(0), samples(8), DistillOptions(hard=0.5, threads=1), labels=[0] * 7 + [7])


def test_outputs_must_be_the_same() -> None:
    other = Graph.from_text(NET.replace("y", "z"))
    with pytest.raises(EdgecError) as e:
        distill(net(1), other, samples(4))
    assert e.value.diagnostics[0].code == "EC0327"


def test_a_model_with_a_fixed_batch_trains_sample_by_sample() -> None:
    text = """<ir_version: 10, opset_import: ["" : 21]> g (float[1,4] x) => (float[1,2] y)
    <float[4,2] w = {WEIGHTS}, int64[2] s = {1, 4}> { r = Reshape(x, s) y = MatMul(r, w) }"""
    student = Graph.from_text(text.replace("WEIGHTS", "1, 2, 3, 4, 5, 6, 7, 8"))
    teacher = Graph.from_text(text.replace("WEIGHTS", "2, 1, 3, 3, 5, 5, 7, 9"))
    rng = np.random.default_rng(0)
    held = [{"x": rng.standard_normal((1, 4)).astype(np.float32)} for _ in range(12)]
    found = Diagnostics()
    given = Samples(lambda: iter(held), describe="vectors")
    result = distill(
        student, teacher, given, DistillOptions(epochs=30, lr=0.05, batch=4, loss="mse", threads=1), diagnostics=found
    )
    assert "EC0329" in [d.code for d in found]
    assert result.loss_after < 0.3 * result.loss_before


def test_a_checkpoint_damaged_anywhere_is_told_and_ignored(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "run")
    checkpoint.save(State(3, {"w": np.arange(4, dtype=np.float32)}, history=[[0.0, 1.0, 1.0]]))
    whole = checkpoint.path.read_bytes()
    for at in range(len(whole)):  # the header of the archive says, for instance, how it is compressed
        checkpoint.path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        found = Diagnostics()
        state = checkpoint.load(found)
        assert state is not None or [d.code for d in found] == ["EC0325"]
        assert "pickle" not in str([d.message for d in found])
