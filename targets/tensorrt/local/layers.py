"""The layers of an engine as TensorRT's inspector writes them (EngineInspector, or trtexec --exportLayerInfo).

The JSON is {"Layers": [...], "Bindings": [...]}; a layer is its name alone where the engine was built without detailed
profiling verbosity. Read off the documentation and public logs of TensorRT 8.5 to 10: a layer has Name, LayerType, Inputs and
Outputs with a "Format/Datatype" in words, and from 8.6 on Metadata with the ONNX nodes it was made of.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgec.actual_placement import ActualNode, ActualPlacement

_TYPES = (
    ("fp8", r"fp8|float8|e4m3"), ("fp4", r"fp4|float4|e2m1"), ("int8", r"int8"), ("int4", r"int4"), ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"), ("fp32", r"fp32|float32|\bfloat\b"), ("int64", r"int64"), ("int32", r"int32"),
    ("bool", r"bool"),
)  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """`types`: of its inputs and outputs, "int8". `sources`: ONNX nodes it was made of, as far as it tells."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: tuple[str, ...]
    on_dla: bool

    @property
    def computes_in(self) -> str:
        """What it reads: a convolution of int8 values with an fp16 output computes in int8."""
        return self.inputs[0] if self.inputs else self.outputs[0] if self.outputs else "?"


def read_layers(path: Path, nodes: Collection[str]) -> list[Layer]:
    """The layers of an inspector's file. `nodes`: names of the ONNX file's nodes."""
    data = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    listed = data.get("Layers", []) if isinstance(data, dict) else []
    return [_layer({"Name": item} if isinstance(item, str) else item, nodes) for item in listed]


def _layer(item: dict[str, Any], nodes: Collection[str]) -> Layer:
    name, kind = str(item.get("Name", "")), str(item.get("LayerType", ""))
    return Layer(
        name,
        kind,
        tuple(_type(t) for t in item.get("Inputs", [])),
        tuple(_type(t) for t in item.get("Outputs", [])),
        _sources(name, str(item.get("Metadata", "")), nodes),
        kind == "DLA",
    )


def _type(tensor: Any) -> str:
    if not isinstance(tensor, dict):
        return "?"
    text = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "").lower()
    return next((name for name, pattern in _TYPES if re.search(pattern, text)), "?")


def _sources(name: str, metadata: str, nodes: Collection[str]) -> tuple[str, ...]:
    """By the metadata where there is any, else by the layer's name: "conv1 + relu1", "PWN(sigmoid, mul)"."""
    found = re.findall(r"\[ONNX Layer: ([^\]]+)\]", metadata)
    if not found:
        found = [p.strip() for p in re.split(r" \+ |, |\|\||[()]", name)]
    return tuple(dict.fromkeys(f for f in found if f in nodes))


def placement(layers: list[Layer], source: str, *, dla: bool = False) -> ActualPlacement:
    """`dla`: the engine is for the DLA, and what runs on the GPU fell back."""
    return ActualPlacement(
        tuple(
            ActualNode(
                la.name, la.kind, "fallback" if dla and not la.on_dla and la.sources else "accelerator", la.sources
            )
            for la in layers
        ),
        source,
    )


def types(layers: list[Layer]) -> dict[str, int]:
    """How many layers compute in each type, most first."""
    return dict(Counter(la.computes_in for la in layers).most_common())
