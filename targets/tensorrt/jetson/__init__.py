"""Jetson boards: a bundle of ONNX and scripts; TensorRT on the board makes the engine of it."""
