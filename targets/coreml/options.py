"""What `--option key=value` takes for Core ML targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class CoreMlOptions:
    """`minimum`: the oldest system that shall run the model; by default the target's own."""

    minimum: Literal["ios15", "ios16", "ios17", "ios18", "ios26"] | None = None
    timeout: float = 600.0

    HELP: ClassVar[Mapping[str, str]] = {
        "minimum": "oldest system that runs it: ios15, ios16, ios17, ios18 or ios26 (macOS 12, 13, 14, 15, 26)",
        "timeout": "seconds coremltools may take (600)",
    }
