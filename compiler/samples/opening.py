"""open_samples: from what the user names to `Samples`. Finds the kind of source, checks it, streams it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Diagnostics, EdgecError, Location, error
from edgec.graph import Graph
from edgec.samples.fit import Misfit, Plan, plan
from edgec.samples.functions import function_items, is_function, load_function
from edgec.samples.images import axes_for_images, image_to_input, read_image
from edgec.samples.inputs import InputSpec, input_specs
from edgec.samples.preprocess import Preprocess
from edgec.samples.sample_set import Arrays, Samples
from edgec.samples.sources import Item, Value, folder_items, list_items, npz_item, read_value

MOST = 10_000
"""Samples taken of a function unless a limit is given: it may never end."""


def open_samples(
    source: str | Path,
    graph: Graph,
    *,
    preprocess: Preprocess | None = None,
    limit: int | None = None,
    diagnostics: Diagnostics | None = None,
) -> Samples:
    """Samples for `graph` from a .npy, .npz or image file, a folder or .txt list of them, or a Python function.

    Names, shapes and dtypes are checked now where headers tell them; images and functions are checked as they are
    read. Notes and warnings (EC0710..EC0716) go to `diagnostics`, or to the result's own.

    Raises:
        EdgecError: EC0701..EC0709, naming the source, the sample and the input.
    """
    if limit is not None and limit < 1:
        raise error("EC0702", f"a limit of {limit} leaves no samples", Location(str(source)))
    diagnostics = diagnostics if diagnostics is not None else Diagnostics()
    specs = input_specs(graph)
    if not specs:
        raise error("EC0704", "the model has no inputs to feed", Location(graph.source))
    reader = _Reader(str(source), specs, preprocess, diagnostics)
    path = Path(source)
    if not path.exists() and is_function(str(source)):
        return _from_function(str(source), reader, limit)
    items = _find(path, reader)
    known = sum(reader.check(item) for item in items)
    count = known if limit is None else min(limit, known)
    _warn_units(reader, items)
    what = f"{known} {_kind(path, items)}" if count == known else f"the first {count} of {known} {_kind(path, items)}"
    text = f"{what} {'in' if path.is_dir() else 'of'} {path}{_suffix(reader)}"
    return Samples(lambda: islice(reader.read(items), limit), describe=text, count=count, diagnostics=diagnostics)


def _suffix(reader: _Reader) -> str:
    return f" ({reader.preprocess.describe()})" if reader.preprocess is not None else ""


def _kind(path: Path, items: Sequence[Item]) -> str:
    images = all(isinstance(v, Path) for v in items[0].values.values())
    return "images" if images else "samples"


def _find(path: Path, reader: _Reader) -> Sequence[Item]:
    where = Location(str(path))
    try:
        if path.is_dir():
            return list(folder_items(path, reader.specs, reader.preprocess, reader.diagnostics))
    except OSError as e:
        raise error("EC0703", f"cannot read the folder: {e.strerror or e}", where) from None
    if not path.exists():
        hint = "give a .npy, .npz, an image, a folder, a .txt list, or module:function"
        raise error("EC0701", "there are no samples there: no such file or folder", where, hint)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return [npz_item(path, reader.specs, reader.preprocess, reader.diagnostics)]
    if suffix == ".txt":
        return list_items(path, reader.specs)
    value = read_value(path)
    if len(reader.specs) != 1:
        names = ", ".join(s.name for s in reader.specs)
        message = f"one {suffix} cannot feed the {len(reader.specs)} inputs {names}"
        raise error("EC0704", message, where, "use .npz with arrays named like the inputs, or a folder")
    return [Item(str(path), {reader.specs[0].name: value})]


def _warn_units(reader: _Reader, items: Sequence[Item]) -> None:
    """Images fed without normalisation, or with figures of the other convention, give wrong results silently."""
    pre, where = reader.preprocess, Location(reader.source)
    images = any(isinstance(v, Path) for item in items[:1] for v in item.values.values())
    floats = any(s.dtype.kind == "f" for s in reader.specs)
    if pre is not None and (why := pre.suspicious()):
        reader.diagnostics.warn("EC0712", why, where, "set scale: 255, or give mean and std in 0..255 units")
    elif images and floats and (pre is None or not pre.normalises):
        message = "images are fed as 0..255 without mean, std or scale: few float models are trained so"
        reader.diagnostics.warn("EC0712", message, where, "give mean, std and scale as in the model's training")


def _from_function(source: str, reader: _Reader, limit: int | None) -> Samples:
    fn = load_function(source)

    def make() -> Iterator[Arrays]:
        seen = 0
        for sample in islice(reader.read(function_items(source, fn, reader.specs)), limit):
            if limit is None and seen == MOST:
                reader.say_endless(source)
                break
            seen += 1
            yield sample
        if not seen:
            raise error("EC0702", "the function yielded no samples", Location(source))

    first = f"the first {limit} samples" if limit is not None else "samples"
    return Samples(make, describe=f"{first} of {source}{_suffix(reader)}", diagnostics=reader.diagnostics)


@dataclass(frozen=True)
class _Reader:
    """Turns items into samples of the model's inputs."""

    source: str
    specs: Sequence[InputSpec]
    preprocess: Preprocess | None
    diagnostics: Diagnostics

    def say_endless(self, source: str) -> None:
        """EC0735, once however often the samples are read."""
        if not any(d.code == "EC0735" and d.location.file == source for d in self.diagnostics):
            what = f"the function yields more than {MOST:,} samples; the first {MOST:,} are taken"
            hint = "does it end? 100 to 500 are enough to calibrate with: itertools.islice(..., 500)"
            self.diagnostics.warn("EC0735", what, Location(source), hint)

    def check(self, item: Item) -> int:
        """The number of samples in it, by headers alone. Every problem an item can show without reading is raised."""
        counts = {spec.name: self._plan(spec, item).count for spec in self.specs}
        count = max(counts.values())
        uneven = {name: n for name, n in counts.items() if n not in (1, count)}
        if uneven:
            text = ", ".join(f"{name}: {n}" for name, n in counts.items())
            raise error("EC0713", f"the inputs have different numbers of samples: {text}", Location(item.label))
        shared = [name for name, n in counts.items() if n == 1 < count]
        if shared:
            message = f"the one value of {', '.join(shared)} is used for all {count} samples"
            self.diagnostics.note("EC0711", message, Location(item.label))
        return count

    def _plan(self, spec: InputSpec, item: Item) -> Plan:
        value = item.values[spec.name]
        where = Location(item.label)
        if isinstance(value, Path):
            axes_for_images(spec, self.preprocess or Preprocess(), self.source)
            return Plan(1, 0, lambda a: a)
        try:
            found = plan(spec, value.shape, value.dtype, self.preprocess)
        except Misfit as e:
            code = "EC0706" if "convert safely" in str(e) else "EC0705"
            message = f"the array for input {spec.name!r} does not fit: {e}"
            raise error(code, message, where, "see `edgec explain EC0705` for the layouts edgec recognises") from None
        for note in found.notes:
            self.diagnostics.note("EC0711", f"input {spec.name!r}: {note}", Location(self.source))
        return found

    def read(self, items: Iterable[Item]) -> Iterator[Arrays]:
        """Sample after sample; one in memory at a time."""
        for item in items:
            count = self.check(item)
            columns = {s.name: self._column(s, item, count) for s in self.specs}
            for index in range(count):
                label = item.label if count == 1 else f"{item.label}[{index}]"
                sample: Arrays = {}
                for spec in self.specs:
                    try:
                        sample[spec.name] = next(columns[spec.name])
                    except EdgecError as e:
                        raise _located(e, label) from None
                    self._check_finite(spec, sample[spec.name], label)
                yield sample

    def _column(self, spec: InputSpec, item: Item, count: int) -> Iterator[npt.NDArray[Any]]:
        """The arrays of one input, one a sample; a single one repeats."""
        value: Value = item.values[spec.name]
        if isinstance(value, Path):
            pre = self.preprocess or Preprocess()
            axes = axes_for_images(spec, pre, self.source)
            made = image_to_input(read_image(value), spec, axes, pre)
            yield from (made for _ in range(count))
            return
        p = self._plan(spec, item)
        if p.count == 1:
            made = p.convert(value.whole())
            yield from (made for _ in range(count))
        else:
            convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] = p.convert
            for block in value.blocks(p.rows):
                yield convert(block)

    def _check_finite(self, spec: InputSpec, array: npt.NDArray[Any], label: str) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad = int(array.size - np.isfinite(array).sum())
            message = f"{bad} of {array.size} values for input {spec.name!r} are NaN or infinite"
            self.diagnostics.warn("EC0710", message, Location(label), "remove the sample: it spoils ranges and figures")


def _located(e: EdgecError, label: str) -> EdgecError:
    """The same error, saying which sample, where it does not yet say where."""
    found = (d if str(d.location) else replace(d, location=Location(label)) for d in e.diagnostics)
    return EdgecError(*found)
