"""Quantisation: parameters, statistics of activations, ranges. The passes are in `edgec.passes.quantize`."""
