"""verify: the artifact as executed on this host against the float model, on the same samples."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Self

from edgec.diagnostics import EdgecError
from edgec.report import Verification

if TYPE_CHECKING:
    from edgec.compare import Comparison
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.runtime import Session
    from edgec.samples import Samples
    from edgec.target import Arrays, Artifact, EmitJob, Target

LOW_SQNR = 10.0
"""dB below which an output is called wrong rather than rounded: a third of its amplitude is error."""


KEPT_BYTES = 256 << 20
"""Samples and float outputs up to this size stay in memory; beyond it the float model runs anew for each comparison."""


class FloatModel:
    """The model as loaded, run on the samples, and the graph after our passes compared with it.

    Vendor compilers leave a core idle and take seconds: with `start`, this work is done meanwhile, in a thread of its own
    (ONNX Runtime releases the interpreter lock). Its errors come out where the results are asked for. Leaving the `with`
    block ends it after the sample at hand: the interpreter must not go while ONNX Runtime runs.
    """

    def __init__(self, reference: Graph, lowered: Graph, samples: Samples) -> None:
        # Copies: a Session takes the weights out of its graph for a moment, and `emit` works on the graph meanwhile.
        self._reference, self._lowered, self._samples = reference.clone(), lowered.clone(), samples
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self._kept: list[Arrays] | None = None
        self._session: Session | None = None
        self._optimised: Comparison | None = None
        self.not_verified: list[str] = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped = True
        if self._thread is not None:
            self._thread.join()

    def start(self) -> None:
        """Begin in the background, if the samples are few enough to hand them over."""
        first = next(iter(self._samples), {})
        if sum(a.nbytes for a in first.values()) * len(self._samples) <= KEPT_BYTES:
            feeds = list(self._samples)  # read here: a user's function need not be safe to call from two threads
            unless_stopped = itertools.takewhile(lambda _: not self._stopped, feeds)
            self._thread = threading.Thread(target=self._work, args=(unless_stopped,))
            self._thread.start()

    def _work(self, feeds: Iterable[Arrays]) -> None:
        try:
            self._run(feeds)
        except BaseException as e:  # noqa: BLE001  raised again by `finish`, in the caller's thread
            self._error = e

    def _run(self, feeds: Iterable[Arrays]) -> None:
        from edgec.compare import compare
        from edgec.runtime import Session

        self._session = Session(self._reference, background=True, fallback=True)
        try:
            after = Session(self._lowered, background=True)
        except EdgecError as e:  # ops only the target knows
            self.not_verified.append(f"the graph between passes and target: {e.diagnostics[0].message}")
            after = None
        feeds_again, feeds = itertools.tee(feeds) if after is not None else ((), feeds)
        outputs = self._keep(self._session.run_all(feeds))
        if after is None:
            for _ in outputs:
                pass
        else:
            self._optimised = compare(outputs, after.run_all(feeds_again))

    def _keep(self, outputs: Iterable[Arrays]) -> Iterator[Arrays]:
        kept: list[Arrays] | None = []
        size = 0
        for out in outputs:
            size += sum(_size(a) for a in out.values())
            if kept is not None and size <= KEPT_BYTES:
                kept.append(out)
            else:
                kept = None
            yield out
        self._kept = kept

    def finish(self) -> Comparison | None:
        """The comparison of the graph after our passes; None where it holds ops only the target knows."""
        if self._thread is None:
            self._run(self._samples)
        else:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._optimised

    def outputs(self) -> Iterable[Arrays]:
        """The float model's outputs for each sample; after `finish`."""
        assert self._session is not None  # finish made it
        return self._kept if self._kept is not None else self._session.run_all(self._samples)


def _size(value: Any) -> int:
    """Bytes of a tensor, or of all tensors of a sequence."""
    return sum(map(_size, value)) if isinstance(value, list) else int(getattr(value, "nbytes", 0))


def verify_artifact(
    target: Target,
    float_model: FloatModel,
    lowered: Graph,
    artifact: Artifact,
    job: EmitJob,
    samples: Samples,
    min_sqnr: float | None = None,
) -> Verification:
    """Compare three things on `samples`: the model as loaded, the graph after our passes, and the artifact `job` made.

    What cannot be executed here is listed in `not_verified` and said as a warning. `min_sqnr` (dB) makes an output
    below it an error (EC0820) in the diagnostics of `job`.
    """
    from edgec.compare import compare

    notes = job.diagnostics
    optimised = float_model.finish()
    not_verified = [*artifact.not_verified, *float_model.not_verified]
    comparison: Comparison | None = None
    ran_by: str | None = None
    if artifact.simulated is not None:
        ran_by = str(artifact.facts.get("runner", "the SDK's simulator"))
        comparison = compare(float_model.outputs(), artifact.simulated)
    elif (runner := target.runner(artifact, lowered, job)) is not None:
        ran_by = runner.describe
        comparison = compare(float_model.outputs(), runner.run(samples))
    if comparison is None:
        not_verified.append("the artifact was not executed: this target has no runner on this host")
        notes.warn("EC0821", f"the {target.name} artifact was not executed on this host", hint="run it on the device")
    else:
        _judge(comparison, notes, min_sqnr)
    if samples.generated:
        not_verified.append("accuracy on real data: the samples were generated")
    return Verification(
        runner=ran_by,
        samples=len(samples),
        source=samples.describe,
        generated=samples.generated,
        comparison=comparison.to_json() if comparison is not None else None,
        optimised=optimised.to_json() if optimised is not None else None,
        not_verified=tuple(not_verified),
    )


def _judge(comparison: Comparison, notes: Diagnostics, min_sqnr: float | None) -> None:
    for out in comparison.outputs:
        if not out.finite:
            notes.warn("EC0822", f"output {out.name!r} of the artifact has NaN or infinite values")
        if min_sqnr is not None and out.sqnr_db < min_sqnr:
            what = f"output {out.name!r} reaches {out.sqnr_db:.1f} dB, {min_sqnr:g} dB are asked for"
            notes.error("EC0820", what, hint="a higher precision, or calibration data nearer to real inputs")
        elif out.sqnr_db < LOW_SQNR:
            what = f"output {out.name!r} is far from the float model: {out.sqnr_db:.1f} dB"
            notes.warn("EC0823", what, hint="`edgec compare` shows the layer where it begins")
