"""TensorRT's calibration cache: the scale of each tensor of a network without Q/DQ, as text.

The first line names the TensorRT version and the calibrator, `TRT-8502-EntropyCalibration2`; each other line is
`tensor: hex`, the float32 scale as eight hexadecimal digits, the most significant byte first. A value is scale times an
integer from -127 to 127. trtexec's `--calib` reads it as the calibrator IInt8EntropyCalibrator2 (NVIDIA/TensorRT,
samples/common/sampleEngines.cpp, v10.3.0). A cache of another version or calibrator is refused: the first line has to be
that of the TensorRT that reads it, which build_engine.sh sees to on the board.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from edgec.diagnostics import error
from edgec.targets.tensorrt.releases import Version

CALIBRATOR = "EntropyCalibration2"


@dataclass(frozen=True)
class Cache:
    """`version`: as TensorRT writes it, "8502" or "100300". `scales`: in the file's order."""

    version: str
    calibrator: str
    scales: Mapping[str, float]


def version_tag(tensorrt: Version) -> str:
    """NV_TENSORRT_VERSION: 8.5.2 is 8502, 10.3.0 is 100300 (NvInferVersion.h: since 10 with two digits each)."""
    major, minor, patch = (*tensorrt, 0, 0)[:3]
    return str(major * 1000 + minor * 100 + patch if major < 10 else major * 10000 + minor * 100 + patch)


def write_cache(scales: Mapping[str, float], tensorrt: Version) -> bytes:
    """The file's bytes.

    Raises:
        EdgecError: EC0699 a scale that is not positive and finite in float32, or a name that no line can hold.
    """
    lines = [f"TRT-{version_tag(tensorrt)}-{CALIBRATOR}"]
    for name, scale in scales.items():
        stored = struct.unpack(">f", struct.pack(">f", scale))[0] if abs(scale) < 3e38 else math.inf
        if not (math.isfinite(stored) and stored > 0):
            raise error(
                "EC0699", f"the scale of tensor {name!r} is {scale}: a calibration cache holds positive numbers"
            )
        if not name or not name.isprintable():
            raise error("EC0699", f"tensor {name!r} has a name that a calibration cache cannot hold")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return ("\n".join(lines) + "\n").encode()


def read_cache(data: bytes) -> Cache:
    """What a cache says. Names may hold colons: the last one of a line counts, as for trtexec.

    Raises:
        EdgecError: EC0699 a line is not of the format, or a tensor stands there twice.
    """
    first, *rows = data.decode().splitlines() or [""]
    parts = first.split("-")
    if len(parts) != 3 or parts[0] != "TRT" or not parts[1].isdigit():
        raise error("EC0699", f"a calibration cache begins with TRT-<version>-<calibrator>, not {first[:60]!r}")
    scales: dict[str, float] = {}
    for number, row in enumerate(rows, 2):
        name, colon, digits = row.rpartition(": ")
        if not colon or not name or len(digits.strip()) > 8:
            raise error("EC0699", f"line {number} of the calibration cache is not `tensor: hex`: {row[:60]!r}")
        if name in scales:
            raise error("EC0699", f"tensor {name!r} stands twice in the calibration cache")
        try:
            scales[name] = struct.unpack(">f", bytes.fromhex(digits.strip().zfill(8)))[0]
        except ValueError:
            raise error(
                "EC0699", f"line {number} of the calibration cache has no hexadecimal scale: {row[:60]!r}"
            ) from None
    return Cache(parts[1], parts[2], scales)


def disagreements(cache: Cache, scales: Mapping[str, float]) -> list[str]:
    """Where a cache does not say what `scales` do, to float32's precision: one line a tensor."""
    out = []
    for name, scale in scales.items():
        found = cache.scales.get(name)
        if found is None:
            out.append(f"{name}: not in the cache")
        elif not math.isclose(found, scale, rel_tol=1e-6):
            out.append(f"{name}: {found:.9g} in the cache, {scale:.9g} in the graph")
    return out
