"""What `--option key=value` takes for Jetson and TensorRT targets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgec.target_options import Bytes


@dataclass(frozen=True)
class TensorRtOptions:
    """For whatever builds a TensorRT engine. Shapes are in trtexec's syntax: "x:1x3x224x224,y:1x4"."""

    workspace: Bytes | None = None
    min_shapes: str | None = None
    opt_shapes: str | None = None
    max_shapes: str | None = None
    timeout: float = 1800.0

    HELP: ClassVar[Mapping[str, str]] = {
        "workspace": "memory TensorRT may use while it runs: 1GiB; default: what it takes itself",
        "min-shapes": 'the smallest shapes of inputs with dynamic dimensions, as trtexec takes them: "x:1x3x224x224"',
        "opt-shapes": "the shapes to optimise for",
        "max-shapes": "the largest shapes",
        "timeout": "seconds a TensorRT tool may take (1800)",
    }


@dataclass(frozen=True)
class JetsonOptions(TensorRtOptions):
    """`jetpack`: a release of specs/jetpack.yaml; None is the board's usual one."""

    jetpack: str | None = None
    dla: bool = False
    gpu_fallback: bool = True
    oracle: Literal["auto", "none"] = "auto"

    HELP: ClassVar[Mapping[str, str]] = {
        "jetpack": "the board's JetPack: 5, 6.0, 6.1, 6.2, 7.0, 7.1, 7.2 or 7.2.2; default: the board's usual one",
        "dla": "true: compile for the DLA (static shapes)",
        "gpu-fallback": "true (default): layers the DLA does not take run on the GPU; false: they are an error",
        "oracle": "auto (default): TensorRT-RTX's ONNX parser judges the file where its toolchain is at hand; none",
        **TensorRtOptions.HELP,
    }


@dataclass(frozen=True)
class RtxOptions(TensorRtOptions):
    """`capabilities`: "sm86,sm89", for the target that names none."""

    capabilities: str | None = None

    HELP: ClassVar[Mapping[str, str]] = {
        "capabilities": "GPUs to build for, one plan each: sm86,sm89; sm86+sm89 is one plan for both; default: one plan for all",
        **TensorRtOptions.HELP,
    }


@dataclass(frozen=True)
class LocalOptions(TensorRtOptions):
    """`timing_cache`: a file that earlier builds left."""

    timing_cache: str | None = None

    HELP: ClassVar[Mapping[str, str]] = {
        "timing-cache": "the timing cache of an earlier build on this GPU: building is faster and chooses the same kernels",
        **TensorRtOptions.HELP,
    }
