"""Ops that no .tflite file of fixed shapes can say, with what to do instead."""

from __future__ import annotations

from edgec.targets.tflite.node import NodeLowering
from edgec.targets.tflite.rules import ANY, lowers, raw

# UNIDIRECTIONAL_SEQUENCE_LSTM is no way out: its state outlives an invocation, so that the second answer to the same input is
# another (measured with ai-edge-litert 2.3.0).
_RECURRENT = (
    "only sequences of at most 512 steps, with constant weights and lengths, are written out step by step (unroll-rnn)",
    "run shorter pieces: initial states as inputs and last states as outputs, which the app carries from piece to piece",
)

REASONS: dict[str, tuple[str, str]] = {
    "NonMaxSuppression": (
        "how many boxes it keeps is known at run time only",
        "cut the model in front of it (--output-names) and select boxes in the app; NON_MAX_SUPPRESSION_V4 has another contract",
    ),
    "NonZero": (
        "how many elements it finds is known at run time only",
        "Where or a product with the mask keep the shape",
    ),
    "Unique": ("how many elements it finds is known at run time only", "compute it in the app"),
    "MaxUnpool": (
        "it places elements by the indices of a MaxPool, which TFLite does not give",
        "a Resize is the usual stand-in",
    ),
    "RandomNormal": ("random numbers", "make them in the app and feed them as an input"),
    "RandomNormalLike": ("random numbers", "make them in the app and feed them as an input"),
    "RandomUniform": ("random numbers", "make them in the app and feed them as an input"),
    "RandomUniformLike": ("random numbers", "make them in the app and feed them as an input"),
    "LSTM": _RECURRENT,
    "GRU": _RECURRENT,
    "RNN": _RECURRENT,
    "Bernoulli": ("random numbers", "make them in the app and feed them as an input"),
    "Multinomial": ("random numbers", "make them in the app and feed them as an input"),
}


@lowers(*REASONS, sides=raw, dtypes=(*ANY, "float64", "float16"))
def refused(n: NodeLowering) -> None:
    why, hint = REASONS[n.node.op_type]
    n.refuse(why, hint)
