"""onnx2tf to a float .tflite file (its flatbuffer_direct backend, the default since 2.6). SOURCE.onnx to OUT.tflite.

It simplifies with the command `onnxsim`, which must be on the PATH.
"""

import harness  # isort: skip  (starts the clock)

import os
import sys
import tempfile
from pathlib import Path

import onnx2tf


def convert(job: harness.Job) -> None:
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        onnx2tf.convert(input_onnx_file_path=str(job.source), output_folder_path=folder, verbosity="error")
        (made,) = Path(folder).glob("*_float32.tflite")
        made.replace(job.out)


harness.work(convert, ("onnx2tf", "onnx", "onnxsim", "ai-edge-litert"))
