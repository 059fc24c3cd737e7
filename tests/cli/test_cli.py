"""The command line as a user meets it: in a process of its own, by its output and exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgec.graph import Graph
from edgec.plugins import Registry

ROOT = Path(__file__).resolve().parents[2]

MODEL = """<ir_version: 10, opset_import: ["": 21]>
net (float[1,2,4,4] x) => (float[1,2,4,4] y)
<float[2,2,1,1] w = {1,2,3,4}, float[2] s = {1,2}, float[2] b = {0,1}, float[2] m = {0.5,1}, float[2] v = {1,4}>
{ c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) i = Identity(n) y = Relu(i) }"""

DYNAMIC = """<ir_version: 10, opset_import: ["": 21]>
net (float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Relu(x) }"""

COMMANDS = [
    "compile", "opt", "check", "inspect", "compare", "bench", "bisect", "targets", "passes", "toolchain", "explain",
    "check-spec", "new", "doctor",
]  # fmt: skip


def edgec(*args: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edgec", *map(str, args)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, check=False
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    Graph.from_text(MODEL).save(tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


# --- help and usage ---------------------------------------------------------------------------------------------------


def test_help_is_light(tmp_path: Path) -> None:
    """--help must not import what makes it slow; time itself is no test."""
    script = (
        "import sys\nfrom edgec.cli import main\ncode = main(['--help'])\n"
        "heavy = {'onnx', 'onnx_ir', 'numpy', 'onnxruntime', 'pydantic', 'yaml', 'rich', 'pluggy'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\nsys.exit(code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    for name in COMMANDS:
        assert re.search(rf"^  {name} ", done.stdout, re.M), name
    assert "Exit codes" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, tmp_path: Path) -> None:
    done = edgec(command, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: edgec " + command in done.stdout


def test_version(tmp_path: Path) -> None:
    assert re.fullmatch(r"edgec \d+\.\d+\.\d+\S*\n", edgec("--version", cwd=tmp_path).stdout)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["complie"], "did you mean 'compile'?"),
        (["compile", "net.onnx", "--nonsense"], "--nonsense"),
        (["compile", "net.onnx", "--option", "x"], "KEY=VALUE"),
        (["compile", "net.onnx", "--option", "x=1", "--option", "x=2"], "twice"),
        (["check", "net.onnx"], "--all-targets"),
        (["bench", "net.onnx", "--runs", "0"], "--runs"),
    ],
)
def test_a_wrong_command_line_is_exit_code_2(args: list[str], said: str, model: Path) -> None:
    done = edgec(*args, cwd=model.parent)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


# --- compile ----------------------------------------------------------------------------------------------------------


def test_compile_without_a_target(model: Path) -> None:
    done = edgec("compile", "net.onnx", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    folder = model.parent / "build" / "net-x86-64"
    assert {p.name for p in folder.iterdir()} >= {"model.onnx", "report.json", "manifest.json"}
    for part in (
        "net.onnx -> x86-64",
        "BatchNormalization 1 -> 0",
        "SQNR",
        "accuracy on real data: the samples were generated",
        "build/net-x86-64/model.onnx",
    ):
        assert part in done.stdout, part
    assert "edgec: loading the model" in done.stderr
    assert "\x1b" not in done.stdout + done.stderr, "no colours into a pipe"


def test_compile_json(model: Path) -> None:
    done = edgec("compile", "net.onnx", "-o", "out", "--json", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report == json.loads((model.parent / "out" / "report.json").read_text())
    assert "net.onnx -> x86-64" in done.stderr


def test_quiet_says_where_the_result_is(model: Path) -> None:
    done = edgec("compile", "net.onnx", "-o", "out", "-q", cwd=model.parent)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str((model.parent / "out").resolve())


def test_compiling_twice_gives_the_same_manifest_and_artifact(model: Path) -> None:
    for out in ("a", "b"):
        assert edgec("compile", "net.onnx", "-o", out, "-q", cwd=model.parent).returncode == 0
    for name in ("model.onnx", "manifest.json"):
        assert (model.parent / "a" / name).read_bytes() == (model.parent / "b" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["compile", "missing.onnx"], 1, "EC0001"),
        (["compile", "net.onnx", "-t", "rk3558"], 1, "did you mean 'rk3588'?"),
        (["compile", "net.onnx", "--precision", "int3"], 1, "EC0403"),
        (["compile", "net.onnx", "--option", "colour=red"], 1, "EC0103"),
        (["compile", "net.onnx", "-p", "fold-bm"], 1, "did you mean 'fold-bn'?"),
        (["compile", "net.onnx", "-p", "fold-bn,"], 1, "EC0201"),
        (["compile", "net.onnx", "--mean", "a,b"], 1, "EC0707"),
        (["compile", "net.onnx", "--samples", "nowhere.npz"], 1, "EC07"),
        (["compile", "net.onnx", "-o", "net.onnx"], 1, "EC0902"),
        (["compile", "net.onnx", "--min-sqnr", "1000"], 3, "EC0820"),
        (["compile"], 1, "EC0910"),
        (["passes", "fold-bm"], 1, "did you mean 'fold-bn'?"),
        (["explain", "EC9999"], 1, "EC0930"),
        (["toolchain", "install", "rknnn"], 4, "EC0601"),
    ],
)
def test_failures(args: list[str], code: int, said: str, model: Path) -> None:
    done = edgec(*args, cwd=model.parent)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert {p.name for p in model.parent.iterdir()} <= {"net.onnx", "build"}
    assert not list(model.parent.glob("build/*")), "a failed compilation leaves nothing"


def test_every_diagnostic_is_printed(tmp_path: Path) -> None:
    Graph.from_text(DYNAMIC).save(tmp_path / "net.onnx")
    done = edgec("compile", "net.onnx", "-t", "rk3588", cwd=tmp_path)
    assert done.returncode == 1
    assert "hint:" in done.stderr
    assert "--input-shape" in done.stderr


def test_a_project(model: Path) -> None:
    (model.parent / "edgec.yaml").write_text(
        "schema_version: 1\nmodel: net.onnx\ntargets:\n  - {name: x86-64}\n  - {name: arm64, output: arm}\n"
    )
    done = edgec("compile", "--json", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert [r["target"] for r in json.loads(done.stdout)] == ["x86-64", "arm64"]
    assert (model.parent / "arm" / "model.onnx").exists()
    only = edgec("compile", "-t", "arm64", "--json", cwd=model.parent)
    assert [r["target"] for r in json.loads(only.stdout)] == ["arm64"]
    assert edgec("compile", "--samples", "x.npz", cwd=model.parent).returncode == 2
    assert edgec("compile", "-t", "rk3588", cwd=model.parent).returncode == 2


def test_a_failing_job_of_a_project_is_named(model: Path) -> None:
    (model.parent / "edgec.yaml").write_text(
        "schema_version: 1\nmodel: net.onnx\ntargets: [{name: x86-64, precision: int8}, {name: arm64}]\n"
    )
    done = edgec("compile", cwd=model.parent)
    assert done.returncode == 1
    assert "error[EC" in done.stderr
    assert "in job 1 of 2 of the project, x86-64; 1 after it was not begun" in done.stderr


def test_dump_after_each(model: Path) -> None:
    done = edgec("compile", "net.onnx", "-o", "out", "--dump-after-each", "dump", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    dumps = sorted(p.name for p in (model.parent / "dump").iterdir())
    assert any(name.endswith("-fold-bn.onnx") for name in dumps)
    Graph.load(model.parent / "dump" / dumps[-1]).verify()


def slow_command(tmp_path: Path) -> subprocess.Popen[str]:
    """A compilation that waits in the middle, in a process group of its own."""
    (tmp_path / "slow.py").write_text(
        "import time, numpy\n"
        "def batches():\n    print('waiting', flush=True)\n    time.sleep(60)\n    yield {'x': numpy.zeros((1, 2, 4, 4), 'f')}\n"
    )
    command = [sys.executable, "-m", "edgec", "compile", "net.onnx", "-o", "out", "--samples", "slow:batches"]
    return subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_in_the_middle(sent: signal.Signals, code: int, model: Path) -> None:
    child = slow_command(model.parent)
    assert child.stdout is not None
    assert "waiting" in child.stdout.readline()
    time.sleep(0.2)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code, err
    assert "Traceback" not in err
    left = {p.name for p in model.parent.iterdir()} - {"__pycache__"}
    assert left == {"net.onnx", "slow.py"}


# --- the other commands -----------------------------------------------------------------------------------------------


def test_opt(model: Path) -> None:
    done = edgec("opt", "net.onnx", "-o", "o.onnx", "-p", "fold-bn,eliminate-noops", "--verify-each", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert "4 -> 2 nodes" in done.stdout
    assert dict(Graph.load(model.parent / "o.onnx").op_counts()) == {"Conv": 1, "Relu": 1}


def test_opt_text_is_readable_by_us(model: Path) -> None:
    done = edgec("opt", "net.onnx", "-p", "fold-bn", "--text", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert Graph.from_text(done.stdout).op_counts()["BatchNormalization"] == 0


def test_why_not(tmp_path: Path) -> None:
    text = MODEL.replace("BatchNormalization(c", "BatchNormalization <training_mode = 1> (c").replace(
        "n = ", "n, p, q = "
    )
    Graph.from_text(text).save(tmp_path / "net.onnx")
    done = edgec("opt", "net.onnx", "-p", "fold-bn", "--why-not", "fold-bn-into-producer", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "fold-bn-into-producer" in done.stdout


def test_check(model: Path) -> None:
    one = edgec("check", "net.onnx", "-t", "rk3588", cwd=model.parent)
    assert one.returncode == 0, one.stderr
    assert "accelerator 2, CPU 0" in one.stdout
    everything = edgec("check", "net.onnx", "--all-targets", "--json", cwd=model.parent)
    assert everything.returncode == 0, everything.stderr
    assert set(json.loads(everything.stdout)["targets"]) == set(Registry().targets())


def test_inspect(model: Path) -> None:
    done = edgec("inspect", "net.onnx", cwd=model.parent)
    assert "x float[1x2x4x4]" in done.stdout
    data = json.loads(edgec("inspect", "net.onnx", "--json", cwd=model.parent).stdout)
    assert (data["nodes"], data["parameters"]) == (4, 12)


def test_compare(model: Path) -> None:
    same = edgec("compare", "net.onnx", "net.onnx", "--layers", "--json", cwd=model.parent)
    assert same.returncode == 0, same.stderr
    assert json.loads(same.stdout)["exact"]
    Graph.from_text(MODEL.replace("w = {1,", "w = {9,")).save(model.parent / "other.onnx")
    other = edgec("compare", "net.onnx", "other.onnx", "--min-sqnr", "60", cwd=model.parent)
    assert other.returncode == 3
    assert "below" in other.stdout


def test_bench(model: Path) -> None:
    done = edgec("bench", "net.onnx", "--opt", "--runs", "3", "--warmup", "1", "--json", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert [r["model"] for r in rows] == ["net.onnx", "net.onnx + edgec opt"]
    assert all(0 < r["min_ms"] <= r["p50_ms"] <= r["p95_ms"] for r in rows)


def test_bisect_finds_nothing_in_a_right_pipeline(model: Path) -> None:
    done = edgec("bisect", "net.onnx", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert "no pass is at fault" in done.stdout


def test_targets(tmp_path: Path) -> None:
    assert "rk3588" in edgec("targets", cwd=tmp_path).stdout
    assert {t["name"] for t in json.loads(edgec("targets", "--json", cwd=tmp_path).stdout)} == set(Registry().targets())
    detail = edgec("targets", "rk3588", "--ops", cwd=tmp_path)
    assert detail.returncode == 0, detail.stderr
    for part in ("quantized-algorithm", "Conv", "evidence", "fp16 (default)"):
        assert part in detail.stdout


def test_passes(tmp_path: Path) -> None:
    data = json.loads(edgec("passes", "--json", cwd=tmp_path).stdout)
    assert {p["name"] for p in data} == set(Registry().passes())
    assert all(p["doc"] and not p["doc"].startswith("`") for p in data), "every pass says in words what it does"
    assert "max-bytes" in edgec("passes", "fold-constants", cwd=tmp_path).stdout


def test_explain(tmp_path: Path) -> None:
    assert edgec("explain", "ec401", cwd=tmp_path).stdout.startswith("# EC0401: ")
    listed = edgec("explain", cwd=tmp_path).stdout
    assert "EC0905  another process is compiling" in listed


def test_check_spec(tmp_path: Path) -> None:
    assert edgec("check-spec", ROOT / "specs/targets/rk3588.yaml", cwd=tmp_path).returncode == 0
    (tmp_path / "bad.yaml").write_text("schema_version: 1\nname: BAD\n")
    bad = edgec("check-spec", "bad.yaml", cwd=tmp_path)
    assert bad.returncode == 1
    assert "bad.yaml:2" in bad.stderr


def test_new(tmp_path: Path) -> None:
    done = edgec("new", "pass", "zebra", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "edgec-zebra" / "pyproject.toml").exists()


def test_doctor(tmp_path: Path) -> None:
    done = edgec("doctor", "--json", cwd=tmp_path, env={"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert done.returncode == 0, done.stderr + done.stdout
    assert all(check["ok"] for check in json.loads(done.stdout))


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "edgec", "targets", "rk3588", "--ops"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path,
    )  # fmt: skip
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.readline()
    child.stdout.close()
    err = child.stderr.read().decode()
    child.stderr.close()
    assert child.wait() in (0, 141)
    assert err == ""


def test_why_not_of_a_rule_there_is_not_is_an_error(model: Path) -> None:
    done = edgec("opt", "net.onnx", "-p", "fold-bn", "--why-not", "fold-bn-into-produce", cwd=model.parent)
    assert done.returncode == 2
    assert "'fold-bn-into-produce'" in done.stderr
    assert "fold-bn-into-producer" in done.stderr
    elsewhere = edgec("opt", "net.onnx", "-p", "cse", "--why-not", "fold-bn-into-producer", cwd=model.parent)
    assert elsewhere.returncode == 2  # it exists, but nothing here runs it


def test_a_cpu_is_not_called_an_accelerator(model: Path) -> None:
    one = edgec("check", "net.onnx", "-t", "x86-64", cwd=model.parent)
    assert one.returncode == 0, one.stderr
    assert "CPU 2, impossible 0" in one.stdout
    assert "on the CPU" in one.stdout
    assert "accelerator" not in one.stdout
    done = edgec("compile", "net.onnx", "-o", "out", cwd=model.parent)
    assert done.returncode == 0, done.stderr
    assert "nodes on the CPU" in done.stdout
    assert "accelerator" not in done.stdout


def test_what_holds_for_all_targets_is_said_once(tmp_path: Path) -> None:
    Graph.from_text(DYNAMIC).save(tmp_path / "net.onnx")
    done = edgec("check", "net.onnx", "--all-targets", cwd=tmp_path, env={"COLUMNS": "400"})
    assert done.returncode == 1
    assert (done.stdout + done.stderr).count("input has a dynamic shape: x (") == 1
    assert "not checked: " in done.stderr
    assert "--input-shape x=" in done.stderr
    needy = [name for name in Registry().targets() if Registry().target(name).spec().static_shapes]
    assert len(needy) > 3
    assert all(name in done.stderr for name in needy)


@pytest.mark.parametrize(("kind", "name"), [("target", "rk3588"), ("pass", "fold-bn")])
def test_a_name_that_is_taken_is_refused(kind: str, name: str, tmp_path: Path) -> None:
    done = edgec("new", kind, name, cwd=tmp_path)
    assert done.returncode == 1
    assert "EC0920" in done.stderr
    assert not list(tmp_path.iterdir())
