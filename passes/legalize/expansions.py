"""One table: op -> how to say it with simpler ops. `expand-composites` and `lower-opset` both read it.

Every expansion follows the ONNX operator definition of its op, rounding aside. An expansion returns the new value (or one
for each output of the node), or a `Reject` that says what it does not cover. The result is written in the opset of the
graph it is built in. The families: `expand_*.py` beside this file.
"""

from __future__ import annotations

from collections.abc import Callable

from edgec.graph import ir
from edgec.passes.legalize import expand_activations as activations
from edgec.passes.legalize import expand_indexing as indexing
from edgec.passes.legalize import expand_logic as logic
from edgec.passes.legalize import expand_losses as losses
from edgec.passes.legalize import expand_norms as norms
from edgec.passes.legalize import expand_reductions as reductions
from edgec.passes.legalize import expand_signal as signal
from edgec.passes.legalize import expand_trigonometry as trigonometry
from edgec.passes.legalize.builders import only_output
from edgec.passes.legalize.expand_attention import attention
from edgec.passes.legalize.expand_einsum import einsum
from edgec.passes.legalize.expand_grid_sample import affine_grid, grid_sample
from edgec.passes.legalize.resize_as_matmul import resize
from edgec.pattern import Match, P, rest
from edgec.rewrite import Result, Rewriter, Rule

Expansion = Callable[[ir.Node, Rewriter], Result]

EXPANSIONS: dict[str, Expansion] = {
    "Acos": trigonometry.acos,
    "Acosh": trigonometry.acosh,
    "AffineGrid": affine_grid,
    "And": logic.logical_and,
    "Asin": trigonometry.asin,
    "Asinh": trigonometry.asinh,
    "Atan": trigonometry.atan,
    "Atanh": trigonometry.atanh,
    "Attention": attention,
    "BatchNormalization": norms.batch_normalization,
    "BitShift": logic.bit_shift,
    "BitwiseAnd": logic.bitwise_and,
    "BitwiseNot": logic.bitwise_not,
    "BitwiseOr": logic.bitwise_or,
    "CastLike": activations.cast_like,
    "Celu": activations.celu,
    "CenterCropPad": indexing.center_crop_pad,
    "Clip": activations.clip,
    "Col2Im": indexing.col2im,
    "Compress": indexing.compress,
    "ConstantOfShape": indexing.constant_of_shape,
    "Cosh": trigonometry.cosh,
    "CumSum": indexing.cum_sum,
    "DFT": signal.dft,
    "Det": indexing.det,
    "Dropout": activations.dropout,
    "Einsum": einsum,
    "Elu": activations.elu,
    "Erf": trigonometry.erf,
    "EyeLike": indexing.eye_like,
    "GatherElements": indexing.gather_elements,
    "Gelu": activations.gelu,
    "GlobalLpPool": reductions.global_lp_pool,
    "GridSample": grid_sample,
    "GroupNormalization": norms.group_normalization,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSwish": activations.hard_swish,
    "Hardmax": activations.hardmax,
    "InstanceNormalization": norms.instance_normalization,
    "IsInf": logic.is_inf,
    "IsNaN": logic.is_nan,
    "LRN": norms.local_response_normalization,
    "LayerNormalization": norms.layer_normalization,
    "LogSoftmax": activations.log_softmax,
    "LpNormalization": norms.lp_normalization,
    "LpPool": reductions.lp_pool,
    "Max": reductions.variadic_max,
    "Mean": reductions.mean,
    "MeanVarianceNormalization": norms.mean_variance_normalization,
    "Min": reductions.minimum,
    "Mish": activations.mish,
    "Mod": logic.mod,
    "NegativeLogLikelihoodLoss": losses.negative_log_likelihood,
    "Or": logic.logical_or,
    "PRelu": activations.prelu,
    "RMSNormalization": norms.rms_normalization,
    "Reciprocal": activations.reciprocal,
    "ReduceL1": reductions.reduce_l1,
    "ReduceL2": reductions.reduce_l2,
    "ReduceLogSum": reductions.reduce_log_sum,
    "ReduceLogSumExp": reductions.reduce_log_sum_exp,
    "ReduceMin": reductions.reduce_min,
    "ReduceSumSquare": reductions.reduce_sum_square,
    "Resize": resize,
    "ReverseSequence": indexing.reverse_sequence,
    "STFT": signal.stft,
    "ScatterElements": indexing.scatter_elements,
    "Selu": activations.selu,
    "Shape": indexing.shape_of,
    "Shrink": activations.shrink,
    "Sinh": trigonometry.sinh,
    "Size": indexing.size,
    "SoftmaxCrossEntropyLoss": losses.softmax_cross_entropy,
    "Softplus": activations.softplus,
    "Softsign": activations.softsign,
    "Sum": reductions.variadic_sum,
    "Swish": activations.swish,
    "Tan": trigonometry.tan,
    "ThresholdedRelu": activations.thresholded_relu,
    "Trilu": indexing.trilu,
    "Xor": logic.logical_xor,
}

ALTERNATIVES: dict[str, Expansion] = {
    "Min.variadic": reductions.variadic_min,
}
"""Second spellings of ops in the table, by the name to ask for them: a Min of three is two of two, not a negated Max."""

WHOLE = frozenset({"Dropout", "LayerNormalization", "SoftmaxCrossEntropyLoss"})
"""Ops whose expansion computes every output, not only the first."""


def expansion_rule(op: str) -> Rule:
    """The rule `expand-<op>` that replaces each node of `op` by its expansion."""
    expand = EXPANSIONS.get(op) or ALTERNATIVES[op]
    op_type = op.partition(".")[0]

    def rewrite(m: Match, rw: Rewriter) -> Result:
        refused = None if op in WHOLE else only_output(m.root)
        return refused or expand(m.root, rw)

    code = expand.__code__
    where = f"{code.co_filename}:{code.co_firstlineno}"
    return Rule(f"expand-{op.lower()}", P.op(op_type)(rest("inputs")), rewrite, where)
