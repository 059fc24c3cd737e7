"""C++ source, resolver, memory budgets and scales of microcontroller artifacts, without any SDK."""

from __future__ import annotations

import csv
import math
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tflite_models as models
from hypothesis import given
from hypothesis import strategies as st

from edgec.diagnostics import EdgecError
from edgec.target_options import Bytes, parse_options
from edgec.targets.tflite.endpoints import Endpoint, Interface
from edgec.targets.tflite.ethosu.emit import placement
from edgec.targets.tflite.ethosu.vela import VelaResult, macs_per_cycle, reasons
from edgec.targets.tflite.micro.compilers import compile_sources, find_compiler
from edgec.targets.tflite.micro.exactness import compare_stored
from edgec.targets.tflite.micro.memory import Budget, Need, check, peak
from edgec.targets.tflite.micro.options import MicroOptions
from edgec.targets.tflite.micro.products import MOST, agree, agreeing_products
from edgec.targets.tflite.micro.resolver import METHODS, resolver_methods
from edgec.targets.tflite.micro.scratch import cmsis_nn_scratch
from edgec.targets.tflite.micro.source import DATA_CC, DATA_H, EXAMPLE_CC, OPS_H, Module, namespace, write_sources
from edgec.targets.tflite.model import Operator, Quant, SubGraph, Tensor, TfliteModel
from edgec.targets.tflite.runner import Arena
from edgec.targets.tflite.writer import write

ROOT = Path(__file__).resolve().parents[2]

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++ on this host")


def int8(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "int8", Quant.of(0.05, 3))


def constant(name: str, *shape: int, dtype: str = "int8") -> Tensor:
    return Tensor(name, shape, dtype, Quant.of(0.01), np.ones(shape, dtype))


def conv(x: Tensor, y: Tensor, k: int = 3, source: str = "") -> Operator:
    cin, cout = x.shape[3], y.shape[3]
    weights = [constant(f"{y.name}_w", cout, k, k, cin), constant(f"{y.name}_b", cout, dtype="int32")]
    return Operator("CONV_2D", [x, *weights], [y], {"padding": "SAME"}, source)


def chain() -> TfliteModel:
    """x [1,8,8,2] = 128 B -> a 512 B -> b 1024 B -> softmax-like relu c 1024 B; a is read again at the end."""
    x, a, b, c, y = (
        int8("x", 1, 8, 8, 2),
        int8("a", 1, 8, 8, 8),
        int8("b", 1, 8, 8, 16),
        int8("c", 1, 8, 8, 16),
        int8("y", 1, 8, 8, 8),
    )
    operators = [conv(x, a, source="n0"), conv(a, b, source="n1"), Operator("RELU", [b], [c], source="n2")]
    operators += [conv(c, y, 1, "n3"), Operator("ADD", [y, a], [int8("z", 1, 8, 8, 8)], source="n4")]
    return TfliteModel([SubGraph("main", [x], operators[-1].outputs, operators)], ["x"], ["z"])


def module(**fields: Any) -> Module:
    ends = Interface(
        [Endpoint("image?\\", (1, 3, 8, 6), "float32", "int8", (0, 2, 3, 1), Quant.of(0.1, -5))],
        [
            Endpoint("scores", (1, 10), "float32", "int8", None, Quant.of(1 / 256, -128)),
            Endpoint("i", (), "int64", "int32"),
        ],
    )
    return Module("net", ends, ["AddConv2D", "AddSoftmax"], 4096, ["why"], "1.2.3", **fields)


# --- resolver ---------------------------------------------------------------------------------------------------------


def test_resolver_has_every_operator_that_ran() -> None:
    """Whatever the sweep ran in tflite-micro can be registered; what it lacks altogether cannot."""
    with (ROOT / "tests/data/tflite_sweep.csv").open() as f:
        rows = list(csv.DictReader(f))
    micro = [c for c in rows[0] if c.startswith("micro ")]
    for row in rows:
        if any(row[c] == "ok" for c in micro):
            for op in re.split(r"[ ,+]+", row["op"]):
                assert op in METHODS, row
    assert not METHODS.keys() & {
        "GELU",
        "TILE",
        "POW",
        "SIGN",
        "TOPK_V2",
        "SCATTER_ND",
        "ONE_HOT",
        "REDUCE_PROD",
        "CONV_3D",
    }


def test_resolver_methods() -> None:
    assert resolver_methods(chain()) == ["AddAdd", "AddConv2D", "AddRelu"]
    assert METHODS["RESIZE_NEAREST_NEIGHBOR"] == "AddResizeNearestNeighbor"
    assert METHODS["L2_NORMALIZATION"] == "AddL2Normalization"
    assert METHODS["RELU6"] == "AddRelu6"
    assert len(set(METHODS.values())) == len(METHODS)


def test_operator_without_kernel_is_refused_by_name() -> None:
    m = chain()
    m.main.operators[2].op, m.main.operators[3].op, m.main.operators[1].op = "GELU", "GELU", "SIGN"
    with pytest.raises(EdgecError) as caught:
        resolver_methods(m, "model.onnx")
    sign, gelu = caught.value.diagnostics
    assert (sign.code, sign.location.node) == ("EC0667", "n1")
    assert "SIGN" in sign.message
    assert gelu.location.node == "n2"
    assert "GELU, which this node needs, and for 1 more" in gelu.message


# --- source -----------------------------------------------------------------------------------------------------------


def test_namespaces() -> None:
    assert namespace("/a/KWS-v2.onnx") == "kws_v2"
    assert namespace("2stage.onnx") == "model_2stage"
    assert namespace("float.onnx") == "model_float"
    assert namespace("__.onnx") == namespace(None) == "model"
    assert namespace("größe--a.onnx") == "gr_e_a"


def test_header_says_how_to_feed_it(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(bytes(range(256)) * 2 + b"\x07")
    write_sources(model, module(pixels={"image?\\": "pixel - 128 as int8"}), tmp_path)
    header = (tmp_path / DATA_H).read_text()
    for line in (
        "constexpr std::size_t kModelSize = 513;  // bytes",
        "constexpr std::size_t kArenaSize = 4096;  // bytes",
        "namespace input0 {  // interpreter.input(0): 'image?//' of the ONNX model",
        "// Channels last: axis i is axis {0, 2, 3, 1}[i] of the ONNX value, [1, 3, 8, 6].",
        "// For a pixel of 0..255 write: pixel - 128 as int8.",
        "constexpr int kShape[kRank] = {1, 8, 6, 3};",
        "constexpr std::size_t kElements = 144;",
        "constexpr float kScale = 0.1f;",
        "constexpr float kScale = 0.00390625f;",
        "constexpr int kZeroPoint = -128;",
        "using Type = std::int32_t;",
    ):
        assert f"{line}\n" in header, line
    assert "kShape[kRank] = {}" not in header  # a scalar has no axes, and C++ no arrays of none
    array = (tmp_path / DATA_CC).read_text()
    assert bytes(int(b, 16) for b in re.findall(r"0x([0-9a-f]{2})", array)) == model.read_bytes()
    assert "alignas(16) const unsigned char kModel[kModelSize] = {" in array
    ops = (tmp_path / OPS_H).read_text()
    assert "MicroMutableOpResolver<2>" in ops
    assert ops.index("AddConv2D()") < ops.index("AddSoftmax()")


def test_source_is_the_same_each_time(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(write(models.int8_model()))
    texts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        texts.append([p.read_bytes() for p in write_sources(model, module(), tmp_path / name).values()])
    assert texts[0] == texts[1]
    assert not any(b"/" + tmp_path.name.encode() in text for text in texts[0])


def test_no_example_without_an_arena(tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"x")
    assert EXAMPLE_CC not in write_sources(model, replace(module(), arena=None), tmp_path)
    assert "kArenaSize =" not in (tmp_path / DATA_H).read_text()


_HEADERS = {
    "tensorflow/lite/c/common.h": """
        typedef enum { kTfLiteOk = 0, kTfLiteError = 1 } TfLiteStatus;
        #define TF_LITE_ENSURE_STATUS(a) do { const TfLiteStatus s = (a); if (s != kTfLiteOk) return s; } while (0)""",
    "tensorflow/lite/micro/micro_mutable_op_resolver.h": "template <unsigned N> struct MicroMutableOpResolver {%s};",
    "tensorflow/lite/micro/micro_interpreter.h": """#include <cstddef>
        #include <cstdint>
        namespace tflite { struct Model { int version() const { return 3; } };
        struct MicroInterpreter {
          template <class R> MicroInterpreter(const Model*, const R&, std::uint8_t*, std::size_t) {}
          TfLiteStatus AllocateTensors() { return kTfLiteOk; } TfLiteStatus Invoke() { return kTfLiteOk; }
          std::size_t arena_used_bytes() const { return 0; }
          template <class T> T* typed_input_tensor(int) { return nullptr; }
          template <class T> T* typed_output_tensor(int) { return nullptr; } }; }""",
    "tensorflow/lite/micro/micro_log.h": "void MicroPrintf(const char* format, ...);",
    "tensorflow/lite/micro/system_setup.h": "namespace tflite { void InitializeTarget(); }",
    "tensorflow/lite/schema/schema_generated.h": """#define TFLITE_SCHEMA_VERSION 3
        namespace tflite { inline const Model* GetModel(const void*) { return nullptr; } }""",
}


@needs_compiler
def test_generated_source_compiles_without_warnings(tmp_path: Path) -> None:
    """All of it, with every method there is; the headers here declare what tflite-micro's do, of the same names."""
    tree = tmp_path / "tree"
    for name, text in _HEADERS.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        methods = "".join(f"TfLiteStatus {m}() {{ return kTfLiteOk; }}\n" for m in METHODS.values())
        text = f"namespace tflite {{ {text % methods} }}" if "%s" in text else text
        (tree / name).write_text(f"#pragma once\n{text}\n")
    model = tmp_path / "model.tflite"
    model.write_bytes(write(models.int8_model()))
    write_sources(model, replace(module(), methods=sorted(METHODS.values())), tmp_path)
    compiler = find_compiler({}, "no-cross-compiler-esp32")
    assert compiler is not None
    assert compile_sources(compiler, tmp_path, tree, tmp_path / "log") == [DATA_CC, OPS_H, EXAMPLE_CC]
    (tmp_path / DATA_CC).write_text("int x = y;")
    with pytest.raises(EdgecError) as caught:
        compile_sources(compiler, tmp_path, None, tmp_path / "log")
    assert caught.value.diagnostics[0].code == "EC0668"


@needs_compiler
def test_array_is_the_file_in_read_only_memory(tmp_path: Path) -> None:
    """A program that prints the array is linked and run: every byte, at an address that is a multiple of 16, const."""
    model = tmp_path / "model.tflite"
    model.write_bytes(write(models.float_model()))
    write_sources(model, module(), tmp_path)
    (tmp_path / "main.cc").write_text(
        f'#include "{DATA_H}"\n#include <cstdio>\nint main() {{\n'
        "  if (reinterpret_cast<std::uintptr_t>(net::kModel) % 16) return 1;\n"
        '  static_assert(net::input0::kShape[3] == 3 && net::output0::kElements == 10, "");\n'
        "  return std::fwrite(net::kModel, 1, net::kModelSize, stdout) == net::kModelSize ? 0 : 2;\n}\n"
    )
    program = tmp_path / "program"
    files = [str(tmp_path / name) for name in (DATA_CC, "main.cc")]
    subprocess.run(["g++", "-std=c++17", "-Wall", "-Werror", *files, "-o", str(program)], check=True)
    assert subprocess.run([str(program)], capture_output=True, check=True).stdout == model.read_bytes()
    subprocess.run(["g++", "-c", files[0], "-o", str(tmp_path / "data.o")], check=True)
    symbols = subprocess.run(["nm", "-C", str(tmp_path / "data.o")], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[1] for line in symbols.splitlines()}
    assert kinds <= {"R", "r"}, symbols  # constants only: no code runs at start-up, and nothing is copied to RAM
    assert " R net::kModel\n" in symbols


# --- memory -----------------------------------------------------------------------------------------------------------


def test_peak_is_the_fullest_moment() -> None:
    found = peak(chain())
    assert found.bytes == 512 + 1024 + 1024  # a waits for the ADD while RELU reads b and writes c
    assert found.operator is not None
    assert found.operator.source == "n2"


def test_budgets() -> None:
    options = parse_options(MicroOptions, {"ram": "2KB"})
    assert options.ram == Bytes(2000)
    budget = Budget.of(options, {"flash": 1 << 20, "ram": 1 << 18}, "stm32x")
    assert (budget.flash, budget.ram, budget.ram_from) == (1 << 20, 2000, "the budget")
    assert budget.flash_from == "what the spec of stm32x says the chip has"
    check(chain(), Need(1 << 20, 2000, None), budget, "int8", None)
    with pytest.raises(EdgecError) as caught:
        check(chain(), Need((1 << 20) + 100_000, 3000, Arena(2900, 2500, 400, 3000)), budget, "int8", "m.onnx")
    flash, ram = caught.value.diagnostics
    assert (flash.code, ram.code) == ("EC0665", "EC0666")
    assert "1148.6 KB of flash" in flash.message
    assert "100.0 KB too much" in flash.message
    assert "the tensor arena takes 3.0 KB of RAM, the budget is 2.0 KB: 1.0 KB too much" in ram.message
    side = math.sqrt((2000 - 400) / (3000 - 400))
    assert f"about {int(8 * side)}x{int(8 * side)} instead of 8x8" in (ram.hint or "")
    assert "RELU of node 'n2', 2.6 KB" in (ram.hint or "")


def test_float_models_are_told_of_int8() -> None:
    m = models.float_model()
    with pytest.raises(EdgecError) as caught:
        check(m, Need(2000, 4000, None, "the tensors alive at once take at least"), Budget(1500, 3000), "fp32", None)
    flash, ram = caught.value.diagnostics
    assert flash.hint is not None
    assert flash.hint.startswith("--precision int8 makes it about 1.3 KB, which fits")  # 928 bytes of floats: 232
    assert "tensors alive at once take at least 4.0 KB" in ram.message
    assert ram.hint is not None
    assert ram.hint.startswith("--precision int8 makes it about a quarter, 1.0 KB")


def test_cmsis_nn_scratch() -> None:
    """Against CMSIS-NN's formulas, for the core that wants most."""
    x, y = int8("x", 1, 8, 8, 20), int8("y", 1, 8, 8, 8)
    three = TfliteModel([SubGraph("main", [x], [y], [conv(x, y)])])
    assert cmsis_nn_scratch(three) == (4 * 192, three.main.operators[0])  # 180 columns, in blocks of 16
    one = TfliteModel([SubGraph("main", [x], [y], [conv(x, y, 1)])])
    one.main.operators[0].options["padding"] = "VALID"
    assert cmsis_nn_scratch(one) == (0, None)
    depthwise = Operator(
        "DEPTHWISE_CONV_2D", [x, constant("w", 1, 3, 3, 20), constant("b", 20)], [int8("d", 1, 8, 8, 20)]
    )
    assert cmsis_nn_scratch(TfliteModel([SubGraph("main", [x], [], [depthwise])]))[0] == 4 * 124 * 9


# --- scales, exactness ------------------------------------------------------------------------------------------------

scale = st.floats(2**-12, 4.0, width=32)


@given(scale, scale, scale)
def test_scales_multiply_alike(x: float, w: float, y: float) -> None:
    out = Tensor("y", (1, 4), "int8", Quant.of(y))
    weights, bias = constant("w", 4, 6), constant("b", 4, dtype="int32")
    weights.quant = Quant.of(w)
    dense = Operator("FULLY_CONNECTED", [Tensor("x", (1, 6), "int8", Quant.of(x)), weights, bias], [out])
    before = agree(np.float32(x), np.float32(w), np.float32(y))
    moved = agreeing_products(TfliteModel([SubGraph("main", [], [out], [dense])]))
    assert weights.quant is not None
    assert bias.quant is not None
    new = weights.quant.scale[0]
    assert abs(float(new) / w - 1) <= MOST
    assert moved == (new != np.float32(w))
    if before:
        assert not moved
    if moved:
        assert agree(np.float32(x), new, np.float32(y))
        assert bias.quant.scale[0] == np.float32(np.float64(np.float32(x)) * np.float64(new))


def test_weights_read_twice_keep_their_scale() -> None:
    rng = np.random.default_rng(0)
    w = constant("w", 4, 6)
    for _ in range(50):
        w.quant = Quant.of(rng.uniform(0.001, 1))
        before = w.quant
        layers = [
            Operator("FULLY_CONNECTED", [Tensor(f"x{i}", (1, 6), "int8", Quant.of(rng.uniform(0.01, 1))), w],
                     [Tensor(f"y{i}", (1, 4), "int8", Quant.of(0.3))])
            for i in range(2)
        ]  # fmt: skip
        assert agreeing_products(TfliteModel([SubGraph("main", [], [], layers)])) == 0
        assert w.quant is before


def test_exactness() -> None:
    a = [{"q": np.array([1, -128, 127], np.int8), "f": np.array([1.0, np.nan], np.float32)}]
    b = [{"q": np.array([1, 127, 127], np.int8), "f": np.array([1.0, np.nan], np.float32)}]
    same = compare_stored(a, a)
    assert (same.equal, str(same)) == (True, "yes, on 1 sample")
    other = compare_stored(a, b)
    assert (other.equal, other.steps, other.floats) == (False, 255, 0.0)
    assert str(other) == "no, largest difference 255 steps on 1 sample"
    c = [{"q": a[0]["q"], "f": np.array([1.5, 0.0], np.float32)}]
    assert compare_stored(a, c).floats == math.inf
    with pytest.raises(ValueError, match="zip"):
        compare_stored(a, [])


# --- Vela -------------------------------------------------------------------------------------------------------------

LOG = """
Warning (supported operators) operator: DEQUANTIZE, ofm: 'out (1)'
Reason: Unsupported opType

Warning (supported operators) operator: QUANTIZE, ofm: 'x_q'
Reason: Operation has tensor with unsupported DataType Float32 (x)
Feature-map dataTypes must be one of {"INT16", "INT8"}

Performance for NPU Graph
"""


def test_reasons_of_vela() -> None:
    assert reasons(LOG) == {
        "out (1)": "Unsupported opType",
        "x_q": "Operation has tensor with unsupported DataType Float32 (x); "
        'Feature-map dataTypes must be one of {"INT16", "INT8"}',
    }
    assert [macs_per_cycle(f"ethos-u{n}") for n in ("55-32", "65-512", "85-2048")] == [32, 512, 2048]


def test_placement_is_read_from_vela_s_file() -> None:
    m = chain()
    on_cpu = [Operator("RELU", [], [int8("c", 1, 8, 8, 16)])]
    result = VelaResult(Path("x"), {"nn_macs": 1000, "cycles_total": 50}, (), "5.2.0", "")
    nodes = placement(m, on_cpu, result).nodes
    assert [n.where for n in nodes] == ["accelerator"] * 2 + ["fallback"] + ["accelerator"] * 2
    assert nodes[2].sources == ("n2",)
    assert result.utilisation(128) == 1000 / (50 * 128)
