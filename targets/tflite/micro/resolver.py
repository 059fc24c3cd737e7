"""The operators a model needs, as methods of tflite-micro's MicroMutableOpResolver.

The list is that of tensorflow/lite/micro/micro_mutable_op_resolver.h (commit 90b983c, August 2026) and of the resolver in
the wheel (python/tflite_micro/python_ops_resolver.cc, same commit): the same built-in operators.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgec.diagnostics import Diagnostic, EdgecError, Location, error

if TYPE_CHECKING:
    from edgec.targets.tflite.model import TfliteModel

_NAMES = """
Abs Add AddN ArgMax ArgMin AssignVariable BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce Cast Ceil Concatenation Cos
DepthToSpace Dequantize Div DynamicUpdateSlice EmbeddingLookup Elu Equal Exp ExpandDims Fill Floor FloorDiv FloorMod
FullyConnected Gather GatherNd Greater GreaterEqual HardSwish If L2Normalization LeakyRelu Less LessEqual Log LogicalAnd
LogicalNot LogicalOr Logistic LogSoftmax Maximum Mean Minimum MirrorPad Mul Neg NotEqual Pack Pad Prelu Quantize
ReadVariable ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Round Rsqrt Shape Sin
Slice Softmax SpaceToBatchNd SpaceToDepth Split SplitV Squeeze Sqrt Square SquaredDifference StridedSlice Sub Sum Svdf Tanh
Transpose TransposeConv Unpack VarHandle While ZerosLike
"""

_IRREGULAR = {
    "AVERAGE_POOL_2D": "AddAveragePool2D",
    "BATCH_MATMUL": "AddBatchMatMul",
    "CONV_2D": "AddConv2D",
    "CUMSUM": "AddCumSum",
    "DEPTHWISE_CONV_2D": "AddDepthwiseConv2D",
    "L2_POOL_2D": "AddL2Pool2D",
    "MAX_POOL_2D": "AddMaxPool2D",
    "PADV2": "AddPadV2",
    "REVERSE_V2": "AddReverseV2",
    "SELECT_V2": "AddSelectV2",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "AddUnidirectionalSequenceLSTM",
}


def _screaming(name: str) -> str:
    """`ResizeNearestNeighbor` -> RESIZE_NEAREST_NEIGHBOR."""
    return "".join(f"_{c}" if c.isupper() and i else c.upper() for i, c in enumerate(name)).upper()


METHODS: Mapping[str, str] = {**{_screaming(n): f"Add{n}" for n in _NAMES.split()}, **_IRREGULAR}
"""BuiltinOperator -> the resolver's method that registers its kernel."""

ETHOS_U = "AddEthosU"
"""Registers the custom operator "ethos-u", which hands a command stream to the NPU's driver."""


def resolver_methods(model: TfliteModel, source: str | None = None) -> list[str]:
    """Each method once, sorted by name.

    Raises:
        EdgecError: EC0667, one for every operator that tflite-micro registers no kernel for.
    """
    unknown: dict[str, list[str]] = {}
    methods = set()
    for graph in model.subgraphs:
        for o in graph.operators:
            if o.op in METHODS:
                methods.add(METHODS[o.op])
            else:
                unknown.setdefault(o.op, []).append(o.source or o.outputs[0].name)
    if unknown:
        raise _refusal(unknown, source)
    return sorted(methods)


def _refusal(unknown: Mapping[str, list[str]], source: str | None) -> EdgecError:
    hint = "replace the node in the model, or cut the model there and compute the rest in your own code"
    found: list[Diagnostic] = []
    for op, nodes in unknown.items():
        more = f", and for {len(nodes) - 1} more" if len(nodes) > 1 else ""
        what = f"tflite-micro has no kernel of {op}, which this node needs{more}"
        found += error("EC0667", what, Location(source, node=nodes[0]), hint).diagnostics
    return EdgecError(*found)
