"""ONNX Runtime on CPUs: the target that needs no SDK."""
