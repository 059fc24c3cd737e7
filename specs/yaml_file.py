"""Reading spec files: YAML with the position of every value, and `extends`.

The dialect is YAML 1.2's where people get hurt by 1.1: `on`, `yes` and `012` are strings, keys may not repeat, dates are
strings. Anchors and aliases are refused: they make files that explode, and specs have `extends`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from edgec.diagnostics import Diagnostic, Location, Severity, did_you_mean

Key = tuple[str | int, ...]
Source = Path | Traversable


@dataclass
class Document:
    """Plain data, where each part of it stands, and what is wrong so far."""

    data: Any
    places: dict[Key, Location]
    errors: list[Diagnostic] = field(default_factory=list)

    def place(self, key: Key) -> Location:
        """Where the value at `key` is written; where it is missing, the nearest part that contains it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places.get(key, Location())

    def graft(self, key: Key, part: Document) -> None:
        """Put another document in place of the value at `key`, positions and mistakes included."""
        self.drop(key)
        _set(self.data, key, part.data)
        self.places.update({key + k: place for k, place in part.places.items()})
        self.errors += part.errors

    def part(self, name: str) -> Document:
        """What stands at one key, as a document; an empty list where there is no such key."""
        inner = self.data.get(name, []) if isinstance(self.data, dict) else self.data
        places = {k[1:]: place for k, place in self.places.items() if k[:1] == (name,)}
        return Document(inner, {(): self.places[()], **places}, self.errors)

    def drop(self, key: Key) -> None:
        """Forget the positions of the value at `key`."""
        for k in [k for k in self.places if k[: len(key)] == key]:
            del self.places[k]

    def take(self, key: Key, other: Document) -> None:
        """Take over one value of another document."""
        self.drop(key)
        _set(self.data, key, _get(other.data, key))
        self.places.update({k: place for k, place in other.places.items() if k[: len(key)] == key})


def _get(data: Any, key: Key) -> Any:
    for k in key:
        data = data[k]
    return data


def _set(data: Any, key: Key, value: Any) -> None:
    _get(data, key[:-1])[key[-1]] = value


@cache
def _loader() -> type[Any]:
    base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """SafeLoader with YAML 1.2's booleans, integers and floats."""

    changed = {f"tag:yaml.org,2002:{t}" for t in ("bool", "int", "float", "timestamp", "merge")}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, regex) for tag, regex in resolvers if tag not in changed]
        for first, resolvers in base.yaml_implicit_resolvers.items()
    }
    number = list("-+.0123456789")
    Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
    integer = re.compile(r"^[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:int", integer, number)
    real = re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", real, number)
    return Loader


def read(source: Source) -> Document:
    """Read one file. Nothing is raised: what is wrong is in `errors` (EC0501, EC0502, EC0504)."""
    file = str(source)
    out = Document(None, {(): Location(file, 1, 1)})
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        why = e.strerror if isinstance(e, OSError) else "it is not UTF-8 text"
        out.errors.append(Diagnostic("EC0501", Severity.ERROR, f"cannot read the spec: {why}", Location(file)))
        return out
    loader = _loader()(text)
    try:
        root = loader.get_single_node()
        if root is not None:
            out.data = _walk(root, (), loader, out, file, set())
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        place = Location(file, mark.line + 1, mark.column + 1) if mark else Location(file)
        what = getattr(e, "problem", None) or str(e).splitlines()[0]
        out.errors.append(Diagnostic("EC0501", Severity.ERROR, f"not YAML: {what}", place))
    except ValueError as e:
        out.errors.append(Diagnostic("EC0501", Severity.ERROR, f"not YAML: {e}", Location(file)))
    finally:
        loader.dispose()
    if not out.errors and not isinstance(out.data, dict):
        out.errors.append(Diagnostic("EC0501", Severity.ERROR, "a spec is a mapping of keys to values", out.places[()]))
    return out


def _walk(node: yaml.Node, key: Key, loader: Any, out: Document, file: str, seen: set[int]) -> Any:
    here = _location(node, file)
    out.places.setdefault(key, here)
    if id(node) in seen:
        hint = "write the value out, or use `extends`"
        out.errors.append(Diagnostic("EC0504", Severity.ERROR, "aliases are not allowed in spec files", here, hint))
        return None
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        data: dict[str, Any] = {}
        for k, v in node.value:
            name, place = str(k.value), _location(k, file)
            if name in data:
                out.errors.append(Diagnostic("EC0502", Severity.ERROR, f"key {name!r} is given twice", place))
            out.places[*key, name] = place
            data[name] = _walk(v, (*key, name), loader, out, file, seen)
        return data
    if isinstance(node, yaml.SequenceNode):
        return [_walk(v, (*key, i), loader, out, file, seen) for i, v in enumerate(node.value)]
    return loader.construct_object(node, deep=True)


def _location(node: yaml.Node, file: str) -> Location:
    return Location(file, node.start_mark.line + 1, node.start_mark.column + 1)


def find(name: str, near: Source | None, folders: tuple[str, ...]) -> Source | None:
    """The file `name` means: beside `near`, else among the built-in specs. A name with `/` or `.yaml` is a path."""
    if "/" in name or name.endswith(".yaml"):
        path = Path(str(near)).parent / name if near is not None else Path(name)
        return path if path.is_file() else None
    if near is not None and (beside := Path(str(near)).parent / f"{name}.yaml").is_file() and beside != Path(str(near)):
        return beside
    for folder in folders:
        packaged = files("edgec.specs").joinpath(folder, f"{name}.yaml")
        if packaged.is_file():
            return packaged
    return None


def names(folder: str) -> list[str]:
    """Names of the built-in specs in `folder`."""
    found = files("edgec.specs").joinpath(folder)
    return sorted(f.name.removesuffix(".yaml") for f in found.iterdir() if f.name.endswith(".yaml"))


@dataclass(frozen=True)
class Kind:
    """How files of one kind inherit and include: which keys merge row by row, which lists grow, which keys name files."""

    folders: tuple[str, ...]
    rows: frozenset[str] = frozenset()
    """Mappings merged entry by entry; an entry set to null is removed. Every other key replaces the inherited value."""
    grows: frozenset[str] = frozenset()
    """Lists that are appended to the inherited list."""
    prepare: Callable[[Document], None] = lambda doc: None
    """Runs on each file before merging."""
    includes: Mapping[tuple[str, ...], str] = field(default_factory=dict)
    """Key (`*` for any) -> kind of the file whose name may stand there instead of the value; `kind.key`: that part of it."""


def load(source: str | os.PathLike[str] | Traversable, kind: str, kinds: Mapping[str, Kind]) -> Document:
    """Read a file and everything it extends and includes, merged. Mistakes of all files are in `errors`."""
    start: Source = Path(source) if isinstance(source, (str, os.PathLike)) else source
    return _load(start, kind, kinds, ())


def _load(source: Source, kind: str, kinds: Mapping[str, Kind], chain: tuple[str, ...]) -> Document:
    doc = read(source)
    if not isinstance(doc.data, dict):
        return doc
    how = kinds[kind]
    how.prepare(doc)
    for pattern, other in how.includes.items():
        for key in _matching(doc.data, pattern):
            name = _get(doc.data, key)
            if isinstance(name, str):
                what, _, inner = other.partition(".")
                part = _other(name, doc, key, source, what, kinds, ())
                if part is not None:
                    doc.graft(key, part.part(inner) if inner else part)
    parent = doc.data.pop("extends", None)
    if parent is None:
        return doc
    here = (*chain, str(source))
    base = _other(str(parent), doc, ("extends",), source, kind, kinds, here)
    if base is None or not isinstance(base.data, dict):
        return doc
    return _merge(base, doc, how)


def _matching(data: Any, pattern: tuple[str, ...]) -> list[Key]:
    keys: list[Key] = [()]
    for part in pattern:
        found: list[Key] = []
        for key in keys:
            inner = _get(data, key)
            if isinstance(inner, dict):
                found += [(*key, k) for k in inner if part in ("*", k)]
        keys = found
    return keys


def _other(
    name: str, doc: Document, key: Key, near: Source, kind: str, kinds: Mapping[str, Kind], chain: tuple[str, ...]
) -> Document | None:
    """The file named at `key`, loaded; None, with the reason in `doc.errors` (EC0505), where that is not possible."""
    found = find(name, near, kinds[kind].folders)
    if found is None:
        known = [n for folder in kinds[kind].folders for n in names(folder)]
        hint = did_you_mean(name, known, "a name of a built-in spec, or a path ending in .yaml relative to this file")
        doc.errors.append(
            Diagnostic("EC0505", Severity.ERROR, f"there is no {kind} called {name!r}", doc.place(key), hint)
        )
        return None
    if str(found) in chain:
        loop = " -> ".join(Path(c).name for c in (*chain[chain.index(str(found)) :], str(found)))
        doc.errors.append(Diagnostic("EC0505", Severity.ERROR, f"extends goes in a circle: {loop}", doc.place(key)))
        return None
    return _load(found, kind, kinds, chain)


def _merge(base: Document, child: Document, how: Kind) -> Document:
    for name, value in child.data.items():
        inherited = base.data.get(name)
        if name in how.rows and isinstance(value, dict) and isinstance(inherited, dict):
            for row, entry in value.items():
                if entry is None:
                    inherited.pop(row, None)
                    base.drop((name, row))
                else:
                    base.take((name, row), child)
        elif name in how.grows and isinstance(value, list) and isinstance(inherited, list):
            offset = len(inherited)
            base.data[name] = inherited + value
            for k, place in child.places.items():
                if k[:1] == (name,) and len(k) > 1 and isinstance(k[1], int):
                    base.places[name, k[1] + offset, *k[2:]] = place
        else:
            base.take((name,), child)
    base.places[()] = child.places[()]
    base.errors += child.errors
    return base
