"""The tools of the tables: which worker, in which environment, with which options."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Tool:
    """`environment` None is the one that runs the benchmark. Options are those of the worker's docstring."""

    worker: str
    environment: str | None
    options: dict[str, str] = field(default_factory=dict)
    default: bool = True  # part of the table unless --tools says otherwise


TOOLS: dict[str, Tool] = {
    "edgec": Tool("edgec_quantize", None),
    "edgec-high": Tool("edgec_quantize", None, {"effort": "high"}),
    "edgec-low": Tool("edgec_quantize", None, {"effort": "low"}, default=False),
    "ort-minmax": Tool("ort_static", "ort", {"method": "MinMax"}),
    "ort-percentile": Tool("ort_static", "ort", {"method": "Percentile"}),
    "ort-entropy": Tool("ort_static", "ort", {"method": "Entropy"}),
    "onnxsim": Tool("onnxsim_static", "onnxsim"),
    "onnxsim-mse": Tool("onnxsim_static", "onnxsim", {"method": "mse"}),
    "onnxsim-full": Tool("onnxsim_static", "onnxsim", {"full": "1"}),
    "inc": Tool("inc_static", "inc"),
    "nncf": Tool("nncf_ptq", "nncf"),
    "nncf-mixed": Tool("nncf_ptq", "nncf", {"preset": "mixed"}, default=False),
    "esp-ppq": Tool("ppq_ptq", "espppq"),
    "esp-ppq-trt": Tool("ppq_ptq", "espppq", {"platform": "TRT_INT8"}, default=False),
    "ppq": Tool("ppq_ptq", "ppq"),
    "modelopt": Tool("modelopt_ptq", "modelopt"),
    "modelopt-max": Tool("modelopt_ptq", "modelopt", {"method": "max"}, default=False),
}
