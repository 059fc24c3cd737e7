"""A graph to an `.mlpackage`, and what the report says of it."""

from __future__ import annotations

from pathlib import Path

from edgec.diagnostics import EdgecError
from edgec.graph import Graph
from edgec.target import Artifact, EmitJob
from edgec.target_options import parse_options
from edgec.targets.coreml.evaluate.rules import NotEvaluated
from edgec.targets.coreml.flexible import flexible
from edgec.targets.coreml.interface import Interface
from edgec.targets.coreml.lower import lower
from edgec.targets.coreml.metadata import describe, say_scores
from edgec.targets.coreml.options import CoreMlOptions
from edgec.targets.coreml.package import NOT_EVALUATED, build, decode
from edgec.targets.coreml.pixels import image_inputs
from edgec.targets.coreml.plan import FACT, SCRIPT, sources
from edgec.targets.coreml.rules import SYSTEMS
from edgec.targets.coreml.runner import DecodedRunner
from edgec.targets.coreml.weights import store_weights, stored_facts

PACKAGE = "model.mlpackage"
MODEL = f"{PACKAGE}/Data/com.apple.CoreML/model.mlmodel"

_NOT_HERE = (
    "Core ML's own compiler and kernels: macOS and iOS alone have them; what was run is the decoded package",
    f"where operations run (Neural Engine, GPU, CPU): predicted from a table; {SCRIPT} tells what Core ML decides",
)


def system(minimum: str) -> str:
    """coremltools' name of an option's value: ios17 -> iOS17."""
    return next(s for s in SYSTEMS if s.lower() == minimum)


def package_artifact(graph: Graph, job: EmitJob, minimum: str) -> Artifact:
    """Lower, build in coremltools' environment, hash. `minimum`: the target's own deployment target."""
    options = parse_options(CoreMlOptions, job.options)
    of_pixels, images = image_inputs(graph, job.preprocess)
    oldest = system(options.minimum or minimum)
    sizes = flexible(of_pixels, options.ranges, options.shapes, job.diagnostics, at_least_ios18=oldest >= "iOS18")
    lowered = lower(of_pixels, oldest, job.diagnostics)
    told = describe(lowered.interface.with_images(images), options)
    say_images(told.interface, job)
    say_scores(told.interface, lowered.program, job.diagnostics)
    weights = store_weights(lowered.program)
    toolchain = job.toolchains.ensure("coreml")
    job.diagnostics.items.extend(toolchain.diagnostics)
    folder, log = job.workdir / "coreml", job.logs / "coreml.log"
    request = {**told.request, **sizes.request(lowered.interface)}
    package = build(lowered.program, toolchain, folder, request=request, seconds=options.timeout, log=log)
    files = package.files(PACKAGE)
    facts = {
        "takes": told.interface.takes(),
        "gives": told.interface.gives(),
        "bytes": sum(Path(p).stat().st_size for p in files.values() if isinstance(p, Path)),
        "operations": dict(sorted(package.operations.items(), key=lambda item: (-item[1], item[0]))),
        "weights": stored_facts(weights),
        "minimum system": lowered.program.target,
        "coremltools": package.version,
        "interface": told.interface.to_json(),
        FACT: {"sources": sources(lowered.program)},
    }
    if sizes.text:
        facts["open dimensions"] = sizes.text
    if told.told:
        facts["metadata"] = told.told
    files[SCRIPT] = (Path(__file__).parent / SCRIPT).read_bytes()
    return Artifact(files, PACKAGE, facts=facts, not_verified=_NOT_HERE)


_FOLDED = {
    "as it is": "they are what the model takes",
    "weights": "mean and std are in the first convolution's weights",
    "depthwise": "a convolution 1x1 takes off mean and std first",
}


def say_images(interface: Interface, job: EmitJob) -> None:
    """What an app gives, and where mean and std went."""
    for p in interface.inputs:
        if p.image is not None:
            what = f"input {p.name!r} takes an {p.image} of 8-bit pixels: {_FOLDED[p.image.folded]}"
            job.diagnostics.note("EC0648", what, hint="--option image=none keeps an array, and the app normalises")


def package_runner(artifact: Artifact, job: EmitJob) -> DecodedRunner | None:
    """The package read back from disk by coremltools, run by ONNX Runtime. None, with a warning (EC0681), where an operation
    of it has no evaluation rule."""
    options = parse_options(CoreMlOptions, job.options)
    path = artifact.files[MODEL]
    assert isinstance(path, Path)  # emit writes files
    toolchain = job.toolchains.ensure("coreml")
    log = job.logs / "coreml-decode.log"
    package = path.parents[2]
    try:
        program = decode(package, toolchain, package.parent, seconds=options.timeout, log=log)
        return DecodedRunner(program, Interface.from_json(artifact.facts["interface"]))
    except NotEvaluated as e:
        why: object = e
    except EdgecError as e:
        if e.diagnostics[0].code not in (NOT_EVALUATED, "EC0810"):  # EC0810: ONNX Runtime takes no such model
            raise
        why = e.diagnostics[0].message.removeprefix("the package cannot be evaluated here: ")
    hint = "the package is made all the same; run it on a Mac to check it"
    job.diagnostics.warn(NOT_EVALUATED, f"the package cannot be evaluated here: {why}", hint=hint)
    return None
