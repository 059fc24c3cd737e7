"""Which version of an operator a use of it needs, and which runtime has that version.

The rules are those by which TensorFlow Lite itself sets versions (LiteRT, tflite/converter/tools/versioning:
op_version.cc and op_signature.cc, 2026-08), for the element types edgec knows. The first rule that holds decides;
operators without rules have one version.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from edgec.targets.tflite.model import Operator, Tensor
from edgec.targets.tflite.runtime_versions import FIRST_RUNTIME

Condition = Callable[[Operator], bool]
Rules = Sequence[tuple[int, Condition]]


def op_version(o: Operator) -> int:
    """The version of `o.op` that these element types, shapes and options need."""
    return next((version for version, holds in _RULES.get(o.op, ()) if holds(o)), 1)


def first_runtime(op: str, version: int) -> str | None:
    """The first runtime with this version of the operator, as "2.3.0"; None where none is stated."""
    runtimes = _first_runtimes().get(op, ())
    return runtimes[version - 1] if 1 <= version <= len(runtimes) else None


def min_runtime_version(used: Iterable[tuple[str, int]]) -> str:
    """The first runtime that has all of these (operator, version); "" where none of them states any."""
    known = [r for op, version in used if (r := first_runtime(op, version)) is not None]
    return max(known, key=lambda r: [int(part) for part in r.split(".")], default="")


@functools.cache
def _first_runtimes() -> Mapping[str, tuple[str | None, ...]]:
    rows = (line.split() for line in FIRST_RUNTIME.strip().splitlines())
    return {op: tuple(None if r == "-" else r for r in runtimes) for op, *runtimes in rows}


# --- conditions ------------------------------------------------------------------------------------------------------


def _type(tensors: Sequence[Tensor | None], i: int) -> str | None:
    t = tensors[i] if i < len(tensors) else None
    return None if t is None else t.dtype


def _in(i: int, *dtypes: str) -> Condition:
    """Input `i` has one of these element types."""
    return lambda o: _type(o.inputs, i) in dtypes


def _out(i: int, *dtypes: str) -> Condition:
    return lambda o: _type(o.outputs, i) in dtypes


def _any(*dtypes: str) -> Condition:
    """The first input or the first output has one of these element types."""
    return lambda o: _type(o.inputs, 0) in dtypes or _type(o.outputs, 0) in dtypes


def _all(*conditions: Condition) -> Condition:
    return lambda o: all(c(o) for c in conditions)


def _kernel(activation: str, weights: str) -> Condition:
    """Activations and weights of these types, and a result of the activations' type."""
    return _all(_in(0, activation), _in(1, weights), _out(0, activation))


def _option(name: str, absent: object = False) -> Condition:
    """The option is there and says something other than the schema's default."""
    return lambda o: o.options.get(name, absent) not in (absent, 0, None)


def _off(name: str) -> Condition:
    """A boolean option that is true where absent, is false."""
    return lambda o: not o.options.get(name, True)


def _rank(i: int, least: int) -> Condition:
    return lambda o: (t := _at(o, i)) is not None and t.rank >= least


def _at(o: Operator, i: int) -> Tensor | None:
    return o.inputs[i] if i < len(o.inputs) else None


def _quantized(o: Operator) -> bool:
    t = _at(o, 0)
    return t is not None and t.quant is not None


def _per_channel(i: int) -> Condition:
    return lambda o: (t := _at(o, i)) is not None and t.quant is not None and not t.quant.per_tensor


def _out_per_channel(o: Operator) -> bool:
    return bool(o.outputs) and (q := o.outputs[0].quant) is not None and not q.per_tensor


def _full_lstm(o: Operator) -> bool:
    return o.options.get("kernel_type", "FULL") in ("FULL", 0)


def _grouped(o: Operator) -> bool:
    """The filter sees some of the input's channels only."""
    x, w = _at(o, 0), _at(o, 1)
    return x is not None and w is not None and x.rank == 4 and w.rank == 4 and x.shape[3] != w.shape[3]


def _broadcast_over_4d(o: Operator) -> bool:
    x, y = _at(o, 0), _at(o, 1)
    return x is not None and y is not None and x.shape != y.shape and max(x.rank, y.rank) > 4


def _mul_rescales_up(o: Operator) -> bool:
    """The product's scale is at least the result's."""
    scales = [t.quant.scale for t in (*o.inputs[:2], *o.outputs[:1]) if t is not None and t.quant is not None]
    if len(scales) != 3 or any(s.size == 0 or s[0] == 0 for s in scales):
        return False
    return bool(float(scales[0][0]) * float(scales[1][0]) / float(scales[2][0]) >= 1.0)


def _unquantized_int16(o: Operator) -> bool:
    return _type(o.inputs, 0) == "int16" and not _quantized(o)


def _always(_: Operator) -> bool:
    return True


_FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
_int16_to_int16 = _all(_in(0, "int16"), _out(0, "int16"))
_int8, _int16 = _in(0, "int8"), _in(0, "int16")
_wide_bias = _all(_kernel("int16", "int8"), _option("quantized_bias_type", "FLOAT32"))
_hybrid = _kernel("float32", "int8")
_hybrid_rnn = _all(_in(1, "int8"), _out(0, "float32"))
_hybrid_lstm = _all(_in(0, "float32"), _in(2, "int8"), _out(0, "float32"))
_int16_lstm = _all(_in(0, "int16"), _in(2, "int8"), _out(0, "int16"))
_asymmetric = _option("asymmetric_quantize_inputs")

_by_int8: Rules = ((2, _int8),)
_by_int16: Rules = ((3, _int16), (2, _int8))
_by_int16_pair: Rules = ((3, _int16_to_int16), (2, _int8))
_extremum: Rules = ((4, _int16_to_int16), (3, _broadcast_over_4d), (2, _int8))
_block: Rules = ((4, _int16), (3, lambda o: (t := _at(o, 0)) is not None and t.rank != 4), (2, _int8))
_pad: Rules = ((6, _in(0, *_FLOAT8)), (5, _in(0, "bool")), (4, _rank(0, 5)), *_by_int16)
_arg: Rules = ((3, _in(0, "bool")), (2, _int8))
_rnn: Rules = ((3, _all(_hybrid_rnn, _asymmetric)), (2, _hybrid_rnn))
_small_integers: Rules = ((2, _in(0, "int8", "int16")),)
_half: Rules = ((2, _in(0, "float16")),)

# fmt: off
_RULES: Mapping[str, Rules] = {
    "ABS": ((5, _in(0, "int32")), (3, _all(_int16, _quantized)), (4, _int16), (2, _in(0, "int8", "uint8"))),
    "ADD": (
        (6, _in(0, "float16")), (5, _unquantized_int16), (4, _in(0, "int64")),
        (3, _all(_int16_to_int16, _off("pot_scale_int16"))), (2, _int8),
    ),
    "ARG_MAX": _arg,
    "ARG_MIN": _arg,
    "AVERAGE_POOL_2D": _by_int16_pair,
    "BATCH_MATMUL": ((3, _int16), (2, _int8), (4, _all(_hybrid, _asymmetric))),
    "BATCH_TO_SPACE_ND": _block,
    "BIDIRECTIONAL_SEQUENCE_LSTM": _rnn,
    "BIDIRECTIONAL_SEQUENCE_RNN": _rnn,
    "BROADCAST_TO": ((4, _in(0, *_FLOAT8)), (3, _in(0, "int8", "int16")), (2, _always)),
    "CAST": (
        (9, _any(*_FLOAT8)), (8, _any("int2", "uint4")), (7, _any("bfloat16")),
        (6, _all(_in(0, "int4"), _out(0, "float32"))), (5, _any("float64", "float16")), (4, _any("uint16")),
        (3, _any("int8")), (2, _any("uint32")),
    ),
    "CONCATENATION": (
        (7, _in(0, *_FLOAT8)), (6, _in(0, "float16")), (5, _in(0, "int4")), (4, _in(0, "uint32")), *_by_int16,
    ),
    "CONV_2D": (
        (8, _wide_bias), (6, _grouped), (4, _kernel("int16", "int16")), (3, _kernel("int8", "int8")),
        (7, _kernel("int8", "int4")), (5, _all(_hybrid, _per_channel(1))), (2, _hybrid),
    ),
    "COS": _half,
    "DEPTHWISE_CONV_2D": (
        (5, _kernel("int16", "int16")), (6, _all(_hybrid, _per_channel(1))), (4, _hybrid),
        (3, _kernel("int8", "int8")), (7, _kernel("int8", "int4")),
        (2, _option("dilation_w_factor", 1)), (2, _option("dilation_h_factor", 1)),
    ),
    "DEPTH_TO_SPACE": _by_int8,
    "DEQUANTIZE": (
        (9, _in(0, *_FLOAT8)), (8, _in(0, "uint4")), (7, _in(0, "int2")), (6, _in(0, "int4")),
        (3, _in(0, "int16", "float16")), (5, _all(_int8, _per_channel(0))), (2, _int8),
    ),
    "DIV": ((2, _broadcast_over_4d),),
    "DYNAMIC_UPDATE_SLICE": (
        (6, _in(0, "bfloat16")), (5, _in(0, "int4")), (4, _int16), (3, _in(0, "float16")), (2, _in(2, "int64")),
    ),
    "EMBEDDING_LOOKUP": ((4, _in(1, "int4")), (4, _per_channel(1)), (5, _in(1, "int2"))),
    "EQUAL": ((5, _int16), (3, _in(0, "string")), (2, _int8)),
    "EXP": _small_integers,
    "FAKE_QUANT": ((2, _option("narrow_range")),),
    "FILL": (
        (5, _in(1, *_FLOAT8)), (4, _in(1, "float16")), (3, _in(1, "int8", "int16")), (2, _in(1, "bool", "string")),
    ),
    "FLOOR_DIV": ((3, _in(0, "int16", "int8")), (2, _in(0, "float32"))),
    "FLOOR_MOD": _small_integers,
    "FULLY_CONNECTED": (
        (14, _in(1, "int2")), (13, _kernel("int16", "int4")), (12, _all(_hybrid, _per_channel(1))), (11, _wide_bias),
        (7, _kernel("int16", "int16")), (6, lambda o: len(o.inputs) == 2), (5, _option("keep_num_dims")),
        (4, _kernel("int8", "int8")), (10, _kernel("int8", "int4")), (9, _all(_hybrid, _asymmetric)), (3, _hybrid),
        (2, _option("weights_format", "DEFAULT")),
    ),
    "GATHER": (
        (8, _in(0, *_FLOAT8)), (7, _in(0, "int4")), (6, _in(1, "int16")), (5, _option("batch_dims")), (4, _int16),
        (3, _in(0, "bool")), (2, _int8),
    ),
    "GATHER_ND": (
        (6, _in(0, *_FLOAT8)), (5, _in(0, "bool")), (4, _in(1, "int16")), (3, _int16), (2, _in(0, "string")),
    ),
    "GELU": ((3, _in(0, "float16")), (2, _in(0, "int8", "uint8"))),
    "GREATER": _by_int8,
    "GREATER_EQUAL": _by_int16,
    "L2_NORMALIZATION": ((2, _out(0, "int8")),),
    "LEAKY_RELU": ((2, _int16),),
    "LESS": _by_int16,
    "LESS_EQUAL": _by_int8,
    "LOG": _small_integers,
    "LOGISTIC": _by_int16_pair,
    "LOG_SOFTMAX": _by_int8,
    "LSTM": (
        (5, _all(_full_lstm, _int16_lstm)), (4, _all(_full_lstm, _hybrid_lstm, _asymmetric)),
        (3, _all(_full_lstm, _hybrid_lstm)), (2, _option("kernel_type", "FULL")),
    ),
    "MAXIMUM": _extremum,
    "MAX_POOL_2D": _by_int16_pair,
    "MEAN": _by_int16,
    "MINIMUM": _extremum,
    "MIRROR_PAD": _by_int16,
    "MUL": (
        (8, _in(0, "float16")), (7, _unquantized_int16), (7, _in(0, "uint32")), (6, _in(0, "complex64")),
        (5, _in(0, "int64")), (4, _int16), (3, _mul_rescales_up), (2, _int8),
    ),
    "NOT_EQUAL": ((4, _int16), (3, _in(0, "string")), (2, _int8)),
    "PACK": ((5, _in(0, *_FLOAT8)), (2, _int8), (3, _int16_to_int16), (4, _in(0, "uint32"))),
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": ((5, _any("uint4")), (4, _any("int4")), (3, _out_per_channel), (2, _out(0, "int16"))),
    "RANGE": ((2, _in(0, "int64")),),
    "REDUCE_MAX": _by_int16,
    "REDUCE_MIN": _by_int16,
    "REDUCE_PROD": _small_integers,
    "RELU": ((3, _int16), (2, _in(0, "int8", "uint8"))),
    "RELU6": _by_int16,
    "RESIZE_BILINEAR": ((4, _int16), (3, _option("half_pixel_centers")), (2, _int8)),
    "RESIZE_NEAREST_NEIGHBOR": (
        (4, _int16), (3, _option("half_pixel_centers")), (3, _option("align_corners")), (2, _int8),
    ),
    "REVERSE_V2": ((4, _in(0, *_FLOAT8)), (3, _int8), (2, _in(0, "bool"))),
    "RNN": _rnn,
    "RSQRT": _by_int16,
    "SELECT": (
        (4, _in(0, "uint32")), (3, lambda o: any(t is not None and t.rank == 5 for t in o.inputs)), (2, _int8),
    ),
    "SELECT_V2": ((2, _in(0, "uint32")),),
    "SIGN": ((2, _in(0, "int32")),),
    "SIN": _half,
    "SLICE": (
        (8, _in(0, "float16")), (7, _in(0, "int4")), (6, _in(0, "uint32")), (5, _rank(0, 5)), (4, _int16),
        (3, _in(0, "string")), (2, _int8),
    ),
    "SOFTMAX": ((4, _in(0, "float16")), *_by_int16),
    "SPACE_TO_BATCH_ND": _block,
    "SPACE_TO_DEPTH": _by_int8,
    "SPARSE_TO_DENSE": ((3, _in(2, "int8", "uint8")), (2, _in(2, "int64"))),
    "SPLIT": ((5, _in(1, *_FLOAT8)), (4, _in(1, "int16")), (3, _in(1, "int32")), (2, _in(1, "int8"))),
    "SPLIT_V": ((3, _in(0, *_FLOAT8)), (2, _int8)),
    "SQRT": _small_integers,
    "SQUARED_DIFFERENCE": _by_int8,
    "SQUEEZE": ((2, _in(0, "string")),),
    "STRIDED_SLICE": (
        (8, _option("offset")), (7, _in(0, "uint32")), (6, _option("ellipsis_mask")), (6, _option("new_axis_mask")),
        (5, _in(0, "string")), (4, _rank(0, 5)), (3, _in(0, "bool")), (2, _int8),
    ),
    "SUB": (
        (5, _all(_int16_to_int16, _off("pot_scale_int16"))), (4, _in(0, "int64")), (3, _broadcast_over_4d), (2, _int8),
    ),
    "SUM": _by_int8,
    "SVDF": ((3, _int8), (4, _all(_hybrid, _asymmetric)), (2, _hybrid)),
    "TANH": _by_int16_pair,
    "TILE": ((3, _int8), (2, _in(0, "string"))),
    "TOPK_V2": ((3, _int16), (3, _in(1, "int16")), (3, _out(1, "int16")), (2, _int8)),
    "TRANSPOSE": (
        (9, _in(0, "float16")), (8, _rank(0, 7)), (8, _in(0, "bfloat16")), (7, _in(0, "int4")), (6, _rank(0, 6)),
        (5, _int16), (4, _rank(0, 5)), (3, _in(0, "bool")), (2, _int8),
    ),
    "TRANSPOSE_CONV": (
        # The activations are input 2; op_version.cc looks at input 0, the shape, for a wide bias, so that it never is.
        (5, _all(_in(2, "int16"), _in(1, "int8"), _option("quantized_bias_type", "FLOAT32"))),
        (4, _option("fused_activation_function", "NONE")), (3, lambda o: _at(o, 3) is not None), (2, _in(1, "int8")),
    ),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (
        (5, _int16_lstm), (4, _option("diagonal_recurrent_tensors")), (3, _all(_hybrid_lstm, _asymmetric)),
        (2, _hybrid_lstm),
    ),
    "UNIDIRECTIONAL_SEQUENCE_RNN": _rnn,
    "UNPACK": (
        (6, _in(0, *_FLOAT8)), (2, _in(0, "int8", "uint8")), (3, _in(0, "bool")), (4, _int16_to_int16),
        (5, _in(0, "float16", "bfloat16")),
    ),
    "WHERE": ((2, lambda o: _type(o.inputs, 0) != "bool"),),
}
# fmt: on
