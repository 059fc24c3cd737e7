"""What `--option key=value` takes for TFLite targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.target_options import Bytes


@dataclass(frozen=True)
class TfliteOptions:
    """`flash`, `ram`: a budget in bytes; None is what the target's spec says the chip has."""

    io_layout: Literal["keep", "nhwc"] = "keep"
    io_dtype: Literal["float", "integer"] = "float"
    kernels: Literal["xnnpack", "builtin", "reference"] = "xnnpack"
    flash: Bytes | None = None
    ram: Bytes | None = None
    timeout: float = 600.0

    HELP: ClassVar[Mapping[str, str]] = {
        "io-layout": "images at inputs and outputs: keep the ONNX model's order (default), or nhwc (spares a TRANSPOSE each)",
        "io-dtype": "quantised models take and give float (default), or integer: what cameras and other code on the chip have",
        "kernels": "what LiteRT verifies with here: xnnpack (default, as in an app), builtin or reference",
        "flash": "budget for code and weights: 300KB; more is an error",
        "ram": "budget for the tensor arena: 80KB; more is an error",
        "timeout": "seconds a runtime may take for some samples (600)",
    }
