"""TensorRT: bundles that build themselves on a Jetson, plans for RTX GPUs, and plans for the GPU of this machine."""
