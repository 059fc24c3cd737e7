"""The command line where stdout is closed or full, the encoding is poor, or somebody stops it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgec.cli.failures import stopped_within
from edgec.graph import Graph
from edgec.project import Project

ROOT = Path(__file__).resolve().parents[2]
MODEL = """<ir_version: 10, opset_import: ["": 21]>
net (float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Relu(x) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    Graph.from_text(MODEL).save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def shell(script: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    """`$edgec` in the script is this edgec."""
    variables = {**os.environ, "edgec": f"{sys.executable} -P -m edgec", **env}
    return subprocess.run(["sh", "-c", script], capture_output=True, cwd=cwd, env=variables, check=False)


def test_closed_stdout(model: Path) -> None:
    done = shell("$edgec compile net.onnx -o out >&-", model.parent)
    assert done.returncode == 0, done.stderr
    assert (model.parent / "out/manifest.json").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize("command", ["compile net.onnx -o out", "compile net.onnx -o out --json -q", "targets"])
def test_stdout_on_a_full_disk(command: str, model: Path) -> None:
    done = shell(f"$edgec {command} >/dev/full", model.parent)
    assert done.returncode == 1
    assert b"cannot write to the standard output" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_that_the_terminal_cannot_show(encoding: str, model: Path) -> None:
    model.rename(model.with_name("mödel€.onnx"))
    done = shell("$edgec compile mödel€.onnx --json -q", model.parent, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.decode(encoding))["model"]["path"] == "mödel€.onnx"
    done = shell("$edgec compile mödel€.onnx", model.parent, PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr


def test_names_that_are_not_text(model: Path) -> None:
    os.rename(os.fsencode(model), os.fsencode(model.parent) + b"/\xff.onnx")
    done = shell("$edgec compile *.onnx -o out", model.parent)
    assert done.returncode == 0, done.stderr
    assert json.loads((model.parent / "out/report.json").read_text())["model"]["path"] == "\udcff.onnx"
    assert json.loads((model.parent / "out/manifest.json").read_text())["entry"] == "model.onnx"


def test_an_input_too_large_for_the_machine(model: Path) -> None:
    done = shell("$edgec compile net.onnx --input-shape x=2147483647x2x4x4", model.parent)
    assert done.returncode == 1, done.stderr
    assert b"error[EC0931]" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("sent", "code", "said"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_stopping_is_said(sent: signal.Signals, code: int, said: str, model: Path) -> None:
    (model.parent / "slow.py").write_text(
        "import time\ndef inputs():\n    print('waiting', flush=True)\n    time.sleep(60)\n    yield None\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-m", "edgec", "compile", "net.onnx", "--samples", "slow:inputs", "-o", "out"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=model.parent,
    )  # fmt: skip
    assert child.stdout is not None
    assert "waiting" in child.stdout.readline()
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert f"edgec: {said}; no half-written output is left" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("stop", [SystemExit(143), KeyboardInterrupt()])
def test_stopped_while_an_extension_is_imported(stop: BaseException) -> None:
    hidden = ImportError("initialization failed")
    hidden.__cause__ = stop
    assert stopped_within(hidden) is stop
    assert stopped_within(ImportError("initialization failed")) is None


@pytest.mark.parametrize("page", ["docs/tutorial.md", "docs/project.md"])
def test_the_projects_of_the_documentation_are_valid(page: str, tmp_path: Path) -> None:
    blocks = [b.partition("```")[0] for b in (ROOT / page).read_text().split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        (tmp_path / "edgec.yaml").write_text(block)
        assert len(Project.load(tmp_path / "edgec.yaml").jobs()) == len(yaml.safe_load(block)["targets"])
