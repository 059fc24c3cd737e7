"""Whether this host's processor adds products of bytes exactly."""

from __future__ import annotations

import platform
from pathlib import Path

VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Names in /proc/cpuinfo of the instructions that multiply uint8 by int8 into 32 bits at once."""


def saturates(cpuinfo: str | None = None, machine: str | None = None) -> bool:
    """Whether uint8 times int8 goes through 16 bits here (VPMADDUBSW), where two products can exceed the range.

    ONNX Runtime, "Quantize ONNX models": with AVX2 and AVX512 extensions, before VNNI, U8S8 may saturate; 7-bit weights do
    not. False where it cannot be told: other processors, other systems. `cpuinfo`: the text of /proc/cpuinfo.
    """
    if (machine or platform.machine()).lower() not in ("x86_64", "amd64"):
        return False
    if cpuinfo is None:
        source = Path("/proc/cpuinfo")
        cpuinfo = source.read_text(encoding="utf-8", errors="replace") if source.exists() else ""
    line = next((text for text in cpuinfo.splitlines() if text.startswith("flags")), "")
    flags = set(line.partition(":")[2].split())
    return bool(flags) and not flags & VNNI
