"""The package list, the direction of imports, and what `import edgec` costs."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = {"compiler": "edgec", "passes": "edgec.passes", "specs": "edgec.specs", "targets": "edgec.targets"}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages_in_tree() -> set[str]:
    found = set()
    for folder, name in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            if "templates" not in parts:
                found.add(".".join((name, *parts)))
    return found


def test_every_package_is_listed() -> None:
    """A forgotten one would be silently absent from the wheel while the editable install works."""
    listed = project()["tool"]["setuptools"]["packages"]  # type: ignore[index]
    assert set(listed) == packages_in_tree()


def test_every_folder_with_modules_is_a_package() -> None:
    for folder in FOLDERS:
        for module in (ROOT / folder).rglob("*.py"):
            if "templates" not in module.parts:
                assert (module.parent / "__init__.py").exists(), module


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


@pytest.mark.parametrize("folder", ["compiler", "specs"])
def test_the_framework_knows_no_pass_and_no_vendor(folder: str) -> None:
    """passes and targets import the framework, never the reverse. One door: lowering asks prepare for its input check."""
    allowed = {("compiler/lowering.py", "edgec.passes.prepare.freeze_shapes")}
    for path in (ROOT / folder).rglob("*.py"):
        where = str(path.relative_to(ROOT))
        if "templates" in where:
            continue
        for name in imports_of(path):
            if name.startswith(("edgec.passes", "edgec.targets")):
                assert any(where == a and name.startswith(b) for a, b in allowed), f"{where} imports {name}"


def test_specs_import_only_the_bottom_of_the_framework() -> None:
    for path in (ROOT / "specs").rglob("*.py"):
        for name in imports_of(path):
            if name.startswith("edgec.") and not name.startswith("edgec.specs"):
                assert name.split(".")[1] in {"diagnostics", "graph"}, f"{path.name} imports {name}"


def test_importing_edgec_is_light() -> None:
    code = "import sys, edgec; print([m for m in ('onnx', 'numpy', 'onnx_ir', 'onnxruntime') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, contextlib\n"
        "from edgec.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print([m for m in ('onnx', 'numpy', 'onnx_ir', 'pydantic', 'yaml') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip().splitlines()[-1] == "[]"


@pytest.mark.slow
def test_the_wheel_holds_edgec_and_nothing_else(tmp_path: Path) -> None:
    import uv

    command = [uv.find_uv_bin(), "build", "--wheel", "--out-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {n.split("/")[0] for n in names} <= {"edgec", wheel.name.rsplit("-", 3)[0] + ".dist-info"}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".yaml", ".lock", ".md"} and "__pycache__" not in path.parts:
                inside = f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder)}"
                assert inside in names, f"{inside} is missing from the wheel"
    for entry in ("edgec.passes", "edgec.targets"):
        assert any(n.startswith(entry.replace(".", "/")) for n in names)
