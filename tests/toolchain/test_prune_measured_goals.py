"""Goals of prune in time and flash on real toolchains: what Vela and RKNN-Toolkit2 say of the artifact meets them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from measure_alignment import estimates

from edgec import api
from edgec.api import Compiled
from edgec.diagnostics import EdgecError
from edgec.plugins import Registry
from edgec.samples import Samples
from edgec.toolchain import Toolchain

pytestmark = pytest.mark.toolchain


def compiled(eval_dir: Path, target: str, compress: str = "", **options: str) -> Compiled:
    """cifar10_resnet20 in int8, calibrated with noise: neither time nor size hang on it."""
    rng = np.random.default_rng(0)
    inputs = [{"input": rng.normal(size=(1, 3, 32, 32)).astype(np.float32)} for _ in range(8)]
    return api.compile(
        eval_dir / "models" / "cifar10_resnet20.onnx", target=target, precision="int8", input_shapes=["input:1x3x32x32"],
        calibration=Samples(lambda: iter(inputs), describe="noise", count=len(inputs)), effort="low",
        compress=compress or None, options=options,
    )  # fmt: skip


def seconds(result: Compiled) -> float:
    assert result.artifact.estimate is not None
    assert result.artifact.estimate.unit == "s"
    return result.artifact.estimate.amount


def test_a_part_of_the_time_and_milliseconds_by_vela(installed: Callable[[str], Toolchain], eval_dir: Path) -> None:
    installed("vela")
    dense = seconds(compiled(eval_dir, "ethos-u55-128"))
    third = compiled(eval_dir, "ethos-u55-128", "prune{latency=0.3 importance=l2 allocation=uniform}")
    assert 0.8 * 0.7 * dense < seconds(third) <= 0.7 * dense
    assert "EC0362" in [d.code for d in third.report.diagnostics]
    in_time = compiled(eval_dir, "ethos-u55-128", "prune{latency=1ms importance=l2 allocation=uniform}")
    assert 0.8e-3 < seconds(in_time) <= 1e-3


def test_a_model_that_does_not_fit_is_cut_until_it_does(installed: Callable[[str], Toolchain], eval_dir: Path) -> None:
    installed("vela")
    with pytest.raises(EdgecError, match="EC0665"):
        compiled(eval_dir, "ethos-u55-128", flash="200KB")
    small = compiled(eval_dir, "ethos-u55-128", "prune{flash=195KB importance=l2 allocation=uniform}", flash="200KB")
    assert small.artifact.entry_size() <= 200_000


def test_a_part_of_the_cycles_by_the_rockchip_compiler(installed: Callable[[str], Toolchain], eval_dir: Path) -> None:
    installed("rknn")
    dense = compiled(eval_dir, "rk3566").artifact.estimate
    cut = compiled(eval_dir, "rk3566", "prune{latency=0.1 importance=l2 allocation=uniform}").artifact.estimate
    assert dense is not None
    assert cut is not None
    assert dense.unit == cut.unit == "convolution cycles"
    assert cut.amount <= 0.9 * dense.amount


@pytest.mark.parametrize(("precision", "align"), [("fp16", 16), ("int8", 32)])
def test_alignment_is_up_to_where_channels_cost_nothing(
    precision: str, align: int, installed: Callable[[str], Toolchain]
) -> None:
    """By the compiler's estimate, as tools/measure_alignment.py measures it for all chips."""
    installed("rknn")
    assert Registry().target("rk3588").spec().alignment[f"{precision} channels"] == align
    counts = align + 4, 2 * align, 2 * align + 4
    just_above, whole, further = estimates("rk3588", precision, Registry(), counts).values()
    assert just_above == whole
    assert further > 1.2 * whole
