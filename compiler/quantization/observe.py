"""Observation: what values a graph's tensors take, from one streaming pass over samples.

The statistics are computed by ONNX Runtime, in a copy of the graph that has them as its only outputs: activations never
leave the runtime, and the memory they take does not grow with the number of samples. Its optimiser is on: kernels stay
fused as far as observed values let them. Several samples run at a time, each on few threads: reductions and small
layers do not keep many busy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from edgec.diagnostics import Location, error
from edgec.graph import Graph
from edgec.quantization.probes import Probes
from edgec.quantization.statistics import Statistics
from edgec.runtime import Session
from edgec.samples import Samples

Arrays = dict[str, npt.NDArray[Any]]

_FIRST, _EACH = 1 << 15, 1 << 11
"""Elements of a tensor that go into its histogram: of the first sample, and at least of every other."""

_AT_ONCE = 4
"""Samples that run at the same time, at most: each has its own activations in memory."""

_TRIAL = 8
"""Samples that tell infinities that are meant from those that a sample brings."""

_LARGE = 256 << 20
"""Bytes of observed activations from which on samples run one by one."""


def observe(
    graph: Graph,
    values: Sequence[str],
    samples: Iterable[Arrays],
    *,
    per_channel: Collection[str] | Mapping[str, int] = (),
    histogram: bool = True,
    into: Statistics | None = None,
    progress: Callable[[int], None] | None = None,
) -> Statistics:
    """Run `samples` through `graph` and return what was seen of `values`: names of the main graph, inputs included.

    `per_channel`: values whose channels are told apart too. A mapping names the axis; otherwise it is 1 for rank 4 and
    more, the last for less, and values of rank 0, 1 or unknown are left out. `histogram`: False keeps extremes only.
    A sample in which a value holds NaN or infinities is left out, for all values (`Statistics.left_out`): what comes before has
    reached what no float can hold, and what comes after was computed from that. Where the same value is infinite in every one
    of the first samples it is meant (masks): its finite elements count. `into`: statistics of the same graph to continue. `progress`: called with the number of samples done. The graph is
    not changed. The same samples in the same order give the same statistics, however many cores there are.

    Raises:
        EdgecError: EC0717 a value cannot be observed; EC0718 there are no samples; EC0719 `into` is of another model.
    """
    stream = samples if isinstance(samples, Samples) else Samples(lambda: iter(samples), describe="samples")
    model_hash = graph.fingerprint()
    stats = into if into is not None else Statistics(model_hash=model_hash)
    if stats.model_hash != model_hash:
        raise error("EC0719", "the statistics are of another model", Location(graph.source))
    axes = dict(per_channel) if isinstance(per_channel, Mapping) else dict.fromkeys(per_channel)
    probes = Probes(graph, list(dict.fromkeys(values)), axes, histogram)
    cores = os.cpu_count() or 1
    at_once = min(cores, _AT_ONCE) if probes.nbytes < _LARGE else 1
    session = Session(probes.graph, optimise=True, threads=max(1, cores // at_once), lean=True)
    done = 0
    for outputs, spoilt in _judged(_in_order(session, probes, stream, at_once), probes):
        if spoilt:
            stats.left_out[stats.samples + done] = spoilt
        else:
            probes.read(outputs, _wanted(done), stats)
        done += 1
        if progress is not None:
            progress(done)
    probes.finish(stats)
    if not done:
        raise error("EC0718", "there are no samples to calibrate with", Location(stream.describe))
    for name in probes.values:
        stats.sketch(name)  # also where all samples were left out
    stats.add_data(done, stream.digest())
    stats.generated |= stream.generated
    return stats


def _wanted(i: int) -> int:
    """Elements to take of each tensor of sample `i`: with few samples, more of each."""
    return max(_EACH, _FIRST // (i + 1))


def _judged(runs: Iterator[tuple[Arrays, list[str]]], probes: Probes) -> Iterator[tuple[Arrays, list[str]]]:
    """Each sample's outputs, and the values that NaN or infinities were not meant to be in."""
    first = [(outputs, [*bad, *probes.not_finite(outputs)]) for outputs, bad in islice(runs, _TRIAL)]
    meant = set.intersection(*(set(bad) for _, bad in first)) if first else set()
    for outputs, bad in first:
        yield outputs, [n for n in dict.fromkeys(bad) if n not in meant]
    for outputs, bad in runs:
        yield outputs, [n for n in dict.fromkeys([*bad, *probes.not_finite(outputs)]) if n not in meant]


def _in_order(session: Session, probes: Probes, samples: Samples, at_once: int) -> Iterator[tuple[Arrays, list[str]]]:
    """Each sample's outputs, in order, with `at_once` samples running and the next being read; and which of its inputs hold
    NaN or infinities."""
    running: deque[tuple[Future[Arrays], list[str]]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for i, sample in enumerate(samples):
            bad = [name for name, x in sample.items() if x.dtype.kind == "f" and not np.isfinite(x).all()]
            running.append((pool.submit(session.run, {**sample, **probes.feeds(i, _wanted(i))}), bad))
            if len(running) > at_once:
                run, bad = running.popleft()
                yield run.result(), bad
        while running:
            run, bad = running.popleft()
            yield run.result(), bad
