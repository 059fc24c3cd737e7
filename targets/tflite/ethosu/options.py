"""What `--option key=value` takes for Ethos-U: as for the microcontroller beside it, and what Vela is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.targets.tflite.micro.options import MicroOptions


@dataclass(frozen=True)
class EthosUOptions(MicroOptions):
    """`system_config`, `memory_mode`: sections of `vela_config`; None is what the target's spec names."""

    vela_config: str | None = None
    system_config: str | None = None
    memory_mode: str | None = None
    optimise: Literal["performance", "size"] = "performance"

    HELP: ClassVar[Mapping[str, str]] = {
        **MicroOptions.HELP,
        "vela-config": "a .ini with your board's system configurations and memory modes; default: Arm's examples (Arm/vela.ini)",
        "system-config": "a System_Config of that .ini: clock and bandwidths; default: what the target's spec names",
        "memory-mode": "a Memory_Mode of that .ini: Shared_Sram, Sram_Only, ...; default: what the target's spec names",
        "optimise": "what Vela minimises: performance (default: time) or size (SRAM)",
    }
