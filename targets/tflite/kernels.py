"""The convolutions and products of a `.tflite` model, and which compute in integers."""

from __future__ import annotations

from edgec.coverage import Kernel
from edgec.targets.tflite.model import TfliteModel

PRODUCTS = frozenset(
    {
        "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_3D", "TRANSPOSE_CONV", "CONV_3D_TRANSPOSE", "FULLY_CONNECTED",
        "BATCH_MATMUL", "UNIDIRECTIONAL_SEQUENCE_LSTM", "LSTM", "SVDF",
    }
)  # fmt: skip


def kernels(model: TfliteModel, *, hybrid: bool = False) -> list[Kernel]:
    """`hybrid`: activations are quantised while it runs, where the weights are stored in int8 or int4."""
    return [
        Kernel(
            o.op,
            _integer(o.outputs[0].dtype) or (hybrid and any(t and t.dtype in ("int8", "int4") for t in o.inputs)),
            o.source,
        )
        for g in model.subgraphs
        for o in g.operators
        if o.op in PRODUCTS
    ]


def _integer(dtype: str) -> bool:
    return dtype in ("int8", "int16")
