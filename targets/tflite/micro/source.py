"""A `.tflite` file as C++ source for TensorFlow Lite for Microcontrollers. The same model gives the same text.

`model_data.cc`, `model_data.h`: the file as an array, and the constants a program needs. `model_ops.h`: the resolver.
`example_main.cc`: the smallest program that runs it. Only the last two need tflite-micro's headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgec.targets.tflite.endpoints import Endpoint, Interface

DATA_CC, DATA_H, OPS_H, EXAMPLE_CC = "model_data.cc", "model_data.h", "model_ops.h", "example_main.cc"

_PER_LINE = 20

_CPP_TYPES = {"float32": "float", "bool": "bool"}
"""NumPy's name -> C++'s, where it is not std::<name>_t."""

_KEYWORDS = frozenset(
    [
        "alignas",
        "alignof",
        "and",
        "asm",
        "auto",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "compl",
        "concept",
        "const",
        "constexpr",
        "continue",
        "decltype",
        "default",
        "delete",
        "do",
        "double",
        "else",
        "enum",
        "explicit",
        "export",
        "extern",
        "false",
        "float",
        "for",
        "friend",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "main",
        "mutable",
        "namespace",
        "new",
        "noexcept",
        "not",
        "nullptr",
        "operator",
        "or",
        "private",
        "protected",
        "public",
        "register",
        "requires",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "std",
        "struct",
        "switch",
        "template",
        "tflite",
        "this",
        "throw",
        "true",
        "try",
        "typedef",
        "typeid",
        "typename",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "while",
        "xor",
    ]
)


@dataclass(frozen=True)
class Module:
    """What the source tells of a model.

    `namespace`: of all names, so that several models fit into one program. `methods`: of the op resolver.
    `arena`: bytes of `kArenaSize`, and `arena_reasons` the lines above it; None where nobody knows.
    """

    namespace: str
    interface: Interface
    methods: Sequence[str]
    arena: int | None
    arena_reasons: Sequence[str]
    version: str
    pixels: Mapping[str, str] = field(default_factory=dict)
    """Input -> what to write into it for a pixel of 0..255, where preprocessing was folded into the model."""


def namespace(name: str | None) -> str:
    """A C++ name from a file's: `kws-v2.onnx` -> kws_v2."""
    stem = re.sub(r"\W", "_", Path(name or "model").stem, flags=re.ASCII).strip("_").lower() or "model"
    stem = re.sub(r"__+", "_", stem)  # names with two underscores are the compiler's
    return f"model_{stem}" if stem[0].isdigit() or stem in _KEYWORDS else stem


def write_sources(model: Path, module: Module, folder: Path) -> dict[str, Path]:
    """The files, by name."""
    texts = {
        DATA_CC: _data_cc(model, module),
        DATA_H: _data_h(model.stat().st_size, module),
        OPS_H: _ops_h(module),
    }
    if module.arena is not None:
        texts[EXAMPLE_CC] = _example(module)
    files = {}
    for name, pieces in texts.items():
        files[name] = folder / name
        with files[name].open("w", encoding="utf-8", newline="\n") as f:
            f.writelines(pieces)
    return files


def _data_cc(model: Path, m: Module) -> Iterator[str]:
    yield f"// The model as it lies in flash. Written by edgec {m.version} from {model.name}: do not edit.\n\n"
    yield f'#include "{DATA_H}"\n\nnamespace {m.namespace} {{\n\n'
    yield "// A FlatBuffer is read in place: its tensors are aligned to 16 bytes within the file, and the array must be too.\n"
    yield "alignas(16) const unsigned char kModel[kModelSize] = {\n"
    with model.open("rb") as f:
        while chunk := f.read(_PER_LINE):
            yield f"{','.join(f'0x{b:02x}' for b in chunk)},\n"
    yield f"}};\n\n}}  // namespace {m.namespace}\n"


def _data_h(size: int, m: Module) -> Iterator[str]:
    yield from _opening(DATA_H, m, "What a program must know to run the model.")
    yield "#include <cstddef>\n#include <cstdint>\n\n"
    yield f"namespace {m.namespace} {{\n\n"
    yield f"constexpr std::size_t kModelSize = {size};  // bytes\nextern const unsigned char kModel[kModelSize];\n\n"
    for line in m.arena_reasons:
        yield f"// {line}\n"
    if m.arena is not None:
        yield f"constexpr std::size_t kArenaSize = {m.arena};  // bytes\n"
    for kind, ends in (("input", m.interface.inputs), ("output", m.interface.outputs)):
        for i, e in enumerate(ends):
            yield "\n"
            yield from _endpoint(f"{kind}{i}", e, i, m.pixels.get(e.name) if kind == "input" else None)
    yield f"\n}}  // namespace {m.namespace}\n\n#endif  // {_guard(DATA_H, m)}\n"


def _endpoint(name: str, e: Endpoint, index: int, pixels: str | None) -> Iterator[str]:
    stored = [e.shape[axis] for axis in e.perm] if e.perm is not None else list(e.shape)
    kind = name.rstrip("0123456789")
    yield f"namespace {name} {{  // interpreter.{kind}({index}): {_comment(e.name)} of the ONNX model\n"
    yield f"using Type = {_CPP_TYPES.get(e.dtype, f'std::{e.dtype}_t')};\n"
    if e.perm is not None:
        yield f"// Channels last: axis i is axis {{{', '.join(map(str, e.perm))}}}[i] of the ONNX value, {list(e.shape)}.\n"
    if pixels is not None:
        yield f"// For a pixel of 0..255 write: {_comment(pixels)[1:-1]}.\n"
    dims = ", ".join(map(str, stored))
    yield f"constexpr int kRank = {len(stored)};\n"
    if stored:
        yield f"constexpr int kShape[kRank] = {{{dims}}};\n"
    yield f"constexpr std::size_t kElements = {int(np.prod(stored, dtype=np.int64))};\n"
    if e.quant is not None and e.quant.per_tensor:
        yield "// real value = (stored - kZeroPoint) * kScale\n"
        yield f"constexpr float kScale = {_float(e.quant.scale[0])};\n"
        yield f"constexpr int kZeroPoint = {int(e.quant.zero_point[0])};\n"
    yield f"}}  // namespace {name}\n"


def _ops_h(m: Module) -> Iterator[str]:
    yield from _opening(OPS_H, m, "The kernels the model needs, and no others: what is not registered is not linked.")
    yield '#include "tensorflow/lite/c/common.h"\n#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"\n\n'
    yield f"namespace {m.namespace} {{\n\n"
    yield f"using OpResolver = tflite::MicroMutableOpResolver<{len(m.methods)}>;\n\n"
    yield "inline TfLiteStatus RegisterOps(OpResolver& resolver) {\n"
    for method in m.methods:
        yield f"  TF_LITE_ENSURE_STATUS(resolver.{method}());\n"
    yield f"  return kTfLiteOk;\n}}\n\n}}  // namespace {m.namespace}\n\n#endif  // {_guard(OPS_H, m)}\n"


def _example(m: Module) -> Iterator[str]:
    n = m.namespace
    yield f"// The smallest program that runs the model. Written by edgec {m.version}: take it as a beginning, and edit it.\n\n"
    yield f'#include "{DATA_H}"\n#include "{OPS_H}"\n'
    yield '#include "tensorflow/lite/micro/micro_interpreter.h"\n#include "tensorflow/lite/micro/micro_log.h"\n'
    yield '#include "tensorflow/lite/micro/system_setup.h"\n#include "tensorflow/lite/schema/schema_generated.h"\n\n'
    yield f"namespace {{\nalignas(16) std::uint8_t arena[{n}::kArenaSize];\n}}  // namespace\n\n"
    yield "int main() {\n  tflite::InitializeTarget();\n"
    yield f"  const tflite::Model* model = tflite::GetModel({n}::kModel);\n"
    yield "  if (model->version() != TFLITE_SCHEMA_VERSION) return 1;\n\n"
    yield f"  static {n}::OpResolver resolver;\n  if ({n}::RegisterOps(resolver) != kTfLiteOk) return 2;\n\n"
    yield "  static tflite::MicroInterpreter interpreter(model, resolver, arena, sizeof(arena));\n"
    yield "  if (interpreter.AllocateTensors() != kTfLiteOk) return 3;\n"
    yield '  MicroPrintf("arena: %u of %u bytes", static_cast<unsigned>(interpreter.arena_used_bytes()),\n'
    yield "              static_cast<unsigned>(sizeof(arena)));\n\n"
    for i, e in enumerate(m.interface.inputs):
        yield f"  {n}::input{i}::Type* in{i} = interpreter.typed_input_tensor<{n}::input{i}::Type>({i});\n"
        zero = f"{n}::input{i}::kZeroPoint" if e.quant is not None and e.quant.per_tensor else "0"
        yield f"  for (std::size_t i = 0; i < {n}::input{i}::kElements; ++i) in{i}[i] = {zero};  // your data\n"
    yield "\n  if (interpreter.Invoke() != kTfLiteOk) return 4;\n\n"
    for i, e in enumerate(m.interface.outputs):
        yield f"  const {n}::output{i}::Type* out{i} = interpreter.typed_output_tensor<{n}::output{i}::Type>({i});\n"
        stored = f"static_cast<double>(out{i}[i])" if e.dtype == "float32" else f"static_cast<int>(out{i}[i])"
        form = "%f" if e.dtype == "float32" else "%d"
        yield f"  for (std::size_t i = 0; i < {n}::output{i}::kElements; ++i) {{\n"
        yield f'    MicroPrintf("output {i}[%d] = {form}", static_cast<int>(i), {stored});\n  }}\n'
    yield "  return 0;\n}\n"


def _opening(file: str, m: Module, what: str) -> Iterator[str]:
    guard = _guard(file, m)
    yield f"// {what} Written by edgec {m.version}: do not edit.\n\n#ifndef {guard}\n#define {guard}\n\n"


def _guard(file: str, m: Module) -> str:
    return f"EDGEC_{m.namespace}_{file}_".upper().replace(".", "_").replace("__", "_")


def _comment(text: str) -> str:
    """On one line, and nothing in it continues it."""
    return ascii(text).replace("\\", "/").replace("??/", "/")


def _float(x: np.float32) -> str:
    """The shortest decimal that is this float32 again, as a C++ literal."""
    form = np.format_float_positional if 1e-4 <= abs(x) < 1e6 else np.format_float_scientific
    return f"{form(np.float32(x), trim='0')}f"
