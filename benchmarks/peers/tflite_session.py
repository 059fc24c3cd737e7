"""A .tflite file in LiteRT, fed and read as the ONNX model would be."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from ai_edge_litert.interpreter import Interpreter
from tflite_shapes import as_file_wants, nearest_order

Feeds = dict[str, np.ndarray]


class LiteRt:
    """`source` is the ONNX model: its outputs on the first sample tell the order of this file's axes."""

    def __init__(self, model: str, source: str, threads: int = 1) -> None:
        self.interpreter = Interpreter(model_path=model, num_threads=threads)
        self.interpreter.allocate_tensors()
        runner = self.interpreter.get_signature_runner(next(iter(self.interpreter.get_signature_list())))
        self.inputs, self.outputs = runner.get_input_details(), runner.get_output_details()
        options = ort.SessionOptions()
        options.log_severity_level = 4
        session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self.names = [o.name for o in session.get_outputs()]
        self.session = session
        self.orders: list[tuple[int, ...]] | None = None

    def feed(self, feeds: Feeds) -> None:
        """An integer input is quantised as QuantizeLinear does it."""
        for name, d in self.inputs.items():
            array = feeds[name]
            if d["dtype"] in (np.int8, np.uint8) and array.dtype.kind == "f":
                scale, zero = d["quantization"]
                limits = np.iinfo(d["dtype"])
                array = np.clip(np.rint(array / np.float32(scale)) + zero, limits.min, limits.max)
            self.interpreter.set_tensor(d["index"], as_file_wants(array, tuple(d["shape"]), d["dtype"]))

    def run(self, feeds: Feeds) -> list[np.ndarray]:
        """The ONNX model's outputs, in its order of outputs and axes."""
        self.feed(feeds)
        self.interpreter.invoke()
        got = [self._real(self.outputs[n]) for n in self.names]
        if self.orders is None:
            want = self.session.run(None, feeds)
            self.orders = [nearest_order(a, w) for a, w in zip(got, want, strict=True)]
        return [a.transpose(order) for a, order in zip(got, self.orders, strict=True)]

    def _real(self, d: dict) -> np.ndarray:
        array = self.interpreter.get_tensor(d["index"])
        scale, zero = d["quantization"]
        return (array.astype(np.float32) - zero) * np.float32(scale) if d["dtype"] in (np.int8, np.uint8) else array
