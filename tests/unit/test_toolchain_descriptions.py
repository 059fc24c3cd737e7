"""The descriptions and locks that come with edgec: complete, pinned and hashed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edgec.diagnostics import EdgecError
from edgec.toolchain import PROTOCOL, ToolchainManager, load_description
from edgec.toolchain.description import builtin_descriptions


@pytest.mark.parametrize("name", sorted(builtin_descriptions()))
def test_lock_pins_the_sdk(name: str) -> None:
    d = load_description(builtin_descriptions()[name])
    assert d.name == name
    assert d.protocol == PROTOCOL
    assert d.evidence
    if not d.installable:
        assert d.notes, "what it comes with"
        return
    requirements = re.sub(r"\\\n", " ", d.lock_path.read_text()).splitlines()
    pinned = {}
    for line in requirements:
        if line.strip() and not line.startswith("#"):
            package, _, rest = line.partition("==")
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), line[:80]
            pinned[package.strip()] = rest.split()[0]
    assert pinned[d.sdk] == d.version
    assert set(d.report) <= set(pinned)


def test_what_edgec_cannot_install_says_what_to_do_instead(tmp_path: Path) -> None:
    manager = ToolchainManager(tmp_path)
    (status,) = (s for s in manager.list() if s.name == "tensorrt")
    assert not status.installed
    assert "comes with the device" in str(status.problem)
    assert manager.installed("tensorrt") is None
    assert all(check.ok for check in manager.doctor("tensorrt"))
    with pytest.raises(EdgecError) as e:
        manager.install("tensorrt")
    assert e.value.diagnostics[0].code == "EC0680"
    assert "--toolchain tensorrt=" in str(e.value.diagnostics[0].hint)
