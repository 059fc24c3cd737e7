"""Transformers as exporters write them, small: an image encoder with a class token, and a causal decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class _Writer:
    """Nodes and weights of one graph."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        out = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"const_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(values, np.int64)

    def weight(self, *shape: int) -> str:
        return self.constant(self.rng.standard_normal(shape) / np.sqrt(shape[0]))

    def dense(self, x: str, rows: int, columns: int) -> str:
        return self.op("Add", self.weight(columns), self.op("MatMul", x, self.weight(rows, columns)))

    def norm(self, x: str, width: int) -> str:
        """LayerNorm in its parts, as exporters before opset 17 write it."""
        mean = self.op("ReduceMean", x, self.ints(-1))
        centred = self.op("Sub", x, mean)
        square = self.op("Pow", centred, self.constant(2.0))
        deviation = self.op("Sqrt", self.op("Add", self.op("ReduceMean", square, self.ints(-1)), self.constant(1e-6)))
        normal = self.op("Div", centred, deviation)
        return self.op("Add", self.op("Mul", normal, self.constant(np.ones(width) * 1.1)), self.weight(width))

    def gelu(self, x: str) -> str:
        """GELU by Erf, as PyTorch exports it."""
        half = self.op("Div", x, self.constant(np.sqrt(2.0)))
        bell = self.op("Add", self.op("Erf", half), self.constant(1.0))
        return self.op("Mul", self.op("Mul", x, bell), self.constant(0.5))

    def heads(self, x: str, tokens: int, heads: int, size: int) -> str:
        return self.op("Transpose", self.op("Reshape", x, self.ints(1, tokens, heads, size)), perm=[0, 2, 1, 3])

    def attention(self, x: str, tokens: int, width: int, heads: int, mask: str | None) -> str:
        size = width // heads
        q, k, v = (self.heads(self.dense(x, width, width), tokens, heads, size) for _ in range(3))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.op("Mul", scores, self.constant(size**-0.5))
        if mask is not None:
            scores = self.op("Add", scores, mask)
        mixed = self.op("MatMul", self.op("Softmax", scores, axis=-1), v)
        mixed = self.op("Reshape", self.op("Transpose", mixed, perm=[0, 2, 1, 3]), self.ints(1, tokens, width))
        return self.dense(mixed, width, width)

    def block(self, x: str, tokens: int, width: int, heads: int, mask: str | None = None) -> str:
        x = self.op("Add", x, self.attention(self.norm(x, width), tokens, width, heads, mask))
        hidden = self.gelu(self.dense(self.norm(x, width), width, 4 * width))
        return self.op("Add", x, self.dense(hidden, 4 * width, width))

    def model(self, inputs: list[onnx.ValueInfoProto], output: onnx.ValueInfoProto) -> onnx.ModelProto:
        self.nodes[-1].output[0] = output.name
        graph = helper.make_graph(self.nodes, "transformer", inputs, [output], self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(made, full_check=True)
        return made


def image_encoder(width: int = 48, heads: int = 3, depth: int = 2) -> onnx.ModelProto:
    """A vision transformer of 16 patches and a class token over image [1, 3, 32, 32]."""
    w = _Writer(0)
    kernel = w.constant(w.rng.standard_normal((width, 3, 8, 8)) / 14)
    x = w.op("Conv", "image", kernel, w.weight(width), kernel_shape=[8, 8], strides=[8, 8])
    x = w.op("Transpose", w.op("Reshape", x, w.ints(1, width, 16)), perm=[0, 2, 1])
    x = w.op("Concat", w.weight(1, 1, width), x, axis=1)
    x = w.op("Add", x, w.weight(1, 17, width))
    for _ in range(depth):
        x = w.block(x, 17, width, heads)
    token = w.op("Gather", w.norm(x, width), w.constant(0, np.int64), axis=1)
    w.op("Gemm", token, w.weight(width, 10), w.weight(10))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])
    return w.model([image], helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10]))


def decoder(tokens: int = 12, vocabulary: int = 50, width: int = 32, heads: int = 4, depth: int = 2) -> onnx.ModelProto:
    """A causal language model over token numbers [1, tokens]."""
    w = _Writer(1)
    x = w.op("Add", w.op("Gather", w.weight(vocabulary, width), "tokens"), w.weight(tokens, width))
    mask = w.constant(np.triu(np.full((tokens, tokens), -1e9), 1))
    for _ in range(depth):
        x = w.block(x, tokens, width, heads, mask)
    w.op("MatMul", w.norm(x, width), w.weight(width, vocabulary))
    numbers = helper.make_tensor_value_info("tokens", TensorProto.INT64, [1, tokens])
    return w.model([numbers], helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, tokens, vocabulary]))
