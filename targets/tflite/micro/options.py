"""What `--option key=value` takes for microcontrollers and the NPUs beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.target_options import Bytes
from edgec.targets.tflite.options import TfliteOptions

_NOT_HERE = frozenset(
    {"kernels", "large", "metadata", "labels", "model-name", "description", "author", "license", "model-version"}
)
"""What tflite-micro does not read: metadata would only take flash."""


@dataclass(frozen=True)
class MicroOptions(TfliteOptions):
    """As for LiteRT, but quantised models take and give integers unless asked: float buffers are four times as large, and
    what sensors and the code around the model have is integers. `flash`, `ram`: a budget in
    bytes; None is what the target's spec says the chip has. `tflm`: a source tree of tflite-micro.
    """

    io_dtype: Literal["float", "integer", "uint8"] = "integer"
    metadata: Literal["auto", "none"] = "none"
    flash: Bytes | None = None
    ram: Bytes | None = None
    tflm: str | None = None

    HELP: ClassVar[Mapping[str, str]] = {
        **{k: v for k, v in TfliteOptions.HELP.items() if k not in _NOT_HERE},
        "io-dtype": "quantised models take and give integer (default: int8 or int16, no conversion), float, or uint8",
        "flash": "budget for the model: 300KB (1000 bytes each); more is an error. Default: what the spec says the chip has",
        "ram": "budget for the tensor arena: 80KB; more is an error. Default: what the spec says the chip has",
        "tflm": "a source tree of tflite-micro: the generated program is compiled with its headers too",
    }
