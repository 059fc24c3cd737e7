"""TensorRT-RTX: plans built ahead of time, without a GPU."""
