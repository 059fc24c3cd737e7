"""The descriptions and locks that come with edgec: complete, pinned and hashed."""

from __future__ import annotations

import re

import pytest

from edgec.toolchain import PROTOCOL, load_description
from edgec.toolchain.description import builtin_descriptions


@pytest.mark.parametrize("name", sorted(builtin_descriptions()))
def test_lock_pins_the_sdk(name: str) -> None:
    d = load_description(builtin_descriptions()[name])
    assert d.name == name
    assert d.protocol == PROTOCOL
    assert d.evidence
    requirements = re.sub(r"\\\n", " ", d.lock_path.read_text()).splitlines()
    pinned = {}
    for line in requirements:
        if line.strip() and not line.startswith("#"):
            package, _, rest = line.partition("==")
            assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", rest), line[:80]
            pinned[package.strip()] = rest.split()[0]
    assert pinned[d.sdk] == d.version
    assert set(d.report) <= set(pinned)
