"""Machines with a TensorRT that fake_tensorrt.py plays: a Python of their own, which imports it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

FAKE = Path(__file__).with_name("fake_tensorrt.py")


class Machine:
    """`python` imports TensorRT `version`; `calls` are what was called of it so far."""

    def __init__(self, folder: Path, version: str = "10.3.0", mode: str = "ok", module: str = "tensorrt") -> None:
        site = folder / "site"
        site.mkdir(parents=True)
        shutil.copyfile(FAKE, site / f"{module}.py")
        self._calls = folder / "calls.jsonl"
        self.python = folder / "python"
        settings = {"PYTHONPATH": site, "FAKE_VERSION": version, "FAKE_MODE": mode, "FAKE_CALLS": self._calls}
        lines = ["#!/bin/sh", *(f"export {k}={shlex.quote(str(v))}" for k, v in settings.items())]
        self.python.write_text("\n".join([*lines, f'exec {shlex.quote(sys.executable)} "$@"']) + "\n")
        self.python.chmod(0o755)

    @property
    def calls(self) -> list[list[Any]]:
        if not self._calls.exists():
            return []
        return [json.loads(line) for line in self._calls.read_text().splitlines()]

    def called(self, name: str) -> list[list[Any]]:
        """Arguments of each call of `name`."""
        return [rest for call, *rest in self.calls if call == name]
