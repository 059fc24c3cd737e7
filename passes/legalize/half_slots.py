"""Which inputs and outputs of a node are computed in 16 bits with it, and which ONNX types float32 whatever the node does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from edgec.graph import bodies, ir

Slot = Literal["none", "typed", "float", "any"]
"""none: no float32 tensor; typed: of the type the node computes in; float: always float32; any: either, as it comes."""

HOLDERS = frozenset({"If", "Loop", "Scan"})
"""Ops whose bodies are converted; their float inputs and outputs have the type of those of the bodies."""

_FLOAT_SLOTS = {
    ("Resize", "in"): (
        1,
        2,
    ),  # scales are float32 by ONNX; roi need not be, and 1e-4 of an edge is a pixel of a large image
    ("LayerNormalization", "out"): (1, 2),  # their type is that of `stash_type`
}

_SEES_ONLY_SHAPE = frozenset({"Shape", "Size"})
_LIKE = frozenset({"EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "ConstantOfShape"})


@dataclass(frozen=True)
class Slots:
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]

    @property
    def typed(self) -> bool:
        """Whether the node computes in a type of its own."""
        return "typed" in self.inputs or "typed" in self.outputs


def is_float32(v: ir.Value | None) -> bool:
    return v is not None and v.dtype is ir.DataType.FLOAT and isinstance(v.type, ir.TensorType)


def slots(node: ir.Node, opsets: Mapping[str, int], half: ir.DataType) -> Slots:
    """By the types ONNX's schema allows at the model's opset. Ops without a schema (plugins), and those that have their
    floats in sequences, stay float32."""
    text = f"tensor({'float16' if half is ir.DataType.FLOAT16 else 'bfloat16'})"
    if node.op_type in HOLDERS and node.domain == "":
        return Slots(_plain(node.inputs), _plain(node.outputs))
    if node.op_type in _SEES_ONLY_SHAPE and node.domain == "":
        return Slots(_all(node.inputs, "any"), _all(node.outputs, "float"))
    if node.op_type == "Cast" and node.domain == "" and node.inputs[0] is not None and node.inputs[0].dtype is half:
        return Slots(_all(node.inputs, "none"), _all(node.outputs, "float"))  # its readers may take what it reads
    if node.op_type == "Cast" and node.domain == "" and is_float32(node.inputs[0]) and is_float32(node.outputs[0]):
        return Slots(("any",), ("float",))
    signature = _signature(node.domain, node.op_type, opsets.get(node.domain, 1), text)
    if signature is None or next(bodies(node), None) is not None or _has_containers(node):
        return Slots(_all(node.inputs, "float"), _all(node.outputs, "float"))
    ins, outs = _slots(node, "in", signature[0]), _slots(node, "out", signature[1])
    floats = [i for i, s in enumerate(ins) if s != "none"]
    if not any(s != "none" for s in outs) and len(floats) == 1 and ins[floats[0]] == "typed":
        ins = tuple("any" if i == floats[0] else s for i, s in enumerate(ins))  # Cast to integers, ArgMax, IsNaN, Q
    if node.op_type in _LIKE and "dtype" in node.attributes:
        ins = tuple("any" if s == "typed" else s for s in ins)
    return Slots(ins, outs)


def _plain(values: Sequence[ir.Value | None]) -> tuple[Slot, ...]:
    return _all(values, "typed")


def _all(values: Sequence[ir.Value | None], slot: Slot) -> tuple[Slot, ...]:
    return tuple(slot if is_float32(v) else "none" for v in values)


def _slots(node: ir.Node, side: Literal["in", "out"], allows: tuple[bool, ...]) -> tuple[Slot, ...]:
    values = node.inputs if side == "in" else node.outputs
    fixed = _FLOAT_SLOTS.get((node.op_type, side), ())
    found: list[Slot] = []
    for i, v in enumerate(values):
        allowed = bool(allows) and allows[min(i, len(allows) - 1)] and i not in fixed
        found.append("none" if not is_float32(v) else "typed" if allowed else "float")
    return tuple(found)


def _has_containers(node: ir.Node) -> bool:
    return any(
        v is not None and v.type is not None and not isinstance(v.type, ir.TensorType) for v in node.inputs
    ) or any(v.type is not None and not isinstance(v.type, ir.TensorType) for v in node.outputs)


@lru_cache(maxsize=4096)
def _signature(domain: str, op: str, opset: int, text: str) -> tuple[tuple[bool, ...], tuple[bool, ...]] | None:
    """For each formal input and output, whether ONNX allows `text` there; None where the op has no schema."""
    import onnx

    if not onnx.defs.has(op, domain):
        return None
    schema = onnx.defs.get_schema(op, opset, domain)
    allowed = {c.type_param_str: text in c.allowed_type_strs for c in schema.type_constraints}

    def allows(type_str: str) -> bool:
        return allowed.get(type_str, type_str == text)

    return tuple(allows(i.type_str) for i in schema.inputs), tuple(allows(o.type_str) for o in schema.outputs)
