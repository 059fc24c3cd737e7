"""Where samples lie: files, folders and lists, turned into items that name each input's array or image."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgec.diagnostics import Diagnostics, EdgecError, Location, error
from edgec.samples.fit import Misfit, plan
from edgec.samples.images import SUFFIXES
from edgec.samples.inputs import InputSpec
from edgec.samples.preprocess import Preprocess
from edgec.samples.stored import InMemory, Stored, read_npy, read_npz

Value = Stored | Path
"""An input's data: an array, or the path of an image file."""


@dataclass(frozen=True)
class Item:
    """One file or group of files: input name -> data. Holds one sample or a stack of them."""

    label: str
    values: Mapping[str, Value]


def read_value(path: Path) -> Value:
    """A .npy opened, an image left as its path. EC0701 for anything else, EC0703 for a broken .npy."""
    if path.suffix.lower() == ".npy":
        return read_npy(path)
    if path.suffix.lower() in SUFFIXES:
        if not path.is_file():
            raise error("EC0701", "there is no such image", Location(str(path)))
        return path
    raise error(
        "EC0701",
        f"{path.suffix or 'a file without suffix'} is not a kind of sample edgec reads",
        Location(str(path)),
        _KINDS,
    )


_KINDS = "samples are .npy, .npz, images (jpg, png, bmp, webp), a folder or a .txt list of them, or module:function"


def npz_item(path: Path, specs: Sequence[InputSpec], pre: Preprocess | None, diagnostics: Diagnostics) -> Item:
    """The arrays of an .npz that are inputs; others are ignored with a note (EC0711).

    Arrays are found by the inputs' names. A model with one input also takes the only array, or the only one that fits.
    """
    arrays = read_npz(path)
    where = Location(str(path))
    if not arrays:
        raise error("EC0702", "the .npz holds no arrays", where)
    missing = [s.name for s in specs if s.name not in arrays]
    chosen: dict[str, Value] = {s.name: arrays[s.name] for s in specs if s.name in arrays}
    if missing and len(specs) == 1:
        fitting = [name for name, a in arrays.items() if _fits(specs[0], a, pre)] if len(arrays) > 1 else list(arrays)
        if len(fitting) == 1:
            chosen = {specs[0].name: arrays[fitting[0]]}
            missing = []
    if missing:
        listing = ", ".join(f"{name} {a.dtype.name}{list(a.shape)}" for name, a in arrays.items())
        wanted = ", ".join(f"{s.name} {s}" for s in specs)
        message = f"no array for input {', '.join(map(repr, missing))}: the file holds {listing}"
        raise error("EC0704", message, where, f"name the arrays like the inputs: {wanted}")
    used = list(chosen.values())
    unused = [name for name, a in arrays.items() if not any(a is u for u in used)]
    if unused:
        diagnostics.note("EC0711", f"arrays that are no input are ignored: {', '.join(unused)}", where)
    return Item(str(path), chosen)


def _fits(spec: InputSpec, array: Stored, pre: Preprocess | None) -> bool:
    try:
        plan(spec, array.shape, array.dtype, pre)
    except (Misfit, EdgecError):
        return False
    return True


def folder_items(
    folder: Path, specs: Sequence[InputSpec], pre: Preprocess | None, diagnostics: Diagnostics
) -> list[Item] | Iterator[Item]:
    """The samples of a folder in the order of their paths; subfolders are read, hidden files are not.

    Several inputs: subfolders named like the inputs with files of the same stem; or `<sample>.<input>.npy`; or one
    .npz a sample.

    Raises:
        EdgecError: EC0702 nothing to read, EC0704 an input's file is missing, EC0701 kinds are mixed.
    """
    files = _walk(folder)
    known = [p for p in files if p.suffix.lower() in SUFFIXES | {".npy", ".npz"}]
    if not known:
        raise error(
            "EC0702", f"the folder holds no samples among its {len(files)} files", Location(str(folder)), _KINDS
        )
    if len(known) < len(files):
        ignored = next(p for p in files if p not in set(known))
        message = f"{len(files) - len(known)} files that are no samples are ignored, the first is {ignored.name}"
        diagnostics.note("EC0711", message, Location(str(folder)))
    kinds = {"image" if p.suffix.lower() in SUFFIXES else p.suffix.lower() for p in known}
    if ".npz" in kinds and len(kinds) > 1:
        raise error(
            "EC0701", "the folder mixes .npz with other samples", Location(str(folder)), "keep one kind in a folder"
        )
    if ".npz" in kinds:
        return [npz_item(p, specs, pre, diagnostics) for p in known]
    if len(specs) == 1:
        return [Item(str(p), {specs[0].name: read_value(p)}) for p in known]
    return _grouped(folder, known, [s.name for s in specs])


def _walk(folder: Path) -> list[Path]:
    """Every file that is not hidden, symbolic links followed, in the order of relative paths; a loop is entered once."""
    found: list[Path] = []
    entered: set[str] = set()
    for root, dirs, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in entered:
            dirs.clear()
            continue
        entered.add(real)
        dirs[:] = [d for d in dirs if not d.startswith(".")]
        found += [Path(root, n) for n in names if not n.startswith(".")]
    return sorted(found, key=lambda p: p.relative_to(folder).as_posix())


def _grouped(folder: Path, files: list[Path], inputs: list[str]) -> list[Item]:
    groups: dict[str, dict[str, Path]] = {}
    for p in files:
        relative = p.relative_to(folder)
        if len(relative.parts) > 1 and relative.parts[0] in inputs:
            name, key = relative.parts[0], Path(*relative.parts[1:]).with_suffix("").as_posix()
        else:
            name = next((n for n in inputs if p.stem.endswith(f".{n}")), "")
            key = relative.with_name(p.stem.removesuffix(f".{name}")).as_posix()
        if not name:
            hint = f"make subfolders {', '.join(inputs)}, or call files <sample>.<input>.npy, or use .npz"
            raise error("EC0704", "the file's name does not say which input it is for", Location(str(p)), hint)
        groups.setdefault(key, {})[name] = p
    items: list[Item] = []
    for key, paths in groups.items():
        missing = [n for n in inputs if n not in paths]
        if missing:
            message = f"sample {key!r} has no file for input {', '.join(map(repr, missing))}"
            raise error("EC0704", message, Location(str(folder)))
        items.append(Item(key, {n: read_value(paths[n]) for n in inputs}))
    return items


def list_items(path: Path, specs: Sequence[InputSpec]) -> list[Item]:
    """A text file, one sample a line: paths from the list's own folder, in the order of the inputs, blanks between.

    With one input a line is one path. Empty lines and lines that begin with # are skipped.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise error("EC0703", f"cannot read the list of samples: {e}", Location(str(path))) from None
    items: list[Item] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        here = Location(str(path), number)
        try:
            words = [text] if len(specs) == 1 else shlex.split(text)
        except ValueError as e:
            raise error("EC0703", f"cannot read the line: {e}", here) from None
        if len(words) != len(specs):
            wanted = " ".join(s.name for s in specs)
            raise error(
                "EC0704", f"the line names {len(words)} files, the model has {len(specs)} inputs: {wanted}", here
            )
        try:
            items.append(Item(text, {s.name: read_value(path.parent / w) for s, w in zip(specs, words, strict=True)}))
        except EdgecError as e:
            d = e.diagnostics[0]
            raise error(d.code, f"{d.location}: {d.message}", here, d.hint) from None
    if not items:
        raise error("EC0702", "the list names no samples", Location(str(path)))
    return items


def value_of(data: object) -> Value:
    """What a function yields for one input: an array, or anything numpy makes one of."""
    array = np.asarray(data)
    if array.dtype.hasobject:
        raise TypeError(f"{type(data).__name__} is not an array of numbers")
    return InMemory(array)
