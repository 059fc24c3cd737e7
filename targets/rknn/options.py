"""What `--option key=value` takes for Rockchip targets, and how it reaches rknn.config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

Algorithm = Literal["normal", "mmse", "kl_divergence"]
Method = Literal["channel", "layer"]
Quantizer = Literal["best", "edgec", "sdk"]


@dataclass(frozen=True)
class RknnOptions:
    """Names are those of rknn.config (RKNN-Toolkit2 2.5.0 API), with dashes or underscores."""

    quantizer: Quantizer = "best"
    quantized_algorithm: Algorithm = "normal"
    quantized_method: Method = "channel"
    optimization_level: int = 3
    single_core_mode: bool = False
    compress_weight: bool = False
    sparse_infer: bool = False
    remove_reshape: bool = False
    timeout: float = 1800.0

    HELP: ClassVar[Mapping[str, str]] = {
        "quantizer": "int8 by whom: best (both are built, the more accurate file is kept; default), edgec or sdk",
        "quantized-algorithm": "the SDK's int8 ranges: normal (min-max), mmse (slow: 60 times normal), kl_divergence",
        "quantized-method": "the SDK's int8 weights: channel (default) or layer",
        "optimization-level": "the SDK's own graph optimisation, 0 to 3 (default)",
        "single-core-mode": "RK3588: build for one NPU core; smaller file",
        "compress-weight": "compress weights in the file",
        "sparse-infer": "rk3576, rv1126b: the SDK's sparse kernels, for weights with two zeros in every four",
        "remove-reshape": "drop reshapes at inputs and outputs: their shapes change",
        "timeout": "seconds the SDK may take (1800)",
    }

    def config(self, int8: bool) -> dict[str, Any]:
        """Keyword arguments of rknn.config; only what differs from the SDK's defaults, so that they stay its own.

        `int8`: the SDK quantises.
        """
        out: dict[str, Any] = {}
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            if f.name not in ("timeout", "quantizer") and value != f.default:
                out[f.name] = value
        if not int8:
            out.pop("quantized_algorithm", None)
            out.pop("quantized_method", None)
        return out
