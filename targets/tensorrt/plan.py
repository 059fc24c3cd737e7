"""The head of a serialised engine: what can be read of it without TensorRT.

NVIDIA does not document the format. Read off plans that TensorRT-RTX 1.7.1 wrote: bytes 0 to 4 are "vtrt", 16 to 24 the
length of the whole as a little-endian integer, 24 to 27 the version that built it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edgec.diagnostics import Location, error

RTX_MAGIC = b"vtrt"
_HEAD = struct.Struct("<4s12xQ3B")


@dataclass(frozen=True)
class PlanHead:
    """`version` and `length` are known of TensorRT-RTX's plans only."""

    magic: str
    bytes: int
    version: str | None = None

    @property
    def by(self) -> str:
        return f"TensorRT-RTX {self.version}" if self.version is not None else "TensorRT"


def read_plan(path: Path) -> PlanHead:
    """The head of a plan.

    Raises:
        EdgecError: EC0682 it is none, or it is cut short.
    """
    size = path.stat().st_size
    with path.open("rb") as f:
        head = f.read(_HEAD.size)
    magic = head[:4]
    if not (len(magic) == 4 and magic[1:] == b"trt" and magic[:1].isalpha()):
        raise error("EC0682", "this is no TensorRT engine: it does not begin as one", Location(str(path)))
    if magic != RTX_MAGIC:
        return PlanHead(magic.decode("ascii"), size)
    if len(head) < _HEAD.size:
        raise error("EC0682", f"the engine is cut short: {size} bytes", Location(str(path)))
    _, length, *version = _HEAD.unpack(head)
    if length != size:
        what = f"the engine is damaged: it should have {length:,} bytes, the file has {size:,}"
        raise error("EC0682", what, Location(str(path)), "build or copy it again")
    return PlanHead("vtrt", size, ".".join(map(str, version)))
