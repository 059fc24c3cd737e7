"""verify.py of a bundle, as a program of its own, against a TensorRT of each interface and a CUDA runtime in host memory."""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgec.targets.tensorrt.jetson import verify_on_board
from edgec.targets.tensorrt.jetson.board_samples import board_samples

HERE = Path(__file__).parent
VERIFY = Path(verify_on_board.__file__)
VERSIONS = ("8.5.2", "8.6.2", "10.3.0", "10.16.2", "11.4.1")

PLAN: dict[str, Any] = {
    "inputs": {"x": ["float32", [1, 4], [8, 4]]},
    "outputs": {"y": ["float32", [-1, 4]], "best": ["int32", [-1]]},
    "code": "y = x * 2 + 1; best = y.argmax(1)",
}


@pytest.fixture(scope="session")
def cudart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        pytest.skip("no C compiler: nothing to build the stand-in for libcudart with")
    out = tmp_path_factory.mktemp("cuda") / "libcudart.so"
    subprocess.run([cc, "-shared", "-fPIC", "-o", out, HERE / "fake_libcudart.c"], check=True)
    return out


class Bundle:
    """verify.py, samples.npz and an engine in a folder; a `tensorrt` of some version."""

    def __init__(self, tmp_path: Path, cudart: Path) -> None:
        self.folder = tmp_path / "the bundle"
        self.folder.mkdir()
        self.site = tmp_path / "site"
        (self.site / "tensorrt").mkdir(parents=True)
        shutil.copy(HERE / "fake_board_tensorrt.py", self.site / "tensorrt" / "__init__.py")
        shutil.copy(VERIFY, self.folder / "verify.py")
        self.cudart = cudart
        self.samples()

    def samples(self, noise: float = 0.0, **more: Any) -> None:
        """Of y = 2x + 1; model.onnx is `noise` away from the float model."""
        rng = np.random.default_rng(0)
        given = [{"x": rng.normal(size=(n, 4)).astype(np.float32), **more} for n in (1, 3, 8)]

        def run(sample: Any) -> Any:
            y = sample["x"] * 2 + 1
            return {"y": y, "best": y.argmax(1)}  # int64, as ONNX has it

        def noisy(sample: Any) -> Any:
            y = run(sample)["y"]
            return {"y": y + noise * rng.normal(size=y.shape).astype(np.float32), "best": y.argmax(1)}

        names = list(given[0]), ["y", "best"]
        data, count = board_samples(given, (names[0], names[1]), run, noisy)
        assert count == 3
        (self.folder / "samples.npz").write_bytes(data)

    def engine(self, version: str, **changes: Any) -> None:
        (self.folder / "model.plan").write_text(json.dumps({**PLAN, "version": version, **changes}))

    def run(self, version: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ, "PYTHONPATH": str(self.site), "FAKE_VERSION": version, "LIBCUDART": str(self.cudart), **env,
        }  # fmt: skip
        command = [sys.executable, str(self.folder / "verify.py"), "--runs", "5", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.fixture
def bundle(tmp_path: Path, cudart: Path) -> Bundle:
    return Bundle(tmp_path, cudart)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_right_engine(bundle: Bundle, version: str, tmp_path: Path) -> None:
    bundle.engine(version)
    figures = tmp_path / "figures.json"
    done = bundle.run(version, "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"TensorRT {version}, 3 samples" in done.stdout
    assert "ok   y:" in done.stdout
    assert "ok   best: 100.00% equal" in done.stdout
    assert "latency: median" in done.stdout
    told = json.loads(figures.read_text())
    assert told["good"]
    assert [o["name"] for o in told["outputs"]] == ["y", "best"]
    assert told["outputs"][0]["cosine"] == pytest.approx(1)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_wrong_engine(bundle: Bundle, version: str) -> None:
    bundle.engine(version, code="y = x * 2 + 1.5; best = (y * 0).argmax(1)")
    done = bundle.run(version)
    assert done.returncode == 1
    assert "FAIL y:" in done.stdout
    assert "FAIL best:" in done.stdout


def test_what_is_enough(bundle: Bundle) -> None:
    """3 dB below model.onnx, 35 dB at most, or what the user says."""
    off = "rng = np.random.default_rng(1); y = x * 2 + 1; best = y.argmax(1); y = y + {} * rng.normal(size=y.shape)"
    bundle.samples(noise=0.2)  # about 20 dB
    bundle.engine("10.3.0", code=off.format(0.2))
    assert bundle.run("10.3.0").returncode == 0
    assert bundle.run("10.3.0", "--min-sqnr", "30").returncode == 1
    bundle.engine("10.3.0", code=off.format(0.6))
    assert bundle.run("10.3.0").returncode == 1
    assert bundle.run("10.3.0", "--min-sqnr", "5").returncode == 0
    bundle.samples(noise=0.0)
    bundle.engine("10.3.0", code=off.format(0.01))  # as float16 rounds
    assert bundle.run("10.3.0").returncode == 0
    bundle.engine("10.3.0", code=off.format(0.2))
    assert bundle.run("10.3.0").returncode == 1


def test_nan_is_a_failure(bundle: Bundle) -> None:
    bundle.engine("10.3.0", code="y = x * 2 + 1; y[0, 0] = np.nan; best = (x * 2).argmax(1)")
    done = bundle.run("10.3.0", "--min-sqnr", "-1000")
    assert done.returncode == 1
    assert "NaN" in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
def test_outputs_of_a_shape_only_the_run_decides(bundle: Bundle, version: str) -> None:
    outputs = {"y": ["float32", [-1, 4]], "best": ["int32", [-2]]}
    bundle.engine(version, outputs=outputs)
    assert bundle.run(version).returncode == 0
    bundle.engine(version, outputs=outputs, code="y = x * 2 + 1; best = y.argmax(1)[:-1]")
    done = bundle.run(version)
    assert done.returncode == 1
    assert "another shape" in done.stdout


def test_an_int64_input_of_an_int32_engine(bundle: Bundle) -> None:
    """TensorRT 8 has no int64: values that fit are passed, others are told."""
    inputs = {**PLAN["inputs"], "n": ["int32", [1], [1]]}
    bundle.engine("8.5.2", inputs=inputs)
    bundle.samples(n=np.array([7], np.int64))
    assert bundle.run("8.5.2").returncode == 0
    bundle.samples(n=np.array([1 << 40], np.int64))
    done = bundle.run("8.5.2")
    assert done.returncode == 4
    assert "values change" in done.stderr


def test_an_engine_for_other_shapes(bundle: Bundle) -> None:
    bundle.engine("10.3.0", inputs={"x": ["float32", [1, 4], [2, 4]]})
    done = bundle.run("10.3.0")
    assert done.returncode == 4
    assert "does not take 3x4" in done.stderr


def test_an_engine_of_another_bundle(bundle: Bundle) -> None:
    bundle.engine("10.3.0", outputs={"z": ["float32", [-1, 4]]}, code="z = x")
    done = bundle.run("10.3.0")
    assert done.returncode == 4
    assert "the engine's are z" in done.stderr


def test_a_type_numpy_does_not_have(bundle: Bundle) -> None:
    bundle.engine("10.3.0", inputs={"x": ["bfloat16", [1, 4], [8, 4]]})
    done = bundle.run("10.3.0")
    assert done.returncode == 4
    assert "BF16" in done.stderr


def test_an_engine_of_another_version_or_damaged(bundle: Bundle) -> None:
    bundle.engine("8.5.2")
    done = bundle.run("10.3.0")
    assert done.returncode == 3
    assert "build_engine.sh --force" in done.stderr
    (bundle.folder / "model.plan").write_bytes(b"half")
    assert bundle.run("10.3.0").returncode == 3


def test_what_is_missing(bundle: Bundle, tmp_path: Path) -> None:
    done = bundle.run("10.3.0")
    assert done.returncode == 2
    assert "build_engine.sh makes it" in done.stderr
    bundle.engine("10.3.0")
    done = bundle.run("10.3.0", FAKE_CUDA_FULL="1")
    assert done.returncode == 3
    assert "out of memory" in done.stderr
    (bundle.site / "tensorrt" / "__init__.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    done = bundle.run("10.3.0")
    assert done.returncode == 3
    assert "python3-libnvinfer" in done.stderr
    (bundle.folder / "samples.npz").write_bytes(b"half")
    assert bundle.run("10.3.0").returncode == 2


def test_it_is_python_of_jetpack_5() -> None:
    """Syntax of 3.8, and nothing but the standard library, numpy and tensorrt."""
    tree = ast.parse(VERIFY.read_text(), feature_version=(3, 8))
    names = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"numpy", "tensorrt"}
    assert "strict=" not in VERIFY.read_text()  # zip of 3.10


def test_samples_are_few_and_the_same_bytes_each_time() -> None:
    big = [{"x": np.full((9 << 20,), i, np.float32)} for i in range(4)]
    keep: Any = lambda s: s  # noqa: E731
    first, count = board_samples(big, (["x"], ["x"]), keep, keep)
    assert count == 1
    assert board_samples(big, (["x"], ["x"]), keep, keep)[0] == first
    assert board_samples([{"x": np.zeros(1)}] * 20, (["x"], ["x"]), keep, keep)[1] == 8
