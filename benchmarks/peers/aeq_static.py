"""ai-edge-quantizer, static int8 with int8 weights, on a float .tflite file. SOURCE.tflite to OUT.tflite.

The calibration samples are those of the ONNX model; they are turned to the shapes that the file wants.
"""

import harness  # isort: skip  (starts the clock)

from ai_edge_litert.interpreter import Interpreter
from ai_edge_quantizer import quantizer, recipe
from tflite_shapes import as_file_wants


def quantize(job: harness.Job) -> None:
    (signature, _), *_ = Interpreter(model_path=str(job.source)).get_signature_list().items()
    inputs = Interpreter(model_path=str(job.source)).get_signature_runner(signature).get_input_details()
    samples = [
        {name: as_file_wants(feeds[name], tuple(d["shape"]), d["dtype"]) for name, d in inputs.items()}
        for feeds in job.feeds()
    ]
    tool = quantizer.Quantizer(str(job.source), recipe.static_wi8_ai8())
    tool.quantize(tool.calibrate({signature: samples})).export_model(str(job.out))


harness.work(quantize, ("ai-edge-quantizer", "ai-edge-litert"))
