"""The tools of the tables: which worker, in which environment, with which options."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tool:
    """`environment` None is the one that runs the benchmark. Options are those of the worker's docstring.

    `prepares` False: the tool has no graph preparation of its own and gets the model after ONNX Runtime's quant_pre_process,
    which does it good (NNCF on efficientnet_lite0: 12 integer convolutions instead of none, 0.7 dB).
    """

    worker: str
    environment: str | None
    options: dict[str, str] = field(default_factory=dict)
    prepares: bool = True
    default: bool = True  # part of the table unless --tools says otherwise
    quantizes: bool = True  # a file in which nothing is quantised is then a failure


TOOLS: dict[str, Tool] = {
    "edgec": Tool("edgec_quantize", None),
    "edgec-high": Tool("edgec_quantize", None, {"effort": "high"}),
    "edgec-low": Tool("edgec_quantize", None, {"effort": "low"}, default=False),
    "edgec-minmax": Tool("edgec_quantize", None, {"method": "minmax"}, default=False),
    "edgec-percentile": Tool("edgec_quantize", None, {"method": "percentile"}, default=False),
    "edgec-entropy": Tool("edgec_quantize", None, {"method": "entropy"}, default=False),
    "ort-minmax": Tool("ort_static", "ort", {"method": "MinMax"}),
    "ort-percentile": Tool("ort_static", "ort", {"method": "Percentile"}),
    "ort-entropy": Tool("ort_static", "ort", {"method": "Entropy"}),
    "onnxsim": Tool("onnxsim_static", "onnxsim"),
    "onnxsim-mse": Tool("onnxsim_static", "onnxsim", {"method": "mse"}),
    "onnxsim-full": Tool("onnxsim_static", "onnxsim", {"full": "1"}),
    "inc": Tool("inc_static", "inc"),
    "nncf": Tool("nncf_ptq", "nncf", prepares=False),
    "nncf-mixed": Tool("nncf_ptq", "nncf", {"preset": "mixed"}, prepares=False, default=False),
    "esp-ppq": Tool("ppq_ptq", "espppq", prepares=False),
    "esp-ppq-trt": Tool("ppq_ptq", "espppq", {"platform": "TRT_INT8"}, prepares=False, default=False),
    "ppq": Tool("ppq_ptq", "ppq", prepares=False),
    "modelopt": Tool("modelopt_ptq", "modelopt", prepares=False),
    "modelopt-max": Tool("modelopt_ptq", "modelopt", {"method": "max"}, prepares=False, default=False),
}
