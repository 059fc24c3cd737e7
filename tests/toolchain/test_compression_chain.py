"""The whole chain from one edgec.yaml, on a real model: prune, recover, int8, `.rknn` and `.tflite`, each step measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from edgec import api
from edgec.api import Compiled
from edgec.project import Project
from edgec.report import Stage
from edgec.toolchain import Toolchain

pytestmark = [pytest.mark.toolchain, pytest.mark.slow]

JUDGED = 64

PROJECT = """
schema_version: 1
model: {model}
input_shapes: {{input: 1x3x32x32}}
calibration: calibration
samples: samples
metric: metric.py:top1
effort: low
compress:
  - prune: {{macs: 0.3, importance: l2, allocation: uniform}}
  - recover
targets:
  - {{name: rk3588, precision: int8}}
  - {{name: raspberrypi5, precision: int8}}
"""

METRIC = """
import numpy as np
from pathlib import Path

labels = np.load(Path(__file__).parent / "labels.npy")

def top1(outputs, reference):
    return 100 * np.mean([o["logits"].argmax() == label for o, label in zip(outputs, labels, strict=True)])
"""


@pytest.fixture(scope="module")
def compiled(
    installed: Callable[[str], Toolchain], eval_dir: Path, judge: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Compiled]:
    for name in ("rknn", "litert"):
        installed(name)
    folder = tmp_path_factory.mktemp("chain")
    for name in ("calibration", "samples"):
        (folder / name).mkdir()
    for i, x in enumerate(itertools.islice(judge.calibration("cifar10_resnet20"), 256)):
        np.save(folder / "calibration" / f"{i:04}.npy", x)
    labels = []
    for i, (x, label) in enumerate(itertools.islice(judge._samples("cifar10_resnet20", judged=True), JUDGED)):
        np.save(folder / "samples" / f"{i:04}.npy", x)
        labels.append(label)
    np.save(folder / "labels.npy", labels)
    (folder / "metric.py").write_text(METRIC)
    (folder / "edgec.yaml").write_text(PROJECT.format(model=eval_dir / "models" / "cifar10_resnet20.onnx"))
    return {job["target"]: api.compile(**job) for job in Project.load(folder / "edgec.yaml").jobs()}


@pytest.mark.parametrize(("target", "entry"), [("rk3588", "model.rknn"), ("raspberrypi5", "model.tflite")])
def test_every_stage_is_measured(compiled: dict[str, Compiled], target: str, entry: str) -> None:
    """Smaller with each step, and accuracy: lost by the cut, brought back by recovery, kept by int8."""
    result = compiled[target]
    float_, pruned, recovered, artifact = result.report.compression
    assert result.artifact.entry == entry
    assert [float_.name, pruned.name[:5], recovered.name, artifact.name] == [
        "float",
        "prune",
        "recover",
        f"{target} int8",
    ]
    assert recovered.macs <= 0.7 * float_.macs
    assert pruned.bytes < float_.bytes
    assert float_.bytes > (1.9 if target == "rk3588" else 4) * artifact.bytes, "rknn files hold commands too"
    top1 = [metric_of(s) for s in (float_, pruned, recovered, artifact)]
    assert top1[0] > 70
    assert top1[1] < top1[2] - 10
    assert top1[2] > 0.7 * top1[0]
    assert top1[3] > top1[2] - 8
    assert [s.latency_ms is not None for s in result.report.compression] == [True, True, True, target == "raspberrypi5"]
    assert result.folder is not None
    assert "compression" in (result.folder / "report.json").read_text()


def metric_of(stage: Stage) -> float:
    assert stage.metric is not None
    return stage.metric
