"""One source file and one calibration folder a model, the same for every tool.  Runs in the judge's environment.

    python prepare.py NAME FOLDER SAMPLES

Writes FOLDER/source.onnx (the model with fixed input shapes, every node named so that files made of it can be aligned, opset 13
at least: below that Q/DQ has no axis, so no tool could quantise per channel), FOLDER/preprocessed.onnx (that after ONNX Runtime's quant_pre_process, for the tools that fail on the
former) and FOLDER/calibration/*.npz.
"""

from __future__ import annotations

import sys
from pathlib import Path

import inputs
import numpy as np
import onnx
import onnxruntime as ort
from onnx import version_converter
from onnxruntime.quantization.shape_inference import quant_pre_process


def main() -> None:
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    samples = folder / "calibration"
    samples.mkdir(parents=True)
    model = onnx.load(inputs.model_path(name))
    if next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) < 13:
        model = version_converter.convert_version(model, 13)
    taken = {n.name for n in model.graph.node}
    for i, node in enumerate(model.graph.node):
        if not node.name:
            node.name = next(x for x in (f"{node.op_type}_{i}", f"{node.op_type}_{i}_unnamed") if x not in taken)
    weights = {x.name for x in model.graph.initializer}
    for value in model.graph.input:
        if value.name not in weights:
            for d, n in zip(value.type.tensor_type.shape.dim, inputs.BENCHES[name].shapes[value.name], strict=True):
                d.dim_value = n
    known = [v for v in model.graph.value_info if not any(d.dim_param for d in v.type.tensor_type.shape.dim)]
    del model.graph.value_info[:]  # what depended on the free sizes is inferred again
    model.graph.value_info.extend(known)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs = session.run(None, next(inputs.calibration(name, 1)))
    for value, array in zip(model.graph.output, outputs, strict=True):
        del value.type.tensor_type.shape.dim[:]
        for n in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = n
    onnx.save(onnx.shape_inference.infer_shapes(model, data_prop=True), folder / "source.onnx")
    try:
        quant_pre_process(str(folder / "source.onnx"), str(folder / "preprocessed.onnx"))
    except AssertionError:  # its symbolic shape inference has gaps; this is the way round that its message names
        quant_pre_process(str(folder / "source.onnx"), str(folder / "preprocessed.onnx"), skip_symbolic_shape=True)
    for i, feeds in enumerate(inputs.calibration(name, count)):
        np.savez(samples / f"{i:04}.npz", **feeds)


main()
