"""`--option key=value`: what a target's emitter takes, as a frozen dataclass with one field each."""

from __future__ import annotations

import dataclasses
import math
import re
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from edgec.diagnostics import did_you_mean, error

T = TypeVar("T")

_BYTES = re.compile(r"(\d+(?:\.\d+)?)\s*(|k|ki|m|mi|g|gi)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1000, "ki": 1024, "m": 10**6, "mi": 2**20, "g": 10**9, "gi": 2**30}


class Bytes(int):
    """A size in bytes; written 300KB (1000 bytes each), 300KiB (1024), or as a plain number."""

    @classmethod
    def parse(cls, text: str) -> Bytes:
        found = _BYTES.fullmatch(text.strip())
        if found is None:
            raise ValueError(text)
        return cls(round(float(found[1]) * _UNITS[found[2].lower()]))


def parse_options(cls: type[T], given: Mapping[str, Any]) -> T:
    """`cls(**given)`, names with dashes or underscores, values checked against the fields' types.

    Fields are Literal of str, bool, int, float, str or `Bytes`, each perhaps with None, or Mapping[str, str]: a mapping in
    YAML, `key=text; key=text` on the command line.

    Raises:
        EdgecError: EC0103 there is no such option; EC0463 the value does not fit.
    """
    hints = get_type_hints(cls)
    known = {f.name: hints[f.name] for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name not in known:
            names = [n.replace("_", "-") for n in known]
            raise error(
                "EC0103", f"there is no option {key!r}", hint=did_you_mean(key, names, f"there are {', '.join(names)}")
            )
        values[name] = _value(key, value, known[name])
    return cls(**values)


def _value(key: str, value: Any, kind: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):
        if value is None:
            return None
        (kind,) = (k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        if value in choices:
            return value
        raise error("EC0463", f"option {key} is one of {', '.join(map(str, choices))}, not {value!r}")
    if kind is bool:
        if str(value).lower() in ("true", "false"):
            return str(value).lower() == "true"
        raise error("EC0463", f"option {key} is true or false, not {value!r}")
    if kind is str:
        return str(value)
    if get_origin(kind) is Mapping:
        return _texts(key, value)
    try:
        if isinstance(value, bool):
            raise TypeError
        number = Bytes.parse(str(value)) if kind is Bytes else kind(value)
        if not math.isfinite(number):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = "a size like 300KB" if kind is Bytes else "a number"
        raise error("EC0463", f"option {key} is {what}, not {value!r}") from None
    if number < 0:
        raise error("EC0463", f"option {key} may not be negative: {value!r}")
    return number


def _texts(key: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {str(k): str(v) for k, v in value.items()}
    parts = [part.partition("=") for part in str(value).split(";") if part.strip()]
    if not all(name.strip() and equals for name, equals, _ in parts):
        raise error("EC0463", f"option {key} is written name=text; name=text, not {value!r}")
    return {name.strip(): text.strip() for name, _, text in parts}
