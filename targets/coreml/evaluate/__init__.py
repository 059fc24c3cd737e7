"""What a decoded ML Program computes, in ONNX: the check of a package on a host that is no Mac.

The rules are written from the definitions of the MIL operations (coremltools' documentation of each), not from the lowering:
one rule a MIL operation, in files by family. `to_onnx` makes the graph, ONNX Runtime runs it.
"""
