"""Samples as a caller gives them: to calibrate with, and to compare on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgec.diagnostics import Diagnostics, Location, error
from edgec.samples.inputs import input_specs
from edgec.samples.opening import open_samples
from edgec.samples.preprocess import Preprocess
from edgec.samples.sample_set import Samples

if TYPE_CHECKING:
    from edgec.graph import Graph

VERIFY_SAMPLES, JUDGED_SAMPLES = 8, 32
"""How many calibration samples are compared on where no other samples are given; the second number where choices depend on
the comparison."""

KEPT_OUT = 8


def given_samples(
    calibration: Any,
    samples: Any,
    graph: Graph,
    preprocess: Preprocess | None,
    notes: Diagnostics,
    *,
    choosing: bool = False,
    fitting: bool = False,
) -> tuple[Samples | None, Samples | None]:
    """The calibration samples, and those to compare on: the ones given, else the first of the calibration samples.

    Each may be None, a path, "module:function" or Samples. `choosing`: the comparison decides about the result.
    `fitting`: weights are fitted to the calibration samples, so the comparison is on some that are kept out of them, every
    `KEPT_OUT`th, where there are enough.
    """
    opened = _open(calibration, graph, preprocess, notes)
    checked = _open(samples, graph, preprocess, notes)
    if checked is None and opened is not None and fitting and len(opened) >= 2 * KEPT_OUT:
        checked, opened = opened.apart(range(0, len(opened), KEPT_OUT)[:JUDGED_SAMPLES])
        checked.describe = f"{checked.describe}, kept out of calibration"
    elif checked is None and opened is not None:
        checked = opened.take(JUDGED_SAMPLES if choosing else VERIFY_SAMPLES)
    return opened, checked


def _open(source: Any, graph: Graph, preprocess: Preprocess | None, notes: Diagnostics) -> Samples | None:
    if source is None:
        return None
    if isinstance(source, Samples):
        _check_first(source, graph)
        return source
    return open_samples(source, graph, preprocess=preprocess, diagnostics=notes)


def _check_first(samples: Samples, graph: Graph) -> None:
    """Samples an embedder made: what `open_samples` promises of names and shapes is not known of them. One is read."""
    first, where = next(iter(samples), None), Location(samples.describe)
    if first is None:
        raise error("EC0702", "there are no samples", where)
    for spec in input_specs(graph):
        if spec.name not in first:
            what = f"no value for input {spec.name!r}"
            raise error("EC0704", what, where, f"the samples have {', '.join(first) or 'nothing'}")
        have = first[spec.name].shape
        want = spec.shape
        if want is None:
            continue
        if len(want) != len(have) or any(w not in (None, h) for w, h in zip(want, have, strict=True)):
            raise error("EC0705", f"input {spec.name!r} is {spec}, the first sample has shape {list(have)}", where)
