"""Samples from a Python function: `module:function` or `path/to/file.py:function`, named by the user, called by edgec."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from edgec.diagnostics import EdgecError, Location, error
from edgec.samples.inputs import InputSpec
from edgec.samples.sources import Item, Value, value_of

_NAME = re.compile(r"^(?:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*|.+\.py):[A-Za-z_][\w.]*$")


def is_function(source: str) -> bool:
    """Whether `source` is written like a function's name."""
    return _NAME.match(source) is not None


def load_function(source: str) -> Callable[[], Any]:
    """Import it. The current folder (or the file's) is on the module search path while that happens.

    Raises:
        EdgecError: EC0708 the module cannot be imported, or has no such function.
    """
    module_name, _, name = source.rpartition(":")
    where = Location(source)
    try:
        found: Any = _load_module(module_name)
    except Exception as e:  # a user's module may fail in any way
        message = f"cannot load {module_name}: {type(e).__name__}: {e}"
        raise error("EC0708", message, where, "the name is module:function or path/to/file.py:function") from e
    for part in name.split("."):
        if not hasattr(found, part):
            raise error("EC0708", f"{module_name} has no {name!r}", where)
        found = getattr(found, part)
    if not callable(found):
        raise error("EC0708", f"{source} is {type(found).__name__}, not a function", where)
    return found  # type: ignore[no-any-return]  # any callable of the user's


def _load_module(name: str) -> Any:
    path = Path(name)
    if path.suffix != ".py":
        with _search(os.getcwd()):
            return importlib.import_module(name)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {name}")
    spec = importlib.util.spec_from_file_location(f"_edgec_samples_{path.stem}", path.resolve())
    assert spec is not None  # a .py file has a spec and a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with _search(str(path.resolve().parent)):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _search(folder: str) -> Iterator[None]:
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def function_items(source: str, fn: Callable[[], Any], specs: Sequence[InputSpec]) -> Iterator[Item]:
    """Call it and name what it yields: an array (one input), a tuple or list (the inputs' order), or a dict by name.

    Raises:
        EdgecError: EC0708 it fails, or yields something else; EC0704 names or their number do not match.
    """
    index = 0
    try:
        for data in _results(fn):
            yield Item(f"{source}[{index}]", _named(source, index, data, specs))
            index += 1
    except EdgecError:
        raise
    except Exception as e:  # a user's function may fail in any way
        raise error(
            "EC0708", f"the function failed at sample {index}: {type(e).__name__}: {e}", Location(source)
        ) from e


def _check_one(parts: list[Any], name: str, where: Location) -> None:
    """Several values for the one input are its rows, if they are alike; an array and a label are not."""
    shapes = [np.shape(p) for p in parts]
    if len(set(shapes)) > 1:
        text = ", ".join(str(list(s)) for s in shapes[:4])
        message = f"it yielded {len(parts)} values of shapes {text}, the model has one input: {name}"
        raise error("EC0704", message, where, "is one of them a label? yield the input alone, or a dict by input name")


def _results(fn: Callable[[], Any]) -> Iterator[Any]:
    made = fn()
    if made is None:
        raise TypeError("it returned nothing; it must return or yield samples")
    return iter(made)


def _named(source: str, index: int, data: Any, specs: Sequence[InputSpec]) -> dict[str, Value]:
    names = [s.name for s in specs]
    where = Location(f"{source}[{index}]")
    if not isinstance(data, Mapping):
        parts = list(data) if isinstance(data, (tuple, list)) else [data]
        if len(parts) != len(names) and len(names) == 1:
            _check_one(parts, names[0], where)
            parts = [data]
        if len(parts) != len(names):
            message = f"it yielded {len(parts)} arrays, the model has {len(names)} inputs: {', '.join(names)}"
            raise error("EC0704", message, where, "yield a dict by input name")
        data = dict(zip(names, parts, strict=True))
    missing, unknown = [n for n in names if n not in data], [n for n in data if n not in names]
    if missing or unknown:
        message = f"the model's inputs are {', '.join(names)}; missing: {missing}, unknown: {unknown}"
        raise error("EC0704", message, where)
    return {n: value_of(data[n]) for n in names}
