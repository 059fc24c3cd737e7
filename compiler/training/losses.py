"""How far a student's outputs are from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from edgec.graph import Graph, attribute, ir
from edgec.training.ops import Tensor
from edgec.training.options import Loss

Kind = Literal["logits", "probabilities", "numbers"]

_LINEAR = frozenset({"Gemm", "MatMul", "Conv", "GlobalAveragePool", "AveragePool", "ReduceMean"})
_PASS = frozenset({"Add", "Flatten", "Reshape", "Squeeze", "Identity", "Cast", "DequantizeLinear", "QuantizeLinear"})


@dataclass(frozen=True)
class OutputLoss:
    """What is compared of one output; `axis`: of the classes; `power`: mean square of the teacher's values."""

    name: str
    kind: Kind
    axis: int
    power: float
    weight: float = 1.0


def loss_kind(graph: Graph, name: str, wanted: Loss) -> tuple[Kind, int]:
    """What an output is, and the axis of its classes.

    `auto`: probabilities where a Softmax makes it; logits where it is [N, classes] (all further axes 1) with 2 classes or
    more, computed by a linear layer; else numbers.
    """
    value = next(v for v in graph.outputs if v.name == name)
    producer = _before(value)
    if wanted == "mse":
        return "numbers", 1
    if producer is not None and producer.op_type == "Softmax":
        return "probabilities", int(attribute(producer, "axis"))
    if wanted == "kl":
        return "logits", 1
    shape = list(value.shape) if value.shape is not None else []
    vector = len(shape) >= 2 and isinstance(shape[1], int) and shape[1] >= 2 and all(d == 1 for d in shape[2:])
    linear = producer is not None and producer.op_type in _LINEAR
    return ("logits", 1) if vector and linear else ("numbers", 1)


def _before(value: ir.Value) -> ir.Node | None:
    """The node that computes a value, seen through those that only add a bias or move data."""
    node = value.producer()
    while node is not None and node.op_type in _PASS:
        made = [v for v in node.inputs if v is not None and v.producer() is not None]
        if not made:
            return node
        node = made[0].producer()
    return node


def output_loss(what: OutputLoss, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of softened classes, times temperature squared (Hinton et al., arXiv:1503.02531), a mean over
    everything but the classes; of numbers the mean square difference over the teacher's power."""
    if what.kind == "numbers":
        return F.mse_loss(student, teacher) / what.power
    if what.kind == "probabilities":  # their logarithms are logits up to a constant, which softmax does not see
        student, teacher = student.clamp_min(1e-8).log(), teacher.clamp_min(1e-8).log()
    s = torch.log_softmax(student / temperature, dim=what.axis)
    t = torch.log_softmax(teacher / temperature, dim=what.axis)
    return (t.exp() * (t - s)).sum(dim=what.axis).mean() * temperature**2


def hard_loss(what: OutputLoss, student: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy with the labels, [N], of the first output that has classes."""
    scores = student.clamp_min(1e-8).log() if what.kind == "probabilities" else student
    scores = scores.movedim(what.axis, -1)
    return F.cross_entropy(scores.reshape(-1, scores.shape[-1]), labels)


def total_loss(
    parts: list[OutputLoss],
    student: Mapping[str, Tensor],
    teacher: Mapping[str, Tensor],
    temperature: float,
    hard: float,
    labels: Tensor | None,
) -> Tensor:
    """The weighted sum over outputs and features; with labels `hard` of it is cross-entropy."""
    soft = torch.stack([p.weight * output_loss(p, student[p.name], teacher[p.name], temperature) for p in parts]).sum()
    if labels is None or not hard:
        return soft
    classes = next(p for p in parts if p.kind != "numbers")
    return (1 - hard) * soft + hard * hard_loss(classes, student[classes.name], labels)
