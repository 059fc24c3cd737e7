"""uint8 at the interface of an int8 model: what a camera's driver gives. One QUANTIZE each, as TensorFlow's converter has it."""

from __future__ import annotations

from dataclasses import replace

from edgec.targets.tflite.lower import LoweredModel, Port
from edgec.targets.tflite.model import Operator, Quant, Tensor


def unsigned_interface(lowered: LoweredModel) -> None:
    """Every int8 input and output becomes uint8 with the same reals; the model is changed in place."""
    main = lowered.model.main
    lowered.inputs = [_unsigned(p) for p in lowered.inputs]
    lowered.outputs = [_unsigned(p) for p in lowered.outputs]
    first = []
    for i, p in enumerate(lowered.inputs):
        if p.tensor is not main.inputs[i]:
            main.inputs[i].name = f"{p.name}_int8"
            first.append(Operator("QUANTIZE", [p.tensor], [main.inputs[i]]))
    for i, p in enumerate(lowered.outputs):
        if p.tensor is not main.outputs[i]:
            main.outputs[i].name = f"{p.name}_int8"
            main.operators.append(Operator("QUANTIZE", [main.outputs[i]], [p.tensor]))
    main.operators[:0] = first
    main.inputs, main.outputs = [p.tensor for p in lowered.inputs], [p.tensor for p in lowered.outputs]


def _unsigned(p: Port) -> Port:
    if p.tensor.dtype != "int8" or p.quant is None:
        return p
    quant = Quant.of(p.quant.scale, p.quant.zero_point + 128)
    return replace(p, tensor=Tensor(p.tensor.name, p.tensor.shape, "uint8", quant), quant=quant)
