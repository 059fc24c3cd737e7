"""Options that several commands share, and how they become arguments of edgec.api."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from edgec.accuracy import Accuracy
    from edgec.samples import Preprocess, Samples
    from edgec.toolchain import ToolchainManager

_INPUTS, _ACCURACY, _TARGET, _PASSES, _OUTPUT = "Inputs", "Accuracy", "Target", "Passes", "Output"

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]

InputShape = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="NAME=1x3x224x224", help="Fix an input's shape; repeat for more inputs."),
]
Calib = Annotated[
    str | None,
    typer.Option(
        "--calib",
        metavar="DATA",
        help="Calibration inputs for quantising: .npy, .npz, folder of images, or module:function.",
    ),
]
SamplesOption = Annotated[
    str | None,
    typer.Option("--samples", metavar="DATA", help="Inputs to verify with, as --calib; default: the first of --calib."),
]
Mean = Annotated[str | None, typer.Option("--mean", metavar="M,M,M", help="(x / scale - mean) / std, x in 0..255.")]
Std = Annotated[str | None, typer.Option("--std", metavar="S,S,S", help="See --mean.")]
Scale = Annotated[str | None, typer.Option("--scale", metavar="N", help="See --mean; 255 for torchvision's numbers.")]
Resize = Annotated[
    str | None, typer.Option("--resize", metavar="HxW", help="Image size; a lone number is the short side.")
]
Crop = Annotated[str | None, typer.Option("--crop", metavar="HxW", help="Centre crop after resizing.")]
Fit = Annotated[str | None, typer.Option("--fit", metavar="MODE", help="stretch (default), crop or letterbox.")]
Layout = Annotated[str | None, typer.Option("--layout", metavar="LAYOUT", help="NCHW or NHWC, where it is not clear.")]
Colour = Annotated[str | None, typer.Option("--colour", "--color", metavar="ORDER", help="RGB (default), BGR, GRAY.")]

Precision = Annotated[str | None, typer.Option("--precision", help="One the target offers; default its own.")]
TargetOptions = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="An option of the target; `edgec targets NAME` lists them."),
]
IoLayout = Annotated[
    str | None,
    typer.Option(
        "--io-layout",
        metavar="keep|nhwc",
        help="Images at the artifact's interface: the model's order, or channels last.",
    ),
]
IoDtype = Annotated[
    str | None,
    typer.Option(
        "--io-dtype", metavar="float|integer|uint8", help="What a quantised artifact takes and gives; default float."
    ),
]
Flash = Annotated[
    str | None,
    typer.Option("--flash", metavar="300KB", help="Budget for the model (code is not counted); more is an error."),
]
Ram = Annotated[
    str | None,
    typer.Option("--ram", metavar="80KB", help="Budget for activations (the tensor arena); more is an error."),
]
Jetpack = Annotated[
    str | None,
    typer.Option("--jetpack", metavar="6.2", help="The Jetson's JetPack release; default: the board's usual one."),
]
Dla = Annotated[bool, typer.Option("--dla", help="Jetson: compile for the DLA instead of the GPU.")]
NoFallback = Annotated[bool, typer.Option("--no-fallback", help="A node off the accelerator is an error.")]
Offline = Annotated[bool, typer.Option("--offline", help="Install no toolchain.")]
ToolchainPath = Annotated[
    list[str] | None,
    typer.Option("--toolchain", metavar="NAME=PYTHON", help="Use an SDK that this Python interpreter has."),
]

EffortOption = Annotated[
    Literal["low", "medium", "high"],
    typer.Option("--effort", help="Time spent on accuracy where the target quantises."),
]
MinSqnr = Annotated[
    float | None,
    typer.Option("--min-sqnr", metavar="DB", help="What every output must reach against the float model."),
]
MinAgreement = Annotated[
    str | None,
    typer.Option("--min-agreement", metavar="99%", help="Samples that must keep the float model's class."),
]
MaxDrop = Annotated[
    str | None, typer.Option("--max-drop", metavar="1%|0.5pt", help="How much of --metric may be lost.")
]
MetricOption = Annotated[
    str | None, typer.Option("--metric", metavar="FILE.py:FUNCTION", help="Your own metric; higher is better.")
]
MaxKept = Annotated[
    str | None,
    typer.Option(
        "--max-kept", metavar="50%", help="Multiply-accumulates that may leave integers to reach it; default 50%."
    ),
]
Compress = Annotated[
    str | None,
    typer.Option(
        "--compress",
        metavar="PASSES",
        help='Passes that make the float model smaller first: "prune{macs=0.3},recover". The report has what each cost.',
    ),
]
PipelineText = Annotated[
    str | None,
    typer.Option("--pipeline", "-p", metavar="PASSES", help='Passes to run instead: "fold-bn,[fold-constants,cse]*".'),
]
VerifyEach = Annotated[bool, typer.Option("--verify-each", help="Check each pass's numbers and name the one at fault.")]
WhyNot = Annotated[
    str | None, typer.Option("--why-not", metavar="RULE", help="Tell why a rule left its matches alone.")
]
DumpAfterEach = Annotated[
    Path | None,
    typer.Option("--dump-after-each", metavar="DIR", help="Save the graph after each pass that changes it."),
]

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout; text for people on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Notes too.")]


def pairs(given: list[str] | None, option: str, what: str = "KEY=VALUE") -> dict[str, str]:
    """`["a=1", "b=2"]` as a mapping. A malformed or repeated one is a mistake of the command line (exit code 2)."""
    out: dict[str, str] = {}
    for text in given or ():
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise typer.BadParameter(f"{text!r} is not {what}", param_hint=option)
        if key in out:
            raise typer.BadParameter(f"{key!r} is given twice", param_hint=option)
        out[key] = value
    return out


def target_options(option: list[str] | None, **flags: str | None) -> dict[str, str]:
    """What --option gives, and the options of targets that have a flag of their own (`io_layout`: --io-layout)."""
    out = pairs(option, "--option")
    for name, value in flags.items():
        if value is None:
            continue
        flag = name.replace("_", "-")
        if flag in out or name in out:
            raise typer.BadParameter("--option gives it too", param_hint=f"--{flag}")
        out[flag] = value
    return out


def preprocess(**given: str | None) -> Preprocess | None:
    """The preprocessing that --mean, --std ... describe; None where none of them was given."""
    if all(v is None for v in given.values()):
        return None
    from edgec.samples import Preprocess

    return Preprocess.parse({("mode" if k == "fit" else k): v for k, v in given.items() if v is not None})


def toolchains(offline: bool, given: list[str] | None, registry: Any, progress: Any) -> ToolchainManager:
    """The toolchains of this machine and of plugins, with --offline and --toolchain."""
    from edgec.toolchain import ToolchainManager

    overrides = {k: Path(v) for k, v in pairs(given, "--toolchain", "NAME=PYTHON").items()}
    described = {name: Path(path) for name, path in registry.toolchains().items()}
    return ToolchainManager(offline=offline, overrides=overrides, descriptions=described, progress=progress)


def samples(source: str | None, graph: Any, pre: Preprocess | None, count: int = 4, diagnostics: Any = None) -> Samples:
    """The samples given, or `count` generated ones."""
    from edgec.samples import generated_samples, open_samples

    if source is not None:
        return open_samples(source, graph, preprocess=pre, diagnostics=diagnostics)
    return generated_samples(graph, count, diagnostics=diagnostics)


def accuracy(
    min_sqnr: float | None,
    min_agreement: str | None,
    max_drop: str | None,
    metric: str | None,
    max_kept: str | None = None,
    *,
    measured: bool = False,
) -> Accuracy | None:
    """What must be reached; None where nothing is asked for. `measured`: a metric alone is for the report."""
    from edgec.accuracy import Accuracy

    if metric is not None and max_drop is None and not measured:
        raise typer.BadParameter("how much of it may be lost? --max-drop 1%", param_hint="--metric")
    share = None if min_agreement is None else _share(min_agreement, "--min-agreement")
    if max_kept is None:
        return Accuracy(min_sqnr, share, max_drop, metric) or None
    wanted = Accuracy(min_sqnr, share, max_drop, metric, _share(max_kept, "--max-kept"))
    if not wanted:
        hint = "it limits what --min-sqnr, --min-agreement and --max-drop may take out of integers: give one"
        raise typer.BadParameter(hint, param_hint="--max-kept")
    return wanted


def _share(text: str, option: str) -> float:
    """`99%` or `0.99`."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise typer.BadParameter(f"{text!r} is not a share: write 99% or 0.99", param_hint=option)
    return value
