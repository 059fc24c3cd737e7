"""Built-in passes, one a file; the folders stand in processing order: prepare, optimize, prune, quantize, legalize."""

from edgec.hookspecs import hookimpl


@hookimpl
def edgec_passes() -> dict[str, str]:
    return {
        **_table("prepare", _PREPARE),
        **_table("optimize", _OPTIMIZE),
        **_table("prune", _PRUNE),
        **_table("quantize", _QUANTIZE),
        **_table("legalize", _LEGALIZE),
    }


def _table(folder: str, classes: dict[str, str]) -> dict[str, str]:
    """`fold-bn` lives in `optimize/fold_bn.py`."""
    return {name: f"edgec.passes.{folder}.{name.replace('-', '_')}:{cls}" for name, cls in classes.items()}


_PREPARE: dict[str, str] = {
    "graphsurgeon": "GraphSurgeon",
    "inline-functions": "InlineFunctions",
    "constants-to-initializers": "ConstantsToInitializers",
    "upgrade-opset": "UpgradeOpset",
    "freeze-shapes": "FreezeShapes",
    "infer-shapes": "InferShapes",
}

_OPTIMIZE: dict[str, str] = {
    "fuse-attention": "FuseAttention",
    "fuse-focus": "FuseFocus",
    "space-to-depth": "SpaceToDepth",
    "sink-transposes": "SinkTransposes",
    "cancel-transposes": "CancelTransposes",
    "fold-constants": "FoldConstants",
    "eliminate-noops": "EliminateNoops",
    "fuse-clip": "FuseClip",
    "fuse-silu": "FuseSilu",
    "fuse-hard-sigmoid": "FuseHardSigmoid",
    "fuse-hard-swish": "FuseHardSwish",
    "fuse-mish": "FuseMish",
    "fuse-gelu": "FuseGelu",
    "fuse-layer-norm": "FuseLayerNorm",
    "fuse-rms-norm": "FuseRmsNorm",
    "fuse-softmax": "FuseSoftmax",
    "fuse-leaky-relu": "FuseLeakyRelu",
    "fuse-reduce": "FuseReduce",
    "fold-bn": "FoldBatchNorm",
    "fold-scale-bias": "FoldScaleBias",
    "fuse-pad": "FusePad",
    "fuse-reshapes": "FuseReshapes",
    "matmul-add-to-gemm": "MatMulAddToGemm",
    "split-slice": "SplitSlice",
    "onnxsim": "Onnxsim",
    "cse": "CommonSubexpressions",
    "remove-dead": "RemoveDead",
}

_PRUNE: dict[str, str] = {
    "prune": "Prune",
    "recover": "Recover",
    "sparsify-weights": "SparsifyWeights",
    "cluster-weights": "ClusterWeights",
}

_QUANTIZE: dict[str, str] = {
    "qoperator-to-qdq": "QoperatorToQdq",
    "canonical-qdq": "CanonicalQdq",
    "dequantize": "Dequantize",
    "fold-bn-into-scales": "FoldBatchNormIntoScales",
    "retype": "Retype",
    "fix-zero-points": "FixZeroPoints",
    "float-biases": "FloatBiases",
    "adopt-quantized": "AdoptQuantized",
    "split-sigmoids": "SplitSigmoids",
    "split-heads": "SplitHeads",
    "split-norms": "SplitNorms",
    "widen-biases": "WidenBiases",
    "smooth": "Smooth",
    "equalize": "Equalize",
    "quantize": "Quantize",
    "round-weights": "RoundWeights",
    "correct-bias": "CorrectBias",
    "gptq": "Gptq",
    "dynamic-matmul": "DynamicMatMul",
}

_LEGALIZE: dict[str, str] = {
    "explicit-defaults": "ExplicitDefaults",
    "name-rnn-outputs": "NameRnnOutputs",
    "count-include-pad": "CountIncludePad",
    "global-pool-to-conv": "GlobalPoolToConv",
    "gemm-to-conv": "GemmToConv",
    "crop-deconv": "CropDeconv",
    "channels-by-conv": "ChannelsByConv",
    "pow-to-mul": "PowToMul",
    "reduce-max-to-pool": "ReduceMaxToPool",
    "strided-slice-to-pool": "StridedSliceToPool",
    "avoid-identity-output": "AvoidIdentityOutput",
    "resize-as-matmul": "ResizeAsMatMul",
    "if-to-where": "IfToWhere",
    "unroll-loops": "UnrollLoops",
    "unroll-rnn": "UnrollRnn",
    "to-float32": "ToFloat32",
    "to-float16": "ToFloat16",
    "weight-pairs": "WeightPairs",
    "conv1d-to-2d": "Conv1dTo2d",
    "split-grouped-deconv": "SplitGroupedDeconv",
    "transpose-gemm-input": "TransposeGemmInput",
    "fold-preprocess": "FoldPreprocess",
    "lower-opset": "LowerOpset",
    "expand-composites": "ExpandComposites",
    "expand-definitions": "ExpandDefinitions",
    "attach-nms": "AttachNms",
    "detach-nms": "DetachNms",
    "plugin-reference": "PluginReference",
}
