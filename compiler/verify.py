"""verify: the artifact as executed on this host against the float model, on the same samples."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgec.diagnostics import EdgecError
from edgec.report import Verification

if TYPE_CHECKING:
    from edgec.compare import Comparison
    from edgec.diagnostics import Diagnostics
    from edgec.graph import Graph
    from edgec.runtime import Session
    from edgec.samples import Samples
    from edgec.target import Artifact, Target

LOW_SQNR = 10.0
"""dB below which an output is called wrong rather than rounded: a third of its amplitude is error."""


def verify_artifact(
    target: Target,
    reference: Graph,
    lowered: Graph,
    artifact: Artifact,
    samples: Samples,
    notes: Diagnostics,
    min_sqnr: float | None = None,
) -> Verification:
    """Compare three things on `samples`: the model as loaded, the graph after our passes, and the artifact.

    What cannot be executed here is listed in `not_verified` and said as a warning. `min_sqnr` (dB) makes an output
    below it an error (EC0820) in `notes`.
    """
    from edgec.compare import compare
    from edgec.runtime import Session

    # Run anew for each comparison: outputs of many samples may not fit in memory.
    float_model = Session(reference, fallback=True)
    not_verified = list(artifact.not_verified)
    optimised = _optimised(float_model, lowered, samples, not_verified)
    comparison: Comparison | None = None
    ran_by: str | None = None
    if artifact.simulated is not None:
        ran_by = str(artifact.facts.get("runner", "the SDK's simulator"))
        comparison = compare(float_model.run_all(samples), artifact.simulated)
    elif (runner := target.runner(artifact, lowered)) is not None:
        ran_by = runner.describe
        comparison = compare(float_model.run_all(samples), runner.run(samples))
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


def _optimised(float_model: Session, lowered: Graph, samples: Samples, not_verified: list[str]) -> Comparison | None:
    """The graph after our passes against the model as loaded; None where it holds ops only the target knows."""
    from edgec.compare import compare
    from edgec.runtime import Session

    try:
        session = Session(lowered)
    except EdgecError as e:
        not_verified.append(f"the graph between passes and target: {e.diagnostics[0].message}")
        return None
    return compare(float_model.run_all(samples), session.run_all(samples))


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
