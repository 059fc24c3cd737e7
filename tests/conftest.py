"""Fixtures every test may use, and the collector of tests/filecheck/*.onnxtxt."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from edgec.toolchain import Toolchain

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def eval_dir() -> Path:
    """The folder with real models, data and evaluate.py (EDGEC_EVAL_DIR)."""
    folder = os.environ.get("EDGEC_EVAL_DIR")
    if not folder:
        pytest.skip("EDGEC_EVAL_DIR is not set: no real models and images to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def judge(eval_dir: Path) -> ModuleType:
    """evaluate.py of that folder: inputs to calibrate with, and accuracy."""
    spec = importlib.util.spec_from_file_location("evaluate", eval_dir / "evaluate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_NOT_HERE = frozenset({"EC0604", "EC0605", "EC0607"})
"""Not for this machine, no Python for it, no network: nothing is wrong with edgec."""


@pytest.fixture(scope="session")
def installed() -> Callable[[str], Toolchain]:
    """A vendor's toolchain by name, installed now if need be. Skips where this machine cannot have it; whatever else is
    wrong with it is raised."""
    from edgec.diagnostics import EdgecError
    from edgec.toolchain import ToolchainManager

    def ensure(name: str) -> Toolchain:
        try:
            return ToolchainManager().ensure(name)
        except EdgecError as e:
            if e.diagnostics[0].code in _NOT_HERE:
                pytest.skip(f"toolchain {name} cannot be installed here: {e.diagnostics[0].message}")
            raise

    return ensure


class FileCheckFile(pytest.File):
    """One `.onnxtxt`: `# RUN: pipeline`, `# CHECK...` lines, and one model in ONNX text. The pipeline runs on it, the
    printed result must satisfy the CHECK lines, and (unless `# NUMERIC: off`) both graphs must compute the same."""

    def collect(self) -> Iterator[pytest.Item]:
        for i, part in enumerate(re.split(r"^# -----.*\n", self.path.read_text(), flags=re.M)):
            name = m[1].strip() if (m := re.search(r"^# NAME: (.*)$", part, re.M)) else str(i)
            yield FileCheckItem.from_parent(self, name=name, text=part)


class FileCheckItem(pytest.Item):
    def __init__(self, *, text: str, **kwargs: object) -> None:
        super().__init__(**kwargs)  # type: ignore[arg-type]
        self.text = text

    def runtest(self) -> None:
        from edgec.graph import Graph
        from edgec.pipeline import PassContext, PassManager
        from edgec.plugins import Registry
        from edgec.recipe import build_passes, parse_pipeline
        from edgec.testing import assert_equivalent

        run = re.search(r"^# RUN: (.*)$", self.text, re.M)
        assert run, "a filecheck test says what to run: # RUN: pass,pass"
        model = "\n".join(line for line in self.text.splitlines() if not line.startswith("#"))
        before = Graph.from_text(model)
        after = before.clone()
        passes = build_passes(parse_pipeline(run[1].strip()), Registry().passes())
        PassManager(passes, verify="structure").run(after, PassContext())
        printed = after.to_text()
        self._filecheck(printed)
        if not re.search(r"^# NUMERIC: off", self.text, re.M):
            assert_equivalent(before, after)

    def _filecheck(self, printed: str) -> None:
        from filecheck.finput import FInput
        from filecheck.matcher import Matcher
        from filecheck.options import Options
        from filecheck.parser import Parser, pattern_for_opts

        checks = "\n".join(line[2:] for line in self.text.splitlines() if line.startswith("# CHECK"))
        assert checks, "a filecheck test has CHECK lines"
        options = Options(match_filename=str(self.path))
        parser = Parser(options, io.StringIO(checks), *pattern_for_opts(options))
        err = io.StringIO()
        with contextlib.redirect_stderr(err):
            code = Matcher(options, FInput("<output>", printed), parser).run()
        if code:
            raise AssertionError(f"{err.getvalue()}\n--- output ---\n{printed}")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: object = None) -> str:
        if isinstance(excinfo.value, AssertionError):
            return str(excinfo.value)
        return str(super().repr_failure(excinfo))

    def reportinfo(self) -> tuple[Path, None, str]:
        return self.path, None, f"filecheck {self.path.name}::{self.name}"


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.File | None:
    if file_path.suffix == ".onnxtxt":
        return FileCheckFile.from_parent(parent, path=file_path)
    return None


def pytest_configure() -> None:
    """A run in the background of a shell inherits an ignored SIGINT, and so would the programs that tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With EDGEC_FORBID_SKIPS (CI), a skipped test fails the run: what was not tested must not look tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if (
        os.environ.get("EDGEC_FORBID_SKIPS")
        and reporter is not None
        and reporter.stats.get("skipped")
        and not exitstatus
    ):
        for report in reporter.stats["skipped"]:
            reporter.write_line(f"skipped, which CI forbids: {report.nodeid}: {report.longrepr}")
        session.exitstatus = 1
