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
from typing import Any

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
    `into`: statistics of the same graph to continue. `progress`: called with the number of samples done. The graph is
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
    for outputs in _in_order(session, probes, stream, at_once):
        probes.read(outputs, _wanted(done), stats)
        done += 1
        if progress is not None:
            progress(done)
    probes.finish(stats)
    if not done:
        raise error("EC0718", "there are no samples to calibrate with", Location(stream.describe))
    stats.add_data(done, stream.digest())
    stats.generated |= stream.generated
    return stats


def _wanted(i: int) -> int:
    """Elements to take of each tensor of sample `i`: with few samples, more of each."""
    return max(_EACH, _FIRST // (i + 1))


def _in_order(session: Session, probes: Probes, samples: Samples, at_once: int) -> Iterator[Arrays]:
    """Each sample's outputs, in order, with `at_once` samples running and the next being read."""
    running: deque[Future[Arrays]] = deque()
    with ThreadPoolExecutor(at_once) as pool:
        for i, sample in enumerate(samples):
            running.append(pool.submit(session.run, {**sample, **probes.feeds(i, _wanted(i))}))
            if len(running) > at_once:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
