"""Installing plugin packages into folders of their own, as pip would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent

collect_ignore = ["edgec-acme"]  # it has to be installed first: test_third_party.py does, and runs its tests


def install(package: Path, site: Path) -> None:
    """Build the package and install the wheel into `site`."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--no-deps", "--python", sys.executable]
    done = subprocess.run([*command, "--target", str(site), str(package)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python_with() -> Callable[[Path], Runner]:
    """`python_with(site)(args...)` runs this Python with the packages of `site` installed, outside any package folder."""

    def with_site(site: Path) -> Runner:
        def run(*args: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
            env = {**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1"}
            command = [sys.executable, "-P", *args]
            return subprocess.run(command, capture_output=True, text=True, env=env, cwd=cwd or site, check=False)

        return run

    return with_site


@pytest.fixture(scope="session")
def acme_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with edgec-acme installed."""
    import shutil

    work = tmp_path_factory.mktemp("acme")
    shutil.copytree(HERE / "edgec-acme", work / "source")  # building writes beside the sources
    install(work / "source", work / "site")
    return work / "site"
