"""What `--option key=value` takes for Rockchip targets, and how it reaches rknn.config."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

from edgec.diagnostics import did_you_mean, error

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
    remove_reshape: bool = False
    timeout: float = 1800.0

    _HELP: ClassVar[Mapping[str, str]] = {
        "quantizer": "int8 by whom: best (both are built, the more accurate file is kept; default), edgec or sdk",
        "quantized-algorithm": "the SDK's int8 ranges: normal (min-max), mmse (slow: 60 times normal), kl_divergence",
        "quantized-method": "the SDK's int8 weights: channel (default) or layer",
        "optimization-level": "the SDK's own graph optimisation, 0 to 3 (default)",
        "single-core-mode": "RK3588: build for one NPU core; smaller file",
        "compress-weight": "compress weights in the file",
        "remove-reshape": "drop reshapes at inputs and outputs: their shapes change",
        "timeout": "seconds the SDK may take (1800)",
    }

    @classmethod
    def help(cls) -> Mapping[str, str]:
        return cls._HELP

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> RknnOptions:
        """Check names and types. Raises EC0463 for a value that does not fit."""
        values: dict[str, Any] = {}
        types = {f.name: f.type for f in dataclasses.fields(cls)}
        for key, value in given.items():
            name = key.replace("-", "_")
            if name not in types:
                raise error(
                    "EC0103",
                    f"there is no option {key!r}",
                    hint=did_you_mean(key, list(cls._HELP), "see `edgec targets`"),
                )
            values[name] = _value(key, value, str(types[name]))
        return cls(**values)

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


def _value(key: str, value: Any, kind: str) -> Any:
    words = {"Algorithm": Algorithm, "Method": Method, "Quantizer": Quantizer}
    choices = get_args(words[kind]) if kind in words else None
    if choices is not None:
        if value in choices:
            return value
        raise error("EC0463", f"option {key} is one of {', '.join(choices)}, not {value!r}")
    if kind == "bool":
        if isinstance(value, bool):
            return value
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise error("EC0463", f"option {key} is true or false, not {value!r}")
    try:
        number = int(value) if kind == "int" else float(value)
    except (TypeError, ValueError):
        raise error("EC0463", f"option {key} is a number, not {value!r}") from None
    if number < 0:
        raise error("EC0463", f"option {key} may not be negative: {value!r}")
    return number
