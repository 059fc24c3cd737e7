"""What TensorRT-RTX says of a bundle's ONNX file, as far as that tells something about a board."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgec.diagnostics import EdgecError, Severity
from edgec.targets.tensorrt.oracle import Verdict, at_hand, judge
from edgec.targets.tensorrt.oracle_messages import tell

if TYPE_CHECKING:
    from edgec.graph import Graph
    from edgec.target import EmitJob
    from edgec.targets.tensorrt.options import JetsonOptions
    from edgec.targets.tensorrt.profiles import Profile
    from edgec.targets.tensorrt.releases import Release

LIKE: Mapping[int, tuple[str, ...]] = {72: (), 87: ("sm86",), 110: ("sm120",)}
"""For a board's GPU the one TensorRT-RTX builds for that has the same data types; Volta (7.2) has none."""

CAVEAT = "this is not a build on the board: NVIDIA/TensorRT#4832 is a file that builds elsewhere and fails on Orin"


@dataclass
class Findings:
    """What is known of a bundle, for its README and bundle.json."""

    checked: list[str] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)


def ask_oracle(
    graph: Graph,
    model: Path,
    job: EmitJob,
    release: Release,
    options: JetsonOptions,
    shapes: Sequence[Profile],
    found: Findings,
) -> Verdict | None:
    """Ask about `model`, which is `graph`, where that is possible and wanted.

    Raises:
        EdgecError: EC0685 the parser refuses a node.
    """
    unasked = "whether TensorRT's ONNX parser takes model.onnx: "
    if options.oracle == "none":
        found.not_checked.append(f"{unasked}it was not asked (oracle=none)")
        return None
    if not at_hand(job.toolchains) and job.toolchains.offline:
        found.not_checked.append(f"{unasked}toolchain tensorrt-rtx is not installed")
        return None
    job.progress("ask TensorRT-RTX's parser")
    profile = {p.name: (p.min, p.opt, p.max) for p in shapes}
    try:
        verdict = judge(
            model, job.toolchains, workdir=job.workdir / "oracle", capabilities=LIKE[release.board.sm],
            profiles=[profile] if profile else [], timeout=options.timeout,
        )  # fmt: skip
    except EdgecError as e:  # the bundle does not depend on it
        why = e.diagnostics[0].message
        what = f"TensorRT's parser could not be asked: {why}"
        job.diagnostics.warn("EC0694", what, hint="--option oracle=none does without")
        found.not_checked.append(unasked + why)
        return None
    # that a GPU alike gets no plan is no verdict on the board; that the parser refuses a node is one
    severity = Severity.WARNING if verdict.parsed else Severity.ERROR
    tell(verdict, graph, job.diagnostics, target=release.board.name, severity=severity)
    job.diagnostics.raise_if_errors()
    good = [c.upper() for c, b in verdict.built.items() if isinstance(b, int)]
    if verdict.parsed:
        builds = f" and it builds for {', '.join(good)}" if good else ""
        found.checked.append(f"the ONNX parser of {verdict.by} accepts model.onnx{builds}; {CAVEAT}")
    if not verdict.accepted:
        found.not_checked.append(verdict.summary)
    return verdict
