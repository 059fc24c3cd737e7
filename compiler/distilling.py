"""Distillation from files to a file: what `edgec distill` does. The training is `edgec.training.distill`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgec.compare import Comparison, compare
from edgec.diagnostics import Diagnostics, Location, error
from edgec.graph import Graph
from edgec.lowering import frozen
from edgec.plugins import Registry
from edgec.runtime import Session
from edgec.samples import Samples
from edgec.samples.given import KEPT_OUT, given_samples
from edgec.training import DistillOptions, require_torch

if TYPE_CHECKING:
    from edgec.samples import Preprocess
    from edgec.training import Distilled

_HELD_OUT = 256
"""Samples kept out of training at most, to compare before and after on."""


@dataclass(frozen=True)
class Learnt:
    """The trained student, how training went, and the student against the teacher before and after, on the same samples."""

    graph: Graph
    training: Distilled
    before: Comparison
    after: Comparison
    compared_on: str


def learn(
    student: Graph,
    teacher: Graph,
    data: Any,
    options: DistillOptions,
    *,
    samples: Any = None,
    labels: Sequence[int] | None = None,
    preprocess: Preprocess | None = None,
    input_shapes: Sequence[str] = (),
    checkpoints: Path | None = None,
    registry: Registry | None = None,
    diagnostics: Diagnostics | None = None,
    progress: Callable[[str], None] | None = None,
) -> Learnt:
    """Train `student` towards `teacher` on the samples of `data`; both are left unchanged.

    `samples`: what is compared on; default: every eighth of `data`, which is then not trained on, where there are enough.
    `labels`: a class for each sample of `data`.

    Raises:
        EdgecError: EC0320 torch is missing; EC0323 not one label a sample; and what `edgec.training.distill` raises.
    """
    require_torch()
    from edgec.training import distill

    notes = diagnostics if diagnostics is not None else Diagnostics()
    tell = progress or (lambda text: None)
    shaped = frozen(student, input_shapes, registry or Registry())
    opened, checked = given_samples(data, samples, shaped, preprocess, notes)
    if opened is None:
        raise error(
            "EC0324", "there are no samples to train on", hint="--data FOLDER_OF_IMAGES | data.npz | module:function"
        )
    if labels is not None and len(labels) != len(opened):
        message = f"there are {len(labels)} labels for {len(opened)} samples"
        raise error("EC0323", message, Location(opened.describe), "one class a sample, in the samples' order")
    trained = opened
    if samples is None and len(opened) >= 2 * KEPT_OUT:
        kept_out = set(range(0, len(opened), KEPT_OUT)[:_HELD_OUT])
        checked, trained = opened.apart(kept_out)
        labels = None if labels is None else [c for i, c in enumerate(labels) if i not in kept_out]
    assert checked is not None  # samples that were opened have first ones
    checked = checked if samples is not None else _named(checked, len(trained) < len(opened))
    result = distill(
        student, teacher, trained, options, labels=labels, checkpoints=checkpoints, diagnostics=notes, progress=tell
    )
    tell("compare")
    before, after = (_compared(teacher, graph, checked) for graph in (student, result.graph))
    return Learnt(result.graph, result, before, after, checked.describe)


def read_labels(path: Path) -> list[int]:
    """Classes, counted from 0: an .npy of whole numbers, or text with one a line.

    Raises:
        EdgecError: EC0356 it cannot be read as that.
    """
    hint = "an .npy of whole numbers, or text with one a line"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's on an empty file: it is refused below
            array = np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, ndmin=1)
    except (OSError, ValueError, EOFError) as e:
        raise error("EC0356", f"the labels cannot be read: {e}", Location(str(path)), hint) from None
    flat = np.asarray(array).reshape(-1)
    if (
        flat.dtype.kind not in "iuf"
        or not flat.size
        or array.shape != flat.shape
        or (flat != np.floor(flat)).any()
        or (flat < 0).any()
        or (flat >= 2**31).any()
    ):
        message = f"labels are whole numbers from 0 on, one a sample, not {flat.dtype}{list(array.shape)}"
        raise error("EC0356", message, Location(str(path)), hint)
    return [int(v) for v in flat]


def _named(checked: Samples, kept_out: bool) -> Samples:
    checked.describe += ", kept out of training" if kept_out else ", trained on too: there are few"
    return checked


def _compared(teacher: Graph, student: Graph, samples: Samples) -> Comparison:
    """By the outputs that both have."""
    mine = {v.name for v in student.outputs}
    first, second = Session(teacher, optimise=True, fallback=True), Session(student, optimise=True, fallback=True)

    def pairs() -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        for sample in samples:
            want, got = first.run(sample), second.run(sample)
            yield {n: a for n, a in want.items() if n in mine}, got

    wanted, made = tee(pairs())
    return compare((want for want, _ in wanted), (got for _, got in made))


def with_options(options: DistillOptions, given: dict[str, Any]) -> DistillOptions:
    """`options` with those that were given, None meaning that it was not.

    Raises:
        EdgecError: EC0323 one is out of its range.
    """
    return replace(options, **{k: v for k, v in given.items() if v is not None})
