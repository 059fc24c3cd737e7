"""A real third-party package, installed and compiled through; and plugins that are broken in every way we know."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pluggy
import pytest

from edgec.diagnostics import EdgecError
from edgec.hookspecs import hookimpl
from edgec.plugins import Registry

MODEL = """<ir_version: 10, opset_import: ["": 21]>
net (float[2,3] x) => (float[2,2] y)
<float[3,2] w = {1,-2, 3,4, 5,6}, float[2] c = {0.5,-1}> { a = MatMul(x, w) b = Sub(a, c) y = Relu(b) }"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    from edgec.graph import Graph

    path = tmp_path / "net.onnx"
    Graph.from_text(MODEL).save(path)
    return path


def fake(site: Path, dist: str, module: str, code: str, entry: str | None = None) -> None:
    """Install a distribution of one module by hand."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{dist.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[edgec]\n{entry or dist} = {module}\n")


def test_acme_passes_its_own_tests(acme_site: Path, python_with: Callable[[Path], Any]) -> None:
    tests = acme_site.parent / "source" / "tests"
    done = python_with(acme_site)("-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(tests))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_compiling_through_acme(
    acme_site: Path, python_with: Callable[[Path], Any], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = python_with(acme_site)("-m", "edgec", "compile", str(model), "--target", "acme-a1", "-o", str(out), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["target"] == "acme-a1"
    assert report["ops_before"]["Sub"] == 1
    assert "Sub" not in report["ops_after"]
    assert report["verification"]["runner"] == "the NumPy interpreter of edgec-acme"
    assert report["verification"]["comparison"]["outputs"][0]["finite"]
    assert json.loads((out / "program.json").read_text())["steps"][0]["op"] == "MatMul"


def test_acme_in_the_lists(acme_site: Path, python_with: Callable[[Path], Any], model: Path) -> None:
    run = python_with(acme_site)
    assert "Acme A1" in run("-m", "edgec", "targets").stdout
    assert "acme-a1-sub-to-add" in run("-m", "edgec", "passes").stdout
    assert "the device has no subtraction" in run("-m", "edgec", "targets", "acme-a1", "--ops").stdout
    checked = run("-m", "edgec", "check", str(model), "--all-targets")
    assert checked.returncode == 0, checked.stderr
    assert "acme-a1" in checked.stdout


BROKEN = {
    "import": ("raise RuntimeError('half-installed')\n", "RuntimeError: half-installed"),
    "syntax": ("def edgec_targets(:\n", "SyntaxError"),
    "misspelt": (
        "from edgec import hookimpl\n@hookimpl\ndef edgec_target():\n    return {}\n",
        "edgec_target",
    ),
    "unmarked": ("def edgec_targets():\n    return {}\n", "lacks the @hookimpl decorator"),
    "raising": (
        "from edgec import hookimpl\n@hookimpl\ndef edgec_targets():\n    raise KeyError('table')\n",
        "KeyError: 'table'",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_spoils_only_itself(
    how: str, tmp_path: Path, python_with: Callable[[Path], Any], model: Path
) -> None:
    code, said = BROKEN[how]
    site = tmp_path / "site"
    site.mkdir()
    fake(site, "edgec-bad", "edgec_bad", code)
    run = python_with(site)
    listed = run("-m", "edgec", "targets")
    assert listed.returncode == 0, listed.stderr
    assert "rk3588" in listed.stdout
    assert said in listed.stderr
    assert "edgec-bad" in listed.stderr
    assert "Traceback" not in listed.stderr
    compiled = run("-m", "edgec", "compile", str(model), "-o", str(tmp_path / "out"))
    assert compiled.returncode == 0, compiled.stderr


def test_a_target_that_cannot_be_imported(tmp_path: Path, python_with: Callable[[Path], Any], model: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    code = "from edgec import hookimpl\n@hookimpl\ndef edgec_targets():\n    return {'bad': 'edgec_bad.no:Class'}\n"
    fake(site, "edgec-bad", "edgec_bad", code)
    run = python_with(site)
    done = run("-m", "edgec", "compile", str(model), "--target", "bad")
    assert done.returncode == 1
    assert "EC0113" in done.stderr
    assert "Traceback" not in done.stderr
    assert "rk3588" in run("-m", "edgec", "targets").stdout


def test_a_crash_names_the_plugin(tmp_path: Path, python_with: Callable[[Path], Any], model: Path) -> None:
    """A bug in a plugin's code is shown with its traceback, and the plugin is named."""
    site = tmp_path / "site"
    site.mkdir()
    code = (
        "from dataclasses import dataclass\nfrom typing import ClassVar\n"
        "from edgec import hookimpl, Pass\n"
        "@dataclass(frozen=True)\nclass Crash(Pass):\n    name: ClassVar[str] = 'crash'\n"
        "    def run(self, graph, ctx):\n        raise IndexError('oops')\n"
        "@hookimpl\ndef edgec_passes():\n    return {'crash': Crash}\n"
    )
    fake(site, "edgec-bad", "edgec_bad", code)
    done = python_with(site)("-m", "edgec", "opt", str(model), "-p", "crash")
    assert done.returncode == 70
    assert "IndexError: oops" in done.stderr
    assert "while running pass 'crash'" in done.stderr
    assert "a bug in the plugin edgec-bad" in done.stderr


def test_two_plugins_with_one_name(
    acme_site: Path, tmp_path: Path, python_with: Callable[[Path], Any], model: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    code = "from edgec import hookimpl\n@hookimpl\ndef edgec_targets():\n    return {'rk3588': 'edgec_bad:X'}\n"
    fake(site, "edgec-bad", "edgec_bad", code)
    run = python_with(site)
    done = run("-m", "edgec", "compile", str(model), "--target", "rk3588")
    assert done.returncode == 1
    assert "EC0112" in done.stderr
    assert "'edgec-bad'" in done.stderr
    assert run("-m", "edgec", "check", str(model), "-t", "rk3568").returncode == 0


class _Plugin:
    @hookimpl
    def edgec_targets(self) -> dict[str, str]:
        return {"mine": "nowhere:Class"}


class _Misspelt:
    @hookimpl
    def edgec_tragets(self) -> dict[str, str]:
        return {}


def test_registering_by_hand() -> None:
    registry = Registry(discover=False)
    registry.register(_Plugin(), "one")
    assert list(registry.targets()) == ["mine"]
    with pytest.raises(EdgecError, match="EC0113"):
        registry.target("mine")
    registry.register(_Plugin(), "two")
    with pytest.raises(EdgecError, match=r"EC0112.*'one', 'two'"):
        registry.target("mine")


def test_a_misspelt_hook_is_refused_and_leaves_nothing() -> None:
    registry = Registry(discover=False)
    with pytest.raises(pluggy.PluginValidationError, match="edgec_tragets"):
        registry.register(_Misspelt(), "bad")
    assert list(registry.targets()) == []


def test_an_unknown_target_gets_a_hint() -> None:
    with pytest.raises(EdgecError) as e:
        Registry().target("rk3558")
    assert e.value.diagnostics[0].hint == "did you mean 'rk3588'?"
