"""`edgec new`: what it makes installs, and passes its own tests, before a line is changed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from edgec.diagnostics import EdgecError
from edgec.scaffold import Kind, create

_spec = spec_from_file_location("plugin_conftest", Path(__file__).with_name("conftest.py"))
assert _spec is not None
assert _spec.loader is not None
_conftest = module_from_spec(_spec)
_spec.loader.exec_module(_conftest)


@pytest.mark.parametrize(("kind", "count"), [("target", 4), ("pass", 2)])
def test_it_passes_its_own_tests(kind: Kind, count: int, tmp_path: Path, python_with: Callable[[Path], Any]) -> None:
    folder = create(kind, "my-own-x1", tmp_path / "package")
    _conftest.install(folder, tmp_path / "site")
    done = python_with(tmp_path / "site")(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", str(folder / "tests")
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} passed" in done.stdout


@pytest.mark.parametrize("kind", ["target", "pass"])
def test_no_placeholder_is_left(kind: Kind, tmp_path: Path) -> None:
    folder = create(kind, "zebra", tmp_path / "package")
    for path in folder.rglob("*"):
        text = str(path.relative_to(folder)) + (path.read_text() if path.is_file() else "")
        for word in ("my-name", "my_name", "MyName", ".tmpl"):
            assert word not in text, path


def test_what_it_makes_is_clean_by_our_own_rules(tmp_path: Path) -> None:
    import subprocess

    folder = create("target", "zebra", tmp_path / "package")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "E,F,W,B,UP",
            "--line-length",
            "120",
            str(folder),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["", "Acme", "a_b", "a--b", "-a", "a-", "1a", "../x", "a b", "ä"])
def test_names_that_cannot_be(name: str, tmp_path: Path) -> None:
    with pytest.raises(EdgecError) as e:
        create("pass", name, tmp_path / "x")
    assert e.value.diagnostics[0].code == "EC0920"
    assert not (tmp_path / "x").exists()


def test_it_writes_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(EdgecError) as e:
        create("pass", "zebra", tmp_path)
    assert e.value.diagnostics[0].code == "EC0921"
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
