"""Environments appear whole or not at all."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.toolchain import ToolchainManager, load_description
from edgec.toolchain.description import this_platform
from edgec.toolchain.installer import uv_error

pytestmark = pytest.mark.toolchain
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toolchain of one wheel made here, found through uv's own setting for a folder of wheels: no network."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "tinysdk-1.2.3-py3-none-any.whl"
    info = "tinysdk-1.2.3.dist-info"
    with zipfile.ZipFile(wheel, "w") as z:
        z.writestr("tinysdk/__init__.py", "import tinystub\n")
        z.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tinysdk\nVersion: 1.2.3\n")
        z.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        z.writestr(f"{info}/RECORD", f"tinysdk/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    monkeypatch.setenv("UV_FIND_LINKS", str(wheels))
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    (tmp_path / "tiny.lock").write_text(f"tinysdk==1.2.3 --hash=sha256:{sha256(wheel.read_bytes()).hexdigest()}\n")
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"name: tiny\nsdk: tinysdk\nversion: 1.2.3\npython: ['{PYTHON}']\nplatforms: [{this_platform()}]\n"
        "lock: tiny.lock\nimports: [tinysdk]\nprotocol: 1\nstubs:\n  tinystub/__init__.py: ''\n"
    )
    return path


def manager(tiny: Path, **options: object) -> ToolchainManager:
    return ToolchainManager(tiny.parent / "cache", descriptions={"tiny": tiny}, **options)  # type: ignore[arg-type]


def status(m: ToolchainManager) -> tuple[bool, str | None]:
    (found,) = [s for s in m.list() if s.name == "tiny"]
    return found.installed, found.problem


def fails(code: str, m: ToolchainManager, name: str = "tiny") -> EdgecError:
    with pytest.raises(EdgecError) as caught:
        m.ensure(name)
    assert caught.value.diagnostics[0].code == code, str(caught.value)
    assert not list(m.cache_dir.glob("toolchains/.*partial*"))
    return caught.value


def test_install_use_remove(tiny: Path) -> None:
    m = manager(tiny)
    assert status(m) == (False, None)
    toolchain = m.ensure("tiny")
    assert toolchain.versions["tinysdk"] == "1.2.3"
    assert status(m) == (True, None)
    assert all(c.ok for c in m.doctor("tiny"))
    assert m.ensure("tiny").python == toolchain.python
    assert manager(tiny, offline=True).ensure("tiny").versions == toolchain.versions
    assert [p.exists() for p in m.remove("tiny")] == [False]
    assert status(m) == (False, None)


def test_a_changed_lock_is_another_environment(tiny: Path) -> None:
    m = manager(tiny)
    m.ensure("tiny")
    lock = tiny.with_name("tiny.lock")
    lock.write_text("# new\n" + lock.read_text())
    installed, problem = status(m)
    assert not installed
    assert problem is not None
    assert "outdated" in problem


def test_offline(tiny: Path) -> None:
    e = fails("EC0603", manager(tiny, offline=True))
    assert "edgec toolchain install tiny" in str(e)


def test_hash_mismatch(tiny: Path) -> None:
    lock = tiny.with_name("tiny.lock")
    lock.write_text(re.sub(r"sha256:\w+", "sha256:" + "0" * 64, lock.read_text()))
    m = manager(tiny)
    fails("EC0608", m)
    assert status(m) == (False, None)


def test_unreachable_index(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UV_FIND_LINKS")
    monkeypatch.delenv("UV_OFFLINE")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    fails("EC0607", manager(tiny))


def test_import_check(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("tinystub/__init__.py", "other/__init__.py"))
    m = manager(tiny)
    assert "tinystub" in str(fails("EC0612", m))
    assert status(m) == (False, None)


def test_platform_and_python(tiny: Path) -> None:
    text = tiny.read_text()
    tiny.write_text(text.replace(this_platform(), "plan9-mips"))
    fails("EC0604", manager(tiny))
    tiny.write_text(text.replace(f"'{PYTHON}'", "'3.99'"))
    fails("EC0605", manager(tiny))


def test_unwritable_cache(tiny: Path) -> None:
    (tiny.parent / "cache").write_text("a file where the folder should be")
    fails("EC0610", manager(tiny))


def test_description_names_every_mistake(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("sdk:", "sdkk:").replace("protocol: 1", "protocol: one"))
    with pytest.raises(EdgecError, match="EC0602") as caught:
        load_description(tiny)
    assert "sdkk" in str(caught.value)
    assert "protocol" in str(caught.value)


def test_stub_may_not_leave(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("tinystub/__init__.py", "../../x.py"))
    with pytest.raises(EdgecError, match="EC0602"):
        load_description(tiny)


def test_unknown_name(tiny: Path) -> None:
    assert "did you mean 'tiny'" in str(fails("EC0601", manager(tiny), "tinny"))


def test_other_protocol(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("protocol: 1", "protocol: 7"))
    fails("EC0625", manager(tiny))


def test_override(tiny: Path) -> None:
    python = manager(tiny).ensure("tiny").python
    tiny.write_text(tiny.read_text().replace("version: 1.2.3", "version: 2.0.0"))
    toolchain = manager(tiny, overrides={"tiny": python}).ensure("tiny")
    assert toolchain.python == python
    assert [d.code for d in toolchain.diagnostics] == ["EC0614"]
    fails("EC0613", manager(tiny, overrides={"tiny": Path(sys.executable)}))
    fails("EC0613", manager(tiny, overrides={"tiny": Path("/no/such/python")}))


CALL = """
import sys
from pathlib import Path
from edgec.toolchain import ToolchainManager
m = ToolchainManager(Path(sys.argv[1]), descriptions={"tiny": Path(sys.argv[2])}, progress=lambda s: print(s, flush=True))
print("python", m.ensure("tiny").python, flush=True)
"""


def call(tiny: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CALL, str(tiny.parent / "cache"), str(tiny)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_at_once(tiny: Path) -> None:
    processes = [call(tiny) for _ in range(2)]
    outputs = [p.communicate(timeout=120)[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    assert sum("installing" in o for o in outputs) == 1, outputs
    assert len(list((tiny.parent / "cache" / "toolchains").glob("tiny-*"))) == 1


def test_killed_while_installing(tiny: Path) -> None:
    with call(tiny) as process:
        assert process.stdout is not None
        assert "installing" in process.stdout.readline()
        partial = tiny.parent / "cache" / "toolchains"
        while not list(partial.glob(".tiny.partial-*/env/pyvenv.cfg")) and process.poll() is None:
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
    m = manager(tiny)
    assert list(partial.glob(".tiny.partial-*")), "the process was killed too late to prove anything"
    assert status(m) == (False, None)
    assert m.ensure("tiny").versions["tinysdk"] == "1.2.3"
    assert not list(partial.glob(".tiny.partial-*"))


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("error: failed to write to file `/x`: No space left on device (os error 28)", "EC0609"),
        ("error: Failed to initialize cache at `/x`\n  Caused by: Permission denied (os error 13)", "EC0610"),
        ("x has no wheels with a matching Python ABI tag (e.g., `cp313`)", "EC0604"),
        ("something never seen before", "EC0611"),
    ],
)
def test_what_uv_says(tmp_path: Path, said: str, code: str) -> None:
    log = tmp_path / "log"
    log.write_text(said)
    e = uv_error("sdk", said, 2, log)
    assert e.diagnostics[0].code == code
    assert said.splitlines()[-1].strip() in str(e)
